"""Reading in two lanes: nobody waits for long, nobody is left behind, and what was committed is seen."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from kode.core.store import SqliteStore
from kode.core.store.lanes import Lanes
from kode.core.testing.conformance.store import Author

pytestmark = pytest.mark.anyio


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with SqliteStore(tmp_path / "agents.db", durability="process") as store:
        yield store


async def test_a_long_read_does_not_hold_up_others(store: SqliteStore) -> None:
    await Author(store).create()
    started = anyio.Event()
    go_on: list[int] = []
    token = anyio.lowlevel.current_token()

    def long(db: sqlite3.Connection) -> str:
        anyio.from_thread.run_sync(started.set, token=token)
        while not go_on:
            db.execute("SELECT 1").fetchone()
        return "long"

    async def read() -> None:
        await store._read(long)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        await started.wait()
        with anyio.fail_after(10):
            for _ in range(20):
                assert await store.exists("agent")
        go_on.append(1)


async def test_a_read_sees_what_was_committed_before_it_was_asked_for(store: SqliteStore) -> None:
    async def work(n: int) -> None:
        author = Author(store, f"agent-{n}", f"uid-{n}")
        await author.create()
        for _ in range(5):
            await author.say("x")
            loaded = await store.load(f"agent-{n}")
            assert loaded is not None
            assert loaded.version == author.version

    async with anyio.create_task_group() as tasks:
        for n in range(100):
            tasks.start_soon(work, n)


async def test_cancelled_readers_leave_the_lanes_whole(store: SqliteStore) -> None:
    await Author(store).create()
    for step in range(1, 7):
        scopes = [anyio.CancelScope() for _ in range(12)]
        found: list[int] = []

        async def one(n: int, scopes: list[anyio.CancelScope] = scopes, found: list[int] = found) -> None:
            with scopes[n]:
                assert await store.load("agent") is not None
                found.append(n)

        async with anyio.create_task_group() as tasks:
            for n in range(12):
                tasks.start_soon(one, n)
            await anyio.wait_all_tasks_blocked() if step % 2 else await anyio.lowlevel.checkpoint()
            for n in range(0, 12, step):
                scopes[n].cancel()
        assert set(range(12)) - set(range(0, 12, step)) <= set(found)
        with anyio.fail_after(10):
            assert await store.exists("agent")


async def test_lanes_leave_nobody_behind() -> None:
    running = most = 0
    sizes: list[int] = []

    def carry(batch: list[Any]) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        sizes.append(len(batch))
        for job in batch:
            job.value = job.work()
        running -= 1

    lanes = Lanes("test", carry, lambda: None, width=2, most=10)
    lanes.open()
    answers: dict[int, int] = {}

    async def ask(n: int) -> None:
        answers[n] = await lanes.run(lambda: n * n)

    async with anyio.create_task_group() as tasks:
        for n in range(95):
            tasks.start_soon(ask, n)
    await lanes.close()
    assert answers == {n: n * n for n in range(95)}
    assert most <= 2
    assert max(sizes) == 10


async def test_a_batch_that_cannot_be_carried_is_an_error_for_all_in_it() -> None:
    def carry(batch: list[Any]) -> None:
        raise RuntimeError("no")

    lanes = Lanes("test", carry, lambda: None, width=1, most=10)
    lanes.open()
    outcomes: list[str] = []

    async def ask() -> None:
        try:
            await lanes.run(lambda: None)
            outcomes.append("done")
        except RuntimeError:
            outcomes.append("failed")

    async with anyio.create_task_group() as tasks:
        for _ in range(25):
            tasks.start_soon(ask)
    await lanes.close()
    assert outcomes == ["failed"] * 25


async def test_lanes_whose_threads_have_ended_can_be_closed() -> None:
    """As a store's after an opening that failed: nobody is left who would answer."""
    lanes = Lanes("test", lambda batch: None, lambda: None, width=2, most=1)
    for _ in range(2):
        lanes.open()
        threads = list(lanes._threads)
        lanes.stop()
        for thread in threads:
            thread.join()
        with anyio.fail_after(10):
            await lanes.close()
            await lanes.close()
