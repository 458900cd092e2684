"""docs/examples/lmdb_store.py, the store of docs/guides/write-a-store.md, keeps the whole contract."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from functools import partial
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from kode.core.store import Key, Store
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store import GROUPS, StoreConformance
from kode.core.testing.conformance.store.author import head, keep, row

sys.path.insert(0, str(Path(__file__).parents[2] / "docs/examples"))
example: Any = import_module("lmdb_store")


class TestLmdbStore(StoreConformance):
    @pytest.fixture
    def anyio_backend(self) -> str:
        """Once is enough for what happens in threads; the rest is below."""
        return "asyncio"

    @pytest.fixture
    async def store(self, clock: VirtualClock, tmp_path: Path) -> AsyncIterator[Store]:
        async with example.LmdbStore(tmp_path / "agents.mdb", clock=clock) as store:
            yield store

    def place(self, store: Any) -> Any:
        return partial(example.LmdbStore, store.path)

    async def spoil(self, store: Any, key: Key) -> bool:
        with store._file.env.begin(store._file.rows, write=True) as txn:
            txn.put(sha256(example.at(key)).digest(), b"\xff")
        return True

    async def make_newer(self, store: Any) -> bool:
        file = example.File(store.path)  # the kit has closed the store
        with closing(file.env), file.env.begin(file.rows, write=True) as txn:
            txn.put(b"format", b"99")
        return True


class TestOnTrio(*(GROUPS[name].contract for name in ("lifecycle", "cancellation"))):  # type: ignore[misc]
    store = TestLmdbStore.store
    place = TestLmdbStore.place

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "trio"


async def test_places_longer_than_a_key_keep_their_order(tmp_path: Path) -> None:
    # Around the cut the two parts of a place must sort as one text, also with a tail that is another's head.
    keys = sorted(
        {("k" * 489 + tail)[:600] for tail in ("", "a", "ab", "b" * 9, "b" * 10, "b" * 11, "b" * 99, "c" * 111)}
    )
    async with example.LmdbStore(tmp_path / "agents.mdb") as store:
        await store.apply("a", (), [row("snapshot", key) for key in keys], ())
        for some in ([], [keys[3]]):
            await store.apply("a", (), (), [Key("snapshot", "u", key) for key in some])
            keys = [key for key in keys if key not in some]
            for i, after in enumerate(keys):
                for j, before in enumerate(keys):
                    between = keys[i + 1 : j]
                    for reverse in (False, True):
                        found = await store.scan(
                            "a", "snapshot", "u", after=after, before=before, limit=99, reverse=reverse
                        )
                        assert [one.key for one in found] == (between[::-1] if reverse else between)


async def test_an_index_entry_goes_with_its_record(tmp_path: Path) -> None:
    async with example.LmdbStore(tmp_path / "agents.mdb") as store:
        await keep(store, [head("a", wake_at=5), row("inbox", "11", id="i", kind="message", size=1)], "a")
        await store.drop("a", "u")
        await store.apply("a", (), (), [Key("header", "", "a")])
        assert await store._ask(lambda rows: [*rows.places(b"", b"\xff")]) == []


def test_stores_of_one_path_share_the_file(tmp_path: Path) -> None:
    one, two = example.LmdbStore(tmp_path / "agents.mdb"), example.LmdbStore(tmp_path / "." / "agents.mdb")
    for store in (one, two):
        store._open()
        store._open()
    assert one._file is two._file
    one._close()
    one._close()
    assert two._run(False, lambda rows: rows.get(Key("header", "", "a"))) is None
    two._close()
    assert example.OPENED == {}


def test_a_write_whose_caller_is_gone_keeps_the_next_waiting(tmp_path: Path) -> None:
    # Only asyncio's own cancellation leaves a thread behind.
    inside, go = threading.Event(), threading.Event()

    def late(rows: Any) -> None:
        inside.set()
        assert go.wait(20)
        rows.put(row("message", "1", body=b"first"))

    async def main() -> None:
        async with example.LmdbStore(tmp_path / "agents.mdb") as store:
            task = asyncio.create_task(store._act(late))
            assert await asyncio.to_thread(inside.wait, 20)
            task.cancel()
            await asyncio.wait([task])
            assert store._file.writing.locked()
            go.set()
            second = row("message", "1", body=b"second")
            await store.apply("a", (), [second], ())
            assert await store.get("a", [second.address]) == [second]

    asyncio.run(main())
