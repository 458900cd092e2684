"""`OrderedStore`: the record primitives over an `OrderedMap`, done in threads."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TypeVar

from kode.core.clock import Clock
from kode.core.store.base import Store
from kode.core.store.contract import Appended, Condition, Due, Key, Record, Scan
from kode.core.store.lookups import Get, Lookup, finish
from kode.core.store.ordered.engine import Engine
from kode.core.store.ordered.map import OrderedMap
from kode.core.store.ordered.rows import first

__all__ = ["OrderedStore"]

T = TypeVar("T")


class OrderedStore(Store):
    """Keeps agents in an ordered map of bytes with transactions: LMDB, RocksDB, FoundationDB and the like.

    Subclass it to set `durability` and `same_host`, to give it a URL (`from_url`), and to override `now` where
    the engine has a clock of its own. One thread writes, and callers that come at once share a transaction; others read
    beside it.

    Args:
        ordered_map: The engine. It is the store's from here on.
        clock: What leases expire by; a virtual one for tests.
    """

    def __init__(self, ordered_map: OrderedMap, *, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self._engine = Engine(ordered_map)
        # Threads would keep alive what nobody uses any more.
        weakref.finalize(self, self._engine.stop)

    async def open(self) -> None:
        """Open or make the map.

        Raises:
            StoreError: The map cannot be opened, or what is in it is not ours.
            SchemaTooNewError: A newer KODE made it.
        """
        await self._engine.open()

    async def close(self) -> None:
        """Finish what was begun, close the map, end the threads."""
        await self._engine.close()

    async def now(self) -> int:
        """Tell the time by the clock that was given."""
        return self.clock.now()

    # ---- writing -------------------------------------------------------------------------------------------

    async def apply(
        self,
        agent_id: str,
        conditions: Sequence[Condition],
        puts: Sequence[Record],
        deletes: Sequence[Key],
    ) -> int | None:
        """See `Records.apply`."""
        return await self._engine.write(lambda rows: rows.apply(conditions, puts, deletes))

    async def apply_and_look(
        self,
        agent_id: str,
        conditions: Sequence[Condition],
        puts: Sequence[Record],
        deletes: Sequence[Key],
        *,
        uid: str,
        after: str,
    ) -> tuple[int | None, list[Record]]:
        """See `Records.apply_and_look`; it looks."""
        ask = Scan("inbox", uid, after=after)
        return await self._engine.write(lambda rows: rows.apply_and_look(conditions, puts, deletes, ask))

    async def append_inbox(self, agent_id: str, record: Record, *, now: int, bounded: bool) -> Appended:
        """See `Records.append_inbox`."""
        return await self._engine.write(lambda rows: rows.append(agent_id, record, now, bounded))

    async def drop(self, agent_id: str, uid: str) -> None:
        """See `Records.drop`."""
        more = bool(uid)
        while more:
            more = await self._engine.write(lambda rows: rows.drop(uid))

    # ---- reading -------------------------------------------------------------------------------------------

    async def look_up(self, agent_id: str, lookup: Lookup[T]) -> T:
        """Run a whole lookup in one thread and one transaction."""
        return await self._engine.read(lambda rows: finish(lookup, rows.answer))

    async def get(self, agent_id: str, keys: Sequence[Key]) -> list[Record | None]:
        """See `Records.get`."""
        return await self._engine.read(lambda rows: rows.answer(Get(tuple(keys))))

    async def scan(self, agent_id: str, ask: Scan) -> list[Record]:
        """See `Records.scan`."""
        return await self._engine.read(lambda rows: first(rows.scan(ask), ask.limit))

    async def due(self, now: int, limit: int, after: Due | None = None) -> list[Due]:
        """See `Records.due`."""
        return await self._engine.read(lambda rows: first(rows.due(now, after), limit))

    async def agents(self, prefix: str, after: str, limit: int, tenant: str | None = None) -> list[Record]:
        """See `Records.agents`."""
        ask = Scan("header", "", prefix, after)
        return await self._engine.read(
            lambda rows: first((row for row in rows.scan(ask) if tenant in (None, row.columns["tenant"])), limit)
        )
