"""Bounded memory for output without bound: the first and the last bytes are kept, the middle is counted."""

from __future__ import annotations

from collections import deque

__all__ = ["HeadTail", "join_cut"]


class HeadTail:
    """Keeps the first and the last ``limit // 2`` bytes of what is written to it.

    Not safe for threads by itself; memory stays below ``limit`` plus one piece.
    """

    __slots__ = ("_half", "_head", "_tail", "_tail_size", "total")

    def __init__(self, limit: int) -> None:
        self._half = max(1, limit // 2)
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self.total = 0
        """Bytes written so far."""

    def write(self, piece: bytes) -> None:
        """Take the next bytes."""
        self.total += len(piece)
        room = self._half - len(self._head)
        if room > 0:
            self._head += piece[:room]
            piece = piece[room:]
        if not piece:
            return
        self._tail.append(piece)
        self._tail_size += len(piece)
        while self._tail_size - len(self._tail[0]) >= self._half:
            self._tail_size -= len(self._tail.popleft())

    def parts(self) -> tuple[bytes, bytes, int]:
        """Return head, tail, and how many bytes between them are gone."""
        tail = b"".join(self._tail)[-self._half :]
        return bytes(self._head), tail, self.total - len(self._head) - len(tail)

    def after(self, position: int) -> tuple[bytes, int]:
        """Return what is kept from byte ``position`` on, and how many bytes of that are gone."""
        head, tail, cut = self.parts()
        start = max(0, position)
        if start < len(head):
            return join_cut(head[start:], tail, cut)
        gone = max(0, len(head) + cut - start)
        return tail[max(0, start - len(head) - cut) :], gone


def join_cut(head: bytes, tail: bytes, cut: int) -> tuple[bytes, int]:
    """Join head and tail by a line that says how much is missing.

    Characters cut in two are left out and counted.
    """
    if not cut:
        return head + tail, 0
    whole_head, whole_tail = _whole_end(head), _whole_start(tail)
    cut += len(head) - len(whole_head) + len(tail) - len(whole_tail)
    return whole_head + f"\n[… {cut:,} bytes cut …]\n".encode() + whole_tail, cut


def _whole_start(data: bytes) -> bytes:
    """Drop the rest of a UTF-8 character at the start; leaves what is no UTF-8 alone."""
    for i, byte in enumerate(data[:4]):
        if byte & 0xC0 != 0x80:
            return data[i:]
    return data


def _whole_end(data: bytes) -> bytes:
    """Drop a UTF-8 character at the end that is not complete."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue
        length = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return data[:-back] if length > back else data
    return data
