"""The contract of forks: a new agent with the history of another."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import anyio
import pytest

from kode.core.errors import AgentExistsError, ConflictError, NotFoundError, UsageError
from kode.core.kernel.message import Json, Usage
from kode.core.kernel.state import Ancestor, Document, Timer
from kode.core.kernel.toolcall import CallStatus
from kode.core.kernel.window import Range, Snapshot, Window
from kode.core.kernel.words import Status
from kode.core.store.base import Store
from kode.core.store.contract import DocumentBody, Kind, Scan
from kode.core.testing.conformance.store.author import (
    AT,
    Author,
    StoreCase,
    compaction,
    item,
    loaded,
    open_call,
    open_effect,
    text_of,
)

__all__ = ["ForkContract", "history"]

BLOB = hashlib.sha256(b"blob").hexdigest()


async def history(store: Store) -> Author:
    """Write an agent with a snapshot at message 4 and more behind it."""
    author = Author(store)
    first = DocumentBody("todo", "list", Json("[1]"))
    await author.create(state={"documents": (Document("todo", "list", "d1"),)}, documents=[first])
    await author.say("0", "1", "2", "3")
    window = Window("c1", ranges=(Range(2),))
    await author.commit(
        state={"window": window, "next_run": 2, "step": 1, "next_n": 3},
        compactions=[compaction("c1", 0, 2)],
        calls=[open_call(0, status=CallStatus.COMPLETED, seq=1)],
        snapshots=[Snapshot("s1", 4, AT, window, (("todo", "list", "d1"),), ("tag",))],
    )
    await author.say("4", "5")
    await author.commit(
        state={
            "window": Window("c2", ranges=(Range(5),)),
            "documents": (Document("todo", "list", "d2"),),
            "timers": (Timer("t", AT, "message"),),
            "effects": (open_effect(),),
            "usage_total": Usage(5, 5),
            "sandbox_ref": "box",
        },
        documents=[DocumentBody("todo", "list", Json("[2]"))],
        compactions=[compaction("c2", 0, 5)],
        calls=[open_call(1, status=CallStatus.COMPLETED, seq=5)],
        snapshots=[Snapshot("s2", 6, AT, Window(), (("todo", "list", "d2"),))],
    )
    await store.enqueue("agent", item("a"))
    await store.put_blob("agent", b"blob")
    return author


class ForkContract(StoreCase):
    """A fork is a new agent."""

    group = "fork"

    async def test_a_fork_starts_ready_with_the_history_and_nothing_else(self, store: Store) -> None:
        """A fork has history, documents and snapshots of its own, and no run, timers, budget or inbox."""
        author = await history(store)
        state = await store.fork("agent", "fork/1", new_uid="uid-9")
        assert (state.agent_id, state.uid, state.status, state.next_seq) == (
            "fork/1",
            "uid-9",
            Status.READY,
            6,
        )
        assert (state.run, state.effects, state.timers, state.sandbox_ref, state.parent) == (
            None,
            (),
            (),
            None,
            None,
        )
        assert state.usage_total == Usage()
        assert state.next_run == author.state.next_run  # ids of copied calls are not used again
        assert state.lineage == (Ancestor("agent", "uid-1", 6),)
        loaded = await store.load("fork/1")
        assert loaded is not None
        assert (loaded.state, loaded.version, loaded.inbox, loaded.lease) == (state, 1, (), None)
        assert len((await store.read_messages("fork/1")).items) == 6
        assert len((await store.read_calls("fork/1")).items) == 2
        assert [s.id for s in await store.list_snapshots("fork/1")] == ["s1", "s2"]
        assert (await store.read_documents("fork/1"))[0].data == "[2]"
        events = (await store.read_events("fork/1")).items
        assert [(event.cursor, event.type) for event in events] == [(1, "agent_forked")]
        assert not (await store.enqueue("fork/1", item("a"))).duplicate
        await store.delete("agent")
        assert len((await store.read_messages("fork/1")).items) == 6
        assert await store.get_blob("fork/1", BLOB) == b"blob"

    async def test_copies_are_equal_byte_for_byte(self, store: Store) -> None:
        """What a fork copies is equal to the source byte for byte, columns and bodies."""
        await history(store)
        await store.fork("agent", "fork", new_uid="uid-9")
        for kind in ("message", "call", "compaction", "snapshot", "document", "blob"):
            rows = await store.scan("agent", Scan(kind, "uid-1", limit=99))
            if kind == "document":
                rows = [r for r in rows if r.columns["digest"] in ("d1", "d2")]
            assert await store.scan("fork", Scan(kind, "uid-9", limit=99)) == [replace(r, uid="uid-9") for r in rows]

    async def test_a_fork_at_a_snapshot_knows_nothing_of_what_came_after(self, store: Store) -> None:
        """A fork at a snapshot has what was there then and goes on with the same numbers."""
        author = await history(store)
        state = await store.fork("agent", "fork", new_uid="uid-9", at="s1")
        assert (state.next_seq, state.window) == (4, Window("c1", ranges=(Range(2),)))
        assert [m.seq for m in (await store.read_messages("fork")).items] == [0, 1, 2, 3]
        assert [call.seq for call in (await store.read_calls("fork")).items] == [1]
        assert [s.id for s in await store.list_snapshots("fork")] == ["s1"]
        assert (await store.read_documents("fork"))[0].data == "[1]"
        rows = await store.scan("fork", Scan("compaction", "uid-9", limit=9))
        assert [row.key for row in rows] == ["c1"]
        fork = Author(store, "fork", "uid-9")
        fork.state, fork.version = state, 1
        await fork.say("another way")
        assert [m.seq for m in (await store.read_messages("fork")).items] == [0, 1, 2, 3, 4]
        assert author.state.next_seq == 6

    async def test_a_fork_needs_a_safe_point_and_a_free_name(self, store: Store) -> None:
        """Open calls or a taken id refuse a fork, which then leaves nothing; repeating one is safe."""
        author = await history(store)
        calls = (open_call(2),)
        await author.commit(state={"calls": calls}, calls=calls)
        with pytest.raises(UsageError) as unsafe:
            await store.fork("agent", "fork", new_uid="uid-9")
        assert unsafe.value.code == "not_safe"
        assert (await store.fork("agent", "fork", new_uid="uid-9", at="s2")).next_seq == 6
        again = await store.fork("agent", "fork", new_uid="uid-9", at="s2")
        assert again.uid == "uid-9"
        with pytest.raises(AgentExistsError):
            await store.fork("agent", "fork", new_uid="uid-10", at="s2")
        assert await store.scan("fork", Scan("message", "uid-10", limit=1)) == []
        with pytest.raises(NotFoundError):
            await store.fork("agent", "fork2", new_uid="uid-11", at="nothing")
        with pytest.raises(NotFoundError):
            await store.fork("nobody", "fork2", new_uid="uid-11")

    async def test_nothing_of_a_pruned_history_is_forked(self, store: Store) -> None:
        """A snapshot that shows messages which were pruned cannot be forked at."""
        author = await history(store)
        await author.commit(state={"first_seq": 4})
        with pytest.raises(UsageError) as pruned:
            await store.fork("agent", "fork", new_uid="uid-9", at="s1")
        assert pruned.value.code == "pruned"
        state = await store.fork("agent", "fork", new_uid="uid-9")
        assert (state.first_seq, state.first_cursor) == (4, 1)

    async def test_both_go_their_own_way(self, store: Store) -> None:
        """After a fork neither sees what the other writes, sends or removes."""
        author = await history(store)
        fork = Author(store, "fork", "uid-9")
        fork.state, fork.version = await store.fork("agent", "fork", new_uid="uid-9"), 1
        await fork.say("of the fork")
        await author.say("of the source")
        await store.enqueue("fork", item("f"))
        for id, text, items in (("agent", "of the source", ["a"]), ("fork", "of the fork", ["f"])):
            said = (await store.read_messages(id, after=4)).items
            assert [text_of(m) for m in said] == ["5", text]
            assert [i.id for i in (await loaded(store, id)).inbox] == items
        await store.erase("fork")
        assert len((await store.read_messages("agent")).items) == 7

    async def test_a_fork_of_a_fork(self, store: Store) -> None:
        """A fork may be forked; its lineage names both in their order."""
        await history(store)
        await store.fork("agent", "one", new_uid="uid-8")
        await store.delete("agent")
        state = await store.fork("one", "two", new_uid="uid-9", at="s1")
        assert state.lineage == (Ancestor("agent", "uid-1", 6), Ancestor("one", "uid-8", 4))
        assert [text_of(m) for m in (await store.read_messages("two")).items] == ["0", "1", "2", "3"]

    async def test_a_fork_is_not_driven(self, store: Store) -> None:
        """A fork has no lease and is not due, though its source is driven and due."""
        await history(store)
        await store.acquire("agent", "driver", 300)
        await store.fork("agent", "fork", new_uid="uid-9")
        assert await store.lease_of("fork") is None
        assert await store.due(await store.now(), 9) == []
        assert (await store.acquire("fork", "other", 1)).fence == 1

    async def test_of_concurrent_forks_to_one_id_one_wins(self, store: Store) -> None:
        """Of forks to one id at once one is made, whole; the others leave nothing."""
        await history(store)
        won: list[str] = []

        async def fork(uid: str) -> None:
            try:
                won.append((await store.fork("agent", "fork", new_uid=uid)).uid)
            except (AgentExistsError, ConflictError):
                pass

        async with anyio.create_task_group() as tasks:
            for n in range(4):
                tasks.start_soon(fork, f"uid-x{n}")
        assert won == [(await store.read_state("fork")).uid]
        assert len((await store.read_messages("fork")).items) == 6
        for n in range(4):
            if f"uid-x{n}" not in won:
                assert await store.scan("fork", Scan("message", f"uid-x{n}", limit=1)) == []
        assert await store.scan("", Scan("staged", "", limit=9)) == []

    async def test_the_source_is_as_it_was(self, store: Store) -> None:
        """A fork changes nothing of its source: neither version nor any record."""
        await history(store)
        before = [await store.scan("agent", Scan(kind, "uid-1", limit=99)) for kind in ("message", "document", "inbox")]
        header = await store.agents("agent", "", 9)
        await store.fork("agent", "fork", new_uid="uid-9")
        after = [await store.scan("agent", Scan(kind, "uid-1", limit=99)) for kind in ("message", "document", "inbox")]
        assert (after, await store.agents("agent", "", 9)) == (before, header)

    # ---- many at once --------------------------------------------------------------------------------------

    async def test_many_forks_are_each_as_one_would_be(self, store: Store) -> None:
        """`batch_fork` makes exactly those named, in their order, each with the same records as a fork by itself."""
        await history(store)
        await store.fork("agent", "one", new_uid="uid-8")
        kinds: tuple[Kind, ...] = ("message", "call", "compaction", "snapshot", "document", "blob")
        alone = [[replace(r, uid="") for r in await store.scan("one", Scan(kind, "uid-8", limit=99))] for kind in kinds]
        forks = {f"f/{n}": f"uid-f{n}" for n in range(4)}
        made = await store.batch_fork("agent", forks)
        assert [(state.agent_id, state.uid) for state in made] == list(forks.items())
        assert [info.agent_id for info in await store.list_agents()] == ["agent", *forks, "one"]
        for id, uid in forks.items():
            rows = [[replace(r, uid="") for r in await store.scan(id, Scan(kind, uid, limit=99))] for kind in kinds]
            assert rows == alone, id
        assert await store.batch_fork("agent", {}) == ()
        assert await store.scan("", Scan("staged", "", limit=9)) == []

    async def test_one_fork_that_cannot_be_hinders_no_other(self, store: Store) -> None:
        """Where an id is taken the other forks are made, the error names those that were not, and nothing is left."""
        await history(store)
        await Author(store, "taken", "uid-t").create()
        with pytest.raises(AgentExistsError) as refused:
            await store.batch_fork("agent", {"b": "uid-b", "taken": "uid-c", "d": "uid-d"})
        assert refused.value.fields["failed"] == ["taken"]
        assert [info.agent_id for info in await store.list_agents()] == ["agent", "b", "d", "taken"]
        assert (await store.read_state("taken")).uid == "uid-t"
        assert await store.remains("taken", "uid-c") == {}
        for id in "bd":
            assert len((await store.read_messages(id)).items) == 6

    async def test_many_forks_made_again_are_the_same(self, store: Store) -> None:
        """Repeating `batch_fork` with the same identities makes what is missing and leaves the rest as it is."""
        await history(store)
        made = await store.batch_fork("agent", {"b": "uid-b", "c": "uid-c"}, at="s1")
        before = await store.agents("", "", 9)
        again = await store.batch_fork("agent", {"b": "uid-b", "c": "uid-c", "d": "uid-d"}, at="s1")
        assert (again[:2], again[2].next_seq) == (made, 4)
        assert [header for header in await store.agents("", "", 9) if header.key != "d"] == before

    async def test_forks_that_make_no_sense_are_not_begun(self, store: Store) -> None:
        """One bad id, or one identity for two, refuses all of a `batch_fork` before anything is written."""
        await history(store)
        for wrong in ({"b": "uid-b", "c": "uid-b"}, {"b": "uid-b", "../c": "uid-c"}, {"b": "uid-b", "c": ""}):
            with pytest.raises(UsageError):
                await store.batch_fork("agent", wrong)
        with pytest.raises(NotFoundError):
            await store.batch_fork("agent", {"b": "uid-b"}, at="nothing")
        assert [info.agent_id for info in await store.list_agents()] == ["agent"]
        assert await store.scan("", Scan("staged", "", limit=9)) == []

    async def test_a_long_history_is_forked_whole(self, store: Store) -> None:
        """A history of many records is copied whole, in whatever portions."""
        author = Author(store)
        await author.create()
        await author.say(*["x"] * 1_100, events=0)
        await store.fork("agent", "fork", new_uid="uid-9")
        assert len((await loaded(store, "fork")).window) == 1_100
