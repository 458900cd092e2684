"""An agent's events as server-sent events, for Starlette, FastAPI, or any other ASGI framework."""

import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from typing import Any

import anyio
import uvicorn
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from kode.core import Agent, Dependencies, Envelope, KodeError, TextBlock
from kode.core.store import Store

KEEP_ALIVE_S = 15.0
LAST_S = 2.0
OPEN: set[anyio.CancelScope] = set()


class EventStream(Response):
    """Send what ``opened`` yields. When the client leaves, ``opened`` is left too, which cancels what it drives."""

    media_type = "text/event-stream"

    def __init__(self, opened: AbstractAsyncContextManager[AsyncIterator[Envelope]], store: Store) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self.opened, self.store = opened, store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer. No generator: the tasks in here must live and end in one place."""
        async with AsyncExitStack() as stack:
            events = await stack.enter_async_context(self.opened)  # an error up to here gets a status of its own
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            try:
                async with anyio.create_task_group() as tasks:
                    OPEN.add(tasks.cancel_scope)
                    tasks.start_soon(_client_left, receive, tasks.cancel_scope)
                    await self._tell(events, send)
                    tasks.cancel_scope.cancel()
                await stack.aclose()  # raises what the run failed with
            except* KodeError as group:
                error: Any = group.exceptions[0]
                await send(_part({"type": "failed", "code": error.code, "message": error.message}))
            finally:
                OPEN.discard(tasks.cancel_scope)
            with anyio.move_on_after(LAST_S):  # a client that does not read holds nobody up
                await send({"type": "http.response.body"})

    async def _tell(self, events: AsyncIterator[Envelope], send: Send) -> None:
        """Send events, a comment whenever all is quiet, and at last the result of what was driven."""
        gap = False
        while True:
            envelope = None
            with anyio.move_on_after(KEEP_ALIVE_S) as quiet:
                envelope = await anext(events, None)
            if not gap and getattr(events, "pruned", False):
                gap = True
                await send(_part({"type": "pruned"}))  # what the client has not seen is stored no more
            if envelope is not None:
                await send(_part(await self._shown(envelope), envelope.id))
            elif quiet.cancelled_caught:
                await send(_body(": still here\n\n"))
            else:
                break
        result = getattr(events, "result", None)
        if result is not None:
            await send(_part({"type": "result", **result.to_dict()}))

    async def _shown(self, envelope: Envelope) -> dict[str, Any]:
        """Make JSON of an event. A text that is complete comes as a whole, for who missed some of its pieces."""
        event = envelope.event
        shown = {**asdict(event), "attempt": envelope.attempt, "block": envelope.block, "delta": envelope.delta}
        if event.type == "text_chunk_end" and event.ref is not None:
            seq = event.ref.seq
            page = await self.store.read_messages(envelope.agent_id, after=seq - 1, before=seq + 1)
            block = page.items[0].blocks[event.ref.block] if page.items else None
            shown["delta"] = block.text if isinstance(block, TextBlock) else event.preview or ""  # if it was pruned
        return shown


@asynccontextmanager
async def watched(agent_id: str, deps: Dependencies, since: str | None) -> AsyncIterator[AsyncIterator[Envelope]]:
    """Only look at an agent, which is driven by whoever drives it: to be put into an `EventStream`."""
    async with await Agent.open(agent_id, deps) as agent:
        yield await agent.subscribe(since=since)


class Server(uvicorn.Server):
    """Ends event streams before it stops, for they have no end; clients come back with their ``Last-Event-ID``."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop, also while a client does not read."""
        if self.config.timeout_graceful_shutdown is None:
            self.config.timeout_graceful_shutdown = 5
        for scope in tuple(OPEN):
            scope.cancel()
        await super().shutdown(sockets)


async def _client_left(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _part(data: Mapping[str, Any], id: str | None = None) -> dict[str, Any]:
    place = "" if id is None else f"id: {id}\n"
    return _body(f"{place}data: {json.dumps(data)}\n\n")


def _body(text: str) -> dict[str, Any]:
    return {"type": "http.response.body", "body": text.encode(), "more_body": True}
