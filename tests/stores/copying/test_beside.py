"""Copies beside others at work: a source that changes, a second copy, a target that somebody else writes to."""

from __future__ import annotations

from typing import Any

import pytest
from tests.stores.copying.agents import everything, fill, outcome

from kode.core.store import MemoryStore, Store
from kode.core.store.contract import Record, Scan
from kode.core.store.copying import copy_store
from kode.core.store.records import orphan_record
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store.author import AT, Author, item


class Busy(MemoryStore):
    """Somebody writes the agent while it is read, a few times."""

    times = 0
    author: Author | None = None
    enqueues = False

    async def scan(self, agent_id: str, ask: Scan) -> list[Record]:
        rows = await super().scan(agent_id, ask)
        if ask.kind == "run" and self.times > 0 and self.author is not None:
            self.times -= 1
            if self.enqueues:
                await self.enqueue(agent_id, item(f"new {self.times}", not_before=AT - 1 - self.times))
            else:
                await self.author.say("meanwhile")
        return rows


@pytest.mark.parametrize("enqueues", [False, True])
async def test_a_source_at_work_is_copied_as_it_was_at_one_moment(
    target: Store, clock: VirtualClock, enqueues: bool
) -> None:
    async with Busy(clock) as source:
        source.author, source.enqueues = await fill(source, waits=not enqueues), enqueues
        source.times = 1 if enqueues else 3
        assert outcome(await copy_store(source, target)) == {"copied": 1}
        assert await everything(source) == await everything(target)
        assert source.times == 0


async def test_a_source_that_never_rests_is_reported(target: Store, clock: VirtualClock) -> None:
    async with Busy(clock) as source:
        source.author = await fill(source)
        source.times = 100
        report = await copy_store(source, target)
        assert [one.what for one in report.problems] == ["changing"]
        assert not await target.exists("team/one")
        assert await target.remains("team/one", source.author.state.uid) == {}
        assert await target.scan("", Scan("staged", "", limit=9)) == []
        await copy_store(source, target)


async def test_what_does_not_read_back_does_not_show(source: Store, clock: VirtualClock) -> None:
    class Forgetful(MemoryStore):
        async def apply(self, agent_id: str, conditions: Any, puts: Any, deletes: Any) -> int | None:
            return await super().apply(agent_id, conditions, [row for row in puts if row.kind != "run"], deletes)

    await fill(source)
    async with Forgetful(clock) as target:
        report = await copy_store(source, target)
        assert [(one.what, "run records (1 here, 0 there)" in one.why) for one in report.problems] == [("failed", True)]
        assert not await target.exists("team/one")


async def test_two_copies_at_once_make_one(source: Store, clock: VirtualClock) -> None:
    class Meeting(MemoryStore):
        other: Store | None = None

        async def apply(self, agent_id: str, conditions: Any, puts: Any, deletes: Any) -> int | None:
            source, self.other = self.other, None
            done = await super().apply(agent_id, conditions, puts, deletes)
            if source is not None:  # after the first has put its mark
                assert (await copy_store(source, self)).ok
            return done

    await fill(source)
    async with Meeting(clock) as target:
        target.other = source
        report = await copy_store(source, target)
        assert [one.what for one in report.problems] == ["conflict"]
        assert await everything(source) == await everything(target)


@pytest.mark.parametrize("other", ["copies it", "began and died", "creates another"])
async def test_who_comes_between_the_look_and_the_first_write_wins(
    source: Store, clock: VirtualClock, other: str
) -> None:
    class Meeting(MemoryStore):
        async def meet(self) -> None:
            if other == "copies it":
                assert (await copy_store(source, self)).ok
            elif other == "began and died":
                await self.apply("team/one", (), [orphan_record("uid-team/one", "team/one", "fork", AT)], ())
            else:
                await Author(self, "team/one", "another").create()

        met = True

        async def apply(self, agent_id: str, conditions: Any, puts: Any, deletes: Any) -> int | None:
            if not self.met:
                self.met = True
                await self.meet()
            return await super().apply(agent_id, conditions, puts, deletes)

    await fill(source)
    async with Meeting(clock) as target:
        target.met = False
        report = await copy_store(source, target)
        assert [one.what for one in report.problems] == ["conflict"]
        assert await target.exists("team/one") == (other != "began and died")
        if other == "creates another":
            assert await target.remains("team/one", "uid-team/one") == {}
        else:
            assert (await copy_store(source, target)).ok
            assert await everything(source) == await everything(target)


async def test_a_listed_header_may_be_old(clock: VirtualClock, target: Store) -> None:
    class Listed(MemoryStore):
        author: Author | None = None

        async def agents(self, *args: Any, **options: Any) -> list[Record]:
            rows = await super().agents(*args, **options)
            if self.author is not None:
                await self.author.say("since then")
            return rows

    async with Listed(clock) as source:
        author = await fill(source)
        assert outcome(await copy_store(source, target)) == {"copied": 1}
        source.author = author
        report = await copy_store(source, target, replace=True)
        assert outcome(report) == {"replaced": 1}
        source.author = None
        assert await everything(source) == await everything(target)


async def test_who_lost_its_mark_before_the_last_act_has_lost(source: Store, clock: VirtualClock) -> None:
    class Swept(MemoryStore):
        async def apply(self, agent_id: str, conditions: Any, puts: Any, deletes: Any) -> int | None:
            if any(row.kind == "header" for row in puts):
                await self.drop(agent_id, "uid-team/one")
                await super().apply(agent_id, (), (), deletes)
            return await super().apply(agent_id, conditions, puts, deletes)

    await fill(source)
    async with Swept(clock) as target:
        assert [one.what for one in (await copy_store(source, target)).problems] == ["conflict"]
        assert not await target.exists("team/one")
