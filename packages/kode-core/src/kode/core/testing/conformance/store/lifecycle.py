"""The contract of opening, closing, and of what a store says of itself."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import anyio

from kode.core.errors import StoreError
from kode.core.store.base import Store
from kode.core.store.contract import Scan
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store.author import A, Author, StoreCase, head, item, keep, loaded, row

__all__ = ["LifecycleContract"]


class LifecycleContract(StoreCase):
    """Ready when it is open, whole when it is closed."""

    group = "lifecycle"

    async def test_what_was_stored_outlives_a_close(self, store: Store) -> None:
        """What was acknowledged is there when the store was closed and is open again."""
        author = Author(store)
        await author.create()
        await author.say("hi", events=2)
        await store.enqueue("agent", item("a"))
        await author.drive()
        await store.close()
        await store.open()
        found = await loaded(store)
        assert (found.state, found.version, len(found.window), len(found.inbox)) == (author.state, 2, 1, 1)
        assert found.lease is not None
        assert (await author.say("more")).version == 3

    async def test_each_acknowledgement_outlives_a_close_by_itself(self, store: Store) -> None:
        """What a call acknowledged outlives a close right behind it, whichever call it was: none waits for another."""
        author = Author(store)

        async def told(call: Awaitable[Any]) -> Any:
            answer = await call
            await store.close()
            await store.open()
            return answer

        await told(author.create())
        assert await store.exists("agent")
        await told(store.enqueue("agent", item("a")))
        assert [i.id for i in (await loaded(store)).inbox] == ["a"]
        await told(author.say("hi", events=1))
        assert len((await loaded(store)).window) == len((await store.read_events("agent")).items) == 1
        lease = await told(store.acquire("agent", "h", 30))
        assert await store.lease_of("agent") == lease
        lease = await told(store.renew(lease, 60))
        assert await store.lease_of("agent") == lease
        await told(store.release(lease))
        assert await store.lease_of("agent") is None
        digest = await told(store.put_blob("agent", b"x"))
        assert await store.get_blob("agent", digest) == b"x"
        await told(store.fork("agent", "fork", new_uid="uid-fork"))
        assert len((await loaded(store, "fork")).window) == 1
        await told(store.delete("agent"))
        assert not await store.exists("agent")
        await told(store.apply(A, (), [row("message", "1")], ()))
        assert len(await store.scan(A, Scan("message", "u", limit=9))) == 1
        await told(store.drop(A, "u"))
        assert await store.scan(A, Scan("message", "u", limit=9)) == []

    async def test_opening_and_closing_twice(self, store: Store) -> None:
        """Opening what is open and closing what is closed does nothing."""
        await Author(store).create()
        await store.open()
        assert await store.exists("agent")
        for _ in range(2):
            await store.close()
        for _ in range(2):
            await store.open()
        assert await store.exists("agent")

    async def test_opened_by_many_at_once(self, store: Store) -> None:
        """A store that many tasks open at once is opened once and works for all."""
        await Author(store).create()
        await store.close()
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(store.open)
        assert (await loaded(store)).version == 1

    async def test_a_closed_store_does_not_hang(self, store: Store) -> None:
        """A call to a closed store is a `StoreError` or is answered; it neither hangs nor writes half."""
        author = Author(store)
        await author.create()
        await store.close()
        with anyio.fail_after(20):
            try:
                await author.say("hi")
            except StoreError:
                pass
            await store.open()
        assert (await loaded(store)).version == 1 + len((await store.read_messages("agent")).items)

    async def test_opened_by_another(self, store: Store, clock: VirtualClock) -> None:
        """What one object stored and closed, another one finds."""
        place = self.shared(store)
        author = Author(store)
        await author.create()
        await author.say("hi")
        await store.close()
        async with place(clock=clock) as other:
            assert (await loaded(other)).version == 2

    async def test_what_it_says_of_itself(self, store: Store) -> None:
        """Durability is one of the two words, and one act can take three records at least."""
        assert store.durability in ("power", "process")
        assert store.max_batch is None or store.max_batch >= 3
        assert store.max_batch_bytes is None or store.max_batch_bytes >= 1_000
        assert isinstance(store.same_host, bool)

    async def test_its_clock(self, store: Store, clock: VirtualClock) -> None:
        """`now` is whole microseconds of this century, does not run back, and moves when time passes."""
        first = await store.now()
        assert type(first) is int
        assert 1_000_000_000_000_000 < first < 5_000_000_000_000_000
        await self.elapse(clock, 1)
        assert await store.now() >= first + 900_000

    async def test_its_health(self, store: Store) -> None:
        """A store that works says that it is healthy, counts its agents, and leaves nothing of its trial behind."""
        await Author(store).create()
        health = await store.check_health()
        assert (health.problems, health.reachable, health.writable, health.agents) == ((), True, True, 1)
        assert await store.scan("", Scan("staged", "", limit=9)) == []

    async def test_many_calls_at_once(self, store: Store) -> None:
        """Two hundred calls of all kinds at once are all answered, each with its own answer."""
        for n in range(5):
            await Author(store, f"agent-{n}", f"uid-{n}").create(wake_at=n)
        await keep(store, [head(), *[row("message", f"{n}", size=n) for n in range(50)]])
        answers: list[object] = []

        async def ask(n: int) -> None:
            if n % 4 == 0:
                answers.append((await store.get(A, [row("message", f"{n // 4}").address]))[0] is not None)
            elif n % 4 == 1:
                answers.append((await loaded(store, f"agent-{n % 5}")).state.agent_id == f"agent-{n % 5}")
            elif n % 4 == 2:
                answers.append((await store.enqueue(f"agent-{n % 5}", item(f"{n}"))).duplicate is False)
            else:
                answers.append(len(await store.agents("agent-", "", 99)) == 5)

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                for n in range(200):
                    tasks.start_soon(ask, n)
        assert answers == [True] * 200
