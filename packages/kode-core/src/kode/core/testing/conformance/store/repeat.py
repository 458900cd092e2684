"""The contract of repetition: whoever lost an acknowledgement does it again and learns what became of it."""

from __future__ import annotations

import anyio
import pytest

from kode.core.errors import ConflictError, DuplicateIdError, FencedError, NotFoundError
from kode.core.kernel.window import Snapshot, Window
from kode.core.store.base import Store
from kode.core.store.contract import Committed, Enqueued, Scan
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store.author import AT, A, Author, StoreCase, item, loaded, row, text_of

__all__ = ["RepeatContract"]


class RepeatContract(StoreCase):
    """Doing it again is safe, and tells the truth."""

    group = "repeat"

    async def _again(self, store: Store, author: Author) -> Committed:
        assert author.last is not None
        return await store.commit(author.last)

    async def test_a_repeated_create(self, store: Store) -> None:
        """The commit that created an agent, repeated, gets version and cursor again and is marked `repeated`."""
        author = Author(store)
        assert await author.create() == Committed(1, 0)
        assert await self._again(store, author) == Committed(1, 0, repeated=True)

    async def test_a_repeated_commit(self, store: Store) -> None:
        """The last commit, repeated any number of times, gets the same version and cursor, marked `repeated`."""
        author = Author(store)
        await author.create()
        done = await author.say("hi", events=3)
        for _ in range(3):
            again = await self._again(store, author)
            assert (again.version, again.cursor, again.repeated) == (done.version, done.cursor, True)

    async def test_a_repetition_writes_nothing_twice(self, store: Store) -> None:
        """A repeated commit leaves one copy of its messages and events."""
        author = Author(store)
        await author.create()
        await author.say("one", "two", events=3)
        await self._again(store, author)
        await author.say("three", events=2)
        await self._again(store, author)
        said, told = await store.read_messages("agent"), await store.read_events("agent")
        assert [text_of(m) for m in said.items] == ["one", "two", "three"]
        assert [event.cursor for event in told.items] == [1, 2, 3, 4, 5]

    async def test_a_repetition_gets_the_inbox_of_today(self, store: Store) -> None:
        """A repeated commit is answered with what waits beyond `seen` now, come since it landed too."""
        author = Author(store)
        await author.create()
        await author.drive()
        await author.say("hi")
        await store.enqueue("agent", item("later"))
        assert [found.id for found in (await self._again(store, author)).inbox] == ["later"]

    async def test_a_repetition_consumes_nothing_twice(self, store: Store) -> None:
        """A repeated commit leaves alone what came into the inbox since, and still names the run that took its own."""
        author = Author(store)
        await author.create()
        await store.enqueue("agent", item("a"))
        await author.commit(consumed={1: (await loaded(store)).inbox[0]}, taken={"a": 1})
        await store.enqueue("agent", item("b"))
        await self._again(store, author)
        assert [i.id for i in (await loaded(store)).inbox] == ["b"]
        assert [await store.consumed_by("agent", id) for id in "ab"] == [1, None]

    async def test_only_the_last_commit_is_known(self, store: Store) -> None:
        """The commit before the last, repeated, is a conflict and changes nothing."""
        author = Author(store)
        await author.create()
        await author.say("one")
        before = author.last
        await author.say("two")
        assert before is not None
        with pytest.raises(ConflictError):
            await store.commit(before)
        assert [text_of(m) for m in (await store.read_messages("agent")).items] == ["one", "two"]

    async def test_a_commit_id_is_that_of_one_agent(self, store: Store) -> None:
        """A commit under an id that another agent used is no repetition: it lands."""
        one, two = Author(store, "one", "uid-1"), Author(store, "two", "uid-2")
        for author in (one, two):
            await author.create(commit_id="c1")
            assert not (await author.say("hi", commit_id="c2")).repeated
        assert len((await store.read_messages("two")).items) == 1

    async def test_a_commit_id_is_that_of_one_identity(self, store: Store) -> None:
        """The commit that created an agent, repeated after that agent was made anew, is refused."""
        author = Author(store)
        await author.create(commit_id="c1")
        await store.delete("agent")
        await Author(store, uid="uid-2").create(commit_id="c1")
        with pytest.raises(ConflictError):
            await self._again(store, author)

    async def test_a_repeated_release_says_so(self, store: Store) -> None:
        """A repeated commit that gave the lease back says `released`, and it is."""
        author = Author(store)
        await author.create()
        await author.drive()
        assert (await author.commit(release=True)).released
        assert (await self._again(store, author)).released
        assert await store.lease_of("agent") is None

    async def test_a_repeated_commit_with_a_snapshot(self, store: Store) -> None:
        """A commit that takes a snapshot, repeated, is a repetition and no second snapshot of that name."""
        author = Author(store)
        await author.create()
        await author.commit(snapshots=[Snapshot("s", 0, AT, Window())])
        assert (await self._again(store, author)).repeated
        assert len(await store.list_snapshots("agent")) == 1

    async def test_a_repeated_large_commit(self, store: Store) -> None:
        """A commit larger than one write of the engine, repeated, is whole and there once."""
        author = Author(store)
        await author.create()
        await author.say(*[f"{n}" for n in range(30)], events=7)
        assert (await self._again(store, author)).repeated
        await author.say("more")
        said = (await store.read_messages("agent")).items
        assert [text_of(m) for m in said] == [*[f"{n}" for n in range(30)], "more"]

    async def test_the_same_commit_from_many_at_once(self, store: Store) -> None:
        """One commit sent many times at once lands once; all are told its version, all but one `repeated`."""
        author = Author(store)
        await author.create()
        commit = author.make(state={"next_cursor": 1})
        got: list[Committed] = []

        async def send() -> None:
            got.append(await store.commit(commit))

        async with anyio.create_task_group() as tasks:
            for _ in range(6):
                tasks.start_soon(send)
        assert {done.version for done in got} == {2}
        assert sorted(done.repeated for done in got) == [False] + [True] * 5

    async def test_the_fence_is_checked_before_a_repetition(self, store: Store, clock: VirtualClock) -> None:
        """After a take-over a commit that had landed is `FencedError`: its driver must stop."""
        author = Author(store)
        await author.create()
        await author.drive(ttl_s=1)
        await author.say("hi")
        await self.elapse(clock, 2)
        await store.acquire("agent", "other", 30)
        with pytest.raises(FencedError):
            await self._again(store, author)

    async def test_a_repeated_enqueue(self, store: Store) -> None:
        """An item sent again is a `duplicate` at its position, whatever else came in between."""
        await Author(store).create()
        assert await store.enqueue("agent", item("a")) == Enqueued(1)
        assert await store.enqueue("agent", item("b")) == Enqueued(2)
        assert await store.enqueue("agent", item("a")) == Enqueued(1, duplicate=True)
        assert [i.id for i in (await loaded(store)).inbox] == ["a", "b"]

    async def test_a_repeated_enqueue_after_it_was_taken(self, store: Store) -> None:
        """An item sent again after a run took it is a `duplicate` that names the run, and waits no second time."""
        author = Author(store)
        await author.create()
        await store.enqueue("agent", item("a"))
        await author.commit(consumed={1: (await loaded(store)).inbox[0]}, taken={"a": 4})
        assert await store.enqueue("agent", item("a")) == Enqueued(1, duplicate=True, run=4)
        assert (await loaded(store)).inbox == ()

    async def test_when_does_not_make_another_item(self, store: Store) -> None:
        """An item is the same if kind, payload and sender are: its time and priority may differ in the repetition."""
        await Author(store).create()
        await store.enqueue("agent", item("a", at=AT, sender="s"))
        assert (await store.enqueue("agent", item("a", at=AT + 5, priority=1, sender="s"))).duplicate

    async def test_another_sender_makes_another_item(self, store: Store) -> None:
        """Nobody is answered what somebody else asked under the same id."""
        await Author(store).create()
        await store.enqueue("agent", item("a", sender="s"))
        with pytest.raises(DuplicateIdError):
            await store.enqueue("agent", item("a", sender="another"))

    async def test_a_repeated_apply(self, store: Store) -> None:
        """The same act without conditions, done again, leaves what it left before."""
        rows = [row("message", "1"), row("message", "2")]
        for _ in range(2):
            assert await store.apply(A, (), rows, [row("run", "1").address]) is None
        assert await store.scan(A, Scan("message", "u", limit=9)) == rows

    async def test_a_repeated_blob(self, store: Store) -> None:
        """A blob kept again is kept once, under the same name."""
        await Author(store).create()
        assert await store.put_blob("agent", b"x") == await store.put_blob("agent", b"x")
        assert len(await store.scan("agent", Scan("blob", "uid-1", limit=9))) == 1

    async def test_a_repeated_delete(self, store: Store) -> None:
        """A deletion done again finds nobody; one of another identity is not touched by its uid."""
        await Author(store).create()
        await store.delete("agent")
        with pytest.raises(NotFoundError):
            await store.delete("agent")
        await Author(store, uid="uid-2").create()
        assert await store.erase("agent", uid="uid-1") == "uid-1"
        assert await store.exists("agent")

    async def test_a_fork_repeated_later_changes_nothing(self, store: Store) -> None:
        """A fork that is there already is returned as it is, though both have gone on since."""
        author = Author(store)
        await author.create()
        await author.say("0", "1", "2", "3", "4", "5")
        fork = Author(store, "fork", "uid-9")
        fork.state, fork.version = await store.fork("agent", "fork", new_uid="uid-9"), 1
        await fork.say("of the fork", events=0)
        await author.say("of the source")
        assert await store.fork("agent", "fork", new_uid="uid-9") == fork.state
        said = (await store.read_messages("fork", after=5)).items
        assert [getattr(m.blocks[0], "text", "") for m in said] == ["of the fork"]

    async def test_a_lease_given_back_twice(self, store: Store) -> None:
        """A lease given back again does nothing, also when somebody else holds it by now."""
        await Author(store).create()
        lease = await store.acquire("agent", "h", 30)
        await store.release(lease)
        await store.release(lease)
        other = await store.acquire("agent", "other", 30)
        await store.release(lease)
        assert await store.lease_of("agent") == other
