"""What the author of a store gets from the base before the first record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kode.core.clock import RealClock
from kode.core.errors import UsageError
from kode.core.store import JSONStore, MemoryStore, SqliteStore, Store
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store.author import AT
from kode.core.testing.faulty import FaultyStore
from kode.core.testing.wrapped import WrappedStore


@pytest.mark.parametrize("name", ["_write", "_time", "_rows", "_live_lease", "_changed", "_most"])
@pytest.mark.parametrize("mixed_in", [False, True])
def test_a_private_name_of_the_base_cannot_be_taken(name: str, mixed_in: bool) -> None:
    body: dict[str, Any] = {name: lambda self: None}
    bases = (type("Mixin", (), body), MemoryStore) if mixed_in else (MemoryStore,)
    with pytest.raises(UsageError, match=f"Mine defines {name}, which Store uses") as refused:
        type("Mine", bases, {} if mixed_in else body)
    assert (refused.value.code, refused.value.fields["names"]) == ("name_in_use", [name])


def test_all_else_may_be_named_as_one_likes() -> None:
    class Mine(MemoryStore):
        _connection = None

        async def settle(self, agent_id: str, header: Any) -> None:
            """What has no underscore may be overridden."""

        def _connect(self) -> None: ...

    class Yours(Mine):
        def _connect(self) -> None: ...

    assert issubclass(Yours, Store)


def test_a_store_has_the_clock_it_was_given(tmp_path: Path, clock: VirtualClock) -> None:
    stores = [MemoryStore(clock), SqliteStore(tmp_path / "a.db", clock=clock), JSONStore(tmp_path / "a", clock=clock)]
    assert all(store.clock is clock for store in stores)
    assert isinstance(MemoryStore().clock, RealClock)
    other = VirtualClock(AT)
    assert WrappedStore(stores[0]).clock is clock
    assert FaultyStore(stores[0]).clock is clock
    assert FaultyStore(stores[0], clock=other).clock is other


async def test_what_is_measured_in_the_process_is_measured_by_that_clock(clock: VirtualClock) -> None:
    store = WrappedStore(MemoryStore(clock))
    store.measure()
    assert store.metrics().since == AT
    await clock.advance(1)
    assert await store.now() == store.clock.now() == AT + 1_000_000
