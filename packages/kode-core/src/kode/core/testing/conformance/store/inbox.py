"""The contract of the inbox: `append_inbox` below, `enqueue` above."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio
import pytest

from kode.core.errors import DuplicateIdError, InboxFullError, NotFoundError, UsageError
from kode.core.kernel.message import Json
from kode.core.kernel.words import StopReason
from kode.core.store.base import Store
from kode.core.store.contract import Appended, Bounds, Enqueued, Key, Record, Scan
from kode.core.store.records import int_key
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store.author import AT, A, Author, StoreCase, head, item, keep, loaded, row

__all__ = ["InboxContract"]


class InboxContract(StoreCase):
    """A durable queue that knows its ids."""

    group = "inbox"

    async def _append(self, store: Store, id: str, now: int = 50, bounded: bool = True, **columns: Any) -> Appended:
        given = {"id": id, "kind": "message", "size": 10, "at": 1, "priority": 0, **columns}
        return await store.append_inbox(A, row("inbox", "", "", **given), now=now, bounded=bounded)

    async def _header(self, store: Store) -> Record:
        (found,) = await store.get(A, [Key("header", "", A)])
        assert found is not None
        return found

    # ---- append_inbox --------------------------------------------------------------------------------------

    async def test_append_without_a_header_is_gone(self, store: Store) -> None:
        """Without a header of that agent an item is `gone`, and nothing is kept of it."""
        await keep(store, [head("another", "v")])
        assert await self._append(store, "x") == Appended("gone")
        await keep(store, [head()])
        assert await store.scan(A, Scan("inbox", "u", limit=9)) == []

    async def test_append_keeps_the_record(self, store: Store) -> None:
        """An appended item is read back with its columns and body, under the header's uid and its position."""
        await keep(store, [head()])
        given = {
            "id": "x \u00e9",
            "kind": "message",
            "size": 4,
            "at": 3,
            "not_before": 7,
            "priority": -2,
            "tenant": "t",
        }
        sent = row("inbox", "", "", b"1{\0}", **given)
        assert await store.append_inbox(A, sent, now=5, bounded=True) == Appended("new", 1)
        assert await store.scan(A, Scan("inbox", "u", limit=9)) == [replace(sent, uid="u", key=int_key(1))]

    async def test_positions_rise_by_one(self, store: Store) -> None:
        """Positions count from 1, one by one, over every change in the count of their digits."""
        await keep(store, [head(max_inbox=99)])
        assert [(await self._append(store, f"{n}")).position for n in range(1, 20)] == list(range(1, 20))

    async def test_positions_begin_above_seen(self, store: Store) -> None:
        """An item's position is above the header's `seen`, also when the inbox is empty."""
        await keep(store, [head(seen=16)])
        assert [(await self._append(store, id)).position for id in "xy"] == [17, 18]

    async def test_append_refuses_another_identity(self, store: Store) -> None:
        """An item for another uid than the header's finds the agent gone."""
        await store.apply(A, (), [head()], ())
        for uid, outcome in (("v", "gone"), ("u", "new")):
            sent = row("inbox", "", uid, id="x", kind="message", size=1)
            assert (await store.append_inbox(A, sent, now=5, bounded=True)).outcome == outcome

    async def test_a_position_is_not_used_again_after_its_item_is_gone(self, store: Store) -> None:
        """Positions rise for ever: `seen` remembers what was given out."""
        await store.apply(A, (), [head()], ())
        await self._append(store, "x")
        await store.apply(A, (), [head(seen=1)], [Key("inbox", "u", int_key(1))])
        assert (await self._append(store, "y")).position == 2

    async def test_an_item_in_the_middle_may_go(self, store: Store) -> None:
        """After an item in the middle went, the next still goes to the end and the rest stay where they were."""
        await keep(store, [head(seen=0)])
        for id in "xyz":
            await self._append(store, id)
        await store.apply(A, (), (), [Key("inbox", "u", int_key(2))])
        assert (await self._append(store, "w")).position == 4
        found = await store.scan(A, Scan("inbox", "u", limit=9))
        assert [(r.key, r.columns["id"]) for r in found] == [
            (int_key(n), id) for n, id in ((1, "x"), (3, "z"), (4, "w"))
        ]

    async def test_an_id_that_waits_is_known(self, store: Store) -> None:
        """An id that waits is `waiting`, with its position and record, before any bound is looked at."""
        await keep(store, [head(max_inbox=1)])
        await self._append(store, "x", tenant="t")
        again = await self._append(store, "x", size=10**9)
        assert again.known is not None
        assert (again.outcome, again.position, again.known.columns["tenant"]) == ("waiting", 1, "t")
        assert len(await store.scan(A, Scan("inbox", "u", limit=9))) == 1

    async def test_an_id_that_was_consumed_is_known_until_it_expires(self, store: Store) -> None:
        """A consumed id is `consumed`, with its record, while `expires_at` is above now; from then on it is new."""
        await keep(store, [head(max_inbox=0), row("consumed", "old", position=7, run=3, expires_at=100)])
        old = await self._append(store, "old", now=99, size=10**9)
        assert old.known is not None
        assert (old.outcome, old.position, old.known.columns["run"]) == ("consumed", 7, 3)
        assert (await self._append(store, "old", now=100, bounded=False)).outcome == "new"

    async def test_ids_are_compared_exactly(self, store: Store) -> None:
        """Ids that differ in capitals, blanks, accents or wildcards are different items."""
        ids = ["a", "A", "a ", "\u00e1", "a\u0301", "a%", "a_", "aa"]
        await keep(store, [head(max_inbox=99)])
        assert [(await self._append(store, id)).outcome for id in ids] == ["new"] * len(ids)

    async def test_a_message_may_be_as_large_as_allowed(self, store: Store) -> None:
        """A bounded item above `max_message_bytes` is `too_big` and says the limit; one of that size is taken."""
        await keep(store, [head()])
        assert await self._append(store, "big", size=101) == Appended("too_big", limit=100)
        assert (await self._append(store, "fits", size=100)).outcome == "new"

    async def test_a_full_inbox_takes_no_more(self, store: Store) -> None:
        """With `max_inbox` messages and reminders waiting another one is `full`; when one goes it is taken."""
        await keep(store, [head()])
        for n, kind in enumerate(("message", "reminder", "message")):
            assert (await self._append(store, f"{n}", kind=kind)).outcome == "new"
        assert await self._append(store, "more") == Appended("full", limit=3)
        await store.apply(A, (), (), [Key("inbox", "u", int_key(2))])
        assert (await self._append(store, "more")).outcome == "new"

    async def test_what_is_never_refused_does_not_fill_it(self, store: Store) -> None:
        """Decisions, resolutions and interrupts do not count towards `max_inbox`."""
        await keep(store, [head()])
        for kind in ("decision", "resolve", "interrupt", "decision"):
            await self._append(store, f"{kind}{kind == 'resolve'}", kind=kind, bounded=False)
        assert [(await self._append(store, f"{n}")).outcome for n in range(4)] == ["new"] * 3 + ["full"]

    async def test_instructions_have_room_of_their_own(self, store: Store) -> None:
        """`max_inbox` instructions may wait beside as many messages; one more is `full`."""
        await keep(store, [head()])
        for n in range(3):
            await self._append(store, f"m{n}")
            assert (await self._append(store, f"i{n}", kind="instruction")).outcome == "new"
        assert await self._append(store, "i3", kind="instruction") == Appended("full", limit=3)
        await store.apply(A, (), (), [Key("inbox", "u", int_key(1))])
        assert (await self._append(store, "i3", kind="instruction")).outcome == "full"
        assert (await self._append(store, "m3")).outcome == "new"

    async def test_what_is_not_bounded_is_always_taken(self, store: Store) -> None:
        """An item that is not bounded is taken whatever its size, and however full the inbox is."""
        await keep(store, [head(max_inbox=1)])
        await self._append(store, "m")
        assert (await self._append(store, "d", kind="decision", bounded=False, size=10**9)).outcome == "new"

    async def test_a_refused_item_leaves_nothing(self, store: Store) -> None:
        """An item that is refused, or known, changes neither inbox nor header and uses no position."""
        await keep(store, [head(max_inbox=1, wake_at=90)])
        await self._append(store, "x", now=95)
        before = await self._header(store)
        for id, size in (("x", 1), ("y", 1), ("z", 999)):
            assert (await self._append(store, id, now=1, size=size)).outcome != "new"
        assert await self._header(store) == before
        assert (await self._append(store, "d", kind="decision", bounded=False)).position == 2

    async def test_append_moves_the_wake_up_forward_only(self, store: Store) -> None:
        """`wake_at` becomes the smaller of itself and the later of now and `not_before`."""
        await keep(store, [head(max_inbox=9)])
        for id, now, not_before, wake_at in [
            ("a", 50, 80, 80),
            ("b", 60, None, 60),
            ("c", 70, None, 60),
            ("d", 55, 10, 55),
        ]:
            await self._append(store, id, now=now, not_before=not_before)
            assert (await self._header(store)).columns["wake_at"] == wake_at

    async def test_append_changes_nothing_else_of_the_header(self, store: Store) -> None:
        """An item changes `wake_at` of the header and nothing else: neither version nor body."""
        before = replace(head(max_inbox=9, commit_id="c", staged="s", status="READY", tenant="t"), body=b"1{} \0")
        await keep(store, [before])
        await self._append(store, "a")
        assert await self._header(store) == replace(before, columns={**before.columns, "wake_at": 50})

    async def test_append_wakes_no_parked_agent(self, store: Store) -> None:
        """Where `parked` is set, an item leaves the header as it is."""
        parked = head(parked="crash_loop")
        await keep(store, [parked])
        assert (await self._append(store, "e", now=1)).outcome == "new"
        assert await self._header(store) == parked

    async def test_concurrent_appends_get_a_position_each(self, store: Store) -> None:
        """Concurrent appends get a position each, and one id one position."""
        await store.apply(A, (), [head(max_inbox=100)], ())
        got: list[int] = []

        async def append(n: int) -> None:
            got.append((await self._append(store, f"{n % 15}")).position)

        async with anyio.create_task_group() as tasks:
            for n in range(30):
                tasks.start_soon(append, n)
        assert sorted(got) == sorted([*range(1, 16)] * 2)

    # ---- enqueue -------------------------------------------------------------------------------------------

    async def test_an_item_is_read_back_whole_and_the_version_stays(self, store: Store) -> None:
        """All fields of an item are kept; an enqueue never changes the agent's version."""
        await Author(store).create()
        context = Json('{"traceparent":"00"}')
        sent = item("id ü/1", "é\0\n", at=AT + 1, not_before=AT + 2, priority=3, tenant="t", context=context)
        sent = replace(sent, sender="s")
        assert await store.enqueue("agent", sent) == Enqueued(1)
        loaded = await store.load("agent")
        assert loaded is not None
        (found,) = loaded.inbox
        assert (found, loaded.version) == (replace(sent, position=1), 1)

    async def test_an_item_without_a_time_gets_the_store_s(self, store: Store) -> None:
        """An item with `at` 0 gets the store's time."""
        await Author(store).create()
        before = await store.now()
        await store.enqueue("agent", item("a"))
        loaded = await store.load("agent")
        assert loaded is not None
        assert loaded.inbox[0].at >= before > 0

    async def test_an_id_with_another_body_is_refused(self, store: Store) -> None:
        """An id used with another payload or kind is `DuplicateIdError`, while it waits and after it was taken."""
        author = Author(store)
        await author.create()
        await store.enqueue("agent", item("a"))
        others = [item("a", "other"), item("a", kind="reminder")]
        for _ in range(2):
            for other in others:
                with pytest.raises(DuplicateIdError):
                    await store.enqueue("agent", other)
            await author.commit(consumed={1: (await loaded(store)).inbox[0]} if author.version == 1 else {})
        assert await store.enqueue("agent", item("b")) == Enqueued(2)

    async def test_a_consumed_id_is_forgotten_after_its_time(self, store: Store, clock: VirtualClock) -> None:
        """A consumed id may be used anew after `dedupe_for_s` by the store's clock."""
        author = Author(store)
        await author.create()
        await store.enqueue("agent", item("a"))
        loaded = await store.load("agent")
        assert loaded is not None
        await author.commit(consumed={1: loaded.inbox[0]}, at=await store.now(), bounds=Bounds(dedupe_for_s=1))
        assert (await store.enqueue("agent", item("a"))).duplicate
        await self.elapse(clock, 2)
        assert await store.enqueue("agent", item("a", "other")) == Enqueued(2)

    async def test_consumed_items_leave_the_inbox_and_are_remembered(self, store: Store) -> None:
        """Consumed items go in the act of the commit, which says which run took each, if one did."""
        author = Author(store)
        await author.create()
        for id in ("a", "b", "c"):
            await store.enqueue("agent", item(id))
        await author.drive()
        loaded = await store.load("agent")
        assert loaded is not None
        taken = {found.position: found for found in loaded.inbox if found.id != "b"}
        await author.commit(consumed=taken, taken={"a": 7})
        loaded = await store.load("agent")
        assert loaded is not None
        assert ([found.id for found in loaded.inbox], loaded.seen) == (["b"], 3)
        for uid in (None, "uid-1"):
            assert [await store.consumed_by("agent", id, uid=uid) for id in "abcx"] == [7, None, 0, None]
        with pytest.raises(NotFoundError):
            await store.consumed_by("agent", "a", uid="another")

    async def test_an_item_that_was_postponed_stays(self, store: Store) -> None:
        """What a commit has seen and not consumed stays, in its place, and goes with a later commit."""
        author = Author(store)
        await author.create()
        for id in "abc":
            await store.enqueue("agent", item(id))
        first = (await loaded(store)).inbox
        await author.commit(seen=3, consumed={2: first[1]})
        await store.enqueue("agent", item("d"))
        assert [(i.position, i.id) for i in (await loaded(store)).inbox] == [(1, "a"), (3, "c"), (4, "d")]
        await author.commit(consumed={1: first[0], 3: first[2]})
        assert [i.id for i in (await loaded(store)).inbox] == ["d"]

    async def test_messages_are_bounded_and_nothing_else_is(self, store: Store) -> None:
        """`max_inbox` and `max_message_bytes` bind messages and reminders; what decides or interrupts may have 1 MB."""
        await Author(store).create(bounds=Bounds(max_inbox=2, max_message_bytes=100))
        with pytest.raises(UsageError) as big:
            await store.enqueue("agent", item("big", "x" * 200))
        assert (big.value.code, big.value.fields["limit"]) == ("too_big", 100)
        for kind in ("decision", "resolve", "interrupt"):
            await store.enqueue("agent", item(f"{_first(kind)}big {kind}", "x" * 1_000_000, kind=kind))
            with pytest.raises(UsageError) as big:
                await store.enqueue("agent", item(f"{_first(kind)}bigger", "x" * 1_100_000, kind=kind))
            assert big.value.code == "too_big"
        await store.enqueue("agent", item("a"))
        await store.enqueue("agent", item("b", kind="reminder"))
        for kind in ("message", "reminder"):
            with pytest.raises(InboxFullError) as full:
                await store.enqueue("agent", item("c", kind=kind))
            assert full.value.fields["limit"] == 2
        for kind in ("decision", "resolve", "interrupt"):
            await store.enqueue("agent", item(f"{_first(kind)}{kind}", kind=kind))
        assert (await store.enqueue("agent", item("a"))).duplicate

    async def test_bounds_are_those_of_the_last_commit(self, store: Store) -> None:
        """Bounds are stored with each commit, exact to the microsecond, and bind from then on, wider or narrower."""
        author = Author(store)
        small, large = Bounds(1, 200, 3.5), Bounds(2, 1_000, 0.000_001)
        for n, bounds in enumerate((small, large, small, large)):
            await author.commit(bounds=bounds)
            assert (await loaded(store)).bounds == bounds
            with pytest.raises(UsageError) as big:
                await store.enqueue("agent", item(f"big {n}", "x" * bounds.max_message_bytes))
            assert big.value.fields["limit"] == bounds.max_message_bytes
            for k in range(bounds.max_inbox - len((await loaded(store)).inbox)):
                await store.enqueue("agent", item(f"{n}.{k}", "x" * (bounds.max_message_bytes - 100)))
            with pytest.raises(InboxFullError) as full:
                await store.enqueue("agent", item(f"more {n}"))
            assert full.value.fields["limit"] == bounds.max_inbox
            first, *_ = (await loaded(store)).inbox
            await author.commit(bounds=bounds, consumed={first.position: first})

    async def test_who_is_not_there_gets_nothing(self, store: Store) -> None:
        """An enqueue to no agent raises `NotFoundError`, one with an id that cannot be a key `UsageError`."""
        with pytest.raises(NotFoundError):
            await store.enqueue("agent", item("a"))
        for bad in ("", "x" * 501, "é" * 251, "a\n", "a\0", "\ud800"):
            with pytest.raises(UsageError) as error:
                await store.enqueue("agent", replace(item("a"), id=bad))
            assert error.value.code == "bad_item_id"

    async def test_ids_of_decisions_and_of_agents_belong_to_their_kind(self, store: Store) -> None:
        """Only the kind that an id's beginning names may bear it, so that nobody can take a decision's id from it."""
        await Author(store).create()
        ids = {"decision": "decision:1.1.0:1", "resolve": "answer:uid-2", "interrupt": "interrupt:uid-2:1.1.0"}
        for owner, id in ids.items():
            for kind in ("message", "reminder", "decision", "resolve", "interrupt"):
                if kind != owner:
                    with pytest.raises(UsageError) as error:
                        await store.enqueue("agent", item(id, kind=kind))
                    assert error.value.code == "bad_item_id"
        for position, (owner, id) in enumerate(ids.items(), 1):
            assert await store.enqueue("agent", item(id, kind=owner)) == Enqueued(position)
        with pytest.raises(UsageError):
            await store.enqueue("agent", item("yes", kind="decision"))
        for kind in ("message", "reminder", "resolve", "interrupt"):
            assert not (await store.enqueue("agent", item(f"of a caller:{kind}", kind=kind))).duplicate

    async def test_an_item_that_no_driver_could_read_is_refused(self, store: Store) -> None:
        """What was enqueued can be loaded: payload and columns are those of the kind, in canonical form."""
        await Author(store).create()
        good = item("a")
        bad: list[dict[str, Any]] = [
            *({"payload": Json(text)} for text in ("", "{", "[]", "{}", '{"blocks":1}', '{"blocks":[],"blocks":[]}')),
            *({"payload": Json(text)} for text in ('{"blocks":[],"x":1}', '{"blocks":[],"n":NaN}', "[" * 200)),
            *({name: 1.5} for name in ("priority", "not_before", "at", "sender", "context")),
            *({"priority": True}, {"priority": 2**40}, {"not_before": -1}, {"at": 2**70}, {"kind": "dance"}),
            *({"tenant": "x" * 201}, {"tenant": "a\0"}, {"context": Json("{")}),
        ]
        for fields in bad:
            with pytest.raises(UsageError) as error:
                await store.enqueue("agent", replace(good, **fields))
            assert error.value.code in ("bad_item", "bad_name"), fields
        spaced = replace(good, payload=Json(good.payload.replace(":", " : ")), context=Json(' {"a" : 1}'))
        await store.enqueue("agent", spaced)
        loaded = await store.load("agent")
        assert loaded is not None
        assert loaded.inbox == (replace(good, at=loaded.inbox[0].at, position=1, context=Json('{"a":1}')),)

    async def test_an_item_to_a_parked_agent_waits_and_wakes_nobody(self, store: Store) -> None:
        """A parked agent keeps what it is sent and is not due for it."""
        await Author(store).create(state={"parked": StopReason.CRASH_LOOP})
        await store.enqueue("agent", item("a"))
        await store.enqueue("agent", item("b", kind="interrupt"))
        assert await store.due(await store.now() + 10**9, 9) == []
        loaded = await store.load("agent")
        assert loaded is not None
        assert (len(loaded.inbox), loaded.wake_at) == (2, None)

    async def test_an_identity_may_be_asked_for(self, store: Store) -> None:
        """With a uid an item is for that identity only."""
        await Author(store).create()
        assert (await store.enqueue("agent", item("a"), uid="uid-1")).position == 1
        with pytest.raises(NotFoundError):
            await store.enqueue("agent", item("b"), uid="uid-2")

    async def test_of_concurrent_deciders_one_is_elected(self, store: Store) -> None:
        """Of many decisions under one id one is taken, the others raise `DuplicateIdError`."""
        await Author(store).create()
        got: list[object] = []

        async def decide(n: int) -> None:
            try:
                sent = item("decision:1.1.0:1", f"{n}", kind="decision")
                got.append((await store.enqueue("agent", sent)).duplicate)
            except DuplicateIdError as error:
                got.append(error.code)

        async with anyio.create_task_group() as tasks:
            for n in range(6):
                tasks.start_soon(decide, n)
        assert sorted(map(str, got)) == ["False"] + ["duplicate_id"] * 5


def _first(kind: str) -> str:
    """What the ids of a kind begin with."""
    return "decision:" if kind == "decision" else ""
