"""`JSONStore` keeps the contract, also when it closes a journal with nearly every write; and what is its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from kode.core.store import Key, Store
from kode.core.store.json import JSONStore, folder
from kode.core.store.json.lines import body_text, raw_record
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store import StoreConformance
from kode.core.testing.conformance.store.author import Place
from kode.core.testing.conformance.store.kit import GROUPS

pytestmark = pytest.mark.anyio


class Folders:
    """How the kit gets at a `JSONStore`."""

    @pytest.fixture
    async def store(self, clock: VirtualClock, tmp_path: Path) -> AsyncIterator[Store]:
        async with JSONStore(tmp_path / "kode", durability="process", clock=clock) as store:
            yield store

    def place(self, store: Store) -> Place:
        assert isinstance(store, JSONStore)
        return partial(JSONStore, store.path, durability="process")

    async def spoil(self, store: Store, key: Key) -> bool:
        assert isinstance(store, JSONStore)
        (record,) = await store.get("agent", [key])
        assert record is not None
        folder = Path(store.path) / "agents/agent"
        body = raw_record(record, body_text(record) or b"").data
        for path in folder.iterdir():
            if path.suffix != ".index" and body in (data := path.read_bytes()):
                at = data.index(body) + len(body) // 2
                path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
                return True
        return False

    async def make_newer(self, store: Store) -> bool:
        assert isinstance(store, JSONStore)
        (Path(store.path) / "kode.json").write_text('{"store":"kode","version":2}')
        return True


class TestJSONStore(Folders, StoreConformance):
    pass


ROLLING = ("round-trip", "paging", "repeat", "inbox", "events", "blobs", "fork", "removal", "races")


class TestJSONStoreThatRolls(Folders, *[GROUPS[name].contract for name in ROLLING]):  # type: ignore[misc]
    """Each write closes the journal; what does not depend on where a record lies need not be asked again."""

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture(autouse=True)
    def rolling(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(folder, "is_long", lambda index: index.end > index.begun)
