"""The contract of races: what happens at once happens as if one had come after the other."""

from __future__ import annotations

from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from kode.core.store.base import Store
from kode.core.store.contract import Condition, Key, Record, Scan
from kode.core.store.records import int_key
from kode.core.testing.conformance.store.author import A, Author, StoreCase, head, item, keep, loaded, row

__all__ = ["RacesContract"]

ROUNDS = 16
"""So many times two race, each delayed by 0 to 3 turns."""
HEADER = Key("header", "", A)


def sent(id: str, size: int = 1) -> Record:
    """Build an item that is still to get its position."""
    return row("inbox", "", "", b"x" * size, id=id, kind="message", size=size, at=1, priority=0)


class RacesContract(StoreCase):
    """Two at once leave what one after the other would."""

    group = "races"

    # ---- a write and an item -------------------------------------------------------------------------------

    async def test_no_item_slips_in_between_a_judgement_and_its_write(self, store: Store) -> None:
        """Where `no_inbox_after` held, no item came before the write: nothing waits that wakes nobody."""
        for n in range(ROUNDS):
            await keep(store, [head(max_inbox=99, seen=n, wake_at=90)])
            nothing_new = Condition("no_inbox_after", Key("inbox", "u", ""), value=int_key(n))
            quiet = head(max_inbox=99, seen=n, wake_at=None)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_later, n % 4, store.apply, A, [nothing_new], [quiet], [])
                tasks.start_soon(_later, n // 4, _append, store, sent(f"{n}"))
            assert (await _header(store)).columns["wake_at"] == 50, f"item {n} waits, and nobody is woken for it"

    async def test_an_item_that_races_a_release_is_seen_or_wakes_someone(self, store: Store) -> None:
        """A driver that gave its lease back while an item came leaves the agent due; else it keeps its lease."""
        author = Author(store)
        await author.create()
        for n in range(ROUNDS):
            await author.drive()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_later, n % 4, lambda: author.commit(release=True))
                tasks.start_soon(_later, n // 4, store.enqueue, author.id, item(f"{n}"))
            due = [due.agent_id for due in await store.due(await store.now(), 9)]
            assert due == ([author.id] if author.fence is None else [])
            (waiting,) = (await loaded(store)).inbox
            await author.commit(consumed={waiting.position: waiting}, release=author.fence is not None)
            assert author.fence is None

    async def test_an_item_and_a_write_of_the_header_both_count(self, store: Store) -> None:
        """An item that comes while the header is written takes nothing of that write back, and loses nothing of it."""
        for n in range(ROUNDS):
            await keep(store, [head(max_inbox=99, version=n, wake_at=90)])
            as_read = Condition("equals", HEADER, "version", n)
            new = head(max_inbox=99, version=n + 1, wake_at=70, status=f"S{n}")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_later, n % 4, _write, store, as_read, new)
                tasks.start_soon(_later, n // 4, _append, store, sent(f"{n}"))
            found = (await _header(store)).columns
            assert (found["version"], found["status"]) == (n + 1, f"S{n}")
            assert found["wake_at"] in (50, 70)  # the item came after the write, or before it

    # ---- a reader and writers ------------------------------------------------------------------------------

    async def test_a_reader_that_goes_on_meets_every_item(self, store: Store) -> None:
        """Who reads items behind the last one it saw, while small and large ones come, meets each once, in order."""
        sizes = [300_000, 1, 40_000, 1, 150_000, 1, 100, 1, 300_000, 1, 20_000, 1]
        await keep(store, [head(max_inbox=99, max_message_bytes=10**6)])
        met: list[Record] = []
        over = anyio.Event()

        async def follow() -> None:
            while True:
                last = over.is_set()
                met.extend(await store.scan(A, Scan("inbox", "u", after=met[-1].key if met else "", limit=99)))
                if last:
                    return
                await checkpoint()

        async with anyio.create_task_group() as readers:
            readers.start_soon(follow)
            async with anyio.create_task_group() as senders:
                for n, size in enumerate(sizes):
                    senders.start_soon(_later, n, _append, store, sent(f"{n}", size))
            over.set()
        assert sorted(int(str(found.columns["id"])) for found in met) == list(range(len(sizes)))
        assert [found.key for found in met] == [int_key(n + 1) for n in range(len(sizes))]

    async def test_a_scan_meets_all_that_stays(self, store: Store) -> None:
        """A scan of many records, while some of them go and others come, meets each that stays once, both ways."""
        stays = [int_key(n) for n in range(100, 400)]
        for reverse in (False, True):
            uid = f"u{reverse}"
            goes = [row("message", int_key(n), uid) for n in (*range(95, 100), *range(400, 405))]
            comes = [row("message", int_key(n), uid) for n in (*range(5), *range(500, 505))]
            await keep(store, [*goes, *[row("message", key, uid) for key in stays]])
            seen: list[str] = []

            async def read(uid: str = uid, reverse: bool = reverse, seen: list[str] = seen) -> None:
                seen += [found.key for found in await store.scan(A, Scan("message", uid, limit=999, reverse=reverse))]

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read)
                for n, (come, go) in enumerate(zip(comes, goes, strict=True)):
                    tasks.start_soon(_later, n // 3, store.apply, A, (), (), [go.address])
                    tasks.start_soon(_later, n // 3 + 4, store.apply, A, (), [come], ())
            assert seen == sorted(set(seen), reverse=reverse)
            assert set(stays) <= set(seen) <= {*stays, *[r.key for r in (*goes, *comes)]}


async def _later(turns: int, call: Any, *arguments: Any) -> None:
    """Let others have so many turns, then call."""
    for _ in range(turns):
        await checkpoint()
    await call(*arguments)


async def _header(store: Store) -> Record:
    (found,) = await store.get(A, [HEADER])
    assert found is not None
    return found


async def _append(store: Store, record: Record) -> None:
    assert (await store.append_inbox(A, record, now=50, bounded=True)).outcome == "new"


async def _write(store: Store, condition: Condition, header: Record) -> None:
    assert await store.apply(A, [condition], [header], ()) is None
