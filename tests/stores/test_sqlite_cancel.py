"""Callers are cancelled by every means there is: nothing acknowledged is lost, nobody else is disturbed.

asyncio's own cancellation (`task.cancel`, `asyncio.timeout`, `wait_for`, Ctrl-C) is held off by no shield of anyio, so
a batch must not depend on the task that came first.
"""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest

from kode.core.store import SqliteStore
from kode.core.store.contract import Scan
from kode.core.store.records import int_key
from kode.core.store.sqlite import rows
from kode.core.testing.conformance.store import Author
from kode.core.testing.conformance.store.author import item
from kode.core.testing.conformance.store.records import row

pytestmark = pytest.mark.anyio
ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"])


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with SqliteStore(tmp_path / "agents.db", durability="process") as store:
        yield store


class Gate:
    """Holds the writer's thread in the middle of a transaction, after rows of it were written."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.go_on = threading.Event()
        self.threads: set[int] = set()
        self.inside = 0
        self.most = 0

    def hold(self) -> None:
        """Wait here, once."""
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.threads.add(threading.get_ident())
        self.reached.set()
        assert self.go_on.wait(10)
        self.inside -= 1


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate, put = Gate(), rows.put

    def slow(db, record):  # type: ignore[no-untyped-def]
        put(db, record)
        if record.kind == "message":
            gate.hold()

    monkeypatch.setattr(rows, "put", slow)
    yield gate
    gate.go_on.set()


async def until(reached: threading.Event) -> None:
    with anyio.fail_after(10):
        while not reached.is_set():  # noqa: ASYNC110 - a thread sets it
            await anyio.sleep(0.001)


async def put(store: SqliteStore, n: int, outcomes: dict[int, str]) -> None:
    try:
        outcomes[n] = "lost?"
        await store.apply("a", (), [row("message", int_key(n))], ())
        outcomes[n] = "acknowledged"
    except BaseException as error:
        outcomes[n] = type(error).__name__
        raise


async def stored(store: SqliteStore) -> list[str]:
    return [record.key for record in await store.scan("a", Scan("message", "u", limit=99))]


@ASYNCIO
async def test_native_cancellation_of_the_first_of_a_batch_disturbs_nobody(store: SqliteStore, gate: Gate) -> None:
    outcomes: dict[int, str] = {}
    tasks = [asyncio.create_task(put(store, n, outcomes)) for n in range(6)]
    await until(gate.reached)
    late = [asyncio.create_task(put(store, n, outcomes)) for n in range(6, 9)]
    await asyncio.sleep(0.01)
    tasks[0].cancel()
    late[1].cancel()
    await asyncio.sleep(0.05)
    # Nobody was told anything while the transaction is open, and no second thread has begun.
    assert set(outcomes.values()) == {"lost?", "CancelledError"}
    gate.go_on.set()
    await asyncio.gather(*tasks, *late, return_exceptions=True)
    assert (gate.most, len(gate.threads)) == (1, 1)
    cancelled = {0, 7}
    assert {n for n, outcome in outcomes.items() if outcome == "acknowledged"} == set(range(9)) - cancelled
    # The one in flight landed, the one that waited did not.
    assert await stored(store) == [int_key(n) for n in range(9) if n != 7]


@ASYNCIO
@pytest.mark.parametrize("means", ["timeout", "wait_for", "cancel", "scope"])
async def test_what_is_acknowledged_is_stored_whoever_is_cancelled_when(store: SqliteStore, means: str) -> None:
    chance = random.Random(means)
    authors = [Author(store, f"agent-{n}", f"uid-{n}") for n in range(40)]
    for author in authors:
        await author.create()
    acknowledged: set[tuple[int, int]] = set()

    async def send(n: int, k: int) -> None:
        await store.enqueue(f"agent-{n}", item(f"{k}"))
        acknowledged.add((n, k))

    async def one(n: int) -> None:
        for k in range(12):
            after = chance.random() * 0.004
            try:
                if means == "timeout":
                    async with asyncio.timeout(after):
                        await send(n, k)
                elif means == "wait_for":
                    await asyncio.wait_for(send(n, k), after)
                elif means == "scope":
                    with anyio.move_on_after(after):
                        await send(n, k)
                else:
                    task = asyncio.create_task(send(n, k))
                    asyncio.get_running_loop().call_later(after, task.cancel)
                    await asyncio.wait([task])
            except TimeoutError:
                pass

    await asyncio.gather(*[one(n) for n in range(40)])
    for n in range(40):
        loaded = await store.load(f"agent-{n}")
        assert loaded is not None
        ids = [found.id for found in loaded.inbox]
        assert len(ids) == len(set(ids))
        assert {f"{k}" for m, k in acknowledged if m == n} <= set(ids)
        assert [found.position for found in loaded.inbox] == list(range(1, len(ids) + 1))
        # In the order in which they were begun.
        assert [int(id) for id in ids] == sorted(map(int, ids))
    assert await store.enqueue("agent-0", item("last"))


async def test_cancel_scopes_do_the_same_on_every_loop(store: SqliteStore, gate: Gate) -> None:
    outcomes: dict[int, str] = {}
    scopes = [anyio.CancelScope() for _ in range(6)]

    async def one(n: int) -> None:
        with scopes[n]:
            await put(store, n, outcomes)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one, 0)
        await until(gate.reached)
        for n in range(1, 6):
            tasks.start_soon(one, n)
        await anyio.sleep(0.01)
        for n in (0, 2, 5):
            scopes[n].cancel()
        await anyio.sleep(0.01)
        gate.go_on.set()
    assert {n for n, outcome in outcomes.items() if outcome == "acknowledged"} == {1, 3, 4}
    assert await stored(store) == [int_key(n) for n in (0, 1, 3, 4)]


async def test_writes_of_one_caller_land_in_order_though_it_is_cancelled_between(
    store: SqliteStore, gate: Gate
) -> None:
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(put, store, 1, {})
            await until(gate.reached)
            scope.cancel()
    gate.go_on.set()
    await store.apply("a", (), [row("message", int_key(1), run=2)], ())  # as a driver that gives its lease back
    (found,) = await store.scan("a", Scan("message", "u", limit=9))
    assert found.columns["run"] == 2


async def test_a_store_that_is_closed_while_its_callers_are_cancelled_ends(tmp_path: Path, gate: Gate) -> None:
    store = SqliteStore(tmp_path / "x.db", durability="process")
    await store.open()
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            for n in range(3):
                tasks.start_soon(put, store, n, {})
            await until(gate.reached)
            scope.cancel()
    gate.go_on.set()
    await store.close()
    async with SqliteStore(tmp_path / "x.db") as again:
        assert await stored(again) == [int_key(n) for n in range(3)]


PROGRAM = """
import asyncio, os, signal, sys
from kode.core.store import SqliteStore
from kode.core.testing.conformance.store.author import Author, item

async def main():
    async with SqliteStore(sys.argv[1], durability="process") as store:
        for n in range(20):
            await Author(store, f"agent-{n}", f"uid-{n}").create()
        async def send(n):
            for k in range(10**6):
                await store.enqueue(f"agent-{n}", item(f"{k}"))
                print(n, k, flush=True)
        asyncio.get_running_loop().call_later(0.3, os.kill, os.getpid(), signal.SIGINT)
        await asyncio.gather(*[send(n) for n in range(20)])

asyncio.run(main())
"""


@ASYNCIO
async def test_ctrl_c_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    done = subprocess.run(  # noqa: ASYNC221 - nothing else is done meanwhile
        [sys.executable, "-c", PROGRAM, str(path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode in (130, -signal.SIGINT), done.stderr
    told = [tuple(map(int, line.split())) for line in done.stdout.splitlines() if line.count(" ") == 1]
    assert len(told) > 20
    async with SqliteStore(path) as store:
        for n in range(20):
            loaded = await store.load(f"agent-{n}")
            assert loaded is not None
            assert {f"{k}" for m, k in told if m == n} <= {found.id for found in loaded.inbox}
