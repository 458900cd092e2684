"""The contract of leases."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from kode.core.errors import LeaseLostError, NotFoundError
from kode.core.store.base import Store
from kode.core.store.liveness import holder_name
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store.author import Author, StoreCase

__all__ = ["LeaseContract"]


class LeaseContract(StoreCase):
    """One driver at a time, known by its fence."""

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


def lease_of(author: Author, lease: Any) -> Any:
    """Insist that the author's lease lives."""
    assert lease is not None
    assert lease.uid == author.state.uid
    return lease
