"""docs/examples/lmdb_store.py, the store of docs/guides/write-a-store.md, keeps the whole contract."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import lmdb
import pytest

from kode.core.errors import StoreError, StoreUnavailableError
from kode.core.store import Key, Store
from kode.core.store.contract import Scan
from kode.core.store.ordered import place
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store import GROUPS, StoreConformance
from kode.core.testing.conformance.store.author import row

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
        _put(store.path, place(key.kind, key.uid, key.key), b"\xff")
        return True

    async def make_newer(self, store: Any) -> bool:
        _put(store.path, place("format", ""), b"99")
        return True


def _put(path: str, key: bytes, value: bytes) -> None:
    file = example.LmdbMap(path)
    file.open()
    file.transact(True, lambda txn: txn.put(key, value))
    file.close()


class TestOnTrio(*(GROUPS[name].contract for name in ("lifecycle", "cancellation"))):  # type: ignore[misc]
    store = TestLmdbStore.store
    place = TestLmdbStore.place

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "trio"


async def test_a_long_id_needs_no_long_key(tmp_path: Path) -> None:
    # LMDB refuses keys of more than 511 bytes.
    known = [row("consumed", "k" * 490 + tail, "u" * 200, position=n) for n, tail in enumerate(("", "a", "aé", "b"))]
    async with example.LmdbStore(tmp_path / "agents.mdb") as store:
        await store.apply("a", (), known, ())
        assert await store.get("a", [row.address for row in known]) == known
        assert await store.scan("a", Scan("consumed", "u" * 200, after=known[0].key, limit=2)) == known[1:3]


async def test_stores_of_one_path_share_the_file(tmp_path: Path) -> None:
    def opened() -> int:  # of this test alone: what other tests left open is closed when it is collected
        return sum(Path(path).is_relative_to(tmp_path.resolve()) for path in example.OPENED)

    record = row("message", "11")
    async with example.LmdbStore(tmp_path / "agents.mdb") as one:
        async with example.LmdbStore(tmp_path / "." / "agents.mdb") as two:
            assert opened() == 1
            await two.apply("a", (), [record], ())
        assert await one.get("a", [record.address]) == [record]
        assert opened() == 1
    assert opened() == 0


@pytest.mark.parametrize(
    ("error", "meant"),
    [(lmdb.CorruptedError, StoreError), (lmdb.MapFullError, StoreUnavailableError)],
)
def test_errors_of_the_driver_stop_here(error: Any, meant: type[StoreError]) -> None:
    with pytest.raises(StoreError, match=r"a\.mdb") as raised, example.mapped("a.mdb"):
        raise error("oh")
    assert type(raised.value) is meant


async def test_a_missing_folder_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="missing is no folder; make it") as raised:
        await example.LmdbStore(tmp_path / "missing/a.mdb").open()
    assert type(raised.value) is StoreError  # trying again would not help


def test_it_is_as_short_as_promised() -> None:
    assert len(Path(example.__file__).read_text().splitlines()) <= 150
