"""The contract of a connection that breaks: before a write or after it, what was asked for can be asked for again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from kode.core.errors import StoreUnavailableError
from kode.core.store.base import Store
from kode.core.store.contract import Enqueued, Record, Scan
from kode.core.store.records import COLUMNS
from kode.core.testing.conformance.store.author import AT, Author, StoreCase, item, loaded, text_of
from kode.core.testing.faulty import Fault, FaultyStore
from kode.core.testing.wrapped import WRITES, WrappedStore

__all__ = ["Cut", "FaultsContract"]

T = TypeVar("T")


class Cut(WrappedStore):
    """A store whose n-th write is struck, before it is done or after, and with it whoever asked for it.

    Args:
        inner: What really stores.
        nth: Which write, counted from 1.
        after: Whether it is done first.
        strike: What happens; raises, or never comes back.
    """

    def __init__(self, inner: Store, nth: int, after: bool, strike: Callable[[], None] | None = None) -> None:
        super().__init__(inner)
        self.nth, self.after, self.writes = nth, after, 0
        self._strike = _refuse if strike is None else strike

    async def around(self, method: str, call: Callable[[], Awaitable[T]]) -> T:
        """Count writes, and strike the one."""
        if method not in WRITES:
            return await call()
        self.writes += 1
        if self.writes != self.nth:
            return await call()
        if not self.after:
            self._strike()
        value = await call()
        self._strike()
        return value


def _refuse() -> None:
    raise StoreUnavailableError("The connection is gone, as the test wants.")


async def at_every_write(store: Store, act: Callable[[Cut, str], Awaitable[object]]) -> None:
    """Do an act on an agent of its own for each of its writes, struck before and after; the last one is not struck."""
    for nth in range(1, 100):
        for after in (False, True):
            cut = Cut(store, nth, after)
            await act(cut, f"a{nth}{'b' if after else 'a'}")
        if cut.writes < nth:
            return
    raise AssertionError("it writes without an end")


async def again(call: Callable[[], Awaitable[T]], repeat: Callable[[], Awaitable[T]]) -> T:
    """Call; if the connection breaks, repeat."""
    try:
        return await call()
    except StoreUnavailableError:
        return await repeat()


class FaultsContract(StoreCase):
    """Refused or done, and nothing between."""

    group = "faults"

    async def _born(self, store: Store, id: str, *texts: str) -> Author:
        author = Author(store, id, f"uid-{id}")
        await author.create()
        if texts:
            await author.say(*texts)
        return author

    async def _rows(self, store: Store, id: str) -> list[Record]:
        return [row for kind in COLUMNS for row in await store.scan(id, Scan(kind, f"uid-{id}", limit=999))]

    async def test_a_create(self, store: Store) -> None:
        """A create whose connection broke, repeated, leaves the agent at version 1."""

        async def act(cut: Cut, id: str) -> None:
            commit = Author(store, id, f"uid-{id}").make()
            assert (await again(lambda: cut.commit(commit), lambda: store.commit(commit))).version == 1

        await at_every_write(store, act)

    async def test_a_commit(self, store: Store) -> None:
        """A commit whose connection broke, repeated, is there once: messages, events, what it consumed, its release."""

        async def act(cut: Cut, id: str) -> None:
            author = await self._born(store, id)
            await store.enqueue(id, item("a"))
            await author.drive()
            taken = {1: (await loaded(store, id)).inbox[0]}
            author.store = cut
            try:
                await author.say("hi", events=2, consumed=taken, taken={"a": 1}, release=True)
            except StoreUnavailableError:
                assert author.last is not None
                done = await store.commit(author.last)
                assert (done.version, done.cursor, done.released) == (2, 2, True)
            found = await loaded(store, id)
            assert (found.version, len(found.window), found.inbox, found.lease) == (2, 1, (), None)
            assert len((await store.read_events(id)).items) == 2

        await at_every_write(store, act)

    async def test_a_large_commit(self, store: Store) -> None:
        """A commit of many records, struck at any of its writes, is whole or not there, and whole when repeated."""

        async def act(cut: Cut, id: str) -> None:
            author = await self._born(store, id)
            author.store = cut
            texts = [f"{n}" for n in range(12)]
            try:
                await author.say(*texts, events=3)
            except StoreUnavailableError:
                assert len((await store.read_messages(id)).items) in (0, 12)
                assert author.last is not None
                assert (await store.commit(author.last)).version == 2
            said = (await store.read_messages(id)).items
            assert [text_of(m) for m in said] == texts
            assert len((await store.read_events(id)).items) == 3

        await at_every_write(store, act)

    async def test_an_enqueue(self, store: Store) -> None:
        """An enqueue whose connection broke, repeated, is there once; `duplicate` says whether it had landed."""

        async def act(cut: Cut, id: str) -> None:
            await self._born(store, id)
            done = await again(lambda: cut.enqueue(id, item("a")), lambda: store.enqueue(id, item("a")))
            assert done == Enqueued(1, duplicate=cut.after and cut.writes == cut.nth)
            assert len((await loaded(store, id)).inbox) == 1

        await at_every_write(store, act)

    async def test_an_acquire(self, store: Store) -> None:
        """An acquire whose connection broke, repeated by the same holder, gives a lease under a fence of its own."""

        async def act(cut: Cut, id: str) -> None:
            author = await self._born(store, id)
            lease = await again(lambda: cut.acquire(id, "h", 30), lambda: store.acquire(id, "h", 30))
            assert await store.lease_of(id) == lease
            author.fence = lease.fence
            assert (await author.say("hi")).version == 2

        await at_every_write(store, act)

    async def test_a_renewal_and_a_release(self, store: Store) -> None:
        """A renewal and a release whose connection broke may be repeated."""

        async def act(cut: Cut, id: str) -> None:
            await self._born(store, id)
            lease = await store.acquire(id, "h", 30)
            longer = await again(lambda: cut.renew(lease, 60), lambda: store.renew(lease, 60))
            assert (longer.fence, longer.until > lease.until) == (1, True)
            await again(lambda: cut.release(longer), lambda: store.release(longer))
            assert await store.lease_of(id) is None

        await at_every_write(store, act)

    async def test_a_fork(self, store: Store) -> None:
        """A fork struck at any of its writes is not there or whole; repeated it is whole, and leaves no mark."""
        await self._born(store, "source", *[f"{n}" for n in range(5)])
        await store.put_blob("source", b"x")

        async def act(cut: Cut, id: str) -> None:
            async def fork(on: Store) -> None:
                await on.fork("source", id, new_uid=f"uid-{id}")

            try:
                await fork(cut)
            except StoreUnavailableError:
                if await store.exists(id):
                    assert len((await loaded(store, id)).window) == 5
                await fork(store)
            assert len((await loaded(store, id)).window) == 5
            assert len(await store.scan(id, Scan("blob", f"uid-{id}", limit=9))) == 1
            assert await store.scan("", Scan("staged", "", limit=9)) == []

        await at_every_write(store, act)

    async def test_an_erasure(self, store: Store) -> None:
        """An erasure struck at any of its writes is not begun or can be finished by the uid; then nothing is left."""

        async def act(cut: Cut, id: str) -> None:
            await self._born(store, id, "0", "1")
            await store.enqueue(id, item("a"))
            try:
                await cut.erase(id)
            except StoreUnavailableError:
                if await store.exists(id):
                    assert len((await loaded(store, id)).window) == 2
                assert await store.erase(id, uid=f"uid-{id}") == f"uid-{id}"
            assert await self._rows(store, id) == []
            assert await store.scan("", Scan("staged", "", limit=9)) == []

        await at_every_write(store, act)

    async def test_a_prune(self, store: Store) -> None:
        """A prune struck at any of its writes removes nothing that is needed, and can be done again."""

        async def act(cut: Cut, id: str) -> None:
            author = await self._born(store, id)
            for n in range(3):
                await author.say(f"{n}", events=2)
            await again(lambda: cut.prune(id, before=AT + 1), lambda: store.prune(id, before=AT + 1))
            page = await store.read_events(id)
            assert (page.items, page.pruned) == ((), True)
            assert len((await loaded(store, id)).window) == 3
            assert await store.scan(id, Scan("events", f"uid-{id}", limit=9)) == []

        await at_every_write(store, act)

    async def test_a_blob(self, store: Store) -> None:
        """A blob whose connection broke, kept again, is there and whole."""

        async def act(cut: Cut, id: str) -> None:
            await self._born(store, id)
            data = id.encode() * 50_000
            name = await again(lambda: cut.put_blob(id, data), lambda: store.put_blob(id, data))
            assert await store.get_blob(id, name) == data

        await at_every_write(store, act)

    async def test_a_read_that_failed(self, store: Store) -> None:
        """A read whose connection broke is `StoreUnavailableError` and retryable; nothing is changed by it."""
        await self._born(store, "agent", "hi")
        reads = ("get", "scan", "look_up", "due", "agents")
        faulty = FaultyStore(store, *[Fault(method) for method in reads], Fault("look_up", nth=3))
        for call in (
            lambda: faulty.load("agent"),
            lambda: faulty.exists("agent"),
            lambda: faulty.leases_of(["agent"]),
            lambda: faulty.due(AT, 9),
            lambda: faulty.list_agents(),
        ):
            with pytest.raises(StoreUnavailableError) as error:
                await call()
            assert error.value.retryable
            await call()
        assert len((await loaded(store)).window) == 1

    async def test_a_store_that_was_away(self, store: Store) -> None:
        """After every call was refused for a while, the same commit lands and the lease is still held."""
        faulty = FaultyStore(store)
        author = await self._born(faulty, "agent")
        await author.drive()
        commit = author.make()
        faulty.down = True
        for call in (lambda: faulty.commit(commit), lambda: faulty.enqueue("agent", item("a"))):
            with pytest.raises(StoreUnavailableError):
                await call()
        faulty.down = False
        assert (await faulty.commit(commit)).repeated is False
        assert (await loaded(store)).inbox == ()
