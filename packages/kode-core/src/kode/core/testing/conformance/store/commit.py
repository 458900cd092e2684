"""The contract of `commit`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio
import pytest

from kode.core.errors import AgentExistsError, ConflictError, FencedError, LeaseLostError, UsageError
from kode.core.kernel.message import Json, Message, TextBlock
from kode.core.kernel.state import Document
from kode.core.kernel.window import Compaction, Snapshot, Window
from kode.core.kernel.words import StopReason
from kode.core.store.base import Store
from kode.core.store.contract import Bounds, Committed, DocumentBody, Item
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store.author import AT, Author, StoreCase, item, open_effect

__all__ = ["CommitContract"]


class CommitContract(StoreCase):
    """All or nothing, in the order of the checks: uid, fence, commit id, version."""

    async def test_of_concurrent_creates_one_wins(self, store: Store) -> None:
        """Of many creates of one id one succeeds, the others raise `AgentExistsError`."""
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
        """Of many commits that expect one version one lands, the others raise `ConflictError`."""
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
        """The last `commit_id` again gets the same version and cursor, marked `repeated`; nothing is written twice."""
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
        """A commit of another uid, or of an agent that is gone, is a conflict, whatever fence it brings."""
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
        """A commit that expects a version never brings a deleted agent back."""
        author = Author(store)
        await author.create()
        await store.delete("agent")
        with pytest.raises(ConflictError):
            await author.say("hi")
        assert not await store.exists("agent")

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

    async def test_the_version_is_checked_last(self, store: Store) -> None:
        """Another version than the stored one is a conflict that names the stored one."""
        author = Author(store)
        await author.create()
        await author.drive()
        for version in (0, 2):
            with pytest.raises(ConflictError) as conflict:
                await author.commit(version=version)
            assert conflict.value.fields["version"] == 1

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

    async def test_what_is_wrong_with_the_commit_itself_is_said(self, store: Store) -> None:
        """A create with a fence, and ids that are none, are `UsageError`; good ids are taken up to their last byte."""
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
        """Consumed items go in the act of the commit, which says which run took each."""
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

    async def test_names_that_cannot_be_keys_everywhere_are_refused(self, store: Store) -> None:
        """Every text that becomes a key or column is printable, bounded in bytes, and named when it is not."""
        author = Author(store)
        await author.create(state={"tenant": "t" * 200, "template": "é" * 100})
        doc = [DocumentBody("todo", "x", Json("1"))]
        bad: list[dict[str, Any]] = []
        for text in ("a\0", "\ud800", "a\n", "x" * 201, "é" * 101):
            bad += [{"state": {"tenant": text}}, {"state": {"template": text}}, {"commit_id": text}]
            bad += [{"snapshots": [Snapshot(text, 0, AT, Window())]}]
            bad += [{"snapshots": [Snapshot("s", 0, AT, Window(), parent=text)]}]
            bad += [{"compactions": [Compaction(text, 0, 0, AT, (), "digest", Window())]}]
            for named in (("todo", text, "d"), (text, "x", "d"), ("todo", "x", text)):
                body = [DocumentBody(named[0], named[1], Json("1"))]
                bad += [{"state": {"documents": (Document(*named),)}, "documents": body}]
        bad += [{"state": {"documents": (Document("todo", "x", "a/b"),)}, "documents": doc}, {"commit_id": "a/b"}]
        for fields in bad:
            with pytest.raises(UsageError) as error:
                await author.commit(**fields)
            assert error.value.code == "bad_name", fields
        assert (await author.say("goes on")).version == 2

    async def test_a_snapshot_is_never_replaced(self, store: Store) -> None:
        """A second snapshot of one id is refused with ``snapshot_exists``; the same commit again is only repeated."""
        author = Author(store)
        await author.create()
        first = Snapshot("s", 0, AT, Window(), tags=("first",))
        await author.commit(snapshots=[first])
        assert author.last is not None
        assert (await store.commit(author.last)).repeated
        for again in ([Snapshot("s", 0, AT, Window())], [Snapshot("t", 0, AT, Window())] * 2):
            with pytest.raises(UsageError) as exists:
                await author.commit(snapshots=again)
            assert exists.value.code == "snapshot_exists"
        assert await store.list_snapshots("agent") == (first,)

    async def test_errors_and_reprs_show_nothing_of_what_was_said(self, store: Store) -> None:
        """What an agent was told is in no message of an error and in no `repr` of what passes the store's door."""
        author = Author(store)
        await author.create()
        await store.enqueue("agent", item("a", "secret"))
        loaded = await store.load("agent")
        assert loaded is not None
        await author.say("secret", consumed={1: loaded.inbox[0]}, wake_at=None)
        again = await store.load("agent")
        shown = [repr(author.last), repr(loaded), repr(again), repr(item("a", "secret"))]
        with pytest.raises(UsageError) as refused:
            await author.commit(messages=[Message(1, "user", (TextBlock(["secret"]),), AT)])  # type: ignore[arg-type]
        with pytest.raises(UsageError) as illegal:
            await store.enqueue("agent", Item("b", "message", Json('{"blocks":[{"type":"secret"}]}')))
        shown += [str(refused.value), repr(illegal.value), str(illegal.value.fields)]
        assert [text for text in shown if "secret" in text] == []

    async def test_bounds_are_those_of_the_last_commit(self, store: Store) -> None:
        """The inbox's bounds are stored with each commit, exact to the microsecond."""
        author = Author(store)
        await author.create(bounds=Bounds(1, 2, 3.5))
        loaded = await store.load("agent")
        assert loaded is not None
        assert loaded.bounds == Bounds(1, 2, 3.5)

    async def test_a_commit_may_be_larger_than_one_write_of_the_engine(self, store: Store) -> None:
        """A commit of any size lands whole, and so do what it consumes and its release."""
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
        """A refused commit leaves nothing that any reader sees."""
        author, late = Author(store), Author(store)
        await author.create()
        late.version = 1
        await author.say("first", events=2)
        with pytest.raises(ConflictError):
            await late.say(*["second"] * 9, events=2)
        assert len((await store.read_messages("agent")).items) == 1
        assert len((await store.read_events("agent")).items) == 2
        assert replace(author.state) == author.state
