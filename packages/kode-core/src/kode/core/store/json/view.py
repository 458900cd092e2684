"""Reading records from the files of a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Any, Final, Self, TypeVar
from zlib import crc32

from kode.core.errors import RecordCorruptError
from kode.core.store.contract import Key, Kind, Record, Scan
from kode.core.store.json import names
from kode.core.store.json.disk import open_file
from kode.core.store.json.index import HELD, Index
from kode.core.store.json.lines import Address, Place, Raw, read_record
from kode.core.store.lookups import Get, Lookup, finish

__all__ = ["FolderView", "held", "read_at"]

T = TypeVar("T")
TRIES: Final = 5
GAP: Final = 4_096
"""Bytes between two records that are read along rather than skipped."""
OPEN: Final = 8
"""Most files that are open at once."""
SPAN: Final = 4_194_304
"""Most bytes read at once, unless one record has more."""


class FolderView:
    """What a folder holds, at one moment. Use it within `with`.

    Args:
        path: The folder.
        index: What is in it.
        inode: Of the journal that the index speaks of.
        again: Looks once more at what is on disk, when a file has vanished because another process has begun a new
            journal; gives the new index and inode.
    """

    def __init__(self, path: str, index: Index, inode: int, again: Callable[[], tuple[Index, int]]) -> None:
        self._path = path
        self.index = index
        self._inode = inode
        self._again = again
        self._files: dict[int, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    # ---- records -------------------------------------------------------------------------------------------

    def has(self, key: Key) -> bool:
        """Tell whether a record is there."""
        return self.index.find((key.kind, key.uid, key.key)) is not None

    def keys(self, kind: Kind, uid: str) -> Sequence[str]:
        """List keys in order."""
        return self.index.keys(kind, uid)

    def get(self, keys: Sequence[Key]) -> list[Record | None]:
        """Read records by key, in the order asked."""
        return self._read([(key.kind, key.uid, key.key) for key in keys])

    def scan(self, ask: Scan) -> list[Record]:
        """Read records in order."""
        return [record for record in self._read(self.index.range(ask)) if record is not None]  # None: gone meanwhile

    def run(self, lookup: Lookup[T]) -> T:
        """Run a lookup to its end."""
        return finish(lookup, lambda ask: self.get(ask.keys) if isinstance(ask, Get) else [*self.scan(ask)])

    def hold(self) -> None:
        """Keep in memory what is asked for all the time."""
        index = self.index
        todo = [address for address in index.mutable() if address not in index.held]
        small = [address for address in todo if (place := index.find(address)) is not None and place.size <= HELD]
        for address, record in zip(small, self._read(small), strict=True):
            if record is not None:
                index.held[address] = held(record)

    def raw(self, addresses: Iterable[Address]) -> Iterator[Raw]:
        """Read records as they are written."""
        for address in addresses:
            place = self.index.find(address)
            if place is not None:
                yield Raw(address, self._bytes(place), place.head, place.apart)

    # ---- inside --------------------------------------------------------------------------------------------

    def _read(self, addresses: Sequence[Address]) -> list[Record | None]:
        for _ in range(TRIES):
            try:
                return self._look(addresses)
            except FileNotFoundError as error:
                missing = error.filename
            self._close()
            self.index, self._inode = self._again()
        raise RecordCorruptError(
            f"{missing} is missing, which holds records of an agent. The rest was left as it is; restore the "
            "folder from a backup.",
            where=missing,
            raw=b"",
        )

    def _look(self, addresses: Sequence[Address]) -> list[Record | None]:
        index = self.index
        found: list[Record | None] = [index.held.get(address) for address in addresses]
        missing: list[tuple[int, Place]] = []
        for n, record in enumerate(found):
            place = index.find(addresses[n]) if record is None else None
            if place is not None:
                missing.append((n, place))
        for span in _spans(missing):
            low, high = min(place.at for _, place in span), max(place.at + place.size for _, place in span)
            file = span[0][1].file
            data = read_at(self._file(file), high - low, low)
            name = self._name(file)
            for n, place in span:
                part = data[place.at - low : place.at - low + place.size]
                found[n] = read_record(addresses[n], part, place, name, self._body)
        return found

    def _bytes(self, place: Place) -> bytes:
        data = read_at(self._file(place.file), place.size, place.at)
        if crc32(data) != place.crc:
            raise RecordCorruptError(
                f"{self._name(place.file)} at byte {place.at}: a record is damaged. It was left as it is; restore the "
                "folder from a backup.",
                where=self._name(place.file),
                raw=data,
            )
        return data

    def _body(self, name: str, said: Mapping[str, Any]) -> bytes:
        path = os.path.join(self._path, name)
        with open(open_file(path), "rb") as file:
            data = file.read()
        if len(data) != said["size"] or crc32(data) != said["crc"]:
            raise RecordCorruptError(
                f"{path} is damaged. It was left as it is; restore the folder from a backup.", where=path, raw=data
            )
        return data

    def _name(self, file: int) -> str:
        name = names.JOURNAL if file == self.index.file else names.segment_name(file)
        return os.path.join(self._path, name)

    def _file(self, file: int) -> int:
        fd = self._files.get(file)
        if fd is not None:
            return fd
        path = self._name(file)
        if len(self._files) >= OPEN:
            os.close(self._files.pop(next(iter(self._files))))
        fd = self._files[file] = open_file(path)
        if file == self.index.file and os.fstat(fd).st_ino != self._inode:
            raise FileNotFoundError(2, "it is another journal by now", path)
        return fd

    def _close(self) -> None:
        files, self._files = self._files, {}
        for fd in files.values():
            os.close(fd)


def held(record: Record) -> Record:
    """Copy a record with columns that nobody can change: neither who put it nor who reads it."""
    return Record(record.kind, record.uid, record.key, MappingProxyType(dict(record.columns)), record.body)


def read_at(fd: int, size: int, at: int) -> bytes:
    """Read so many bytes, fewer only at the end of the file."""
    data = os.pread(fd, size, at)
    while 0 < len(data) < size:
        more = os.pread(fd, size - len(data), at + len(data))
        if not more:
            break
        data += more
    return data


def _spans(places: Sequence[tuple[int, Place]]) -> Iterator[list[tuple[int, Place]]]:
    """Put together what lies close to each other, rising or falling."""
    span: list[tuple[int, Place]] = []
    low = high = 0
    for one in places:
        place = one[1]
        end = place.at + place.size
        if span and (
            place.file != span[0][1].file
            or max(place.at - high, low - end) > GAP
            or max(high, end) - min(low, place.at) > SPAN
        ):
            yield span
            span = []
        low, high = (min(low, place.at), max(high, end)) if span else (place.at, end)
        span.append(one)
    if span:
        yield span
