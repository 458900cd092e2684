"""Copies that end in the middle: whatever the moment, all of an agent is there or nothing, and the next goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from tests.stores.copying.agents import everything, fill, outcome

from kode.core.errors import KodeError, StoreUnavailableError
from kode.core.store import MemoryStore, Store
from kode.core.store.contract import Condition, Key, Record, Scan
from kode.core.store.copying import copy_store
from kode.core.store.copying.contents import PAGE_BYTES
from kode.core.store.layers.orphans import ORPHANED_FOR
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store.author import Author


class Dead(BaseException):
    """The process is gone."""


class Mortal(MemoryStore):
    """Dies at a write, before or after it. It takes several for an agent."""

    max_batch = 20

    def __init__(self, clock: VirtualClock, at: int) -> None:
        super().__init__(clock)
        self.at = at
        self.writes = 0

    async def apply(
        self, agent_id: str, conditions: Sequence[Condition], puts: Sequence[Record], deletes: Sequence[Key]
    ) -> int | None:
        self.writes += 1
        if self.writes * 2 - 1 == self.at:
            raise Dead
        done = await super().apply(agent_id, conditions, puts, deletes)
        if self.writes * 2 == self.at:
            raise Dead
        return done


async def crash(source: Store, target: Mortal, **options: Any) -> bool:
    """Copy until it dies; says whether it did. On a single worker, as a group would wrap what is raised."""
    try:
        await copy_store(source, target, concurrency=1, **options)
    except BaseExceptionGroup as group:
        return group.subgroup(Dead) is not None
    return False


@pytest.mark.parametrize("there", ["nothing", "another", "older"])
async def test_a_crash_at_every_write_leaves_all_or_nothing(there: str, clock: VirtualClock) -> None:
    at = 0
    died = True
    while died:
        at += 1
        async with MemoryStore(clock) as source, Mortal(clock, 0) as target:
            author = await fill(source)
            if there == "older":
                await copy_store(source, target)
                await author.say("more")
            if there == "another":
                await Author(target, "team/one", "another").create()
            before = (await everything(target)) if there != "nothing" else {}
            target.writes, target.at = 0, at
            died = await crash(source, target, replace=True)
            if await target.exists("team/one"):
                assert await everything(target) in (before, await everything(source))
            else:
                assert there != "another", "it is swapped in one act"
            target.at = 0
            assert (await copy_store(source, target, replace=True)).ok
            assert await everything(target) == await everything(source)
            if there == "another":
                clock_was = clock.now()
                await clock.advance(ORPHANED_FOR / 1e6 + 1)
                await target.sweep()
                assert await target.remains("team/one", "another") == {}
                assert clock.now() > clock_was
            assert await target.scan("", Scan("staged", "", limit=9)) == []
    assert at > 6


async def test_half_of_another_state_is_cleared_away(clock: VirtualClock) -> None:
    """What the first try has written and the agent no longer has must not stay."""
    async with MemoryStore(clock) as source, Mortal(clock, 5) as target:
        author = await fill(source)
        await source.save_snapshot("team/one", "gone soon")
        assert await crash(source, target)
        await source.delete_snapshot("team/one", "gone soon")
        target.at = 0
        assert outcome(await copy_store(source, target)) == {"copied": 1}
        assert await everything(target) == await everything(source)
        assert author.state.uid == (await target.read_state("team/one")).uid


async def test_a_deletion_that_broke_off_in_the_target_is_finished(clock: VirtualClock) -> None:
    async with MemoryStore(clock) as source, Mortal(clock, 0) as target:
        author = await fill(source)
        await copy_store(source, target)
        author.store = target
        await author.say("only there")
        target.writes, target.at = 0, 2
        with pytest.raises(Dead):
            await target.delete("team/one")
        target.at = 0
        assert outcome(await copy_store(source, target)) == {"copied": 1}
        assert await everything(source) == await everything(target)
        assert await target.scan("", Scan("staged", "", limit=9)) == []


async def test_a_long_copy_is_not_swept_away(source: Store, clock: VirtualClock) -> None:
    class Slow(MemoryStore):
        async def apply(self, agent_id: str, conditions: Any, puts: Any, deletes: Any) -> int | None:
            await clock.advance(ORPHANED_FOR / 1e6 / 4)
            await super().sweep()
            return await super().apply(agent_id, conditions, puts, deletes)

    await fill(source)
    for n in range(3):
        await source.put_blob("team/one", bytes([n]) * PAGE_BYTES, "x/y")
    async with Slow(clock) as target:
        assert outcome(await copy_store(source, target)) == {"copied": 1}


async def test_a_store_that_is_gone_ends_the_copy(source: Store, clock: VirtualClock) -> None:
    class Gone(MemoryStore):
        async def apply(self, agent_id: str, conditions: Any, puts: Any, deletes: Any) -> int | None:
            raise StoreUnavailableError("the engine is gone")

    for n in range(9):
        await fill(source, f"a{n}", messages=1)
    async with Gone(clock) as target:
        with pytest.raises(StoreUnavailableError, match="the engine is gone"):
            await copy_store(source, target)


async def test_an_error_of_one_agent_is_not_the_end(source: Store, clock: VirtualClock) -> None:
    class Picky(MemoryStore):
        async def apply(self, agent_id: str, conditions: Any, puts: Any, deletes: Any) -> int | None:
            if agent_id == "a1":
                raise KodeError("not this one")
            return await super().apply(agent_id, conditions, puts, deletes)

    for n in range(3):
        await fill(source, f"a{n}", messages=1)
    async with Picky(clock) as target:
        report = await copy_store(source, target)
        assert outcome(report) == {"copied": 2, "failed": 1}
        assert [(one.agent_id, one.why) for one in report.problems] == [("a1", "not this one")]
