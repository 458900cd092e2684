"""The contract of requests: agents that are driven for one request at a time, by whichever process is asked."""

from __future__ import annotations

from multiprocessing.connection import Connection
from typing import Any, ClassVar

import anyio

from kode.core.config import Dependencies
from kode.core.kernel.limits import Limits
from kode.core.kernel.toolcall import CallStatus
from kode.core.provider.base import ModelRequest
from kode.core.provider.script import Turn, call, say
from kode.core.provider.scripted import ScriptedProvider
from kode.core.runtime.stateless import StatelessAgent
from kode.core.sandbox.catalog import SandboxFactory
from kode.core.sandbox.local import LocalSandbox
from kode.core.store.base import Store
from kode.core.template import AgentTemplate
from kode.core.testing.conformance.store.author import StoreCase, one_loop
from kode.core.testing.conformance.store.worker import workers
from kode.core.tools.base import ToolContext
from kode.core.tools.define import tool

__all__ = ["RequestsContract"]

LEASE_S = 1.0
PATIENCE_S = 3.0
"""How long the next request waits for a lease that nobody gave back."""
TIMES = 8
TEMPLATE = AgentTemplate(
    "kit", model="kit", tools=("work",), limits=Limits(lease_s=LEASE_S, lease_margin_s=0.2, due_poll_s=0.05)
)


class RequestsContract(StoreCase):
    """A request may come twice, be cut off, or run out of time; the next one finds all it needs in the store."""

    group = "requests"
    spare_s: ClassVar[float] = 0.2
    """How long a request takes at most to get into its tool, and again to end; a store that is far away needs more."""

    @one_loop
    async def test_a_request_that_two_processes_are_given_runs_once(self, store: Store) -> None:
        """Of a request that two processes are given at once, one runs it, and both get the same result."""
        place = self.shared(store)
        with workers(place, (serve, "p", TIMES), (serve, "q", TIMES)) as both:
            for worker in both:
                worker.go()
            first, second = [await worker.end() for worker in both]
        assert first == second, "they got different results"
        assert [said["text"] for said in first] == [f"end {n}" for n in range(TIMES)]
        async with place() as here:
            messages = (await here.read_messages("agent", limit=1_000)).items
            runs = (await here.read_runs("agent", limit=1_000)).items
        assert [m.origin for m in messages if m.origin] == [f"inbox:r{n}" for n in range(TIMES)]
        assert [run.status for run in runs] == ["ok"] * TIMES

    @one_loop
    async def test_what_a_killed_request_began_the_next_one_ends(self, store: Store) -> None:
        """A request killed in the middle of a tool is found by the next one, which seals the call and goes on."""
        place = self.shared(store)
        with workers(place, (hang,)) as (other,):
            other.go()
            assert await other.hear(1) == ["in tool"]
            await other.kill()
        async with place() as here:
            result = await _run(here, "work", "r", timeout_s=PATIENCE_S)
            assert (result.status, result.text, result.run) == ("ok", "end work", 1)
            (made,) = (await here.read_calls("agent")).items
        assert made.status is CallStatus.SEALED

    async def test_what_ran_out_of_time_the_next_one_ends(self, store: Store) -> None:
        """A request that runs out of time leaves its lease and an agent that is due, and the next request ends it."""
        cut = await _run(store, "work", "r", timeout_s=2 * self.spare_s, margin_s=self.spare_s)
        assert (cut.status, cut.unfinished) == ("deadline", ("1.1.1",))
        assert [due.agent_id for due in await store.due(await store.now(), 9)] == ["agent"]
        result = await _run(store, "work", "r", timeout_s=PATIENCE_S)
        assert (result.status, result.text, result.run) == ("ok", "end work", 1)
        assert await store.due(await store.now(), 9) == []


# ---- what is served ----------------------------------------------------------------------------------------


class _Near(LocalSandbox):
    """Nothing is run in it."""

    kind = "near"

    async def open(self) -> None:
        """There is nothing to open."""


@tool
async def work(context: ToolContext) -> str:
    """Tell that it began, and do not end."""
    context.services["told"]("in tool")
    await anyio.sleep_forever()
    return "never"


def _think(request: ModelRequest) -> Turn:
    message = next(m for m in reversed(request.messages) if (m.origin or "").startswith("inbox:"))
    asked = getattr(message.blocks[0], "text", "")
    return call("work", {}) if asked == "work" and request.messages[-1] is message else say(f"end {asked}")


async def _run(store: Store, text: str, id: str, told: Any = lambda word: None, **options: Any) -> Any:
    sandboxes = SandboxFactory()
    sandboxes.register("local", _Near)
    provider = ScriptedProvider(_think, keep_requests=False)
    deps = Dependencies(store, [work], {"kit": provider}, sandboxes=sandboxes, services={"told": told})
    return await StatelessAgent.run("agent", text, template_id=TEMPLATE, request_id=id, dependencies=deps, **options)


async def serve(store: Store, told: Connection, name: str, times: int) -> None:
    """Serve requests that another is given too; tells their results."""
    for n in range(times):
        told.send((await _run(store, f"{n}", f"r{n}", timeout_s=60.0)).to_dict())


async def hang(store: Store, told: Connection) -> None:
    """Serve a request that does not end; tells when it is in its tool."""
    await _run(store, "work", "r", told.send)
