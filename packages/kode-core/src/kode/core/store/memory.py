"""`MemoryStore`: dictionaries and sorted keys. For tests, and for agents that need not last.

Every primitive runs to its end without awaiting anything, so that each is atomic on asyncio and trio alike. A
caller that loops over many of them should let others run now and then.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self, TypeAlias
from urllib.parse import SplitResult

from kode.core.clock import Clock
from kode.core.errors import UsageError
from kode.core.store.base import Store
from kode.core.store.contract import Appended, Condition, Due, Key, Kind, Record, Scan
from kode.core.store.lookups import integer
from kode.core.store.open import redact, url_options
from kode.core.store.primitives import Durability, prefix_end
from kode.core.store.rules import append, counted, free, judge

__all__ = ["MemoryStore"]

# Named by what a record's address is made of, so that no key object is built for a look-up.
_Place: TypeAlias = tuple[Kind, str]


@dataclass(slots=True)
class _Shelf:
    """All records of one kind and uid."""

    rows: dict[str, Record] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    """Sorted."""

    def put(self, record: Record) -> None:
        key = record.key
        if key not in self.rows:
            if not self.keys or key > self.keys[-1]:
                self.keys.append(key)
            else:
                insort(self.keys, key)
        self.rows[key] = record

    def remove(self, key: str) -> Record | None:
        row = self.rows.pop(key, None)
        if row is not None:
            del self.keys[bisect_left(self.keys, key)]
        return row


class MemoryStore(Store):
    """Keeps everything in this process. Lost when the process ends (`durability` is "process" and means it).

    Records are isolated: what is put in or read out shares nothing that could be changed.

    Args:
        clock: What leases expire by; a virtual one for tests.
    """

    durability: Durability = "process"
    same_host = True
    alone = True

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self._shelves: dict[_Place, _Shelf] = {}
        self._wakes: list[tuple[int, str]] = []
        """Sorted (wake_at, agent id)."""
        # item id -> position key, per uid
        self._waiting: defaultdict[str, dict[str, str]] = defaultdict(dict)
        self._view = _View(self._shelves, self._waiting)

    @classmethod
    def from_url(cls, url: SplitResult, *, clock: Clock | None = None) -> Self:
        """``memory:``: a new store each time."""
        url_options(url)
        if url.netloc or url.path:
            raise UsageError(
                f"{redact(url.geturl())!r}: a store in memory has no place; write memory:.", code="bad_url"
            )
        return cls(clock)

    async def open(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do: what was stored can still be read."""

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
        failed = judge(self._view, conditions)
        if failed is not None:
            return failed
        for key in deletes:
            self._delete(key.kind, key.uid, key.key)
        for record in puts:
            self._put(_own(record))
        return None

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
        failed = await self.apply(agent_id, conditions, puts, deletes)
        shelf = self._shelves.get(("inbox", uid))
        if failed is not None or shelf is None or not shelf.keys or shelf.keys[-1] <= after:
            return failed, []
        return None, [_own(shelf.rows[key]) for key in shelf.keys[bisect_right(shelf.keys, after) :]]

    async def append_inbox(self, agent_id: str, record: Record, *, now: int, bounded: bool) -> Appended:
        """See `Records.append_inbox`."""
        appended, puts = append(self._view, agent_id, record, now, bounded)
        for put in puts:
            self._put(_own(put))
        return appended if appended.known is None else replace(appended, known=_own(appended.known))

    async def drop(self, agent_id: str, uid: str) -> None:
        """See `Records.drop`."""
        for place in [place for place in self._shelves if place[1] == uid and uid]:
            del self._shelves[place]
        self._waiting.pop(uid, None)

    # ---- reading -------------------------------------------------------------------------------------------

    async def get(self, agent_id: str, keys: Sequence[Key]) -> list[Record | None]:
        """See `Records.get`."""
        rows = (self._row(key.kind, key.uid, key.key) for key in keys)
        return [None if row is None else _own(row) for row in rows]

    async def scan(self, agent_id: str, ask: Scan) -> list[Record]:
        """See `Records.scan`."""
        shelf = self._shelves.get((ask.kind, ask.uid))
        if shelf is None:
            return []
        keys = shelf.keys
        start = max(bisect_right(keys, ask.after), bisect_left(keys, ask.prefix))
        stop = len(keys) if ask.before is None else bisect_left(keys, ask.before)
        end = prefix_end(ask.prefix)
        if end is not None:
            stop = min(stop, bisect_left(keys, end))
        if ask.reverse:
            chosen = keys[max(start, stop - ask.limit) : stop][::-1]
        else:
            chosen = keys[start : min(stop, start + ask.limit)]
        return [_own(shelf.rows[key]) for key in chosen]

    async def due(self, now: int, limit: int, after: Due | None = None) -> list[Due]:
        """See `Records.due`."""
        found: list[Due] = []
        start = 0 if after is None else bisect_right(self._wakes, (after.wake_at, after.agent_id))
        for i in range(start, len(self._wakes)):
            wake_at, agent_id = self._wakes[i]
            if wake_at > now or len(found) >= limit:
                break
            uid = str(self._shelves["header", ""].rows[agent_id].columns["uid"])
            if free(self._row("lease", uid, ""), now):
                found.append(Due(agent_id, wake_at))
        return found

    async def agents(self, prefix: str, after: str, limit: int, tenant: str | None = None) -> list[Record]:
        """See `Records.agents`."""
        if tenant is None:
            return await self.scan("", Scan("header", "", prefix=prefix, after=after, limit=limit))
        everyone = await self.scan("", Scan("header", "", prefix=prefix, after=after, limit=len(self._wakes) + 2**62))
        return [record for record in everyone if record.columns["tenant"] == tenant][:limit]

    # ---- inside --------------------------------------------------------------------------------------------

    def _row(self, kind: Kind, uid: str, key: str) -> Record | None:
        shelf = self._shelves.get((kind, uid))
        return None if shelf is None else shelf.rows.get(key)

    def _put(self, record: Record) -> None:
        place: _Place = (record.kind, record.uid)
        shelf = self._shelves.get(place)
        if shelf is None:
            shelf = self._shelves[place] = _Shelf()
        if record.kind == "header":
            self._note_wake(shelf.rows.get(record.key), record)
        elif record.kind == "inbox":
            self._waiting[record.uid][str(record.columns["id"])] = record.key
        shelf.put(record)

    def _delete(self, kind: Kind, uid: str, key: str) -> None:
        shelf = self._shelves.get((kind, uid))
        gone = None if shelf is None else shelf.remove(key)
        if gone is not None and kind == "header":
            self._note_wake(gone, None)
        elif gone is not None and kind == "inbox":
            self._waiting[uid].pop(str(gone.columns["id"]), None)

    def _note_wake(self, old: Record | None, new: Record | None) -> None:
        before = None if old is None else old.columns["wake_at"]
        after = None if new is None else new.columns["wake_at"]
        if before == after:
            return
        if old is not None and before is not None:
            del self._wakes[bisect_left(self._wakes, (integer(before), old.key))]
        if new is not None and after is not None:
            insort(self._wakes, (integer(after), new.key))


