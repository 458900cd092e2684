"""Wrong in `append_inbox` and around it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.stores.mutants.table import wrong

from kode.core.store import Appended, Enqueued, Item, Key, MemoryStore, Record
from kode.core.store.records import int_key, key_int


class Appending(MemoryStore):
    """It changes something before an append, or after it."""

    def header(self, agent_id: str) -> Record | None:
        return self._row("header", "", agent_id)

    def set_header(self, agent_id: str, **columns: Any) -> None:
        header = self.header(agent_id)
        if header is not None:
            self._put(replace(header, columns={**header.columns, **columns}))


@wrong("inbox", "positions_begin_above_seen")
class PositionsComeBack(Appending):
    """The next position is one above those that wait; `seen` is not looked at."""

    async def append_inbox(self, agent_id, record, *, now, bounded):  # type: ignore[no-untyped-def]
        seen = getattr(self.header(agent_id), "columns", {}).get("seen")
        self.set_header(agent_id, seen=0)
        done = await super().append_inbox(agent_id, record, now=now, bounded=bounded)
        self.set_header(agent_id, seen=seen)
        return done


@wrong("inbox", "an_item_in_the_middle_may_go")
class PositionsAreCounted(Appending):
    """The next position is the number of those that wait, and one."""

    async def append_inbox(self, agent_id, record, *, now, bounded):  # type: ignore[no-untyped-def]
        done = await super().append_inbox(agent_id, record, now=now, bounded=bounded)
        header = self.header(agent_id)
        if header is None or done.outcome != "new" or header.columns["seen"]:
            return done
        uid = str(header.columns["uid"])
        row = self._row("inbox", uid, int_key(done.position))
        self._delete("inbox", uid, int_key(done.position))
        position = len(self._shelves["inbox", uid].keys) + 1
        assert row is not None
        self._put(replace(row, key=int_key(position)))
        return Appended("new", position)


@wrong("paging", "the_inbox_is_loaded_in_order")
class InboxByText(MemoryStore):
    """Positions sort as decimal text: 10 before 2."""

    async def scan(self, agent_id, ask):  # type: ignore[no-untyped-def]
        found = await super().scan(agent_id, ask)
        return sorted(found, key=lambda row: str(key_int(row.key))) if ask.kind == "inbox" else found


@wrong(
    "inbox",
    "an_id_that_was_consumed_is_known_until_it_expires",
    also="compare-and-swap repeat due races",
    why="time is at its end there: what is sent again is new, and due late",
)
class ConsumedIdsForgotten(MemoryStore):
    """It knows the ids that wait, and no others."""

    async def append_inbox(self, agent_id, record, *, now, bounded):  # type: ignore[no-untyped-def]
        return await super().append_inbox(agent_id, record, now=2**62, bounded=bounded)


@wrong("inbox", "a_consumed_id_is_forgotten_after_its_time")
class ConsumedIdsForEver(MemoryStore):
    """It does not look at `expires_at`."""

    async def append_inbox(self, agent_id, record, *, now, bounded):  # type: ignore[no-untyped-def]
        header = self._row("header", "", agent_id)
        uid = "" if header is None else str(header.columns["uid"])
        known = self._row("consumed", uid, str(record.columns["id"]))
        if known is not None and record.uid in ("", uid):
            return Appended("consumed", int(str(known.columns["position"])), known=known)
        return await super().append_inbox(agent_id, record, now=now, bounded=bounded)


@wrong("inbox", "an_id_that_waits_is_known")
class BoundsFirst(Appending):
    """Size and count are checked before it looks whether it knows the id."""

    async def append_inbox(self, agent_id, record, *, now, bounded):  # type: ignore[no-untyped-def]
        header = self.header(agent_id)
        if bounded and header is not None and record.columns["size"] > header.columns["max_message_bytes"]:
            return Appended("too_big", limit=header.columns["max_message_bytes"])
        return await super().append_inbox(agent_id, record, now=now, bounded=bounded)


@wrong("inbox", "a_message_may_be_as_large_as_allowed")
class SizeBoundTooSmall(Appending):
    """`>=` for `>`."""

    async def append_inbox(self, agent_id, record, *, now, bounded):  # type: ignore[no-untyped-def]
        header = self.header(agent_id)
        if bounded and header is not None and record.columns["size"] == header.columns["max_message_bytes"]:
            return Appended("too_big", limit=header.columns["max_message_bytes"])
        return await super().append_inbox(agent_id, record, now=now, bounded=bounded)


@wrong("inbox", "what_is_never_refused_does_not_fill_it")
class AllOfThemFillIt(Appending):
    """Decisions count as messages."""

    async def append_inbox(self, agent_id, record, *, now, bounded):  # type: ignore[no-untyped-def]
        header = self.header(agent_id)
        if bounded and header is not None:
            waiting = self._waiting[str(header.columns["uid"])]
            if record.columns["id"] not in waiting and len(waiting) >= header.columns["max_inbox"]:
                return Appended("full", limit=header.columns["max_inbox"])
        return await super().append_inbox(agent_id, record, now=now, bounded=bounded)


@wrong("inbox", "what_is_not_bounded_is_always_taken")
class EverythingIsBounded(MemoryStore):
    """It does not look at `bounded`, and refuses a person's decision."""

    async def append_inbox(self, agent_id, record, *, now, bounded):  # type: ignore[no-untyped-def]
        return await super().append_inbox(agent_id, record, now=now, bounded=True)


