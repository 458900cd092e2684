"""The contract of what happens to whole agents: fork, delete, erase, prune."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest

from kode.core.errors import (
    AgentExistsError,
    ConflictError,
    LeaseLostError,
    NotFoundError,
    StoreUnavailableError,
    UsageError,
)
from kode.core.kernel.message import Json, Usage
from kode.core.kernel.state import Ancestor, Document, Timer
from kode.core.kernel.toolcall import CallStatus
from kode.core.kernel.window import Range, Snapshot, Window
from kode.core.kernel.words import Status
from kode.core.store.base import Store
from kode.core.store.contract import DocumentBody
from kode.core.store.records import COLUMNS, orphan_record
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store.author import AT, Author, StoreCase, item, open_call, open_effect
from kode.core.testing.conformance.store.reading import compaction

__all__ = ["WholeAgentContract"]

BLOB = hashlib.sha256(b"blob").hexdigest()


class WholeAgentContract(StoreCase):
    """A fork is a new agent, a deleted one is gone."""

    async def _history(self, store: Store) -> Author:
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

    async def test_a_fork_starts_ready_with_the_history_and_nothing_else(self, store: Store) -> None:
        """A fork has history, documents and snapshots of its own, and no run, timers, budget or inbox."""
        author = await self._history(store)
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

    async def test_a_fork_at_a_snapshot_knows_nothing_of_what_came_after(self, store: Store) -> None:
        """A fork at a snapshot has what was there then and goes on with the same numbers."""
        author = await self._history(store)
        state = await store.fork("agent", "fork", new_uid="uid-9", at="s1")
        assert (state.next_seq, state.window) == (4, Window("c1", ranges=(Range(2),)))
        assert [m.seq for m in (await store.read_messages("fork")).items] == [0, 1, 2, 3]
        assert [call.seq for call in (await store.read_calls("fork")).items] == [1]
        assert [s.id for s in await store.list_snapshots("fork")] == ["s1"]
        assert (await store.read_documents("fork"))[0].data == "[1]"
        rows = await store.scan("fork", "compaction", "uid-9", limit=9)
        assert [row.key for row in rows] == ["c1"]
        fork = Author(store, "fork", "uid-9")
        fork.state, fork.version = state, 1
        await fork.say("another way")
        assert [m.seq for m in (await store.read_messages("fork")).items] == [0, 1, 2, 3, 4]
        assert author.state.next_seq == 6

    async def test_a_fork_needs_a_safe_point_and_a_free_name(self, store: Store) -> None:
        """Open calls or a taken id refuse a fork, which then leaves nothing; repeating one is safe."""
        author = await self._history(store)
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
        assert await store.scan("fork", "message", "uid-10", limit=1) == []
        with pytest.raises(NotFoundError):
            await store.fork("agent", "fork2", new_uid="uid-11", at="nothing")
        with pytest.raises(NotFoundError):
            await store.fork("nobody", "fork2", new_uid="uid-11")

    async def test_a_fork_repeated_later_changes_nothing(self, store: Store) -> None:
        """A fork that is there already is returned as it is, though both have gone on since."""
        author = await self._history(store)
        fork = Author(store, "fork", "uid-9")
        fork.state, fork.version = await store.fork("agent", "fork", new_uid="uid-9"), 1
        await fork.say("of the fork", events=0)
        await author.say("of the source")
        assert await store.fork("agent", "fork", new_uid="uid-9") == fork.state
        said = (await store.read_messages("fork", after=5)).items
        assert [getattr(m.blocks[0], "text", "") for m in said] == ["of the fork"]

    async def test_nothing_of_a_pruned_history_is_forked(self, store: Store) -> None:
        """A snapshot that shows messages which were pruned cannot be forked at."""
        author = await self._history(store)
        await author.commit(state={"first_seq": 4})
        with pytest.raises(UsageError) as pruned:
            await store.fork("agent", "fork", new_uid="uid-9", at="s1")
        assert pruned.value.code == "pruned"
        state = await store.fork("agent", "fork", new_uid="uid-9")
        assert (state.first_seq, state.first_cursor) == (4, 1)

    async def test_what_broke_off_is_swept_away(self, store: Store, clock: VirtualClock) -> None:
        """Forks and deletions that broke off are finished by `sweep` after an hour, and nothing else is."""
        await self._history(store)
        rows = await store.scan("agent", "message", "uid-1", limit=9)
        await store.apply("fork", (), [orphan_record("uid-9", "fork", "fork", await store.now())], ())
        for row in rows:
            await store.apply("fork", (), [replace(row, uid="uid-9")], ())
            await store.apply("gone", (), [replace(row, uid="uid-8")], ())
        await store.apply("gone", (), [orphan_record("uid-8", "gone", "drop", await store.now())], ())
        assert await store.sweep() == 0
        assert len(await store.scan("fork", "message", "uid-9", limit=9)) == 6
        await self.elapse(clock, 3_700)
        # One that goes on is taken up again, with the same uid, before anything is swept.
        assert (await store.fork("agent", "fork", new_uid="uid-9")).uid == "uid-9"
        assert await store.sweep() == 1
        assert await store.scan("gone", "message", "uid-8", limit=9) == []
        assert await store.scan("", "staged", "", limit=9) == []
        assert len((await store.read_messages("fork")).items) == 6
        assert len((await store.read_messages("agent")).items) == 6

    async def test_a_delete_leaves_a_mark_until_all_is_gone(self, store: Store, clock: VirtualClock) -> None:
        """The act that removes a header marks the uid, so that a deletion that breaks off there can be finished."""
        await self._history(store)
        seen: list[int] = []
        drop = store.drop

        async def broken(agent_id: str, uid: str) -> None:
            seen.append(len(await store.scan("", "staged", "", limit=9)))
            raise StoreUnavailableError("gone")

        store.drop = broken  # type: ignore[method-assign]
        with pytest.raises(StoreUnavailableError):
            await store.delete("agent")
        store.drop = drop  # type: ignore[method-assign]
        assert seen == [1]
        assert not await store.exists("agent")
        assert len(await store.scan("agent", "message", "uid-1", limit=9)) == 6
        await Author(store, "other", "uid-2").create()
        with pytest.raises(UsageError) as in_use:
            await store.fork("other", "agent", new_uid="uid-1")
        assert in_use.value.code == "uid_in_use"
        await self.elapse(clock, 3_700)
        assert await store.sweep() == 1
        for kind in COLUMNS:
            assert await store.scan("agent", kind, "uid-1", limit=9) == []
        assert await store.scan("", "staged", "", limit=9) == []

    async def test_delete(self, store: Store, clock: VirtualClock) -> None:
        """A deleted agent is gone at once; somebody else's live lease prevents it."""
        await self._history(store)
        await store.acquire("agent", "driver", 1)
        with pytest.raises(LeaseLostError) as held:
            await store.delete("agent")
        assert held.value.code == "held"
        with pytest.raises(LeaseLostError):
            await store.delete("agent", holder="somebody")
        await store.delete("agent", holder="driver")
        assert not await store.exists("agent")
        with pytest.raises(NotFoundError):
            await store.delete("agent")
        await Author(store, uid="uid-2").create()
        await store.acquire("agent", "driver", 1)
        await self.elapse(clock, 2)
        await store.delete("agent")

    async def test_a_driver_of_a_deleted_agent_is_stopped(self, store: Store) -> None:
        """The driver of a deleted agent gets a conflict, also when the id is used again."""
        author = Author(store)
        await author.create()
        await author.drive()
        await store.delete("agent", force=True)
        with pytest.raises(ConflictError):
            await author.say("hi")
        await Author(store, uid="uid-2").create()
        with pytest.raises(ConflictError):
            await author.say("hi")

    async def test_erase_leaves_nothing_and_can_be_finished_later(self, store: Store) -> None:
        """After `erase` no record of the uid is left; with the uid it can be finished later."""
        await self._history(store)
        await store.acquire("agent", "driver", 300)
        with pytest.raises(LeaseLostError):
            await store.erase("agent")
        assert await store.erase("agent", force=True) == "uid-1"
        for kind in COLUMNS:
            assert await store.scan("agent", kind, "uid-1", limit=9) == []
        assert await store.scan("", "staged", "", limit=9) == []
        with pytest.raises(NotFoundError):
            await store.erase("agent")
        # Its uid known, an erasure that broke off after its first act can be repeated.
        await Author(store, uid="uid-2").create()
        assert await store.erase("agent", uid="uid-1") == "uid-1"
        assert await store.exists("agent")

    async def test_prune_keeps_what_is_reached(self, store: Store) -> None:
        """`prune` removes old events but for the last ones, and no message, and no document that is named."""
        author = await self._history(store)
        await author.say("6", events=3)
        cursor = author.state.next_cursor
        first = await store.prune("agent", before=AT)
        assert (first.events, first.documents) == (0, 0)
        pruned = await store.prune("agent", before=AT + 1, keep_events=1)
        assert pruned.events == 2
        assert (await store.read_state("agent")).first_cursor == cursor - 3
        assert (await store.read_events("agent")).pruned
        events = (await store.read_events("agent")).items
        assert [event.cursor for event in events] == [cursor - 3, cursor - 2, cursor - 1]
        assert [event.cursor for event in (await store.read_events("agent", after=cursor - 3)).items] == [
            cursor - 2,
            cursor - 1,
        ]
        assert len((await store.read_messages("agent")).items) == 7
        assert (await store.fork("agent", "fork", new_uid="uid-9", at="s1")).documents[0].digest == "d1"
        assert (await store.read_documents("fork"))[0].data == "[1]"

    async def test_prune_forgets_ids_and_documents_that_nothing_names(self, store: Store, clock: VirtualClock) -> None:
        """`prune` forgets ids after their time and documents that neither state nor snapshot names."""
        author = Author(store)
        for digest in ("d1", "d2"):
            await author.commit(
                state={"documents": (Document("todo", "x", digest),)},
                documents=[DocumentBody("todo", "x", Json(f'"{digest}"'))],
            )
        await store.enqueue("agent", item("a"))
        loaded = await store.load("agent")
        assert loaded is not None
        await author.commit(consumed={1: loaded.inbox[0]}, at=await store.now())
        assert (await store.prune("agent", before=AT + 1)).consumed == 0
        assert (await store.read_documents("agent"))[0].data == '"d2"'
        await self.elapse(clock, 605_000)
        assert (await store.prune("agent", before=AT)).consumed == 1

    async def test_prune_takes_no_document_that_a_commit_names_meanwhile(self, store: Store) -> None:
        """A document is removed only if nothing was committed since it was found unused."""
        author = Author(store)
        for digest in ("d1", "d2"):
            await author.commit(
                state={"documents": (Document("todo", "x", digest),)},
                documents=[DocumentBody("todo", "x", Json(f'"{digest}"'))],
            )
        apply, again = store.apply, [True]

        async def late(agent_id: str, conditions: Any, puts: Any, deletes: Any) -> int | None:
            if again and deletes and deletes[0].kind == "document":
                again.clear()
                await author.commit(state={"documents": (Document("todo", "x", "d1"),)})
            return await apply(agent_id, conditions, puts, deletes)

        store.apply = late  # type: ignore[method-assign]
        pruned = await store.prune("agent", before=AT + 1)
        store.apply = apply  # type: ignore[method-assign]
        assert (again, pruned.documents) == ([], 1)
        assert (await store.read_documents("agent"))[0].data == '"d1"'

    async def test_prune_of_events_waits_for_the_driver(self, store: Store) -> None:
        """While an agent is driven its events are not pruned, for the driver would not know of it."""
        author = Author(store)
        await author.create()
        await author.say(events=5)
        lease = await store.acquire("agent", "driver", 300)
        with pytest.raises(LeaseLostError):
            await store.prune("agent", before=AT + 1)
        assert len((await store.read_events("agent")).items) == 5
        await store.release(lease)
        assert (await store.prune("agent", before=AT + 1)).events == 1
