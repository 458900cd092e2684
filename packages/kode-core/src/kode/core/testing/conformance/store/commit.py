"""The contract of `commit`."""

# ruff: noqa: D102 - the name of a test says what it shows

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio
import pytest

from kode.core.errors import AgentExistsError, ConflictError, FencedError, LeaseLostError, UsageError
from kode.core.kernel.words import StopReason
from kode.core.store.base import Store
from kode.core.store.contract import Bounds, Committed
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store.author import AT, Author, StoreCase, item, open_effect

__all__ = ["CommitContract"]


class CommitContract(StoreCase):
    """All or nothing, in the order of the checks: uid, fence, commit id, version."""

    async def test_of_concurrent_creates_one_wins(self, store: Store) -> None:
        authors = [Author(store, uid=f"uid-{n}") for n in range(8)]
        outcomes: list[Any] = []

        async def create(author: Author) -> None:
            try:
                outcomes.append(await author.create())
            except AgentExistsError as error:
                outcomes.append(error.code)

        async with anyio.create_task_group() as tasks:
            for author in authors:
                tasks.start_soon(create, author)
        assert sorted(map(str, outcomes)) == [str(Committed(1, 0))] + ["agent_exists"] * 7

    async def test_of_concurrent_commits_on_one_version_one_wins(self, store: Store) -> None:
        author = Author(store)
        await author.create()
        won: list[int] = []

        async def commit(n: int) -> None:
            try:
                won.append((await store.commit(author.make(commit_id=f"c{n}"))).version)
            except ConflictError:
                pass

        async with anyio.create_task_group() as tasks:
            for n in range(8):
                tasks.start_soon(commit, n)
        assert won == [2]

    async def test_a_repeated_commit_gets_the_same_answer_and_the_inbox_of_today(self, store: Store) -> None:
        author = Author(store)
        first = author.make()
        assert await store.commit(first) == Committed(1, 0)
        assert await store.commit(first) == Committed(1, 0, repeated=True)
        author.version = 1
        await author.drive()
        done = await author.say("hi", events=3)
        assert author.last is not None
        await store.enqueue("agent", item("later"))
        again = await store.commit(author.last)
        assert (again.version, again.cursor, again.repeated) == (done.version, 3, True)
        assert [found.id for found in again.inbox] == ["later"]
        page = await store.read_messages("agent")
        assert len(page.items) == 1

    async def test_uid_is_checked_first(self, store: Store) -> None:
        author, stranger = Author(store), Author(store, uid="uid-2")
        stranger.version, stranger.fence = 1, 99
        with pytest.raises(ConflictError) as gone:
            await stranger.commit()
        assert not isinstance(gone.value, AgentExistsError)
        await author.create()
        with pytest.raises(ConflictError):
            await stranger.commit()
        assert await store.exists("agent")

    async def test_a_commit_never_creates_an_agent_again(self, store: Store) -> None:
        author = Author(store)
        await author.create()
        await store.delete("agent")
        with pytest.raises(ConflictError):
            await author.say("hi")
        assert not await store.exists("agent")

    async def test_the_fence_is_checked_before_the_commit_id(self, store: Store, clock: VirtualClock) -> None:
        author = Author(store)
        await author.create()
        await author.drive(ttl_s=1)
        await author.say("hi")
        await self.elapse(clock, 2)
        lease = await store.acquire("agent", "other", 30)
        assert author.last is not None
        with pytest.raises(FencedError) as fenced:
            await store.commit(author.last)
        assert fenced.value.fields["newest"] == lease.fence == 2
        with pytest.raises(FencedError):
            await author.say("more")
        with pytest.raises(FencedError):
            await author.commit(fence=3)
        assert (await store.read_messages("agent")).items[-1].seq == 0

    async def test_the_version_is_checked_last(self, store: Store) -> None:
        author = Author(store)
        await author.create()
        await author.drive()
        for version in (0, 2):
            with pytest.raises(ConflictError) as conflict:
                await author.commit(version=version)
            assert conflict.value.fields["version"] == 1

    async def test_a_lapsed_lease_still_carries_its_fence(self, store: Store, clock: VirtualClock) -> None:
        author = Author(store)
        await author.create()
        await author.drive(ttl_s=1)
        await self.elapse(clock, 2)
        assert (await author.say("late, but nobody came")).version == 2

    async def test_without_a_fence_it_is_refused_only_while_a_lease_lives(
        self, store: Store, clock: VirtualClock
    ) -> None:
        author = Author(store)
        await author.create()
        assert (await author.say("free")).version == 2
        await store.acquire("agent", "other", 1)
        with pytest.raises(LeaseLostError) as held:
            await author.say("refused")
        assert held.value.fields["holder"] == "other"
        await self.elapse(clock, 2)
        assert (await author.say("lapsed")).version == 3

    async def test_what_is_wrong_with_the_commit_itself_is_said(self, store: Store) -> None:
        author = Author(store)
        with pytest.raises(UsageError):
            await author.create(fence=1)
        for bad in ("", "a//b", "../x", "a/.", "/a", "a/", "a b", "a" * 201, "ä", "a\n"):
            with pytest.raises(UsageError) as error:
                await Author(store, bad).create()
            assert error.value.code == "bad_agent_id"
            with pytest.raises(UsageError):
                await store.load(bad)
        for good in ("a" * 200, "A.b_c:d@e/f-9", "..a/b..", "..."):
            assert (await Author(store, good).create()).version == 1

    # ---- the inbox and the lease in the same act -----------------------------------------------------------

    async def test_consumed_items_leave_the_inbox_and_are_remembered(self, store: Store) -> None:
        author = Author(store)
        await author.create()
        for id in ("a", "b", "c"):
            await store.enqueue("agent", item(id))
        await author.drive()
        loaded = await store.load("agent")
        assert loaded is not None
        taken = {found.position: found for found in loaded.inbox if found.id != "b"}
        await author.commit(consumed=taken, taken={"a": 7, "c": 7})
        loaded = await store.load("agent")
        assert loaded is not None
        assert ([found.id for found in loaded.inbox], loaded.seen) == (["b"], 3)
        assert [await store.consumed_by("agent", id) for id in ("a", "b", "c", "x")] == [7, None, 7, None]

    async def test_release_is_honoured_only_if_nothing_beyond_seen_waits(self, store: Store) -> None:
        author = Author(store)
        await author.create()
        await author.drive()
        await store.enqueue("agent", item("a"))
        done = await author.commit(release=True, wake_at=None)
        assert not done.released
        assert [found.id for found in done.inbox] == ["a"]
        assert await store.lease_of("agent") is not None
        # Offered and postponed: it waits, but it does not hold the driver back, nor wake anyone.
        done = await author.commit(release=True, seen=1)
        assert done.released
        assert await store.lease_of("agent") is None
        assert await store.due(AT * 2, 9) == []
        assert (await author.commit(release=True)).released is False  # nothing to give back

    async def test_a_release_remembers_the_fence(self, store: Store) -> None:
        author = Author(store)
        await author.create()
        await author.drive()
        await author.commit(release=True)
        await author.drive()
        assert author.fence == 2
        with pytest.raises(FencedError):
            await author.commit(fence=1)

    async def test_nobody_holding_it_an_item_beyond_seen_makes_the_agent_due(self, store: Store) -> None:
        author = Author(store)
        await author.create()
        await store.enqueue("agent", item("a"))
        await author.commit(wake_at=None)
        assert [due.agent_id for due in await store.due(AT, 9)] == ["agent"]
        await author.commit(wake_at=AT + 5, seen=1)
        assert await store.due(AT, 9) == []
        assert [due.wake_at for due in await store.due(AT + 5, 9)] == [AT + 5]

    async def test_an_enqueue_at_any_moment_of_a_driver_wakes_someone(self, store: Store, clock: VirtualClock) -> None:
        author = Author(store)
        await author.create()
        await author.drive(ttl_s=1)
        await author.commit(wake_at=None)
        await store.enqueue("agent", item("a"))
        await author.commit(wake_at=None)
        assert await store.due(await store.now(), 9) == []
        await self.elapse(clock, 2)
        assert [due.agent_id for due in await store.due(await store.now(), 9)] == ["agent"]

    async def test_an_open_effect_makes_it_due_as_soon_as_nobody_drives(
        self, store: Store, clock: VirtualClock
    ) -> None:
        author = Author(store)
        await author.create()
        await author.drive(ttl_s=1)
        await author.commit(state={"effects": (open_effect(),)})
        assert await store.due(await store.now(), 9) == []
        await self.elapse(clock, 2)
        assert len(await store.due(await store.now(), 9)) == 1
        await author.commit(release=True, seen=0)
        assert len(await store.due(await store.now(), 9)) == 1

    async def test_a_parked_agent_is_not_due(self, store: Store) -> None:
        author = Author(store)
        await author.create()
        await store.enqueue("agent", item("a"))
        await author.drive()
        state = {"effects": (open_effect(),), "parked": StopReason.CRASH_LOOP}
        await author.commit(state=state, release=True, seen=1)
        assert await store.due(AT * 2, 9) == []

    async def test_bounds_are_those_of_the_last_commit(self, store: Store) -> None:
        author = Author(store)
        await author.create(bounds=Bounds(1, 2, 3.5))
        loaded = await store.load("agent")
        assert loaded is not None
        assert loaded.bounds == Bounds(1, 2, 3.5)

    async def test_a_commit_may_be_larger_than_one_write_of_the_engine(self, store: Store) -> None:
        author = Author(store)
        await author.create()
        for n in range(3):
            await store.enqueue("agent", item(f"i{n}"))
        await author.drive()
        loaded = await store.load("agent")
        assert loaded is not None
        taken = {found.position: found for found in loaded.inbox}
        texts = [f"text {n}" for n in range(40)]
        await author.say(*texts, events=20, consumed=taken, taken={"i0": 1, "i1": 1}, release=True)
        loaded = await store.load("agent")
        assert loaded is not None
        assert (loaded.version, len(loaded.window), loaded.inbox, loaded.lease) == (2, 40, (), None)
        await author.say("one more", fence=None)
        page = await store.read_messages("agent")
        assert [getattr(m.blocks[0], "text", "") for m in page.items] == [*texts, "one more"]
        assert (await store.enqueue("agent", item("i1"))).run == 1

    async def test_nothing_of_a_refused_commit_is_seen(self, store: Store) -> None:
        author, late = Author(store), Author(store)
        await author.create()
        late.version = 1
        await author.say("first", events=2)
        with pytest.raises(ConflictError):
            await late.say(*["second"] * 9, events=2)
        assert len((await store.read_messages("agent")).items) == 1
        assert len((await store.read_events("agent")).items) == 2
        assert replace(author.state) == author.state
