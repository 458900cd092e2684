"""Several who work on one database at once: pools in processes, and writes of which the first was given up."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import pytest

from kode.core import Agent, AgentConfig, AgentTemplate, Dependencies, ScriptedProvider, open_store
from kode.core.clock import RealClock
from kode.core.kernel.limits import Limits
from kode.core.runtime.lease import Holding
from kode.core.store import Condition, Key, Store
from kode.core.store.contract import Scan
from kode.core.testing.conformance.store import Author
from kode.core.testing.conformance.store.author import row
from kode.store.postgres import PostgresStore

pytestmark = [pytest.mark.anyio, pytest.mark.integration]

AGENTS = 24
PROGRAM = """
import sys
import anyio
from kode.core import AgentPool, Dependencies, Limits, ScriptedProvider, ToolContext, open_store, tool
from kode.core.provider.script import call, say

url, name, ledger = sys.argv[1:]

@tool(recovery="retry")
async def work(context: ToolContext) -> str:
    '''Work a while.'''
    with open(ledger, "a") as file:
        file.write(f"{name} {context.idempotency_key}\\n")
    await anyio.sleep(3600 if name == "stuck" else 0.1)
    return "worked"

def answer(request):
    worked = request.messages[-1].blocks[0].type == "tool_result"
    return say("done") if worked else call("work", {})

async def main():
    async with open_store(url) as store:
        deps = Dependencies(store, tools=[work], providers={"m": ScriptedProvider(answer)})
        async with AgentPool(deps, limits=Limits(max_agents=6, due_poll_s=0.1), signals=True):
            print("ready", flush=True)
            await anyio.sleep_forever()

