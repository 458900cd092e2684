"""The contract of leases and fences: one driver at a time, and the one before is stopped."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from kode.core.errors import FencedError, LeaseLostError, NotFoundError, UsageError
from kode.core.store.base import Store
from kode.core.store.liveness import holder_name
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store.author import AT, Author, StoreCase, item, keep, loaded, row

__all__ = ["LeaseContract"]


class LeaseContract(StoreCase):
    """One driver at a time, known by its fence."""

    group = "lease"

    async def test_of_concurrent_takers_one_gets_it(self, store: Store) -> None:
        """Of many holders that acquire at once one gets the lease, the others raise ``held``."""
        await Author(store).create()
        got: list[Any] = []

        async def take(n: int) -> None:
            try:
                got.append((await store.acquire("agent", f"h{n}", 30)).fence)
            except LeaseLostError as error:
                got.append(error.code)

        async with anyio.create_task_group() as tasks:
            for n in range(8):
                tasks.start_soon(take, n)
        assert sorted(map(str, got)) == ["1"] + ["held"] * 7

    async def test_who_finds_it_held_is_told_by_whom_and_until_when(self, store: Store) -> None:
        """`LeaseLostError` names holder and end; an agent that is not there raises `NotFoundError`."""
        await Author(store).create()
        lease = await store.acquire("agent", "first", 30)
        with pytest.raises(LeaseLostError) as held:
            await store.acquire("agent", "second", 30)
        assert held.value.code == "held"
        assert (held.value.fields["holder"], held.value.fields["until"]) == ("first", lease.until)
        with pytest.raises(NotFoundError):
            await store.acquire("nobody", "first", 30)

    async def test_the_fence_rises_with_every_take(self, store: Store, clock: VirtualClock) -> None:
        """Each acquire gives a higher fence, the same holder's too."""
        author = Author(store)
        await author.create()
        first = await store.acquire("agent", "h", 1)
        again = await store.acquire("agent", "h", 1)
        await store.release(again)
        third = await store.acquire("agent", "h", 1)
        await self.elapse(clock, 2)
        fourth = await store.acquire("agent", "other", 1)
        assert [lease.fence for lease in (first, again, third, fourth)] == [1, 2, 3, 4]

    async def test_a_lease_lasts_exactly_as_long_as_asked(self, store: Store, clock: VirtualClock) -> None:
        """A lease is held for `ttl_s` from the store's now, and is free from that moment on."""
        await Author(store).create()
        before = await store.now()
        lease = await store.acquire("agent", "h", 2)
        assert before + 2_000_000 <= lease.until <= await store.now() + 2_000_000
        await self.elapse(clock, 1)
        with pytest.raises(LeaseLostError):
            await store.acquire("agent", "other", 1)
        await self.elapse(clock, 1)
        assert (await store.acquire("agent", "other", 1)).fence == 2

    async def test_it_says_which_version_was_found(self, store: Store) -> None:
        """A lease tells uid and version of the agent at that moment."""
        author = Author(store)
        await author.create()
        await author.say("hi")
        lease = await store.acquire("agent", "h", 1)
        assert (lease.agent_id, lease.uid, lease.version) == ("agent", "uid-1", 2)

    async def test_renew_keeps_the_fence_and_is_refused_once_taken_or_given_back(
        self, store: Store, clock: VirtualClock
    ) -> None:
        """A renewal moves the end only, also of a lapsed lease, until it is taken or given back."""
        await Author(store).create()
        lease = await store.acquire("agent", "h", 1)
        longer = await store.renew(lease, 30)
        assert (longer.fence, longer.until > lease.until) == (lease.fence, True)
        await self.elapse(clock, 31)
        lapsed = await store.renew(longer, 1)
        assert lapsed.fence == 1
        await store.release(lapsed)
        with pytest.raises(LeaseLostError):
            await store.renew(lapsed, 1)
        await store.acquire("agent", "other", 1)
        with pytest.raises(LeaseLostError):
            await store.renew(lapsed, 1)
        await store.release(lapsed)  # somebody else's by now: nothing happens
        found = await store.lease_of("agent")
        assert found is not None
        assert found.holder == "other"

    async def test_a_renewal_by_the_loser_does_not_take_it_back(self, store: Store, clock: VirtualClock) -> None:
        """Once another took a lapsed lease its holder before cannot renew it, and the new one keeps it."""
        await Author(store).create()
        lost = await store.acquire("agent", "h", 1)
        await self.elapse(clock, 2)
        taken = await store.acquire("agent", "other", 30)
        with pytest.raises(LeaseLostError):
            await store.renew(lost, 300)
        assert await store.lease_of("agent") == taken

    async def test_renewing_leaves_the_version_alone(self, store: Store) -> None:
        """A renewal does not disturb a commit of the same driver."""
        author = Author(store)
        await author.create()
        lease = await store.acquire("agent", "h", 30)
        await store.renew(lease, 30)
        author.fence = lease.fence
        assert (await author.say("hi")).version == 2

    async def test_lease_of(self, store: Store, clock: VirtualClock) -> None:
        """`lease_of` and `load` tell the lease while it lives, and None after that."""
        await Author(store).create()
        assert await store.lease_of("agent") is None
        lease = await store.acquire("agent", "h", 1)
        loaded = await store.load("agent")
        assert loaded is not None
        assert await store.lease_of("agent") == lease == loaded.lease
        await self.elapse(clock, 2)
        assert await store.lease_of("agent") is None
        with pytest.raises(NotFoundError):
            await store.lease_of("nobody")

    async def test_leases_of_many(self, store: Store) -> None:
        """`leases_of` tells the same of many, in their order, and leaves out who is not there or cannot be read."""
        ids = [f"a{n}" for n in range(12)]
        for id in ids:
            await Author(store, id, f"uid-{id}").create()
        held = {id: await store.acquire(id, f"h{id}", 99) for id in ids[::2]}
        await keep(store, [row("lease", "", "uid-a3", fence=None)], "a3")
        assert await store.leases_of([]) == {}
        found = await store.leases_of([*reversed(ids), "nobody"])
        assert list(found.items()) == [(id, held.get(id)) for id in reversed(ids) if id != "a3"]

    async def test_take_overs_are_counted_until_an_answer_is_committed(self, store: Store, clock: VirtualClock) -> None:
        """Taking a lease that was not given back counts; a commit with `answered` starts the count again."""
        author = Author(store)
        await author.create()
        takes = []
        for _ in range(3):
            lease = await store.acquire("agent", "h", 1)
            takes.append(lease.takes)
            await self.elapse(clock, 2)
        await author.drive(ttl_s=1)
        lease = await store.renew(lease_of(author, await store.lease_of("agent")), 1)
        takes.append(lease.takes)
        await author.say("no answer")
        await self.elapse(clock, 2)
        await author.drive(ttl_s=1)
        held = lease_of(author, await store.lease_of("agent"))
        takes.append(held.takes)
        await author.say("an answer", answered=True)
        found = lease_of(author, await store.lease_of("agent"))
        assert (found.fence, found.holder, found.until, found.takes) == (
            held.fence,
            held.holder,
            held.until,
            0,
        )
        # A lease value from before the answer does not bring the count back.
        takes.append((await store.renew(held, 1)).takes)
        await self.elapse(clock, 2)
        takes.append((await store.acquire("agent", "h", 1)).takes)
        assert takes == [0, 1, 2, 3, 4, 0, 1]

    async def test_a_lease_given_back_counts_no_take_over(self, store: Store, clock: VirtualClock) -> None:
        """A lease given back counts nothing, unless it says that the drive failed."""
        await Author(store).create()
        await store.release(await store.acquire("agent", "h", 1))
        assert (await store.acquire("agent", "h", 1)).takes == 0
        await self.elapse(clock, 2)
        taken = await store.acquire("agent", "h", 1)
        await store.release(taken)
        assert (taken.takes, (await store.acquire("agent", "h", 1)).takes) == (1, 1)

    async def test_a_drive_that_failed_counts(self, store: Store) -> None:
        """A lease given back as failed counts one more, each time."""
        await Author(store).create()
        for n in range(3):
            lease = await store.acquire("agent", "h", 1)
            assert lease.takes == n
            await store.release(lease, failed=True)

    async def test_a_renewal_beside_an_answer_is_not_undone(self, store: Store, clock: VirtualClock) -> None:
        """A commit that resets the count leaves a renewal that came between as it is."""
        author = Author(store)
        await author.create()
        await store.acquire("agent", "h", 1)
        await self.elapse(clock, 2)
        lease = await store.acquire("agent", "h", 1)
        author.fence = lease.fence
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.renew, lease, 300)
            tasks.start_soon(lambda: author.say("an answer", answered=True))
        found = lease_of(author, await store.lease_of("agent"))
        assert (found.takes, found.until > lease.until) == (0, True)

    async def test_a_dead_process_s_lease_is_free_at_once(self, store: Store) -> None:
        """Where all users are on one machine a dead process's lease is free at once."""
        if not store.same_host:
            pytest.skip("its users may be on other machines")
        await Author(store).create()
        alive = holder_name("me")
        parts = alive.split("#")
        dead = "#".join([*parts[:4], "4194304", parts[5]])  # above the kernel's largest pid
        await store.acquire("agent", dead, 300)
        lease = await store.acquire("agent", alive, 300)
        assert (lease.fence, lease.takes) == (2, 1)
        with pytest.raises(LeaseLostError):
            await store.acquire("agent", "another", 300)

    async def test_leases_are_of_one_agent(self, store: Store) -> None:
        """A holder may drive many agents; taking, renewing or giving one back leaves the others alone."""
        for id in ("a", "b"):
            await Author(store, id, f"uid-{id}").create()
        one, two = await store.acquire("a", "h", 30), await store.acquire("b", "h", 30)
        await store.renew(one, 60)
        await store.release(one)
        assert (await store.lease_of("a"), await store.lease_of("b")) == (None, two)

    async def test_a_holder_s_name_is_kept_whole(self, store: Store) -> None:
        """A holder may be named by 500 bytes of any printable text; what is no name is refused."""
        await Author(store).create()
        name = "\u00e9#\U0001f600 %_'" + "x" * 480
        await store.acquire("agent", name, 30)
        held = await store.lease_of("agent")
        assert held is not None
        assert held.holder == name
        for bad in ("", "a\n", "x" * 501):
            with pytest.raises(UsageError):
                await store.acquire("agent", bad, 1)

    async def test_takers_and_renewers_at_once_leave_one_holder(self, store: Store, clock: VirtualClock) -> None:
        """While a lapsed lease is taken and renewed at once, just one of them holds it, and knows."""
        await Author(store).create()
        lapsed = await store.acquire("agent", "h0", 1)
        await self.elapse(clock, 2)
        won: list[Any] = []

        async def attempt(call: Any) -> None:
            try:
                won.append(await call())
            except LeaseLostError:
                pass

        async with anyio.create_task_group() as tasks:
            for n in range(1, 5):
                tasks.start_soon(attempt, lambda n=n: store.acquire("agent", f"h{n}", 30))
            tasks.start_soon(attempt, lambda: store.renew(lapsed, 30))
        held = await store.lease_of("agent")
        assert [lease.holder for lease in won] == [held and held.holder]

    # ---- fences --------------------------------------------------------------------------------------------

    async def test_the_fence_is_checked_before_the_commit_id(self, store: Store, clock: VirtualClock) -> None:
        """Once a newer fence was given out even a commit that had landed is refused by `FencedError`."""
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

    async def test_a_fence_that_was_never_given_is_refused(self, store: Store) -> None:
        """A commit with a fence that nobody was given is `FencedError`, whether lower, higher or without a lease."""
        author = Author(store)
        await author.create()
        with pytest.raises(FencedError):
            await author.commit(fence=1)
        await author.drive()
        for fence in (0, 2, 10**6):
            with pytest.raises(FencedError):
                await author.commit(fence=fence)
        assert (await author.commit()).version == 2

    async def test_a_driver_that_lost_its_lease_writes_nothing(self, store: Store, clock: VirtualClock) -> None:
        """After a take-over nothing of the old driver's commit is seen, and the new driver goes on undisturbed."""
        old, new = Author(store), Author(store)
        await old.create()
        await old.drive(ttl_s=1)
        await store.enqueue("agent", item("a"))
        await self.elapse(clock, 2)
        new.version = 1
        await new.drive("other")
        with pytest.raises(FencedError):
            await old.say("late", consumed={1: (await loaded(store)).inbox[0]}, release=True)
        found = await loaded(store)
        assert (found.version, len(found.window), len(found.inbox)) == (1, 0, 1)
        assert found.lease is not None
        assert (await new.say("mine")).version == 2

    async def test_a_lapsed_lease_still_carries_its_fence(self, store: Store, clock: VirtualClock) -> None:
        """A fence counts until a newer one is given out, also when its lease has lapsed."""
        author = Author(store)
        await author.create()
        await author.drive(ttl_s=1)
        await self.elapse(clock, 2)
        assert (await author.say("late, but nobody came")).version == 2

    async def test_without_a_fence_it_is_refused_only_while_a_lease_lives(
        self, store: Store, clock: VirtualClock
    ) -> None:
        """A commit without a fence is refused while a lease lives, and only then."""
        author = Author(store)
        await author.create()
        assert (await author.say("free")).version == 2
        await store.acquire("agent", "other", 1)
        with pytest.raises(LeaseLostError) as held:
            await author.say("refused")
        assert held.value.fields["holder"] == "other"
        await self.elapse(clock, 2)
        assert (await author.say("lapsed")).version == 3

    async def test_release_is_honoured_only_if_nothing_beyond_seen_waits(self, store: Store) -> None:
        """A release is refused, with the items, while something beyond `seen` waits; else nobody is woken."""
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
        """A lease given back is gone, its fence is not: the next is higher and the old one is refused."""
        author = Author(store)
        await author.create()
        await author.drive()
        await author.commit(release=True)
        await author.drive()
        assert author.fence == 2
        with pytest.raises(FencedError):
            await author.commit(fence=1)

    async def test_a_fence_outlives_a_release_by_hand(self, store: Store) -> None:
        """A lease given back by `release` is not forgotten: the next fence is higher, the old one is refused."""
        author = Author(store)
        await author.create()
        lease = await store.acquire("agent", "h", 30)
        await store.release(lease)
        assert (await store.acquire("agent", "h", 30)).fence == 2
        with pytest.raises(FencedError):
            await author.commit(fence=1)

    async def test_a_commit_leaves_the_lease_as_it_is(self, store: Store) -> None:
        """A commit that does not release changes neither holder, end nor fence of the lease."""
        author = Author(store)
        await author.create()
        await author.drive()
        before = await store.lease_of("agent")
        await author.say("hi")
        after = await store.lease_of("agent")
        assert before is not None
        assert after is not None
        assert (after.holder, after.until, after.fence) == (before.holder, before.until, before.fence)

    async def test_an_agent_made_anew_begins_without_a_lease(self, store: Store) -> None:
        """An agent of an id that was used before has no lease, and its fences begin anew."""
        await Author(store).create()
        await store.acquire("agent", "h", 300)
        await store.delete("agent", force=True)
        await Author(store, uid="uid-2").create()
        assert await store.lease_of("agent") is None
        assert (await store.acquire("agent", "other", 30)).fence == 1


def lease_of(author: Author, lease: Any) -> Any:
    """Insist that the author's lease lives."""
    assert lease is not None
    assert lease.uid == author.state.uid
    return lease
