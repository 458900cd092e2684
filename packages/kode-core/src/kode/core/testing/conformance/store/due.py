"""The contract of `due`: who must wake, and when."""

from __future__ import annotations

from kode.core.kernel.words import StopReason
from kode.core.store.base import Store
from kode.core.store.contract import Due, Key
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store.author import AT, Author, StoreCase, head, item, keep, open_effect, row

__all__ = ["DueContract"]


async def listed(store: Store, now: int, limit: int = 99) -> list[str]:
    """Ask who is due; their ids."""
    return [due.agent_id for due in await store.due(now, limit)]


class DueContract(StoreCase):
    """Nobody who must wake is missed, and nobody is woken for nothing."""

    group = "due"

    async def test_from_its_moment_on(self, store: Store) -> None:
        """An agent is due from `wake_at` on, to the microsecond; one without `wake_at` never is."""
        await keep(store, [head("a", "ua", wake_at=10), head("b", "ub", wake_at=None), head("c", "uc", wake_at=0)])
        assert [await listed(store, now) for now in (9, 10, 10**15)] == [["c"], ["c", "a"], ["c", "a"]]

    async def test_in_order_of_time_and_id(self, store: Store) -> None:
        """`due` lists in the order of `wake_at`, agents of one moment in the order of their ids, and says when."""
        wakes = {"b": 100, "a/1": 100, "a": 100, "A": 100, "c": 20, "d": 9}
        await keep(store, [head(id, f"u{id}", wake_at=at) for id, at in wakes.items()])
        everyone = [Due(id, wakes[id]) for id in ("d", "c", "A", "a", "a/1", "b")]
        assert await store.due(100, 99) == everyone
        for limit in range(1, 7):
            assert await store.due(100, limit) == everyone[:limit]

    async def test_a_live_lease_hides_its_agent(self, store: Store) -> None:
        """An agent whose lease is held and not over is not due, and takes nobody's place in the list."""
        await keep(store, [head(id, f"u{id}", wake_at=at) for id, at in (("a", 1), ("b", 2), ("c", 3))])
        for id in "ab":
            await keep(store, [row("lease", "", f"u{id}", holder="h", until=21, fence=1)], id)
        assert await listed(store, 20, 1) == ["c"]

    async def test_a_lease_that_is_over_or_given_back_hides_nobody(self, store: Store) -> None:
        """A lease hides its agent up to the moment it ends, and one without a holder never does."""
        leases = {"c": ("h", 100), "d": ("h", 20), "e": (None, 100)}
        await keep(store, [head(id, f"u{id}", wake_at=1) for id in leases])
        for id, (holder, until) in leases.items():
            await keep(store, [row("lease", "", f"u{id}", holder=holder, until=until, fence=1)], id)
        assert [await listed(store, now) for now in (19, 20, 100)] == [["e"], ["d", "e"], ["c", "d", "e"]]

    async def test_the_lease_is_that_of_the_uid(self, store: Store) -> None:
        """The lease of an identity that is gone does not hide the new agent of that id."""
        await keep(store, [head("a", "new", wake_at=1), row("lease", "", "old", holder="h", until=99, fence=1)], "a")
        assert await listed(store, 9) == ["a"]

    async def test_it_follows_the_header(self, store: Store) -> None:
        """When `wake_at` moves, goes, or the header goes, `due` says so at once, and lists no agent twice."""
        for id in "ab":
            await keep(store, [head(id, f"u{id}", wake_at=1)], id)
        await keep(store, [head("a", "ua", wake_at=5)], "a")
        assert [await listed(store, now) for now in (4, 5)] == [["b"], ["b", "a"]]
        await keep(store, [head("a", "ua", wake_at=None)], "a")
        await store.apply("b", (), (), [Key("header", "", "b")])
        assert await listed(store, 9) == []
        await keep(store, [head("b", "ub2", wake_at=2)])
        assert await listed(store, 9) == ["b"]

    async def test_after_names_a_place_and_no_record(self, store: Store) -> None:
        """`due` goes on behind an entry that is no longer due, and among those of the same moment."""
        await keep(store, [head(id, f"u{id}", wake_at=5) for id in "acd"])
        assert [due.agent_id for due in await store.due(9, 9, Due("b", 5))] == ["c", "d"]
        assert [due.agent_id for due in await store.due(9, 9, Due("zzz", 4))] == ["a", "c", "d"]
        assert await store.due(9, 9, Due("d", 5)) == []

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
        for _ in range(7):
            found = await store.due(AT + 9, 2, after)
            listed += [due.agent_id for due in found]
            after = found[-1] if found else after
        assert listed == [f"agent-{n}" for n in range(7)]

    async def test_nobody_holding_it_an_item_beyond_seen_makes_the_agent_due(self, store: Store) -> None:
        """Without a driver an item that was never offered makes the agent due at once, an offered one does not."""
        author = Author(store)
        await author.create()
        await store.enqueue("agent", item("a"))
        await author.commit(wake_at=None)
        assert [due.agent_id for due in await store.due(AT, 9)] == ["agent"]
        await author.commit(wake_at=AT + 5, seen=1)
        assert await store.due(AT, 9) == []
        assert [due.wake_at for due in await store.due(AT + 5, 9)] == [AT + 5]

    async def test_an_enqueue_at_any_moment_of_a_driver_wakes_someone(self, store: Store, clock: VirtualClock) -> None:
        """An item that came while an agent was driven makes it due when that lease ends."""
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
        """An agent with an open effect is due whenever no lease on it lives."""
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
        """A parked agent is never due, whatever is open or waits."""
        author = Author(store)
        await author.create()
        await store.enqueue("agent", item("a"))
        await author.drive()
        state = {"effects": (open_effect(),), "parked": StopReason.CRASH_LOOP}
        await author.commit(state=state, release=True, seen=1)
        assert await store.due(AT * 2, 9) == []

    async def test_now_is_over_by_the_store_s_clock(self, store: Store) -> None:
        """An agent that is due now is so at once, however far the driver's clock is ahead."""
        ahead = AT + 86_400_000_000
        author = Author(store)
        await author.create()
        await author.drive()
        await author.commit(state={"effects": (open_effect(),), "updated_at": ahead}, at=ahead, wake_at=ahead)
        lease = await store.lease_of("agent")
        assert lease is not None
        await store.release(lease)
        assert [due.agent_id for due in await store.due(await store.now(), 9)] == ["agent"]

    async def test_a_commit_sets_when_it_wakes(self, store: Store) -> None:
        """With nothing open and nothing waiting, an agent is due when its commit says, or not at all."""
        author = Author(store)
        await author.create(wake_at=AT + 9)
        for wake_at in (AT + 9, None, AT + 3, AT + 70):
            await author.commit(wake_at=wake_at)
            assert [due.wake_at for due in await store.due(AT + 99, 9)] == ([] if wake_at is None else [wake_at])

    async def test_a_deleted_agent_is_not_due(self, store: Store) -> None:
        """An agent that was deleted is not due."""
        await Author(store).create(wake_at=AT)
        await store.enqueue("agent", item("a"))
        await store.delete("agent")
        assert await listed(store, AT * 2) == []
