"""Long keys in an engine whose keys are short: those that begin alike lie in one value, in their order.

A key shorter than the engine's longest is as it is. Of a longer one the engine gets the beginning, and its value holds
the rest of each key that begins so, with what belongs to it. Only ids of hundreds of bytes are as long as that, so few
keys share a value.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterator

from kode.core.store.ordered.map import Transaction

__all__ = ["ShortKeys"]

_SIZES = struct.Struct(">IQ")


class ShortKeys:
    """A transaction over another one whose keys have at most so many bytes."""

    def __init__(self, txn: Transaction, most: int) -> None:
        self._txn = txn
        self._most = most

    def get(self, key: bytes, /) -> bytes | None:
        """Read a value."""
        if len(key) < self._most:
            return self._txn.get(key)
        return dict(self._shared(key)).get(key)

    def put(self, key: bytes, value: bytes, /) -> None:
        """Write a value."""
        if len(key) < self._most:
            self._txn.put(key, value)
        else:
            self._share(key, [(key, value)])

    def delete(self, key: bytes, /) -> None:
        """Remove a key."""
        if len(key) < self._most:
            self._txn.delete(key)
        else:
            self._share(key, [])

    def range(self, low: bytes, high: bytes, reverse: bool, /) -> Iterator[tuple[bytes, bytes]]:
        """Read keys and values in order."""
        most = self._most
        # What shares a beginning with `high` is not below that beginning, but may be below `high`.
        edge = [item for item in self._shared(high) if low <= item[0] < high] if len(high) > most else []
        if reverse:
            yield from reversed(edge)
        for start, value in self._txn.range(low[:most], high[:most], reverse):
            found = [(start, value)] if len(start) < most else _split(start, value)
            yield from (item for item in (reversed(found) if reverse else found) if low <= item[0] < high)
        if not reverse:
            yield from edge

    def _shared(self, key: bytes) -> list[tuple[bytes, bytes]]:
        start = key[: self._most]
        value = self._txn.get(start)
        return [] if value is None else _split(start, value)

    def _share(self, key: bytes, new: list[tuple[bytes, bytes]]) -> None:
        """Put something in the place of a key."""
        start, found = key[: self._most], self._shared(key)
        at = bisect_left(found, (key,))
        found[at : at + (found[at : at + 1] != [] and found[at][0] == key)] = new
        if found:
            self._txn.put(start, _joined(len(start), found))
        else:
            self._txn.delete(start)


def _joined(cut: int, found: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(
        part for key, value in found for part in (_SIZES.pack(len(key) - cut, len(value)), key[cut:], value)
    )


def _split(start: bytes, value: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 0
    while at < len(value):
        rest, size = _SIZES.unpack_from(value, at)
        at += _SIZES.size
        found.append((start + value[at : at + rest], value[at + rest : at + rest + size]))
        at += rest + size
    return found
