"""Agents fed from a queue that delivers at least once, here a Redis stream. Start as many workers as you like.

    XADD tasks * agent support-17 message "Book order 4711"

A delivery's id is the request's id, so a message that is delivered again, because its worker died or was slow, goes on
where it was and counts once. What comes of it is in the stream ``answers``, what cannot be done in ``refused``.
"""

import asyncio
import os
import signal
import socket
from contextlib import suppress
from typing import Any

import httpx
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from kode.core import AgentTemplate, Dependencies, StatelessAgent, ToolContext, errors, open_store, tool

GROUP = "agents"
WORKER = f"{socket.gethostname()}-{os.getpid()}"
VISIBLE_S = float(os.environ.get("VISIBLE_S", "60"))
"""A delivery that nobody acknowledged for so long is given to another worker."""


@tool(recovery="retry")
async def book(order: str, context: ToolContext) -> str:
    """Book an order."""
    # The shop knows a key it has seen before, so the tool may say that running twice does no harm.
    headers = {"Idempotency-Key": context.idempotency_key}
    async with httpx.AsyncClient(base_url=os.environ["SHOP_URL"], timeout=60) as shop:
        return (await shop.post(f"/book/{order}", headers=headers)).raise_for_status().text


TEMPLATE = AgentTemplate("clerk", model=os.environ.get("KODE_MODEL", "openai:gpt-5-mini"), tools=("book",))


async def deliveries(redis: Redis) -> list[tuple[str, dict[str, str]]]:
    """Take over what another worker left, else take what is new; at most one."""
    left: Any = await redis.xautoclaim("tasks", GROUP, WORKER, int(VISIBLE_S * 1_000), count=1)
    if left[1]:
        return list(left[1])
    fresh: Any = await redis.xreadgroup(GROUP, WORKER, {"tasks": ">"}, count=1, block=500)
    return [delivery for _, new in fresh or () for delivery in new]


async def serve(redis: Redis, deps: Dependencies, id: str, fields: dict[str, str]) -> None:
    """Drive the agent, and acknowledge once the result is durable."""
    try:
        # Within the time that the delivery is ours; who gets it next then goes on.
        result = await StatelessAgent.run(
            fields.get("agent", ""), fields.get("message", ""),
            template_id=TEMPLATE, dependencies=deps, request_id=id, timeout_s=VISIBLE_S * 0.8,
        )  # fmt: skip
    except (errors.NotBoundError, errors.InboxFullError):
        raise  # not the message's fault
    except errors.UsageError as error:
        await finish(redis, id, "refused", {**fields, "code": error.code, "error": error.message})
        return
    if result.status not in ("deadline", "queued"):
        await finish(redis, id, "answers", {"agent": result.agent_id, "status": result.status, "text": result.text})


async def finish(redis: Redis, id: str, stream: str, fields: Any) -> None:
    """Say what came of a delivery, and acknowledge it, both or neither."""
    async with redis.pipeline(transaction=True) as act:
        act.xadd(stream, {**fields, "id": id})
        act.xack("tasks", GROUP, id)
        await act.execute()


async def main() -> None:
    """Work until SIGTERM, which leaves agents and deliveries to others, as a crash does."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    store = open_store(os.environ["KODE_STORE"])
    async with Redis.from_url(os.environ["REDIS_URL"], decode_responses=True, protocol=2) as redis, store:
        with suppress(ResponseError):  # the group is there
            await redis.xgroup_create("tasks", GROUP, "0", mkstream=True)
        async with Dependencies(store, tools=[book]) as deps:
            while True:
                for id, fields in await deliveries(redis):
                    await serve(redis, deps, id, fields)


if __name__ == "__main__":
    with suppress(asyncio.CancelledError):
        asyncio.run(main())
