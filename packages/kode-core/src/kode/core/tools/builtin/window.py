"""Takes the wanted lines of a file that is read piece by piece; the others are counted and not looked at."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from kode.core.tools.builtin.answer import size_of

__all__ = ["Window"]

MAX_LINE = 1 << 20
"""Bytes kept of one line."""
ALL = sys.maxsize


@dataclass(slots=True)
class Window:
    """Takes the lines from ``first`` on while they fit. ``feed`` it the file, then ``finish``."""

    first: int
    limit: int | None
    room: int
    """Bytes for the lines as JSON text."""
    taken: list[str] = field(default_factory=list)
    total: int = 0
    cut: int = 0
    """Bytes of the lines that were wanted and did not fit."""
    exact: int = 0
    """Of the lines taken, so many of the first ones are shown exactly: whole, and all of their bytes UTF-8."""
    mended: bool = False
    """Bytes that are no UTF-8 were replaced."""
    _full: bool = False
    _line: bytes = b""
    """Of the wanted line that is not complete."""
    _lost: int = 0
    """Bytes of it that were not kept."""
    _open: bool = False
    """The last piece ended within a line."""

    @property
    def done(self) -> bool:
        """Whether no further line will be taken."""
        return self._full or self._left() <= 0

    def feed(self, piece: bytes) -> None:
        """Take the next bytes of the file; there must be some."""
        at = 0
        while at < len(piece):
            at = self._skip(piece, at, lines) if (lines := self._unwanted()) else self._take(piece, at)
        self._open = not piece.endswith(b"\n")

    def finish(self) -> None:
        """Count the last line, which may lack its end."""
        if self._line:
            self._end_line()
        elif self._open:
            self.total += 1

    def _left(self) -> int:
        """Lines up to the end of the window."""
        return ALL if self.limit is None else self.first - 1 + self.limit - self.total

    def _unwanted(self) -> int:
        """Lines from here on that need not be looked at."""
        before = self.first - 1 - self.total
        if before > 0:
            return before
        left = self._left()
        return ALL if left <= 0 else left if self._full else 0

    def _skip(self, piece: bytes, at: int, lines: int) -> int:
        """Count up to so many lines; returns the place behind them."""
        missed = self._full and self._left() > 0
        count, end = piece.count(b"\n", at), len(piece)
        if count >= lines:
            count, end = lines, at
            for _ in range(lines):
                end = piece.index(b"\n", end) + 1
        self.total += count
        if missed:
            self.cut += end - at - count
        return end

    def _take(self, piece: bytes, at: int) -> int:
        """Take one line, or what the piece has of it; returns the place behind it."""
        end = piece.find(b"\n", at)
        part = piece[at : end if end >= 0 else len(piece)]
        room = MAX_LINE - len(self._line)
        self._line += part[:room]
        self._lost += max(0, len(part) - room)  # no line break for long: do not keep it all
        if end < 0:
            return len(piece)
        self._end_line()
        return end + 1

    def _end_line(self) -> None:
        raw, lost = self._line, self._lost
        self._line, self._lost = b"", 0
        self.total += 1
        self.cut += lost
        text = raw.decode("utf-8", "replace")
        mended = not lost and "\ufffd" in text and text.encode() != raw
        size = size_of(text) + 2
        if size <= self.room:
            self.exact += not lost and not mended and self.exact == len(self.taken)
            self.taken.append(text)
            self.room -= size
            self.mended = self.mended or mended
            return
        self._full = True
        self.cut += len(raw)
        if not self.taken:  # one line that is too long is shown in part, else nobody could see it
            part = text[: self.room // 6]  # JSON writes a character in at most six bytes
            self.taken.append(part)
            self.cut -= len(part.encode())