@dataclass(frozen=True, slots=True)
class _View:
    """What the rules ask of a store."""

    shelves: dict[_Place, _Shelf]
    ids: Mapping[str, Mapping[str, str]]

    def row(self, kind: Kind, uid: str, key: str) -> Record | None:
        shelf = self.shelves.get((kind, uid))
        return None if shelf is None else shelf.rows.get(key)

    def has(self, key: Key) -> bool:
        return self.row(key.kind, key.uid, key.key) is not None

    def last(self, uid: str) -> str:
        inbox = self.shelves.get(("inbox", uid))
        return inbox.keys[-1] if inbox is not None and inbox.keys else ""

    def waiting(self, uid: str, item_id: str) -> Record | None:
        key = self.ids[uid].get(item_id) if uid in self.ids else None
        return None if key is None else self.shelves["inbox", uid].rows[key]

    def filled(self, uid: str, kind: str, most: int) -> bool:
        inbox = self.shelves.get(("inbox", uid))
        rows = {} if inbox is None else inbox.rows
        return len(rows) >= most and counted(rows.values(), kind) >= most


def _own(record: Record) -> Record:
    """Copy a record, on its way in and on its way out: its columns are nobody else's to change.

    Not a read-only view: a plain dictionary of text and numbers is nothing that the garbage collector must look at.
    """
    return Record(record.kind, record.uid, record.key, dict(record.columns), record.body)
