"""What the author of a store gets from the base before the first record."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from kode.core.clock import RealClock
from kode.core.errors import ConflictError, UsageError
from kode.core.store import JSONStore, MemoryStore, SqliteStore, Store, base
from kode.core.store.primitives import Records
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store.author import AT, Author, text_of
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


async def test_a_commit_goes_on_where_another_server_took_over() -> None:
    """The first one had made version 2, told nobody, and is gone; the one that took over has version 1."""

    class Failing(MemoryStore):
        looks = 0

        async def apply_and_look(self, agent_id: str, conditions: Any, *rest: Any, **named: Any) -> Any:
            version = next((i for i, one in enumerate(conditions) if one.column == "version"), None)
            if version is not None and self.looks < 1:
                self.looks += 1
                return version, []
            return await super().apply_and_look(agent_id, conditions, *rest, **named)

    async with Failing() as store:
        author = Author(store)
        await author.create()
        done = await author.say("once")
        assert (done.version, done.repeated, store.looks) == (2, False, 1)
        assert [text_of(one) for one in (await store.read_messages("agent")).items] == ["once"]
        author.version = 1
        with pytest.raises(ConflictError, match="has version 2, not 1"):
            await author.say("twice")


def test_where_a_method_stands_is_told() -> None:
    """Who looks for one of a `Store`'s methods finds its file at the head of ``base``."""
    rows = re.finditer(r"\* `(\w+)`, ``([\w/]+)``: ([\w, ]+)", " ".join(str(base.__doc__).split()))
    told = {(row[1], "kode.core.store." + row[2].replace("/", ".")): sorted(row[3].strip().split(", ")) for row in rows}
    there = {
        (layer.__name__, layer.__module__): sorted(
            name
            for name, value in vars(layer).items()
            if not name.startswith("_") and (layer is Records or not getattr(value, "__isabstractmethod__", False))
        )
        for layer in Store.__mro__[1:]
        if layer.__module__.startswith("kode.")
    }
    assert told == {place: names for place, names in there.items() if names}