@wrong("inbox", "append_moves_the_wake_up_forward_only", also="due", why="who is due is decided by it")
class WakesAtOnce(MemoryStore):
    """It does not look at `not_before`."""

    async def append_inbox(self, agent_id, record, *, now, bounded):  # type: ignore[no-untyped-def]
        early = replace(record, columns={**record.columns, "not_before": None})
        done = await super().append_inbox(agent_id, early, now=now, bounded=bounded)
        if done.outcome == "new":
            self._put(
                replace(record, uid=str(self._row("header", "", agent_id).columns["uid"]), key=int_key(done.position))
            )  # type: ignore[union-attr]
        return done


@wrong("inbox", "append_moves_the_wake_up_forward_only")
class WakesLater(Appending):
    """The last item says when to wake, not the first."""

    async def append_inbox(self, agent_id, record, *, now, bounded):  # type: ignore[no-untyped-def]
        done = await super().append_inbox(agent_id, record, now=now, bounded=bounded)
        if done.outcome == "new" and self.header(agent_id).columns["parked"] is None:  # type: ignore[union-attr]
            self.set_header(agent_id, wake_at=max(now, record.columns["not_before"] or 0))
        return done


@wrong("inbox", "append_moves_the_wake_up_forward_only", also="due races", why="who is due is decided by it")
class WakesNobody(Appending):
    """It leaves `wake_at` as it is."""

    async def append_inbox(self, agent_id, record, *, now, bounded):  # type: ignore[no-untyped-def]
        header = self.header(agent_id)
        done = await super().append_inbox(agent_id, record, now=now, bounded=bounded)
        if header is not None:
            self.set_header(agent_id, wake_at=header.columns["wake_at"])
        return done


@wrong("inbox", "append_wakes_no_parked_agent")
class WakesTheParked(Appending):
    """It does not look at `parked`."""

    async def append_inbox(self, agent_id, record, *, now, bounded):  # type: ignore[no-untyped-def]
        done = await super().append_inbox(agent_id, record, now=now, bounded=bounded)
        header = self.header(agent_id)
        if done.outcome == "new" and header is not None and header.columns["wake_at"] is None:
            self.set_header(agent_id, wake_at=max(now, record.columns["not_before"] or 0))
        return done


