"""The contract of cancellation: a caller that goes away takes nothing with it and disturbs nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from kode.core.errors import NotFoundError
from kode.core.store.base import Store
from kode.core.store.contract import Scan
from kode.core.store.records import COLUMNS, int_key
from kode.core.testing.conformance.store.author import A, Author, StoreCase, item, keep, loaded, one_loop, row, text_of

__all__ = ["CancellationContract"]

MOMENTS = (0.0, 0.0002, 0.0006, 0.0015, 0.004)
"""Seconds after which a call is cancelled. Whatever it has come to by then, the same must hold."""


async def cut(call: Callable[[], Awaitable[Any]], after: float) -> bool:
    """Call and cancel it after a time; whether it ended first."""
    ended = False
    with anyio.move_on_after(after):
        await call()
        ended = True
    return ended


class CancellationContract(StoreCase):
    """A cancelled write has landed whole or not at all; what was acknowledged has landed."""

    group = "cancellation"

    def _agents(self, store: Store) -> Iterator[tuple[float, Author]]:
        for n, after in enumerate(MOMENTS):
            yield after, Author(store, f"agent-{n}", f"uid-{n}")

    async def test_a_cancelled_commit(self, store: Store) -> None:
        """A cancelled commit is there whole or not at all, and repeating it says which version it has."""
        for after, author in self._agents(store):
            await author.create()
            commit = author.make()
            ended = await cut(lambda author=author: author.say("a", "b", events=2), after)  # type: ignore[misc]
            commit = author.last or commit
            before = await loaded(store, author.id)
            assert (before.version, len(before.window)) in ([(2, 2)] if ended else [(1, 0), (2, 2)])
            assert (await store.commit(commit)).version == 2
            said = (await store.read_messages(author.id)).items
            assert [text_of(m) for m in said] == ["a", "b"]

    async def test_a_cancelled_large_commit(self, store: Store) -> None:
        """A cancelled commit of many records is seen whole or not at all."""
        for after, author in self._agents(store):
            await author.create()
            await cut(lambda author=author: author.say(*["x"] * 60, events=9), after * 4)  # type: ignore[misc]
            assert len((await store.read_messages(author.id)).items) in (0, 60)
            assert len((await store.read_events(author.id)).items) in (0, 9)
            if author.last is not None:
                assert (await store.commit(author.last)).version == 2
            assert len((await loaded(store, author.id)).window) in (0, 60)

    async def test_a_cancelled_act_is_atomic(self, store: Store) -> None:
        """Of a cancelled act all records are there or none."""
        for n, after in enumerate(MOMENTS * 2):
            rows = [row("message", int_key(n)), row("run", int_key(n)), row("document", int_key(n))]
            ended = await cut(lambda rows=rows: store.apply(A, (), rows, ()), after)  # type: ignore[misc]
            count = sum(found is not None for found in await store.get(A, [r.address for r in rows]))
            assert count in ((3,) if ended else (0, 3))

    async def test_what_was_acknowledged_is_there_whoever_is_cancelled(self, store: Store) -> None:
        """Of items sent at once, some by callers that are cancelled, each acknowledged one is there, none twice."""
        await Author(store).create()
        acknowledged: set[str] = set()

        async def send(n: int) -> None:
            for k in range(4):
                id = f"{n}.{k}"
                after = MOMENTS[(n + k) % 5] if n % 2 else 10
                if await cut(lambda id=id: store.enqueue("agent", item(id)), after):  # type: ignore[misc]
                    acknowledged.add(id)

        async with anyio.create_task_group() as tasks:
            for n in range(10):
                tasks.start_soon(send, n)
        found = (await loaded(store)).inbox
        ids = [i.id for i in found]
        assert acknowledged <= set(ids)
        assert {f"{n}.{k}" for n in range(0, 10, 2) for k in range(4)} <= acknowledged
        assert len(ids) == len(set(ids))
        assert len({i.position for i in found}) == len(ids)

    async def test_a_cancelled_enqueue_may_be_repeated(self, store: Store) -> None:
        """An item whose sender was cancelled, sent again, is there once, and the next is behind it."""
        await Author(store).create()
        for n, after in enumerate(MOMENTS):
            await cut(lambda n=n: store.enqueue("agent", item(f"{n}")), after)  # type: ignore[misc]
            first = await store.enqueue("agent", item(f"{n}"))
            assert first.position == n + 1
        assert [i.id for i in (await loaded(store)).inbox] == [f"{n}" for n in range(5)]

    async def test_others_are_not_disturbed(self, store: Store) -> None:
        """Writers that share their moment with cancelled ones are all acknowledged, and all there."""
        done: set[int] = set()

        async def put(n: int) -> None:
            if await cut(lambda: store.apply(A, (), [row("message", int_key(n))], ()), 30 if n % 3 else MOMENTS[n % 5]):
                done.add(n)

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                for n in range(30):
                    tasks.start_soon(put, n)
        there = {found.key for found in await store.scan(A, Scan("message", "u", limit=99))}
        assert {n for n in range(30) if n % 3} <= done
        assert {int_key(n) for n in done} <= there

    async def test_whoever_goes_first_leaves_the_others_theirs(self, store: Store) -> None:
        """Of writers at once one is cancelled, at any turn: the others are acknowledged, and what was is there."""
        for turn in range(16):
            keys = [int_key(turn * 4 + n) for n in range(4)]
            scopes = [anyio.CancelScope() for _ in keys]
            done: list[str] = []

            async def put(key: str, scope: anyio.CancelScope, done: list[str] = done) -> None:
                with scope:
                    await store.apply(A, (), [row("message", key)], ())
                    done.append(key)

            async with anyio.create_task_group() as tasks:
                for key, scope in zip(keys, scopes, strict=True):
                    tasks.start_soon(put, key, scope)
                for _ in range(turn // 4):
                    await checkpoint()
                scopes[turn % 4].cancel()
            there = {found.key for found in await store.scan(A, Scan("message", "u", limit=99))}
            assert {*keys} - {keys[turn % 4]} <= {*done} <= there

    async def test_writes_land_in_the_order_they_were_begun(self, store: Store) -> None:
        """What a caller writes after a write of its own was cancelled stays: the cancelled one does not come later."""
        for n, after in enumerate(MOMENTS * 2):
            key = int_key(n)
            await cut(lambda key=key: store.apply(A, (), [row("message", key, run=1)], ()), after)  # type: ignore[misc]
            await keep(store, [row("message", key, run=2)])
        await anyio.sleep(0.02)
        assert {found.columns["run"] for found in await store.scan(A, Scan("message", "u", limit=99))} == {2}

    async def test_a_cancelled_acquire(self, store: Store) -> None:
        """After a cancelled acquire the same holder gets a lease, under a fence that nobody was given before."""
        await Author(store).create()
        fences: list[int] = []
        for after in MOMENTS:
            await cut(lambda: store.acquire("agent", "h", 30), after)
            fences.append((await store.acquire("agent", "h", 30)).fence)
        assert fences == sorted(set(fences))

    async def test_a_cancelled_reader(self, store: Store) -> None:
        """Readers that are cancelled leave the store as it was for all who read and write after them."""
        author = Author(store)
        await author.create()
        await author.say(*["x" * 2_000] * 50)
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                for n in range(20):
                    tasks.start_soon(cut, lambda: store.load("agent"), MOMENTS[n % 5])
            assert len((await loaded(store)).window) == 50
            assert (await author.say("hi")).version == 3

    async def test_a_cancelled_fork(self, store: Store) -> None:
        """A cancelled fork is not there or whole, and whole when repeated."""
        source = Author(store)
        await source.create()
        await source.say(*["x"] * 200)
        for n, after in enumerate(MOMENTS):
            id = f"fork-{n}"
            await cut(lambda id=id: store.fork("agent", id, new_uid=f"uid-{id}"), after * 3)  # type: ignore[misc]
            if await store.exists(id):
                assert len((await loaded(store, id)).window) == 200
            await store.fork("agent", id, new_uid=f"uid-{id}")
            assert len((await loaded(store, id)).window) == 200

    async def test_a_cancelled_erasure(self, store: Store) -> None:
        """A cancelled erasure has left the agent whole, or can be finished by its uid."""
        for after, author in self._agents(store):
            await author.create()
            await author.say(*["x"] * 50)
            uid = author.state.uid
            await cut(lambda author=author: store.erase(author.id), after)  # type: ignore[misc]
            found = await store.load(author.id)  # one look: what was cut off may still be on its way
            assert found is None or len(found.window) == 50
            await store.erase(author.id, uid=uid)
            assert [kind for kind in COLUMNS if await store.scan(author.id, Scan(kind, uid, limit=1))] == []
            with pytest.raises(NotFoundError):
                await store.read_state(author.id)

    @one_loop
    async def test_cancellation_of_the_event_loop_s_own_kind(self, store: Store) -> None:
        """Asyncio's own cancellation, which no shield of anyio holds off, loses nothing acknowledged either."""
        await Author(store).create()
        acknowledged: set[str] = set()

        async def send(id: str) -> None:
            await store.enqueue("agent", item(id))
            acknowledged.add(id)

        tasks = [asyncio.create_task(send(f"{n}")) for n in range(30)]
        for n, task in enumerate(tasks):
            if n % 2:
                asyncio.get_running_loop().call_later(MOMENTS[n % 5], task.cancel)
        await asyncio.wait(tasks, timeout=20)
        ids = [i.id for i in (await loaded(store)).inbox]
        assert {f"{n}" for n in range(0, 30, 2)} <= acknowledged <= set(ids)
        assert len(ids) == len(set(ids))
        assert not (await store.enqueue("agent", item("last"))).duplicate

    async def test_closing_while_callers_are_cancelled(self, store: Store) -> None:
        """A store whose callers are cancelled in mid-call can be closed, ends, and is sound when it is opened again."""
        with anyio.fail_after(20):
            with anyio.move_on_after(0.001):
                async with anyio.create_task_group() as tasks:
                    for n in range(8):
                        tasks.start_soon(store.apply, A, (), [row("message", int_key(n)), row("run", int_key(n))], ())
            await store.close()
            await store.open()
            found = [[r.key for r in await store.scan(A, Scan(kind, "u", limit=99))] for kind in ("message", "run")]
            assert found[0] == found[1]