anyio.run(main)
"""


@pytest.fixture
def start(postgres_store: str, tmp_path: Path) -> Iterator[Any]:
    """Start a process with a pool; it is gone when the test ends."""
    started: list[subprocess.Popen[str]] = []

    def start(name: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "error", "-c", PROGRAM, postgres_store, name, str(tmp_path / "ledger")]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.communicate()


class Crowd:
    """Agents of one store, and what processes have done for them."""

    def __init__(self, store: Store, ledger: Path) -> None:
        self.store = store
        self._ledger = ledger
        self._deps = Dependencies(store, tools=[_work()], providers={"m": ScriptedProvider()})

    async def ask(self, *numbers: int) -> None:
        limits = Limits(lease_s=2.0, lease_margin_s=0.4)
        template = AgentTemplate("t", model="m", tools=("work",), limits=limits)
        for n in numbers:
            agent = await Agent.create(AgentConfig(template, agent_id=f"a{n}"), self._deps)
            await agent.send("go")

    async def finished(self, *numbers: int) -> None:
        while None in [await self.store.read_run(f"a{n}", 1) for n in numbers]:  # noqa: ASYNC110 - another process
            await anyio.sleep(0.05)

    async def noted(self, name: str, count: int) -> None:
        while len(self.calls(name)) < count:  # noqa: ASYNC110 - another process
            await anyio.sleep(0.02)

    def calls(self, name: str) -> list[str]:
        """The calls that a process has begun."""
        lines = map(str.split, self._ledger.read_text().splitlines() if self._ledger.exists() else ())
        return [call for who, call in lines if who == name]


@pytest.fixture
async def crowd(postgres_store: str, tmp_path: Path) -> AsyncIterator[Crowd]:
    async with open_store(postgres_store) as store:
        with anyio.fail_after(50):
            yield Crowd(store, tmp_path / "ledger")


async def test_two_pools_share_what_is_due(start: Any, crowd: Crowd) -> None:
    for one in [start("p"), start("q")]:
        assert one.stdout.readline() == "ready\n"
    await crowd.ask(*range(AGENTS))
    await crowd.finished(*range(AGENTS))
    shares = [crowd.calls("p"), crowd.calls("q")]
    assert (sum(map(len, shares)), len(set().union(*shares))) == (AGENTS, AGENTS), "each was driven once"
    assert min(map(len, shares)) >= 3, shares
    assert await crowd.store.due(await crowd.store.now() + 10**9, 99) == []


async def test_what_a_process_holds_that_stands_still_another_finishes(start: Any, crowd: Crowd) -> None:
    """When it comes to itself it writes nothing more to these agents, and works on. Killed it would just not come."""
    stuck = start("stuck")
    assert stuck.stdout.readline() == "ready\n"
    await crowd.ask(0, 1, 2, 3)
    await crowd.noted("stuck", 4)
    stuck.send_signal(signal.SIGSTOP)
    other = start("r")
    assert other.stdout.readline() == "ready\n"
    await crowd.finished(0, 1, 2, 3)
    assert sorted(crowd.calls("r")) == sorted(crowd.calls("stuck"))
    other.kill()
    before = [await crowd.store.read_state(f"a{n}") for n in range(4)]
    stuck.send_signal(signal.SIGCONT)
    await crowd.ask(4, 5, 6, 7, 8)  # more than it has room for, if it holds on to the others
    await crowd.noted("stuck", 9)
    assert [await crowd.store.read_state(f"a{n}") for n in range(4)] == before
    assert stuck.poll() is None


def _work() -> Any:
    from kode.core import tool

    @tool(recovery="retry")
    async def work() -> str:
        """Work a while."""
        return ""

    return work


# ---- what was begun first lands first ----------------------------------------------------------------------------


@pytest.fixture
async def store(server_url: str, schema: str) -> AsyncIterator[PostgresStore]:
    async with PostgresStore(server_url, schema=schema, retry_s=20) as store:
        await Author(store).create()
        yield store


@pytest.fixture
async def gate(server_url: str, store: PostgresStore) -> AsyncIterator[Any]:
    """Another process in the middle of a write to the agent: whoever wants to write it waits in the server."""
    db = await asyncpg.connect(server_url)
    turn = db.transaction()
    await turn.start()
    await db.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0::bigint))", f'"{store.schema}"/agent')

    async def waiting(count: int) -> None:
        sql = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        while await db.fetchval(sql) < count:  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.01)

    yield waiting, turn.rollback
    await db.close()


async def test_a_lease_whose_taker_was_cancelled_is_given_back_however_late_it_is_granted(
    store: PostgresStore, gate: Any
) -> None:
    waiting, open_gate = gate
    deps = Dependencies(store, providers={"m": ScriptedProvider()}, clock=RealClock())
    scope = anyio.CancelScope()

    async def acquire() -> None:
        with scope:
            await Holding.acquire(deps, "agent", Limits())

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(acquire)
            await waiting(1)
            scope.cancel()
            # Its give-back is under way by now, with connections to spare, and must not overtake.
            await asyncio.sleep(0.2)
            await open_gate()
    lease = (await store.get("agent", [Key("lease", "uid-1", "")]))[0]
    assert lease is not None
    assert (lease.columns["fence"], lease.columns["holder"]) == (1, None), "it was granted, and given back"
    assert await store.lease_of("agent") is None


async def test_what_is_written_after_a_cancelled_write_finds_it_there(store: PostgresStore) -> None:
    """Also when the first is held up on its way, as by a pause before it is tried again."""
    first, second = row("message", "11", "u"), row("message", "12", "u")
    scope, on_its_way, go = anyio.CancelScope(), anyio.Event(), anyio.Event()
    done: list[int | None] = []
    fetch = store.server.fetch

    async def held_up(query: str, *values: Any, again: frozenset[str]) -> list[Any]:
        store.server.fetch = fetch  # type: ignore[method-assign]
        on_its_way.set()
        await go.wait()
        return await fetch(query, *values, again=again)

    async def write() -> None:
        with scope:
            await store.apply("agent", (), [first], ())

    async def after() -> None:
        done.append(await store.apply("agent", [Condition("equals", first.address, "role", None)], [second], ()))

    store.server.fetch = held_up  # type: ignore[method-assign]
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            await on_its_way.wait()
            scope.cancel()
            tasks.start_soon(after)
            await store.apply("other", (), [row("message", "11", "v")], ())  # others are not held up
            go.set()
    assert done == [None]


async def test_a_cancelled_write_whose_connection_breaks_is_followed_by_the_next(
    store: PostgresStore, gate: Any, server_url: str
) -> None:
    """The server rolls back what it had not done; what comes after is judged on what is there."""
    waiting, open_gate = gate
    scope = anyio.CancelScope()

    async def write() -> None:
        with scope:
            await store.apply("agent", (), [row("message", "11", "u")], ())

    db = await asyncpg.connect(server_url)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            await waiting(1)
            scope.cancel()
            waits = "locktype = 'advisory' AND NOT granted"
            await db.execute(f"SELECT pg_terminate_backend(pid) FROM pg_locks WHERE {waits}")
            await open_gate()
        gone = Condition("absent", Key("message", "u", "11"))
        assert await store.apply("agent", [gone], [row("message", "12", "u")], ()) is None
    await db.close()
    assert [one.key for one in await store.scan("agent", Scan("message", "u", limit=9))] == ["12"]
