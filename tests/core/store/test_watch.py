"""Watchers are woken: at once by what this store writes, after an interval by what others write."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from kode.core.errors import UsageError
from kode.core.store import MemoryStore, SqliteStore, Store
from kode.core.store.layers.watch import Changes
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store.author import Author, item
from kode.core.testing.faulty import FaultyStore


async def woken(changes: Changes) -> bool:
    """Whether it was woken without time passing."""
    with anyio.move_on_after(5) as scope:
        async with anyio.create_task_group() as tasks:

            async def give_up() -> None:
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()

            tasks.start_soon(give_up)
            await changes.wait()
            tasks.cancel_scope.cancel()
            return True
    assert not scope.cancelled_caught
    return False


async def test_every_change_wakes_who_watches_that_agent(clock: VirtualClock) -> None:
    store = MemoryStore(clock)
    a, b = Author(store, "a", "u-a"), Author(store, "b", "u-b")
    async with store.watch("a") as mine, store.watch() as all_:
        assert not await woken(mine)
        await a.create()
        assert await woken(mine)
        assert not await woken(mine)  # one waking for one change
        await b.create()
        assert not await woken(mine)
        for change in (
            lambda: a.say("x"),
            lambda: store.enqueue("a", item("i")),
            lambda: store.append_message("b", "user", "x"),
            lambda: store.fork("b", "c", new_uid="u-c"),
            lambda: store.prune("a", before=None),
            lambda: store.erase("c"),
            lambda: store.delete("a"),
        ):
            await woken(all_)
            await change()
            assert await woken(all_), change
        assert await woken(mine)
        await store.enqueue("b", item("i"))
        await store.enqueue("b", item("j"))
        assert await woken(all_)
        assert not await woken(all_)  # many changes, one waking
    assert store._watching == []


async def test_a_change_between_two_waits_is_not_lost(clock: VirtualClock) -> None:
    store = MemoryStore(clock)
    author = Author(store, "a")
    await author.create()
    async with store.watch("a") as changes:
        await author.say("x")
        await changes.wait()
        await author.say("y")
        await changes.wait()
        assert not await woken(changes)


@pytest.mark.parametrize("whom", ["a", None])
async def test_what_another_process_writes_is_found_by_looking(
    tmp_path: Path, clock: VirtualClock, whom: str | None
) -> None:
    async with (
        SqliteStore(tmp_path / "a.db", durability="process", clock=clock) as store,
        SqliteStore(tmp_path / "a.db", durability="process", clock=clock) as other,
        anyio.create_task_group() as tasks,
    ):
        theirs = Author(other, "a")
        await theirs.create()
        woken = 0

        async with store.watch(whom, poll_s=2.0) as changes:

            async def count() -> None:
                nonlocal woken
                while True:
                    await changes.wait()
                    woken += 1

            async def told(before: int) -> None:
                with anyio.fail_after(20):
                    for _ in range(100):
                        await clock.advance(2.0)
                        await store.get("a", [])  # behind what the watcher asked for
                        if woken > before:
                            return
                        await anyio.sleep(0.01)
                raise AssertionError("not woken")

            tasks.start_soon(count)
            for change in (lambda: theirs.say("x"), lambda: other.enqueue("a", item("i")), lambda: other.erase("a")):
                before = woken
                await anyio.wait_all_tasks_blocked()
                await change()
                await told(before)
            # Nothing more changes: nobody is woken for ever. What this store wrote itself may have cost one.
            for _ in range(3):
                await clock.advance(2.0)
                await store.get("a", [])
                await anyio.sleep(0.02)
            quiet = woken
            for _ in range(3):
                await clock.advance(2.0)
                await store.get("a", [])
                await anyio.sleep(0.02)
            assert woken == quiet
            tasks.cancel_scope.cancel()


async def test_a_store_that_is_away_wakes_its_watchers(clock: VirtualClock) -> None:
    store = FaultyStore(MemoryStore(clock))
    await Author(store, "a").create()
    async with store.watch("a") as changes, anyio.create_task_group() as tasks:
        tasks.start_soon(clock.advance, 1.5)
        store.down = True
        with anyio.fail_after(20):
            await changes.wait()


async def test_an_id_must_be_one(store: Store) -> None:
    with pytest.raises(UsageError):
        store.watch("../a")
