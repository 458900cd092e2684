"""`copy_store` and `verify_copy`: whole agents, byte for byte, and never anything overwritten unasked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kode.core.errors import KodeError, StoreUnavailableError, UsageError
from kode.core.kernel.toolcall import CallStatus
from kode.core.kernel.window import Snapshot, Window
from kode.core.store import JSONStore, MemoryStore, SqliteStore, Store
from kode.core.store.contract import Condition, Key, Record
from kode.core.store.copying import Outcome, Verified, What, copy_store, verify_copy
from kode.core.store.copying.contents import FIRST, PAGE_BYTES, Pages
from kode.core.store.copying.work import PAGE
from kode.core.store.layers.orphans import ORPHANED_FOR
from kode.core.store.plans import header_key, lease_key
from kode.core.store.records import orphan_record
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store.author import AT, Author, compaction, item, open_call, run_record


class SmallStore(MemoryStore):
    """Stands for an engine that writes few records at once."""

    max_batch = 3

    async def apply(
        self, agent_id: str, conditions: Sequence[Condition], puts: Sequence[Record], deletes: Sequence[Key]
    ) -> int | None:
        assert len(puts) + len(deletes) <= 3
        return await super().apply(agent_id, conditions, puts, deletes)


KINDS = ("memory", "small", "json", "sqlite")


def make(kind: str, path: Path, clock: VirtualClock | None = None) -> Store:
    """A store that is not open yet."""
    if kind == "json":
        return JSONStore(path / "json", durability="process", clock=clock)
    if kind == "sqlite":
        return SqliteStore(path / "a.db", durability="process", clock=clock)
    return (SmallStore if kind == "small" else MemoryStore)(clock)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(AT)


@pytest.fixture
async def source(clock: VirtualClock) -> AsyncIterator[Store]:
    async with MemoryStore(clock) as store:
        yield store


@pytest.fixture
async def target(clock: VirtualClock) -> AsyncIterator[Store]:
    async with MemoryStore(clock) as store:
        yield store


async def fill(store: Store, agent_id: str = "team/one", messages: int = 40, waits: bool = True) -> Author:
    """An agent with records of every kind."""
    author = Author(store, agent_id, f"uid-{agent_id}")
    await author.create()
    await store.enqueue(agent_id, item("taken", "first"))
    (taken,) = await store.read_inbox(agent_id, author.state.uid)
    await author.say(
        *(f"words {n}: ä 漢 🎉" for n in range(messages)),
        events=3,
        consumed={taken.position: taken},
        runs=[run_record(1)],
        calls=[open_call(n=1, status=CallStatus.DENIED, finished_at=AT)],
        compactions=[compaction("c1", 0, 2)],
        snapshots=[Snapshot("s1", 1, AT, Window())],
        state={"next_run": 2, "step": 2, "next_n": 9},
    )
    if waits:
        await store.enqueue(agent_id, item("waits", "second"))
    await store.put_blob(agent_id, b"\0bytes" * 100, "image/png")
    await store.save_document(agent_id, "notes", "", {"likes": ["tea"]})
    author.state = await store.read_state(agent_id)
    author.version = int(str((await header(store, agent_id)).columns["version"]))
    return author


async def header(store: Store, agent_id: str) -> Record:
    (found,) = await store.get(agent_id, [header_key(agent_id)])
    assert found is not None
    return found


async def everything(store: Store, agent_id: str = "team/one") -> dict[Key, tuple[dict[str, Any], bytes]]:
    """All records of an agent but its lease."""
    first = await header(store, agent_id)
    found = [first]
    for kind in ("message", "call", "events", "inbox", "consumed", "run", "compaction", "snapshot", "document", "blob",
                 "staged"):  # fmt: skip
        found += await store.scan(agent_id, kind, str(first.columns["uid"]), limit=10_000)
    return {row.address: (dict(row.columns), row.body) for row in found}


def outcome(report: Verified) -> dict[What, int]:
    return report.counts


# ---- whole and equal -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("into", KINDS)
@pytest.mark.parametrize("of", KINDS)
async def test_every_record_arrives_as_it_was(of: str, into: str, tmp_path: Path, clock: VirtualClock) -> None:
    async with make(of, tmp_path / "s", clock) as source, make(into, tmp_path / "t", clock) as target:
        await fill(source)
        await fill(source, "team/one/fork", messages=3)
        report = await copy_store(source, target)
        assert (outcome(report), report.ok, report.messages) == ({"copied": 2}, True, 43)
        ours, theirs = await everything(source), await everything(target)
        assert {key.kind for key in ours} == {
            "header", "message", "call", "events", "inbox", "consumed", "run", "compaction", "snapshot", "document",
            "blob",
        }  # fmt: skip
        assert ours == theirs
        fork = await everything(source, "team/one/fork")
        assert report.size == sum(len(body) for _, body in [*ours.values(), *fork.values()])
        assert (await verify_copy(source, target)).counts == {"same": 2}
        assert [row.key for row in await target.scan("", "staged", "", limit=9)] == []
        assert (await target.check_consistency("team/one/fork")).problems == (
            await source.check_consistency("team/one/fork")
        ).problems


async def test_a_second_copy_passes_over_what_is_there(source: Store, target: Store) -> None:
    await fill(source)
    await copy_store(source, target)
    before = await everything(target)
    told: list[Outcome] = []
    report = await copy_store(source, target, on_progress=lambda p: told.append(p.outcome) if p.outcome else None)
    assert (outcome(report), report.ok) == ({"same": 1}, True)
    assert await everything(target) == before
    assert (told[0].agent_id, told[0].uid, len(told[0].digest)) == ("team/one", "uid-team/one", 64)


async def test_a_copied_agent_goes_on(source: Store, target: Store) -> None:
    author = await fill(source)
    await copy_store(source, target)
    author.store = target
    await author.say("and on")
    assert (await target.read_messages("team/one", backwards=True, limit=1)).items[0].seq == 40
    waiting = await target.read_inbox("team/one", author.state.uid)
    assert [one.id for one in waiting] == ["waits"]
    assert (await target.enqueue("team/one", item("taken", "first"))).duplicate
    assert [one.agent_id for one in await target.due(AT, 9)] == ["team/one"]


async def test_leases_stay_behind_and_fences_go_on(source: Store, target: Store) -> None:
    await fill(source)
    for holder in ("a", "a", "a"):
        await source.acquire("team/one", holder, 60)
    await copy_store(source, target)
    assert await target.lease_of("team/one") is None
    assert (await target.acquire("team/one", "b", 60)).fence == 4


async def test_an_agent_that_nobody_ever_drove_has_no_lease(source: Store, target: Store) -> None:
    author = await fill(source)
    await copy_store(source, target)
    assert await target.get("team/one", [lease_key(author.state.uid)]) == [None]


async def test_a_staged_commit_is_brought_to_its_place_first(target: Store) -> None:
    class Lazy(SmallStore):
        idle = True

        async def settle(self, agent_id: str, header: Record) -> None:
            if self.idle:
                raise StoreUnavailableError("not now")
            await super().settle(agent_id, header)

    async with Lazy(VirtualClock(AT)) as source:
        author = Author(source, "a", "u")
        await author.create()
        await author.say(*"abcdefgh")
        assert (await header(source, "a")).columns["staged"] is not None
        source.idle = False
        assert outcome(await copy_store(source, target)) == {"copied": 1}
        assert len((await target.read_messages("a")).items) == 8
        assert await everything(source, "a") == await everything(target, "a")


async def test_some_agents_only(source: Store, target: Store) -> None:
    for n in range(4):
        author = await fill(source, f"a{n}", messages=1)
        await author.commit(state={"updated_at": AT + 10 * n})
    assert outcome(await copy_store(source, target, since=AT + 20)) == {"copied": 2}
    assert [info.agent_id for info in await target.list_agents()] == ["a2", "a3"]
    assert outcome(await copy_store(source, target, agents=["a0", "a0"])) == {"copied": 1}
    assert outcome(await copy_store(source, target, prefix="a1")) == {"copied": 1}
    assert outcome(await copy_store(source, target)) == {"same": 4}


async def test_more_agents_than_a_page(source: Store, target: Store) -> None:
    for n in range(PAGE + 30):
        await Author(source, f"a{n}", f"u{n}").create()
    assert outcome(await copy_store(source, target, concurrency=3)) == {"copied": PAGE + 30}
    assert outcome(await verify_copy(source, target, concurrency=5)) == {"same": PAGE + 30}


async def test_a_missing_agent_is_reported(source: Store, target: Store) -> None:
    report = await copy_store(source, target, agents=["nobody"])
    assert [(one.agent_id, one.what) for one in report.problems] == [("nobody", "failed")]
    assert "nobody" in report.problems[0].why


async def test_a_dry_run_writes_nothing(source: Store, target: Store) -> None:
    await fill(source)
    await fill(source, "other")
    await Author(target, "other", "somebody else").create()
    report = await copy_store(source, target, dry_run=True)
    assert (outcome(report), report.dry_run) == ({"copied": 1, "conflict": 1}, True)
    assert outcome(await copy_store(source, target, dry_run=True, replace=True)) == {"copied": 1, "replaced": 1}
    assert [info.uid for info in await target.list_agents()] == ["somebody else"]
    assert await target.scan("", "staged", "", limit=9) == []


async def test_bad_arguments(source: Store, target: Store) -> None:
    with pytest.raises(UsageError, match="concurrency is 0"):
        await copy_store(source, target, concurrency=0)
    with pytest.raises(UsageError) as caught:
        await copy_store(source, source)
    assert caught.value.code == "same_store"


# ---- what differs is not overwritten ---------------------------------------------------------------------------


async def test_another_agent_of_that_name_stays(source: Store, target: Store) -> None:
    await fill(source)
    other = Author(target, "team/one", "another")
    await other.create()
    report = await copy_store(source, target)
    assert [(one.what, "another" in one.why) for one in report.problems] == [("conflict", True)]
    assert (await target.read_state("team/one")).uid == "another"

    replaced = await copy_store(source, target, replace=True)
    assert outcome(replaced) == {"replaced": 1}
    assert await everything(source) == await everything(target)
    assert await target.remains("team/one", "another") == {}
    assert await target.scan("", "staged", "", limit=9) == []


@pytest.mark.parametrize(("newer", "word"), [("source", "older"), ("target", "newer")])
async def test_another_state_of_it_stays(source: Store, target: Store, newer: str, word: str) -> None:
    author = await fill(source)
    await copy_store(source, target)
    author.store = source if newer == "source" else target
    await author.say("more")
    kept = await everything(target)
    report = await copy_store(source, target)
    assert [(one.what, word in one.why) for one in report.problems] == [("conflict", True)]
    assert await everything(target) == kept
    assert [one.what for one in (await verify_copy(source, target)).problems] == ["differs"]

    assert outcome(await copy_store(source, target, replace=True)) == {"replaced": 1}
    assert await everything(source) == await everything(target)


async def test_a_replaced_agent_keeps_its_fence(source: Store, target: Store) -> None:
    await fill(source)
    await source.release(await source.acquire("team/one", "a", 60))
    await copy_store(source, target)
    for _ in range(6):
        lease = await target.acquire("team/one", "b", 60)
    await target.release(lease)
    author = Author(source, "team/one")
    author.state, author.version = await source.read_state("team/one"), 3
    await author.say("more")
    await copy_store(source, target, replace=True)
    assert (await target.acquire("team/one", "c", 60)).fence == 8


@pytest.mark.parametrize("uid", ["uid-team/one", "another"])
async def test_what_is_driven_in_the_target_is_not_replaced(source: Store, target: Store, uid: str) -> None:
    await fill(source)
    other = Author(target, "team/one", uid)
    await other.create()
    await other.drive()
    kept = await everything(target)
    report = await copy_store(source, target, replace=True)
    assert [one.what for one in report.problems] == ["conflict"]
    assert "driver" in report.problems[0].why
    assert await everything(target) == kept


@pytest.mark.parametrize("harm", ["body", "column", "gone", "more"])
async def test_verify_sees_every_record(source: Store, clock: VirtualClock, harm: str) -> None:
    author = await fill(source)
    for kind in ("message", "call", "events", "inbox", "consumed", "run", "compaction", "snapshot", "document", "blob"):
        async with MemoryStore(clock) as target:
            await copy_store(source, target)
            (row, *_) = await target.scan("team/one", kind, author.state.uid, limit=1)
            name, value = next(iter(row.columns.items()))
            changed = {
                "body": replace(row, body=row.body[:-1] + b"?"),
                "column": replace(row, columns={**row.columns, name: f"{value}!" if isinstance(value, str) else 12345}),
                "more": replace(row, key=f"{row.key}~"),
            }
            gone = [row.address] if harm == "gone" else []
            await target.apply("team/one", (), [changed[harm]] if harm in changed else [], gone)
            (problem,) = (await verify_copy(source, target)).problems
            assert problem.what == "differs"
            assert f"{kind} records" in problem.why
            assert [one.what for one in (await copy_store(source, target)).problems] == ["conflict"]


async def test_verify_sees_a_header_and_a_missing_agent(source: Store, target: Store) -> None:
    await fill(source)
    assert [one.what for one in (await verify_copy(source, target)).problems] == ["missing"]
    await copy_store(source, target)
    there = await header(target, "team/one")
    await target.apply("team/one", (), [replace(there, columns={**there.columns, "tenant": "x"})], ())
    (problem,) = (await verify_copy(source, target)).problems
    assert (problem.what, "header" in problem.why) == ("differs", True)


async def test_records_of_the_same_identity_under_another_name_stay(source: Store, target: Store) -> None:
    await fill(source)
    other = Author(target, "other", "uid-team/one")
    await other.create()
    await other.say("mine")
    kept = await everything(target, "other")
    assert [one.what for one in (await copy_store(source, target)).problems] == ["conflict"]
    assert await everything(target, "other") == kept


# ---- interrupted, and at the same time -------------------------------------------------------------------------


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
            assert await target.scan("", "staged", "", limit=9) == []
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


class Busy(MemoryStore):
    """Somebody writes the agent while it is read, a few times."""

    times = 0
    author: Author | None = None
    enqueues = False

    async def scan(self, agent_id: str, kind: Any, uid: str, **options: Any) -> list[Record]:
        rows = await super().scan(agent_id, kind, uid, **options)
        if kind == "run" and self.times > 0 and self.author is not None:
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
        assert await target.scan("", "staged", "", limit=9) == []
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


@pytest.mark.parametrize("messages", [FIRST - 1, FIRST, FIRST + 1, 5 * FIRST, 5 * FIRST + 1, 400])
@pytest.mark.parametrize("size", [1, PAGE_BYTES // 20, PAGE_BYTES])
async def test_pages_have_everything_once(source: Store, messages: int, size: int) -> None:
    messages = min(messages, 60) if size > 1 else messages
    if size == PAGE_BYTES:
        messages = messages % 5
    author = await fill(source, messages=0)
    for n in range(messages):
        await author.say(f"{n}" + "x" * (size - 1))
    for n in range(3):
        await source.put_blob("team/one", bytes([n]) * 10, "x/y")
    pages = Pages(source, "team/one", author.state.uid)
    found: list[Record] = []
    while not pages.over:
        page = await pages.next()
        assert sum(len(row.body) for row in page) < 2.1 * PAGE_BYTES or len(page) <= FIRST
        assert sum(row.kind == "blob" for row in page) <= 1
        found += page
    ours = await everything(source)
    assert len(found) == len(ours) - 1
    assert {row.address: (dict(row.columns), row.body) for row in found} == {
        key: value for key, value in ours.items() if key.kind != "header"
    }
    assert pages.header == await header(source, "team/one")


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
        assert await target.scan("", "staged", "", limit=9) == []


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


async def test_few_blobs_and_few_large_messages_are_in_memory_at_once(clock: VirtualClock) -> None:
    class Watched(MemoryStore):
        most: dict[str, int]
        reading = 0

        async def scan(self, agent_id: str, kind: Any, uid: str, **options: Any) -> list[Record]:
            rows = await super().scan(agent_id, kind, uid, **options)
            size = sum(len(row.body) for row in rows)
            self.most[kind] = max(self.most.get(kind, 0), size)
            return rows

    async with Watched(clock) as source, MemoryStore(clock) as target:
        source.most = {}
        for n in range(3):
            author = await fill(source, f"a{n}", messages=1)
            for k in range(3):
                await source.put_blob(author.id, bytes([n, k]) * 500_000, "x/y")
            for _ in range(40):
                await author.say("x" * (PAGE_BYTES // 40))
        source.most = {}
        assert outcome(await copy_store(source, target)) == {"copied": 3}
        assert source.most["blob"] == 1_000_000
        assert source.most["message"] < PAGE_BYTES
