"""The threads of an open store: they begin with it, end with it, and are not carried into other processes."""

from __future__ import annotations

import gc
import os
import threading
import warnings
from pathlib import Path
from typing import Any

import anyio
import pytest

from kode.core.errors import StoreError, StoreUnavailableError
from kode.core.store import SqliteStore
from kode.core.store.lanes import Lanes
from kode.core.testing.conformance.store import Author

pytestmark = pytest.mark.anyio


async def test_lanes_finish_what_waits_and_may_be_opened_again() -> None:
    def carry(batch: list[Any]) -> None:
        for job in batch:
            job.value = job.work()

    left: list[str] = []
    lanes = Lanes("lane", carry, lambda: left.append("left"), width=2, most=10)
    lanes.open()
    lanes.open()
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("lane-")] == ["lane-0", "lane-1"]
    waiting = lanes.run(lambda: 7)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_expect, waiting, 7)
        await anyio.wait_all_tasks_blocked()
        await lanes.close()
    assert left == ["left"]
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("lane-")] == []
    with pytest.raises(StoreError) as closed:
        await lanes.run(lambda: 8)
    assert closed.value.code == "closed"
    lanes.open()
    assert await lanes.run(lambda: 9) == 9
    await lanes.close()
    await lanes.close()


async def _expect(found: Any, value: int) -> None:
    assert await found == value


async def test_what_a_batch_dies_of_is_an_error_for_all_of_it() -> None:
    def carry(batch: list[Any]) -> None:
        batch[0].value = 1
        raise MemoryError("no memory")

    lanes = Lanes("lane", carry, lambda: None, width=1, most=10)
    lanes.open()
    outcomes: list[str] = []

    async def ask() -> None:
        try:
            await lanes.run(lambda: None)
            outcomes.append("done")
        except MemoryError:
            outcomes.append("failed")

    for _ in range(2):
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(ask)
    assert outcomes == ["failed"] * 10
    await lanes.close()


async def test_no_thread_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    store = SqliteStore(tmp_path / "x.db")
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        with pytest.raises(StoreUnavailableError) as none:
            await store.open()
    assert none.value.code == "no_thread"
    assert await store.list_agents() == []
    await store.close()


async def test_threads_end_with_the_store(tmp_path: Path) -> None:
    # Other tests' threads may be about to end: only what came after them counts.
    before = set(threading.enumerate())

    def running() -> int:
        return sum(thread.name.startswith("kode-") for thread in set(threading.enumerate()) - before)

    store = SqliteStore(tmp_path / "x.db")
    assert await store.list_agents() == []
    assert running() == 3
    await store.close()
    assert running() == 0
    # A store that nobody closed and nobody has any more.
    forgotten = SqliteStore(tmp_path / "x.db")
    await forgotten.open()
    del forgotten
    gc.collect()
    with anyio.fail_after(10):
        while running():  # noqa: ASYNC110 - nothing tells of a thread's end
            await anyio.sleep(0.01)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_process_that_was_forked_off_is_refused(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "x.db", durability="process")
    await Author(store).create()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads: that is what this is about
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            coroutine: Any = store.list_agents()
            coroutine.send(None)
        except StoreError as error:
            code = 0 if error.code == "forked" else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0  # noqa: ASYNC222 - it ends at once
    assert await store.exists("agent")
    await store.close()
