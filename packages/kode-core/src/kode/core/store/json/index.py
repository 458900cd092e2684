"""What is in a folder, in memory: where each record lies, and the few records that are asked for all the time."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from kode.core.store.contract import Kind, Record, Scan
from kode.core.store.json.lines import Address, Line, Place
from kode.core.store.primitives import prefix_end

__all__ = ["MUTABLE", "Index", "Segment"]

MUTABLE: Final = frozenset({"header", "lease", "inbox", "staged"})
"""Kinds whose records come and go. They are never in a segment: each journal begins with those that live."""
HELD: Final = 16_384
"""Bytes up to which a record of these kinds is kept in memory."""


@dataclass(slots=True)
class Segment:
    """A closed journal."""

    revision: int
    """Of its list."""
    size: int
    """Bytes of the file."""
    live: int = 0
    """Bytes of records in it that nothing has replaced or removed."""


@dataclass(slots=True)
class _Shelf:
    """All records of one kind and uid."""

    places: dict[str, Place] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    """Sorted."""


@dataclass(slots=True)
class Index:
    """Where the records of a folder lie."""

    file: int = 0
    """Number of the journal that is written to; 0: there is none."""
    end: int = 0
    """Bytes of it that are whole lines."""
    begun: int = 0
    """Bytes of the lines it began with."""
    mark: bytes = b""
    """The end of these, which tells this journal from any other."""
    segments: dict[int, Segment] = field(default_factory=dict)
    gone: set[Address] = field(default_factory=set)
    """What the list of a segment names and is no longer there."""
    recent: dict[Address, None] = field(default_factory=dict)
    """Records in the journal that will stay in its segment."""
    apart: set[str] = field(default_factory=set)
    """Files of bodies."""
    held: dict[Address, Record] = field(default_factory=dict)
    count: int = 0
    _shelves: dict[tuple[Kind, str], _Shelf] = field(default_factory=dict)

    # ---- asking --------------------------------------------------------------------------------------------

    def find(self, address: Address) -> Place | None:
        """Tell where a record lies."""
        shelf = self._shelves.get(address[:2])
        return None if shelf is None else shelf.places.get(address[2])

    def keys(self, kind: Kind, uid: str) -> Sequence[str]:
        """List the keys of a kind in order."""
        shelf = self._shelves.get((kind, uid))
        return () if shelf is None else shelf.keys

    def range(self, ask: Scan) -> list[Address]:
        """List what a scan asks for."""
        keys = self.keys(ask.kind, ask.uid)
        start = max(bisect_right(keys, ask.after), bisect_left(keys, ask.prefix))
        stop = len(keys) if ask.before is None else bisect_left(keys, ask.before)
        end = prefix_end(ask.prefix)
        if end is not None:
            stop = min(stop, bisect_left(keys, end))
        chosen = keys[start : min(stop, start + ask.limit)]
        if ask.reverse:
            chosen = keys[max(start, stop - ask.limit) : max(start, stop)][::-1]
        return [(ask.kind, ask.uid, key) for key in chosen]

    def all(self) -> Iterator[tuple[Address, Place]]:
        """List everything."""
        for (kind, uid), shelf in self._shelves.items():
            for key in shelf.keys:
                yield (kind, uid, key), shelf.places[key]

    def mutable(self) -> Iterator[Address]:
        """List all that each journal begins with."""
        for (kind, uid), shelf in self._shelves.items():
            if kind in MUTABLE:
                for key in shelf.keys:
                    yield kind, uid, key

    # ---- changing ------------------------------------------------------------------------------------------

    def take(self, line: Line) -> None:
        """Do what a line says."""
        for address in line.deletes:
            self.remove(address)
        for address, place in line.puts:
            self.put(address, place)

    def put(self, address: Address, place: Place) -> None:
        """Note where a record lies now."""
        kind, uid, key = address
        shelf = self._shelves.get((kind, uid))
        if shelf is None:
            shelf = self._shelves[kind, uid] = _Shelf()
        old = shelf.places.get(key)
        if old is not None:
            self._leave(address, old)
        elif not shelf.keys or key > shelf.keys[-1]:
            shelf.keys.append(key)
        else:
            insort(shelf.keys, key)
        self.count += old is None
        shelf.places[key] = place
        if place.apart:
            self.apart.add(place.apart)
        if kind not in MUTABLE:
            self.gone.discard(address)
            if place.file == self.file:
                self.recent[address] = None

    def remove(self, address: Address) -> None:
        """Note that a record is no longer there."""
        kind, uid, key = address
        shelf = self._shelves.get((kind, uid))
        place = None if shelf is None else shelf.places.pop(key, None)
        if shelf is None or place is None:
            return
        del shelf.keys[bisect_left(shelf.keys, key)]
        if not shelf.keys:
            del self._shelves[kind, uid]
        self.count -= 1
        self._leave(address, place)
        if kind not in MUTABLE and self.segments:
            self.gone.add(address)

    def _leave(self, address: Address, place: Place) -> None:
        self.apart.discard(place.apart)
        self.held.pop(address, None)
        segment = self.segments.get(place.file)
        if segment is not None:
            segment.live -= place.size
        else:
            self.recent.pop(address, None)

    # ---- segments ------------------------------------------------------------------------------------------

    def listed(self, addresses: Iterable[Address]) -> dict[str, dict[str, list[Any]]]:
        """Write the list of a segment."""
        found: dict[str, dict[str, list[Any]]] = {}
        for kind, uid, key in addresses:
            place = self._shelves[kind, uid].places[key]
            row = [key, *place[1:5], *([place.apart] * bool(place.apart))]
            found.setdefault(kind, {}).setdefault(uid, []).append(row)
        return found

    def take_list(self, file: int, listed: dict[Kind, dict[str, list[Any]]]) -> None:
        """Read the list of a segment. They are read in rising order: a later one replaces what an earlier one says."""
        segment = self.segments[file]
        for kind, uids in listed.items():
            for uid, rows in uids.items():
                shelf = self._shelves.setdefault((kind, uid), _Shelf())
                for row in rows:
                    place = Place(file, *row[1:])
                    segment.live += place.size
                    if row[0] in shelf.places:
                        self.put((kind, uid, row[0]), place)
                        continue
                    shelf.places[row[0]] = place
                    shelf.keys.append(row[0])
                    self.count += 1
                    if place.apart:
                        self.apart.add(place.apart)
                shelf.keys.sort()
