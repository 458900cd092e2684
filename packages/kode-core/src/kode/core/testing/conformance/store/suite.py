"""What `run_kit` hands to pytest: the whole kit over the store of one URL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import partial
from itertools import count
from secrets import token_hex
from typing import Any, ClassVar

import anyio
import pytest

from kode.core.clock import Clock
from kode.core.store.base import Store
from kode.core.store.contract import Record, Scan
from kode.core.store.open import open_store
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store.author import Place
from kode.core.testing.conformance.store.kit import StoreConformance

__all__ = ["Kit", "open_again"]

RUN = token_hex(3)
"""What `{}` stands for begins with it: another run finds its own names free."""
PATIENT_S = 5.0
"""How long a store that goes by a clock of its own is waited for."""


class Kit(StoreConformance):
    """The kit over a URL."""

    url: ClassVar[str] = "memory:"
    backend: ClassVar[str] = "asyncio"
    names: ClassVar[Iterator[str]] = (f"{RUN}_{n}" for n in count())

    @pytest.fixture
    def anyio_backend(self) -> str:
        """The event loop asked for."""
        return self.backend

    @pytest.fixture
    async def store(self, clock: VirtualClock) -> AsyncIterator[Store]:
        """An empty store, which is left empty."""
        self.here = self.url.replace("{}", next(self.names))
        async with open_store(self.here, clock=clock) as store:
            self.follows = await store.now() == clock.now()
            if "{}" in self.url:
                yield store
                return
            written = _Written(store)
            yield store
            await store.open()
            await written.remove()

    async def elapse(self, clock: VirtualClock, seconds: float) -> None:
        """Move the store's clock, or wait a little for one that cannot be moved."""
        if not self.follows and seconds > PATIENT_S:
            pytest.skip("its clock cannot be moved that far")
        await clock.advance(seconds)
        if not self.follows:
            await anyio.sleep(seconds)

    def place(self, store: Store) -> Place | None:
        """Open the URL again; what lies in memory nobody else can open."""
        return None if self.here.startswith("memory:") else partial(open_again, self.here)


class _Written:
    """Remembers under which uids a store was written to, so that all of it can be removed."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._places: set[tuple[str, str]] = set()
        for name in ("apply", "apply_and_look"):
            setattr(store, name, self._noting(getattr(store, name)))

    def _noting(self, call: Any) -> Any:
        async def noting(agent_id: str, conditions: Any, puts: Any, deletes: Any, **more: Any) -> Any:
            self._places |= {(agent_id, record.uid or str(record.columns.get("uid"))) for record in puts}
            return await call(agent_id, conditions, puts, deletes, **more)

        return noting

    async def remove(self) -> None:
        left: list[Record] = [*await self._store.agents("", "", 10_000)]
        places = self._places | {(header.key, str(header.columns["uid"])) for header in left}
        for agent_id, uid in places:
            await self._store.drop(agent_id, uid)
        for mark in [*left, *await self._store.scan("", Scan("staged", "", limit=10_000))]:
            await self._store.apply(mark.key, (), (), [mark.address])


def open_again(url: str, *, clock: Clock | None = None) -> Store:
    """Open a URL, in this process or in another."""
    return open_store(url, clock=clock)
