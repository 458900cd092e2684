"""What the kit is given must be right before a clause can tell anything: the fixture `store`, `elapse` and `place`."""

from __future__ import annotations

import pickle
from typing import Final

import pytest

from kode.core.errors import StoreError
from kode.core.store.base import Store
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store.author import StoreCase, row

__all__ = ["GivenCase"]

UID: Final = "fixture-check"
"""Of what is written, and removed again."""
_FOUND: dict[type, str] = {}
"""What is wrong with what a class gives; "" for nothing."""


class GivenCase(StoreCase):
    """Looks once, before the first clause; if something is wrong every clause fails and says so."""

    @pytest.fixture(autouse=True)
    async def given_is_right(self, store: Store, clock: VirtualClock) -> None:
        """Look once for each class."""
        wrong = _FOUND.get(type(self))
        if wrong is None:
            try:
                wrong = await self._wrong(store, clock)
            except StoreError:
                wrong = ""  # what is wrong with the store itself the clauses tell
            _FOUND[type(self)] = wrong
        if wrong:
            pytest.fail(f"{type(self).__name__} is not ready for the kit: {wrong}", pytrace=False)

    async def _wrong(self, store: Store, clock: VirtualClock) -> str:
        if await store.agents("", "", 1):
            return "the fixture `store` gives a store that holds agents; give each clause an empty one."
        return await self._wrong_clock(store, clock) or await self._wrong_place(store, clock)

    async def _wrong_clock(self, store: Store, clock: VirtualClock) -> str:
        if type(self).elapse is not StoreCase.elapse:
            return ""
        clock.jump(3_600)
        then = await store.now()
        clock.jump(-3_600)
        if then - await store.now() != 3_600_000_000:
            return (
                "the store's `now` does not follow the fixture `clock`; make the store with clock=clock, or override "
                "`elapse` for a store that goes by a clock of its own."
            )
        return ""

    async def _wrong_place(self, store: Store, clock: VirtualClock) -> str:
        place = self.place(store)
        if place is None:
            return ""
        try:
            place = pickle.loads(pickle.dumps(place))
        except Exception as error:  # noqa: BLE001 - what a pickle raises is anything
            return (
                f"what `place` returns cannot be sent to another process ({error}); return "
                "functools.partial(MyStore, path), of a class at the top of a module."
            )
        try:
            other = place(clock=clock)
        except TypeError as error:
            return f"what `place` returns cannot be called with clock=clock ({error}); it makes a store, still closed."
        written = row("message", "11", UID)
        async with other:
            await store.apply("agent", (), [written], ())
            seen = await other.get("agent", [written.address])
            await store.drop("agent", UID)
        if seen != [written]:
            return "the store that `place` makes does not see what `store` wrote; let both open the same data."
        return ""