@wrong("inbox", "append_refuses_another_identity", also="isolation", why="a stranger is kept out by it")
class AnyIdentity(MemoryStore):
    """It does not look at the record's uid."""

    async def append_inbox(self, agent_id, record, *, now, bounded):  # type: ignore[no-untyped-def]
        return await super().append_inbox(agent_id, replace(record, uid=""), now=now, bounded=bounded)


@wrong("inbox", "ids_are_compared_exactly")
class IdsWithoutCase(MemoryStore):
    """A unique index with a collation."""

    async def append_inbox(self, agent_id, record, *, now, bounded):  # type: ignore[no-untyped-def]
        header = self._row("header", "", agent_id)
        waiting = {} if header is None else self._waiting[str(header.columns["uid"])]
        same = {id.casefold().strip(): id for id in waiting}.get(str(record.columns["id"]).casefold().strip())
        record = replace(record, columns={**record.columns, "id": same or record.columns["id"]})
        return await super().append_inbox(agent_id, record, now=now, bounded=bounded)


@wrong("inbox", "an_id_with_another_body_is_refused", also="repeat", why="another sender is another body")
class KnownByItsIdAlone(MemoryStore):
    """What bears a known id is a repetition, whatever it says."""

    async def enqueue(self, agent_id: str, item: Item, *, uid: str | None = None) -> Enqueued:
        header = self._row("header", "", agent_id)
        position = None if header is None else self._waiting[str(header.columns["uid"])].get(item.id)
        if position is not None:
            return Enqueued(key_int(position), duplicate=True)
        return await super().enqueue(agent_id, item, uid=uid)


@wrong("isolation", "inboxes_are_apart", also="due fork faults", why="several agents are sent an item of one id")
class IdsOfAllAgents(MemoryStore):
    """A unique index over ids, without the agent."""

    async def append_inbox(self, agent_id, record, *, now, bounded):  # type: ignore[no-untyped-def]
        for (kind, _), shelf in self._shelves.items():
            for row in shelf.rows.values() if kind == "inbox" else ():
                if row.columns["id"] == record.columns["id"]:
                    return Appended("waiting", key_int(row.key), known=row)
        return await super().append_inbox(agent_id, record, now=now, bounded=bounded)


@wrong("inbox", "append_keeps_the_record")
class ItemsLoseTheirTenant(MemoryStore):
    """Some columns are not carried over."""

    async def append_inbox(self, agent_id, record, *, now, bounded):  # type: ignore[no-untyped-def]
        bare = replace(record, columns={**record.columns, "tenant": None})
        return await super().append_inbox(agent_id, bare, now=now, bounded=bounded)


@wrong("inbox", "append_without_a_header_is_gone")
class InboxForAnybody(MemoryStore):
    """It takes items for agents that are not there, under their id."""

    async def append_inbox(self, agent_id, record, *, now, bounded):  # type: ignore[no-untyped-def]
        done = await super().append_inbox(agent_id, record, now=now, bounded=bounded)
        if done.outcome == "gone" and not record.uid:
            self._put(replace(record, uid=agent_id, key=int_key(1)))
            return Appended("new", 1)
        return done


@wrong(
    "compare-and-swap",
    "a_refused_commit_uses_nothing_up",
    also="lease",
    why="a driver that was fenced off consumes, too",
)
class ConsumesFirst(MemoryStore):
    """The inbox is emptied before the commit is judged."""

    async def commit(self, commit):  # type: ignore[no-untyped-def]
        for position in commit.consumed:
            self._delete("inbox", commit.state.uid, int_key(position))
        return await super().commit(commit)


@wrong("inbox", "consumed_items_leave_the_inbox_and_are_remembered")
class ConsumesAllItSaw(MemoryStore):
    """Everything up to `seen` is gone, postponed or not."""

    async def commit(self, commit):  # type: ignore[no-untyped-def]
        done = await super().commit(commit)
        keys = [Key("inbox", commit.state.uid, int_key(n)) for n in range(1, commit.seen + 1)]
        await self.apply(commit.state.agent_id, (), (), keys)
        return done
