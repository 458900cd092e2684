"""The contracts of `enqueue` and `due`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio
import pytest

from kode.core.errors import DuplicateIdError, InboxFullError, NotFoundError, UsageError
from kode.core.kernel.message import Json
from kode.core.kernel.words import StopReason
from kode.core.store.base import Store
from kode.core.store.contract import Bounds, Enqueued
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store.author import AT, Author, StoreCase, item

__all__ = ["DueContract", "InboxContract"]


class InboxContract(StoreCase):
    """A durable queue that knows its ids."""

    async def test_an_item_is_read_back_whole_and_the_version_stays(self, store: Store) -> None:
        """All fields of an item are kept; an enqueue never changes the agent's version."""
        await Author(store).create()
        sent = item(
            "id ü/1",
            "é\0\n",
            at=AT + 1,
            not_before=AT + 2,
            priority=3,
            tenant="t",
            sender="s",
            context=Json('{"traceparent":"00"}'),
        )
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

    async def test_the_same_id_and_body_is_taken_once(self, store: Store) -> None:
        """An id is taken once: again it is a duplicate that names its run, with another body `DuplicateIdError`."""
        author = Author(store)
        await author.create()
        first = await store.enqueue("agent", item("a"))
        assert await store.enqueue("agent", item("a", at=5)) == Enqueued(first.position, duplicate=True)
        with pytest.raises(DuplicateIdError):
            await store.enqueue("agent", item("a", "other"))
        loaded = await store.load("agent")
        assert loaded is not None
        await author.commit(consumed={1: loaded.inbox[0]}, taken={"a": 4})
        assert await store.enqueue("agent", item("a")) == Enqueued(1, duplicate=True, run=4)
        with pytest.raises(DuplicateIdError):
            await store.enqueue("agent", item("a", "other"))
        assert (await store.enqueue("agent", item("b"))).position == 2

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

    async def test_a_new_agent_of_the_same_id_has_an_inbox_of_its_own(self, store: Store) -> None:
        """An agent made again knows no items and no ids of the one before."""
        await Author(store).create()
        await store.enqueue("agent", item("a"))
        await store.delete("agent")
        await Author(store, uid="uid-2").create()
        loaded = await store.load("agent")
        assert loaded is not None
        assert loaded.inbox == ()
        assert await store.enqueue("agent", item("a")) == Enqueued(1)


class DueContract(StoreCase):
    """Who must wake."""

    async def test_an_item_wakes_its_agent_at_its_time(self, store: Store) -> None:
        """An agent is due from the later of now and `not_before` of an item."""
        for id in ("a", "b", "c"):
            await Author(store, id, f"uid-{id}").create()
        now = await store.now()
        await store.enqueue("b", item("x", not_before=now + 10_000_000))
        await store.enqueue("c", item("x"))
        assert [due.agent_id for due in await store.due(now + 5_000_000, 9)] == ["c"]
        assert [due.agent_id for due in await store.due(now + 10_000_000, 9)] == ["c", "b"]

    async def test_a_driven_agent_is_not_due_until_its_lease_ends(self, store: Store, clock: VirtualClock) -> None:
        """`due` leaves out agents whose lease lives, and lists them once it is over or given back."""
        await Author(store).create(wake_at=AT)
        lease = await store.acquire("agent", "driver", 1)
        assert await store.due(await store.now(), 9) == []
        await self.elapse(clock, 2)
        assert len(await store.due(await store.now(), 9)) == 1
        lease = await store.renew(lease, 5)
        assert await store.due(await store.now(), 9) == []
        await store.release(lease)
        assert len(await store.due(await store.now(), 9)) == 1

    async def test_it_goes_on_behind_what_was_listed(self, store: Store) -> None:
        """`due` can be read in pages, each behind the last entry of the one before."""
        for n in range(7):
            await Author(store, f"agent-{n}", f"uid-{n}").create(wake_at=AT + n // 2)
        listed, after = [], None
        while found := await store.due(AT + 9, 2, after):
            listed += [due.agent_id for due in found]
            after = found[-1]
        assert listed == [f"agent-{n}" for n in range(7)]


def _first(kind: str) -> str:
    """What the ids of a kind begin with."""
    return "decision:" if kind == "decision" else ""
