"""`copy_store` and `verify_copy`: whole agents, byte for byte, and never anything overwritten unasked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tests.stores.copying.agents import everything, fill, header, outcome

from kode.core.errors import StoreUnavailableError, UsageError
from kode.core.store import JSONStore, MemoryStore, SqliteStore, Store
from kode.core.store.contract import Condition, Key, Record, Scan
from kode.core.store.copying import Outcome, copy_store, verify_copy
from kode.core.store.copying.work import PAGE
from kode.core.store.lookups import lease_key
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store.author import AT, Author, item


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
        assert [row.key for row in await target.scan("", Scan("staged", "", limit=9))] == []
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
    assert await target.scan("", Scan("staged", "", limit=9)) == []


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
    assert await target.scan("", Scan("staged", "", limit=9)) == []


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
            (row, *_) = await target.scan("team/one", Scan(kind, author.state.uid, limit=1))
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
