"""The contract of watching: after every change that is durable there is a waking."""

from __future__ import annotations

import pytest
from anyio import create_task_group, sleep

from kode.core.errors import UsageError
from kode.core.store import Changes
from kode.core.store.base import Store
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store.author import Author, StoreCase, item

__all__ = ["WatchContract"]

POLL_S = 2.0
LONG_S = 3600.0


async def woken(changes: Changes, clock: VirtualClock, seconds: float = 0.0, *, looks: int = 1) -> bool:
    """Whether a watcher is woken while that much of its time passes, as often as said."""
    woke = False

    async def wait() -> None:
        nonlocal woke
        await changes.wait()
        woke = True

    async with create_task_group() as tasks:
        tasks.start_soon(wait)
        await clock.advance(0.0)  # it begins to wait
        for _ in range(looks):
            if woke:
                break
            await clock.advance(seconds)
            if seconds and not woke:
                await sleep(0.005)  # the look is answered by a thread, or over a wire
        tasks.cancel_scope.cancel()
    return woke


class WatchContract(StoreCase):
    """A wake is never lost. Intervals are measured by the clock that `watch` is given."""

    group = "watch"

    async def test_every_change_wakes_its_watchers(self, store: Store, clock: VirtualClock) -> None:
        """A commit, an item, a fork, a document, a deletion and an erasure wake who watches that agent, and all."""
        author = Author(store)
        await author.create()
        async with (
            store.watch("agent", poll_s=LONG_S, clock=clock) as mine,
            store.watch("fork", poll_s=LONG_S, clock=clock) as theirs,
            store.watch(poll_s=LONG_S, clock=clock) as everybody,
        ):
            for changes, change in (
                (mine, lambda: author.say("hi")),
                (mine, lambda: store.enqueue("agent", item("a"))),
                (mine, lambda: store.append_message("agent", "user", "x")),
                (mine, lambda: store.save_document("agent", "todo", "list", [1])),
                (mine, lambda: store.set_expiry("agent", 1)),
                (theirs, lambda: store.fork("agent", "fork", new_uid="uid-9")),
                (theirs, lambda: store.delete("fork")),
                (mine, lambda: store.erase("agent")),
            ):
                await change()
                assert await woken(changes, clock), change
                assert await woken(everybody, clock), change

    async def test_what_is_of_others_wakes_nobody(self, store: Store, clock: VirtualClock) -> None:
        """A change of one agent does not wake who watches another, though its id begins with that one's."""
        await Author(store).create()
        other = Author(store, "agent/2", "uid-2")
        async with store.watch("agent", poll_s=LONG_S, clock=clock) as changes:
            await other.create()
            await other.say("hi")
            await store.enqueue("agent/2", item("a"))
            assert not await woken(changes, clock)

    async def test_a_change_before_the_wait_is_not_lost(self, store: Store, clock: VirtualClock) -> None:
        """What changes after the watch began and before anybody waits wakes at once, also between two waits."""
        author = Author(store)
        await author.create()
        async with store.watch("agent", poll_s=LONG_S, clock=clock) as changes:
            await author.say("one")
            assert await woken(changes, clock)
            await store.enqueue("agent", item("a"))
            assert await woken(changes, clock)

    async def test_nothing_new_wakes_nobody(self, store: Store, clock: VirtualClock) -> None:
        """Many changes may be one waking; where nothing changed since there is no other."""
        author = Author(store)
        await author.create()
        async with store.watch("agent", poll_s=LONG_S, clock=clock) as changes:
            assert not await woken(changes, clock)
            for n in range(3):
                await author.say(f"{n}")
            assert await woken(changes, clock)
            assert not await woken(changes, clock)

    async def test_an_agent_is_watched_before_it_is_there(self, store: Store, clock: VirtualClock) -> None:
        """Who watches an agent that is not there is woken when it comes, and when it comes again."""
        async with store.watch("agent", poll_s=LONG_S, clock=clock) as changes:
            await Author(store).create()
            assert await woken(changes, clock)
            await store.delete("agent")
            assert await woken(changes, clock)
            await Author(store, uid="uid-2").create()
            assert await woken(changes, clock)

    async def test_each_watcher_is_woken(self, store: Store, clock: VirtualClock) -> None:
        """Of several who watch one agent each is woken, though one of them has gone."""
        author = Author(store)
        await author.create()
        async with store.watch("agent", poll_s=LONG_S, clock=clock) as first:
            async with store.watch("agent", poll_s=LONG_S, clock=clock):
                pass
            async with store.watch("agent", poll_s=LONG_S, clock=clock) as second:
                await author.say("hi")
                assert await woken(first, clock)
                assert await woken(second, clock)

    async def test_a_watcher_that_is_cancelled_leaves_nothing(self, store: Store, clock: VirtualClock) -> None:
        """A watcher cancelled while it waits leaves no timer, and others are woken as before."""
        author = Author(store)
        await author.create()
        set_before = clock.waiting

        async def watch() -> None:
            async with store.watch("agent", poll_s=POLL_S, clock=clock) as changes:
                while True:
                    await changes.wait()

        async with create_task_group() as tasks:
            tasks.start_soon(watch)
            await clock.advance(0.0)
            tasks.cancel_scope.cancel()
        assert clock.waiting == set_before
        async with store.watch("agent", poll_s=LONG_S, clock=clock) as changes:
            await author.say("hi")
            assert await woken(changes, clock)

    async def test_a_bad_id_is_not_watched(self, store: Store) -> None:
        """What is no agent id is refused before anything is watched."""
        with pytest.raises(UsageError):
            store.watch("../agent")

    # ---- what others write ---------------------------------------------------------------------------------

    async def test_what_another_object_writes_wakes_within_an_interval(self, store: Store, clock: VirtualClock) -> None:
        """What somebody else commits, sends or removes wakes who watches that agent, or all, an interval later."""
        async with self.shared(store)(clock=clock) as other:
            author = Author(other)
            await author.create()
            for whom in ("agent", None):
                async with store.watch(whom, poll_s=POLL_S, clock=clock) as changes:
                    await woken(changes, clock)
                    for change in (
                        lambda: author.say("hi"),
                        lambda whom=whom: other.enqueue("agent", item(f"for {whom}")),
                    ):
                        await change()
                        assert await woken(changes, clock, POLL_S, looks=100), (whom, change)
            async with store.watch("agent", poll_s=POLL_S, clock=clock) as changes:
                await other.delete("agent")
                assert await woken(changes, clock, POLL_S, looks=100)

    async def test_what_another_object_writes_before_the_wait(self, store: Store, clock: VirtualClock) -> None:
        """What somebody else writes between the beginning of a watch, or a waking, and the next wait is not lost."""
        async with self.shared(store)(clock=clock) as other:
            author = Author(other)
            await author.create()
            async with store.watch("agent", poll_s=POLL_S, clock=clock) as changes:
                await author.say("one")
                assert await woken(changes, clock, POLL_S, looks=100)
                await store.enqueue("agent", item("a"))  # this one's own waking does not stand for the other's
                await changes.wait()
                await author.say("two")
                assert await woken(changes, clock, POLL_S, looks=100)
