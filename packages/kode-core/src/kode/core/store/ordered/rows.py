"""Records in a transaction of an ordered map: where they lie, what their bytes are, and two indexes.

Keys are texts with NUL between their parts, which no part holds, so that all of an identity stands together, the exact
uid is a prefix that no other uid shares, and the keys of a kind are in the order of the bytes of their UTF-8:

======================== =============================================================================================
key                      value
======================== =============================================================================================
uid, kind, key           columns as one line of JSON, then the body as it is
uid, "waiting", item id  the key of that item of the inbox
"", "wake", time, agent  the uid of an agent that must wake then; the time has 20 digits
"", "format", ""         which format all this has
======================== =============================================================================================
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, TypeVar

from kode.core.store.contract import Appended, Condition, Due, Key, Kind, Record, Scan
from kode.core.store.lookups import Ask, Get
from kode.core.store.ordered.map import Transaction
from kode.core.store.records import COLUMNS, key_int
from kode.core.store.records.codec import corrupt
from kode.core.store.rules import append, counted, free, judge

__all__ = ["Rows", "first", "place"]

T = TypeVar("T")
DROPPED: Final = 1_000
"""Rows removed in one transaction."""


def place(kind: str, uid: str, key: str = "") -> bytes:
    """Say where a record lies."""
    return f"{uid}\0{kind}\0{key}".encode()


def pack(record: Record) -> bytes:
    """Write columns and body."""
    return json.dumps(dict(record.columns), separators=(",", ":")).encode() + b"\n" + record.body


def unpack(kind: Kind, uid: str, key: str, value: bytes) -> Record:
    """Build a record; a column that an older version did not know is null."""
    head, _, body = value.partition(b"\n")
    try:
        said = json.loads(head)
        return Record(kind, uid, key, {column: said.get(column) for column, _ in COLUMNS[kind]}, body)
    except (ValueError, AttributeError, RecursionError) as error:
        raise corrupt(kind, value, f"{uid}/{key}", f"its columns are damaged ({type(error).__name__})") from None


def entries(record: Record | None) -> dict[bytes, bytes]:
    """Say what the indexes hold of a record."""
    if record is None:
        return {}
    columns = record.columns
    if record.kind == "header" and columns["wake_at"] is not None:
        return {place("wake", "", f"{columns['wake_at']:020}\0{record.key}"): str(columns["uid"]).encode()}
    if record.kind == "inbox":
        return {place("waiting", record.uid, str(columns["id"])): record.key.encode()}
    return {}


def first(found: Iterable[T], limit: int) -> list[T]:
    """Take so many; `limit` may be larger than what counts here."""
    return list(islice(found, min(limit, sys.maxsize)))


class Rows:
    """The records of one transaction; a `View` for the rules."""

    def __init__(self, txn: Transaction) -> None:
        self._txn = txn

    # ---- what the rules ask ------------------------------------------------------------------------------------

    def row(self, kind: Kind, uid: str, key: str) -> Record | None:
        """Read a record."""
        value = self._txn.get(place(kind, uid, key))
        return None if value is None else unpack(kind, uid, key, value)

    def has(self, key: Key) -> bool:
        """Tell whether a record is there."""
        return self._txn.get(place(key.kind, key.uid, key.key)) is not None

    def last(self, uid: str) -> str:
        """Find the greatest key of an inbox; "" if it is empty."""
        return self._end(uid, reverse=True)

    def waiting(self, uid: str, item_id: str) -> Record | None:
        """Find the item of that id in an inbox."""
        key = self._txn.get(place("waiting", uid, item_id))
        return None if key is None else self.row("inbox", uid, key.decode())

    def filled(self, uid: str, kind: str, most: int) -> bool:
        """Tell whether so many items wait in an inbox that are counted for that kind."""
        last = self._end(uid, reverse=True)
        # Each position is given once, so there are no more items than positions.
        room = key_int(last) - key_int(self._end(uid, reverse=False)) + 1 if last else 0
        return room >= most and counted(self.scan(Scan("inbox", uid)), kind) >= most

    # ---- reading -----------------------------------------------------------------------------------------------

    def answer(self, ask: Ask) -> list[Record | None]:
        """Answer a lookup."""
        if isinstance(ask, Get):
            return [self.row(key.kind, key.uid, key.key) for key in ask.keys]
        return first(self.scan(ask), ask.limit)

    def scan(self, ask: Scan) -> Iterator[Record]:
        """Read records in order; the limit is not heeded."""
        low = max(place(ask.kind, ask.uid, ask.prefix), place(ask.kind, ask.uid, ask.after) + b"\0")
        high = place(ask.kind, ask.uid, ask.prefix) + b"\xff"  # no byte of UTF-8 is as large
        if ask.before is not None:
            high = min(high, place(ask.kind, ask.uid, ask.before))
        if low < high:
            for spot, value in self._txn.range(low, high, ask.reverse):
                yield unpack(ask.kind, ask.uid, _key(spot), value)

    def due(self, now: int, after: Due | None) -> Iterator[Due]:
        """List who must wake and is free."""
        low = place("wake", "", f"{after.wake_at:020}\0{after.agent_id}\0") if after else place("wake", "")
        high = place("wake", "", f"{now + 1:020}")
        for spot, uid in self._txn.range(low, high, False) if low < high else ():
            wake_at, _, agent_id = _key(spot).partition("\0")
            if free(self.row("lease", uid.decode(), ""), now):
                yield Due(agent_id, int(wake_at))

    # ---- writing -----------------------------------------------------------------------------------------------

    def apply(self, conditions: Sequence[Condition], puts: Sequence[Record], deletes: Sequence[Key]) -> int | None:
        """See `Records.apply`."""
        failed = judge(self, conditions)
        if failed is None:
            for key in deletes:
                self._index(key, None)
                self._txn.delete(place(key.kind, key.uid, key.key))
            for record in puts:
                self._put(record)
        return failed

    def apply_and_look(
        self, conditions: Sequence[Condition], puts: Sequence[Record], deletes: Sequence[Key], ask: Scan
    ) -> tuple[int | None, list[Record]]:
        """See `Records.apply_and_look`."""
        failed = self.apply(conditions, puts, deletes)
        return failed, [] if failed is not None else [*self.scan(ask)]

    def append(self, agent_id: str, record: Record, now: int, bounded: bool) -> Appended:
        """See `Records.append_inbox`."""
        appended, puts = append(self, agent_id, record, now, bounded)
        for put in puts:
            self._put(put)
        return appended

    def drop(self, uid: str) -> bool:
        """Remove some of what an identity has; False when nothing is left."""
        spots = [spot for spot, _ in islice(self._txn.range(f"{uid}\0".encode(), f"{uid}\1".encode(), False), DROPPED)]
        for spot in spots:
            self._txn.delete(spot)
        return len(spots) == DROPPED

    # ---- inside ------------------------------------------------------------------------------------------------

    def _put(self, record: Record) -> None:
        self._index(record.address, record)
        self._txn.put(place(record.kind, record.uid, record.key), pack(record))

    def _index(self, key: Key, new: Record | None) -> None:
        if key.kind not in ("header", "inbox"):
            return
        before, after = entries(self.row(key.kind, key.uid, key.key)), entries(new)
        for spot in before.keys() - after.keys():
            self._txn.delete(spot)
        for spot in after:
            if before.get(spot) != after[spot]:
                self._txn.put(spot, after[spot])

    def _end(self, uid: str, *, reverse: bool) -> str:
        low = place("inbox", uid)
        return next((_key(spot) for spot, _ in self._txn.range(low, low + b"\xff", reverse)), "")


def _key(spot: bytes) -> str:
    return spot.decode().split("\0", 2)[2]
