"""docs/examples/queue_worker.py on a real Redis server: workers are killed, and each message still counts once."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
from redis import Redis
from tests.examples.conftest import EXAMPLES, PATIENCE_S, Shop, until
from tests.servers.chat import ChatServer, Said, Seen, call, say

from kode.core import open_store

pytestmark = pytest.mark.integration
STREAMS = ("tasks", "answers", "refused")


@pytest.fixture
def redis(redis_url: str) -> Iterator[Any]:
    with Redis.from_url(redis_url, decode_responses=True, protocol=2) as redis:
        redis.delete(*STREAMS)
        yield redis
        redis.delete(*STREAMS)


@pytest.fixture
def start(world: dict[str, str], redis_url: str, shop: Shop) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start workers."""
    env = world | {"REDIS_URL": redis_url, "SHOP_URL": shop.url, "VISIBLE_S": "1"}
    workers: list[subprocess.Popen[str]] = []

    def make(**more: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(EXAMPLES / "queue_worker.py")]
        workers.append(subprocess.Popen(command, env=env | more, stderr=subprocess.PIPE, text=True))
        return workers[-1]

    yield make
    for worker in workers:
        with worker:
            worker.kill()


def clerk(seen: Seen) -> Said | str:
    """Book what the last message names, then say what came of it."""
    last = seen.messages[-1]
    return f"Yes: {last['content']}" if last["role"] == "tool" else call("book", {"order": str(last["content"])})


def outcomes(redis: Any) -> dict[str, str]:
    """What came of each message, by its id; the same may be said more than once."""
    return {said["id"]: said.get("text", "") for _, said in redis.xrange("answers")}


def told(world: dict[str, str], agent: str) -> tuple[Counter[str], list[str]]:
    """The messages that an agent was sent, with how often; and how its runs ended."""

    async def read() -> Any:
        async with open_store(world["KODE_STORE"]) as store:
            runs = await store.read_runs(agent)
            return await store.load_messages(agent), [run.status for run in runs.items]

    messages, runs = anyio.run(read)
    return Counter(m.blocks[0].text for m in messages if m.role == "user" and m.blocks[0].type == "text"), runs


def test_a_worker_is_killed_in_mid_tool(
    start: Any, redis: Any, world: dict[str, str], chat_server: ChatServer, shop: Shop
) -> None:
    chat_server.script = clerk
    shop.closed.clear()
    sent = {redis.xadd("tasks", {"agent": f"a-{n}", "message": f"order-{n}"}): f"order-{n}" for n in range(4)}
    first = start()
    until(lambda: shop.booked)  # it has had its effect, and nobody has been told
    first.kill()
    first.wait()
    shop.closed.set()
    start()
    start()
    until(lambda: len(outcomes(redis)) == 4)
    assert outcomes(redis) == {id: f"Yes: booked {order}" for id, order in sent.items()}
    until(lambda: redis.xpending("tasks", "agents")["pending"] == 0)
    # The call that was cut off was made twice, under one key; each order was booked once.
    assert shop.asked.count(f"/book/{next(iter(shop.booked.values()))}") == 2
    assert sorted(shop.booked.values()) == sorted(sent.values())
    for n in range(4):
        assert told(world, f"a-{n}") == ({f"order-{n}": 1}, ["ok"])


def test_a_slow_message_is_delivered_again_and_counts_once(
    start: Any, redis: Any, world: dict[str, str], chat_server: ChatServer, shop: Shop
) -> None:
    chat_server.script = clerk
    shop.closed.clear()
    id = redis.xadd("tasks", {"agent": "a", "message": "order-1"})
    start()
    until(lambda: shop.booked)
    start()
    # The first one's time is over, and it is given to either of them again.
    until(lambda: len(shop.asked) == 2)
    shop.closed.set()
    until(lambda: outcomes(redis))
    assert outcomes(redis) == {id: "Yes: booked order-1"}
    until(lambda: redis.xpending("tasks", "agents")["pending"] == 0)
    assert list(shop.booked.values()) == ["order-1"]
    assert told(world, "a") == ({"order-1": 1}, ["ok"])


def test_what_cannot_be_done_is_put_aside(start: Any, redis: Any, chat_server: ChatServer) -> None:
    chat_server.reply("Hello.")
    ids = [
        redis.xadd("tasks", fields)
        for fields in ({"agent": "a"}, {"agent": "../a", "message": "Hi"}, {"agent": "a", "message": "Hi"})
    ]
    worker = start()
    until(lambda: outcomes(redis))
    refused = {said["id"]: said["code"] for _, said in redis.xrange("refused")}
    assert refused == {ids[0]: "bad_message", ids[1]: "bad_agent_id"}
    assert outcomes(redis) == {ids[2]: "Hello."}
    assert redis.xpending("tasks", "agents")["pending"] == 0
    worker.send_signal(signal.SIGTERM)
    assert (worker.wait(PATIENCE_S), worker.stderr.read()) == (0, "")


def test_a_worker_that_is_told_to_stop_leaves_its_message(
    start: Any, redis: Any, world: dict[str, str], chat_server: ChatServer
) -> None:
    chat_server.reply(say("Long story").but(fault="stall", at="Long"), "Short story")
    id = redis.xadd("tasks", {"agent": "a", "message": "Tell"})
    worker = start(VISIBLE_S="60")
    until(lambda: chat_server.requests)
    worker.send_signal(signal.SIGTERM)
    assert (worker.wait(PATIENCE_S), worker.stderr.read()) == (0, "")
    assert redis.xpending("tasks", "agents")["pending"] == 1
    start()
    until(lambda: outcomes(redis))
    assert outcomes(redis) == {id: "Short story"}
    assert told(world, "a") == ({"Tell": 1}, ["ok"])
