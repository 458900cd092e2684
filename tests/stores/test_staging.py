"""A commit too large for one write of its engine is one act all the same, wherever it breaks off."""

from __future__ import annotations

from typing import Any

import pytest

from kode.core.errors import ConflictError, StoreUnavailableError
from kode.core.store import Commit, MemoryStore
from kode.core.store.contract import Scan
from kode.core.store.primitives import weight
from kode.core.store.records import read_message
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store import Author
from kode.core.testing.conformance.store.author import AT, item, open_call

pytestmark = pytest.mark.anyio


class Breaking(MemoryStore):
    """Takes three records at once; after `left` writes it is gone until `mend`."""

    max_batch = 3
    left = 10**6
    count = 0

    async def apply(self, agent_id, conditions, puts, deletes):  # type: ignore[no-untyped-def]
        assert len(puts) + len(deletes) <= 3
        self.left -= 1
        if self.left < 0:
            raise StoreUnavailableError("gone")
        self.count += 1
        return await super().apply(agent_id, conditions, puts, deletes)


async def prepare() -> tuple[Breaking, Author, Commit]:
    store = Breaking(VirtualClock(AT))
    author = Author(store)
    await author.create()
    call = open_call(0)
    await author.commit(state={"calls": (call,), "next_run": 2, "step": 1, "next_n": 1}, calls=[call])
    await store.enqueue("agent", item("a"))
    await author.drive(ttl_s=10**6)
    loaded = await store.load("agent")
    assert loaded is not None
    answered = open_call(0, result_seq=1)
    texts = author.make(state={"calls": (answered,)}, calls=[answered], consumed={1: loaded.inbox[0]}, taken={"a": 1})
    author.seen = 1
    commit = await large(author, texts)
    store.count = 0
    return store, author, commit


async def large(author: Author, base: Commit) -> Commit:
    """Make a commit of eight messages and what `base` has."""
    kept: list[Commit] = []

    async def keep(commit: Commit) -> Any:
        kept.append(commit)
        raise KeyError

    write, author.write = author.write, keep  # type: ignore[method-assign]
    with pytest.raises(KeyError):
        await author.say(
            *[f"{n}" for n in range(8)],
            events=2,
            calls=base.calls,
            consumed=base.consumed,
            taken=base.taken,
            state={"calls": base.state.calls},
        )
    author.write = write  # type: ignore[method-assign]
    return kept[0]


async def test_it_is_all_or_nothing_wherever_it_breaks_off() -> None:
    store, _, commit = await prepare()
    await store.commit(commit)
    writes = store.count
    assert writes > 8
    landed = []
    for n in range(writes):
        store, author, commit = await prepare()
        store.left = n
        try:
            await store.commit(commit)
            acknowledged = True
        except StoreUnavailableError:
            acknowledged = False
        store.left = 10**6
        loaded = await store.load("agent")
        assert loaded is not None
        landed.append(loaded.version == 3)
        assert acknowledged is landed[-1]
        assert len(loaded.window) == (8 if landed[-1] else 0)
        assert [found.id for found in loaded.inbox] == ([] if landed[-1] else ["a"])
        assert loaded.state.calls[0].result_seq == (1 if landed[-1] else None)
        assert (await store.enqueue("agent", item("a"))).run == (1 if landed[-1] else None)
        # The driver repeats it, whatever it has heard.
        again = await store.commit(commit)
        assert (again.version, again.repeated) == (3, landed[-1])
        author.state, author.version = commit.state, 3
        await author.say("next")
        assert len((await store.read_messages("agent")).items) == 9
    assert landed == sorted(landed)
    assert True in landed
    assert False in landed


