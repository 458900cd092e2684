"""The contract of several who share one store: objects of one process, and processes."""

from __future__ import annotations

import anyio
import pytest

from kode.core.errors import ConflictError, FencedError, LeaseLostError
from kode.core.store.base import Store
from kode.core.store.contract import Condition, Key
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store.author import (
    A,
    Author,
    StoreCase,
    head,
    item,
    keep,
    loaded,
    one_loop,
    text_of,
)
from kode.core.testing.conformance.store.worker import adopt, workers

__all__ = ["ProcessesContract"]


class ProcessesContract(StoreCase):
    """A lost race is a `ConflictError` or `FencedError`, never a lost message."""

    group = "processes"

    # ---- two objects ---------------------------------------------------------------------------------------

    async def test_each_sees_the_other_s_writes_at_once(self, store: Store, clock: VirtualClock) -> None:
        """What one object wrote the other reads next: nothing is remembered that another may have changed."""
        async with self.shared(store)(clock=clock) as other:
            author = Author(store)
            await author.create()
            for n in range(1, 6):
                await author.say(f"{n}", events=1)
                await store.enqueue("agent", item(f"{n}"))
                found = await loaded(other)
                assert (found.version, len(found.window), len(found.inbox)) == (n + 1, n, n)
                author.store, other, store = other, store, other

    async def test_conditions_are_judged_on_what_all_wrote(self, store: Store, clock: VirtualClock) -> None:
        """Of two objects that write under one condition, one succeeds, round after round."""
        async with self.shared(store)(clock=clock) as other:
            for n in range(10):
                await keep(store, [head(version=n)])
                won: list[int] = []

                async def contend(on: Store, n: int = n, won: list[int] = won) -> None:
                    same = Condition("equals", Key("header", "", A), "version", n)
                    if await on.apply(A, [same], [head(version=n + 100)], ()) is None:
                        won.append(n)

                async with anyio.create_task_group() as tasks:
                    for on in (store, other):
                        tasks.start_soon(contend, on)
                assert won == [n]

    async def test_a_stale_writer_is_a_conflict(self, store: Store, clock: VirtualClock) -> None:
        """Who commits on a version that another object has raised gets `ConflictError`, and nothing is lost."""
        author = Author(store)
        await author.create()
        async with self.shared(store)(clock=clock) as other:
            rival = await adopt(other)
            await author.say("first")
            with pytest.raises(ConflictError):
                await rival.say("second")
            rival = await adopt(other)
            await rival.say("second")
        assert [text_of(m) for m in (await store.read_messages("agent")).items] == ["first", "second"]

    async def test_a_lease_binds_all(self, store: Store, clock: VirtualClock) -> None:
        """A lease taken through one object is seen, refused and fenced through the other."""
        author = Author(store)
        await author.create()
        await author.drive(ttl_s=1)
        async with self.shared(store)(clock=clock) as other:
            with pytest.raises(LeaseLostError):
                await other.acquire("agent", "other", 30)
            await self.elapse(clock, 2)
            assert (await other.acquire("agent", "other", 30)).fence == 2
            with pytest.raises(FencedError):
                await author.say("late")

    async def test_an_answer_through_another_object_resets_the_count(self, store: Store, clock: VirtualClock) -> None:
        """What is due, waits and was taken is one truth for both objects."""
        author = Author(store)
        await author.create()
        async with self.shared(store)(clock=clock) as other:
            await other.enqueue("agent", item("a"))
            assert [due.agent_id for due in await store.due(await store.now(), 9)] == ["agent"]
            await author.commit(consumed={1: (await loaded(store)).inbox[0]}, taken={"a": 3})
            assert (await other.enqueue("agent", item("a"))).run == 3
            assert await other.due(await other.now(), 9) == []

    # ---- processes -----------------------------------------------------------------------------------------

    @one_loop
    async def test_items_of_all_processes_are_there(self, store: Store) -> None:
        """Of items that processes send at once none is lost, none is twice, and each position is given once."""
        await Author(store).create()
        with workers(self.shared(store), ("enqueue", "p", 40), ("enqueue", "q", 40)) as others:
            for other in others:
                other.go()
            mine = [[(await store.enqueue("agent", item(f"r-{n}"))).position, f"r-{n}"] for n in range(40)]
            said = [line for other in others for line in await other.end()] + mine
        found = (await loaded(store)).inbox
        assert sorted(said) == [[i.position, i.id] for i in found]
        assert [i.position for i in found] == list(range(1, 121))

    @one_loop
    async def test_commits_of_all_processes_are_there(self, store: Store) -> None:
        """Of commits that processes make at once each lands on a version of its own, and no item is taken twice."""
        await Author(store).create()
        jobs = [("commit", "a", 20), ("commit", "b", 20), ("enqueue", "q", 40)]
        with workers(self.shared(store), *jobs) as others:
            for other in others:
                other.go()
            said = [await other.end() for other in others]
        found = await loaded(store)
        committed = sorted(said[0] + said[1])
        page = await store.read_messages("agent", limit=100)
        assert [[m.seq, text_of(m)] for m in page.items] == [line[:2] for line in committed]
        assert found.version == 41
        taken = [id for line in committed for id in line[2]]
        assert len(taken) == len(set(taken))
        assert sorted([*taken, *(i.id for i in found.inbox)]) == sorted(id for _, id in said[2])

    @one_loop
    async def test_one_of_two_deciders_is_elected(self, store: Store) -> None:
        """Of decisions that processes send under one id at once just one is taken."""
        await Author(store).create()
        with workers(self.shared(store), ("decide", "p", 30), ("decide", "q", 30)) as others:
            for other in others:
                other.go()
            said = [n for other in others for n in await other.end()]
        assert sorted(said) == list(range(30))
        assert len((await loaded(store)).inbox) == 30

    @one_loop
    async def test_one_of_two_creators_wins(self, store: Store) -> None:
        """Of agents that processes create under one id at once just one is made, and it is the one that was told so."""
        with workers(self.shared(store), ("create", "p", 25), ("create", "q", 25)) as others:
            for other in others:
                other.go()
            said = [line for other in others for line in await other.end()]
        assert sorted(said) == sorted([info.agent_id, info.uid] for info in await store.list_agents())
        assert len(said) == 25

    @one_loop
    async def test_drivers_follow_each_other(self, store: Store) -> None:
        """Leases that processes take from each other have a fence each, which rises with the versions made under it."""
        await Author(store).create()
        with workers(self.shared(store), ("drive", "p", 15), ("drive", "q", 15)) as others:
            for other in others:
                other.go()
            said = sorted([line for other in others for line in await other.end()])
        assert [version for _, version in said] == list(range(2, 32))
        assert len({fence for fence, _ in said}) == 30

    @one_loop
    async def test_a_process_sees_at_once_what_was_acknowledged_here(self, store: Store) -> None:
        """What was acknowledged in one process is read by the next read in another."""
        author = Author(store)
        await author.create()
        with workers(self.shared(store), ("look", "p", 6)) as (other,):
            other.go()
            for n in range(1, 7):
                await author.say(f"{n}")
                await store.enqueue("agent", item(f"{n}"))
                other.go()
                assert await other.hear(1) == [[n + 1, n, n]]
