"""The contracts of `enqueue` and `due`."""

# ruff: noqa: D102 - the name of a test says what it shows

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest

from kode.core.errors import DuplicateIdError, InboxFullError, NotFoundError, UsageError
from kode.core.kernel.message import Json
from kode.core.store.base import Store
from kode.core.store.contract import Bounds, Enqueued, Item
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store.author import AT, Author, StoreCase, item

__all__ = ["DueContract", "InboxContract"]


class InboxContract(StoreCase):
    """A durable queue that knows its ids."""

    async def test_an_item_is_read_back_whole_and_the_version_stays(self, store: Store) -> None:
        await Author(store).create()
        sent = Item(
            "id ü/1",
            "message",
            Json('{"a":[1,"é"]}'),
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
        await Author(store).create()
        before = await store.now()
        await store.enqueue("agent", item("a"))
        loaded = await store.load("agent")
        assert loaded is not None
        assert loaded.inbox[0].at >= before > 0

    async def test_the_same_id_and_body_is_taken_once(self, store: Store) -> None:
        author = Author(store)
        await author.create()
        first = await store.enqueue("agent", item("a"))
        assert await store.enqueue("agent", item("a", at=5)) == Enqueued(first.position, duplicate=True)
        with pytest.raises(DuplicateIdError):
            await store.enqueue("agent", item("a", '{"text":"other"}'))
        loaded = await store.load("agent")
        assert loaded is not None
        await author.commit(consumed={1: loaded.inbox[0]}, taken={"a": 4})
        assert await store.enqueue("agent", item("a")) == Enqueued(1, duplicate=True, run=4)
        with pytest.raises(DuplicateIdError):
            await store.enqueue("agent", item("a", '{"text":"other"}'))
        assert (await store.enqueue("agent", item("b"))).position == 2

    async def test_a_consumed_id_is_forgotten_after_its_time(self, store: Store, clock: VirtualClock) -> None:
        author = Author(store)
        await author.create()
        await store.enqueue("agent", item("a"))
        loaded = await store.load("agent")
        assert loaded is not None
        await author.commit(consumed={1: loaded.inbox[0]}, at=await store.now(), bounds=Bounds(dedupe_for_s=1))
        assert (await store.enqueue("agent", item("a"))).duplicate
        await self.elapse(clock, 2)
        assert await store.enqueue("agent", item("a", '{"text":"other"}')) == Enqueued(2)

    async def test_messages_are_bounded_and_nothing_else_is(self, store: Store) -> None:
        await Author(store).create(bounds=Bounds(max_inbox=2, max_message_bytes=100))
        with pytest.raises(UsageError) as big:
            await store.enqueue("agent", item("big", f'{{"text":"{"x" * 200}"}}'))
        assert (big.value.code, big.value.fields["limit"]) == ("too_big", 100)
        await store.enqueue("agent", item("big", f'{{"text":"{"x" * 200}"}}', kind="decision"))
        await store.enqueue("agent", item("a"))
        await store.enqueue("agent", item("b", kind="reminder"))
        for kind in ("message", "reminder"):
            with pytest.raises(InboxFullError) as full:
                await store.enqueue("agent", item("c", kind=kind))
            assert full.value.fields["limit"] == 2
        for kind in ("decision", "resolve", "interrupt"):
            await store.enqueue("agent", item(kind, kind=kind))
        assert (await store.enqueue("agent", item("a"))).duplicate

    async def test_who_is_not_there_gets_nothing(self, store: Store) -> None:
        with pytest.raises(NotFoundError):
            await store.enqueue("agent", item("a"))
        for bad in ("", "x" * 501, "a\n", "\ud800"):
            with pytest.raises(UsageError) as error:
                await store.enqueue("agent", item(bad))
            assert error.value.code == "bad_item_id"

    async def test_an_identity_may_be_asked_for(self, store: Store) -> None:
        await Author(store).create()
        assert (await store.enqueue("agent", item("a"), uid="uid-1")).position == 1
        with pytest.raises(NotFoundError):
            await store.enqueue("agent", item("b"), uid="uid-2")

    async def test_of_concurrent_deciders_one_is_elected(self, store: Store) -> None:
        await Author(store).create()
        got: list[object] = []

        async def decide(n: int) -> None:
            try:
                sent = item("decision:1.1.0:1", f'{{"by":"{n}"}}', kind="decision")
                got.append((await store.enqueue("agent", sent)).duplicate)
            except DuplicateIdError as error:
                got.append(error.code)

        async with anyio.create_task_group() as tasks:
            for n in range(6):
                tasks.start_soon(decide, n)
        assert sorted(map(str, got)) == ["False"] + ["duplicate_id"] * 5

    async def test_a_new_agent_of_the_same_id_has_an_inbox_of_its_own(self, store: Store) -> None:
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
        for id in ("a", "b", "c"):
            await Author(store, id, f"uid-{id}").create()
        now = await store.now()
        await store.enqueue("b", item("x", not_before=now + 10_000_000))
        await store.enqueue("c", item("x"))
        assert [due.agent_id for due in await store.due(now + 5_000_000, 9)] == ["c"]
        assert [due.agent_id for due in await store.due(now + 10_000_000, 9)] == ["c", "b"]

    async def test_a_driven_agent_is_not_due_until_its_lease_ends(self, store: Store, clock: VirtualClock) -> None:
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
        for n in range(7):
            await Author(store, f"agent-{n}", f"uid-{n}").create(wake_at=AT + n // 2)
        listed, after = [], None
        while found := await store.due(AT + 9, 2, after):
            listed += [due.agent_id for due in found]
            after = found[-1]
        assert listed == [f"agent-{n}" for n in range(7)]