async def test_readers_and_the_next_commit_settle_what_is_named() -> None:
    for first in ("read", "commit", "load", "acquire"):
        store, author, commit = await prepare()
        await store.commit(commit)
        writes = store.count
        store, author, commit = await prepare()
        store.left = writes // 2 + 1  # the act is done, little more
        await store.commit(commit)
        store.left = 10**6
        author.state, author.version = commit.state, 3
        if first == "read":
            assert len((await store.read_messages("agent")).items) == 8
        elif first == "commit":
            await author.say("next")
        elif first == "load":
            loaded = await store.load("agent")
            assert loaded is not None
            assert [read_message(row).seq for row in loaded.window] == list(range(8))
        else:
            assert (await store.acquire("agent", "driver", 9)).version == 3
        assert await store.scan("agent", Scan("staged", "uid-1", limit=9)) == []


async def test_a_settling_that_comes_late_changes_nothing() -> None:
    store, author, commit = await prepare()
    store.left = 8
    await store.commit(commit)
    store.left = 10**6
    (header,) = await store.get("agent", [(await store.agents("", "", 1))[0].address])
    assert header is not None
    assert header.columns["staged"] is not None
    rows = await store.scan("agent", Scan("staged", "uid-1", limit=99))
    author.state, author.version = commit.state, 3
    newer = open_call(0, result_seq=2)
    await author.commit(calls=[newer], state={"calls": (newer,)})
    await store.apply("agent", (), rows[:3], ())  # as if its rows had not been removed yet
    await store.settle("agent", header)
    loaded = await store.load("agent")
    assert loaded is not None
    assert loaded.state.calls == (newer,)


async def test_what_never_landed_is_swept_away() -> None:
    store, author, commit = await prepare()
    store.left = 3
    with pytest.raises(StoreUnavailableError):
        await store.commit(commit)
    store.left = 10**6
    assert (await store.prune("agent", before=0)).staged == 0  # it may be on its way
    clock: Any = store.clock
    await clock.advance(3_700)
    assert (await store.prune("agent", before=0)).staged > 0
    assert await store.scan("agent", Scan("staged", "uid-1", limit=9)) == []
    author.version = 2
    await author.say("goes on")


async def test_a_loser_stops_before_it_has_written_anything() -> None:
    store, author, commit = await prepare()
    await author.say("somebody else's")
    store.count = 0
    with pytest.raises(ConflictError):
        await store.commit(commit)
    assert store.count == 1
    assert await store.scan("agent", Scan("staged", "uid-1", limit=9)) == []


async def test_rows_that_were_swept_from_under_a_slow_commit_refuse_it() -> None:
    store, _, commit = await prepare()
    inner, clock = store.apply, store.clock

    async def slow(agent_id, conditions, puts, deletes):  # type: ignore[no-untyped-def]
        if any(row.kind == "header" and row.columns["staged"] for row in puts):
            await clock.advance(4_000)  # type: ignore[attr-defined]
            store.apply = inner  # type: ignore[method-assign]
            assert (await store.prune("agent", before=0)).staged > 0
        return await inner(agent_id, conditions, puts, deletes)

    store.apply = slow  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailableError) as swept:
        await store.commit(commit)
    assert swept.value.code == "too_slow"
    assert (await store.commit(commit)).version == 3
    assert len((await store.read_messages("agent")).items) == 8


class Light(MemoryStore):
    """Takes 4,000 bytes at once."""

    max_batch_bytes = 4_000

    async def apply(self, agent_id, conditions, puts, deletes):  # type: ignore[no-untyped-def]
        rows = [*puts, *deletes]
        assert len(rows) == 1 or sum(map(weight, rows)) <= 4_000
        return await super().apply(agent_id, conditions, puts, deletes)


async def test_what_one_write_takes_is_bounded_by_bytes_too() -> None:
    store = Light(VirtualClock(AT))
    author = Author(store)
    await author.create()
    texts = ["é" * 1_000, "x" * 9_000, *["y" * 100] * 40]
    await author.say(*texts)
    assert [getattr(m.blocks[0], "text", "") for m in (await store.read_messages("agent")).items] == texts
    assert len((await store.read_messages((await store.fork("agent", "fork", new_uid="u2")).agent_id)).items) == 42
    assert await store.scan("agent", Scan("staged", "uid-1", limit=9)) == []
    await store.erase("agent")
