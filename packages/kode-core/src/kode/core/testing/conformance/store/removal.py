"""The contract of what removes: delete, erase, prune, sweep."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kode.core.errors import ConflictError, LeaseLostError, NotFoundError, StoreUnavailableError, UsageError
from kode.core.kernel.message import Json
from kode.core.kernel.state import Document
from kode.core.store.base import Store
from kode.core.store.contract import DocumentBody, Scan
from kode.core.store.records import COLUMNS, orphan_record
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store.author import AT, Author, StoreCase, item, run_record
from kode.core.testing.conformance.store.fork import history

__all__ = ["RemovalContract"]


class RemovalContract(StoreCase):
    """What is gone is gone, and nothing else is."""

    group = "removal"

    async def test_delete(self, store: Store, clock: VirtualClock) -> None:
        """A deleted agent is gone at once; somebody else's live lease prevents it."""
        await history(store)
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

    async def test_a_deletion_leaves_no_record(self, store: Store) -> None:
        """After `delete` no record of the uid is left, of any kind, nor a mark of it."""
        await history(store)
        await store.delete("agent")
        for kind in COLUMNS:
            assert (kind, await store.scan("agent", Scan(kind, "uid-1", limit=9))) == (kind, [])
        assert await store.scan("", Scan("staged", "", limit=9)) == []

    async def test_a_delete_leaves_a_mark_until_all_is_gone(self, store: Store, clock: VirtualClock) -> None:
        """The act that removes a header marks the uid, so that a deletion that breaks off there can be finished."""
        await history(store)
        seen: list[int] = []
        drop = store.drop

        async def broken(agent_id: str, uid: str) -> None:
            seen.append(len(await store.scan("", Scan("staged", "", limit=9))))
            raise StoreUnavailableError("gone")

        store.drop = broken  # type: ignore[method-assign]
        with pytest.raises(StoreUnavailableError):
            await store.delete("agent")
        store.drop = drop  # type: ignore[method-assign]
        assert seen == [1]
        assert not await store.exists("agent")
        assert len(await store.scan("agent", Scan("message", "uid-1", limit=9))) == 6
        await Author(store, "other", "uid-2").create()
        with pytest.raises(UsageError) as in_use:
            await store.fork("other", "agent", new_uid="uid-1")
        assert in_use.value.code == "uid_in_use"
        await self.elapse(clock, 3_700)
        assert await store.sweep() == 1
        for kind in COLUMNS:
            assert await store.scan("agent", Scan(kind, "uid-1", limit=9)) == []
        assert await store.scan("", Scan("staged", "", limit=9)) == []

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
        await history(store)
        await store.acquire("agent", "driver", 300)
        with pytest.raises(LeaseLostError):
            await store.erase("agent")
        assert await store.erase("agent", force=True) == "uid-1"
        for kind in COLUMNS:
            assert await store.scan("agent", Scan(kind, "uid-1", limit=9)) == []
        assert await store.scan("", Scan("staged", "", limit=9)) == []
        with pytest.raises(NotFoundError):
            await store.erase("agent")
        # Its uid known, an erasure that broke off after its first act can be repeated.
        await Author(store, uid="uid-2").create()
        assert await store.erase("agent", uid="uid-1") == "uid-1"
        assert await store.exists("agent")

    async def test_an_erasure_touches_nobody_else(self, store: Store) -> None:
        """After `erase` every record of other agents is as it was."""
        await history(store)
        other = Author(store, "agent/2", "uid-10")
        await other.create()
        await other.say("hi", events=2)
        await store.enqueue("agent/2", item("a"))
        before = [await store.scan("agent/2", Scan(kind, "uid-10", limit=99)) for kind in COLUMNS]
        header = await store.agents("agent/2", "", 9)
        await store.erase("agent")
        assert [await store.scan("agent/2", Scan(kind, "uid-10", limit=99)) for kind in COLUMNS] == before
        assert await store.agents("", "", 9) == header

    async def test_large_agents_are_erased_whole(self, store: Store) -> None:
        """An agent of thousands of records and some megabytes is erased to the last."""
        author = Author(store)
        await author.create()
        await author.say(*["x"] * 2_100, events=0)
        await store.put_blob("agent", b"x" * 2_000_000)
        await store.erase("agent")
        for kind in COLUMNS:
            assert await store.scan("agent", Scan(kind, "uid-1", limit=9)) == []

    async def test_what_broke_off_is_swept_away(self, store: Store, clock: VirtualClock) -> None:
        """Forks and deletions that broke off are finished by `sweep` after an hour, and nothing else is."""
        await history(store)
        rows = await store.scan("agent", Scan("message", "uid-1", limit=9))
        await store.apply("fork", (), [orphan_record("uid-9", "fork", "fork", await store.now())], ())
        for row in rows:
            await store.apply("fork", (), [replace(row, uid="uid-9")], ())
            await store.apply("gone", (), [replace(row, uid="uid-8")], ())
        await store.apply("gone", (), [orphan_record("uid-8", "gone", "drop", await store.now())], ())
        assert await store.sweep() == 0
        assert len(await store.scan("fork", Scan("message", "uid-9", limit=9))) == 6
        await self.elapse(clock, 3_700)
        # One that goes on is taken up again, with the same uid, before anything is swept.
        assert (await store.fork("agent", "fork", new_uid="uid-9")).uid == "uid-9"
        assert await store.sweep() == 1
        assert await store.scan("gone", Scan("message", "uid-8", limit=9)) == []
        assert await store.scan("", Scan("staged", "", limit=9)) == []
        assert len((await store.read_messages("fork")).items) == 6
        assert len((await store.read_messages("agent")).items) == 6

    async def test_prune_keeps_what_is_reached(self, store: Store) -> None:
        """`prune` removes old events but for the last ones, and no message, and no document that is named."""
        author = await history(store)
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

    async def test_prune_keeps_the_last_events(self, store: Store) -> None:
        """`keep_events` keeps at least so many of the last events, whatever their age."""
        author = Author(store)
        await author.create()
        for _ in range(6):
            await author.say(events=2)
        await store.prune("agent", before=AT + 1, keep_events=5)
        kept = [event.cursor for event in (await store.read_events("agent")).items]
        assert kept == list(range(7, 13))

    async def test_prune_takes_ended_runs_only(self, store: Store) -> None:
        """`prune` removes runs that ended before the moment, but for the last so many; an open one stays."""
        author = Author(store)
        await author.create()
        runs = [run_record(n) for n in range(1, 6)]
        runs[1] = replace(runs[1], ended_at=None)
        await author.commit(runs=runs, state={"next_run": 6})
        pruned = await store.prune("agent", before=AT + 4, keep_runs=1)
        assert (pruned.runs, [r.number for r in (await store.read_runs("agent")).items]) == (2, [2, 4, 5])

    async def test_prune_again_takes_nothing(self, store: Store) -> None:
        """A second `prune` finds nothing, and neither changes what readers find."""
        author = await history(store)
        await author.say("6", events=3)
        await store.prune("agent", before=AT + 1)
        said, version = await store.read_messages("agent"), (await store.list_agents())[0].version
        again = await store.prune("agent", before=AT + 1)
        assert (again.events, again.runs, again.documents) == (0, 0, 0)
        assert (await store.read_messages("agent"), (await store.list_agents())[0].version) == (said, version)

    async def test_cursors_go_on_after_a_prune(self, store: Store) -> None:
        """After all events are pruned the next commit's events go on with their numbers."""
        author = Author(store)
        await author.create()
        await author.say(events=4)
        await store.prune("agent", before=AT + 1)
        author.state = await store.read_state("agent")
        author.version = (await store.list_agents())[0].version
        await author.say(events=2)
        page = await store.read_events("agent")
        assert ([event.cursor for event in page.items], page.pruned) == ([5, 6], True)

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
