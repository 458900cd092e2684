"""Windows: which part of the history a model is shown, as a value.

The history itself is never shortened. A compaction adds a record and moves the window; a revert moves it
back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kode.core.errors import IllegalInputError
from kode.core.kernel.message import Block, Usage

__all__ = ["Compaction", "Range", "Snapshot", "Window", "check_window"]


@dataclass(frozen=True, slots=True)
class Range:
    """Messages ``start`` (inclusive) to ``stop`` (exclusive); None: open, it grows with the history."""

    start: int
    stop: int | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """What the model sees: a summary, pinned messages, ranges; the last range is open."""

    compaction: str | None = None
    pinned: tuple[int, ...] = ()
    ranges: tuple[Range, ...] = (Range(0),)

    @property
    def start(self) -> int:
        """First message of the open range."""
        return self.ranges[-1].start

    def bounded(self, stop: int) -> tuple[Range, ...]:
        """Ranges that end at ``stop``, with pinned messages as ranges of one; rising, without empty ones."""
        inside = [Range(r.start, min(stop if r.stop is None else r.stop, stop)) for r in self.ranges]
        singles = [Range(p, p + 1) for p in self.pinned if p < stop and not any(_holds(r, p) for r in inside)]
        return tuple(sorted((r for r in (*singles, *inside) if r.start < (r.stop or 0)), key=lambda r: r.start))

    def without(self, start: int, stop: int, compaction: str, pinned: tuple[int, ...]) -> Window:
        """The same without messages ``start`` to ``stop``, a summary and ``pinned`` in their place."""
        *closed, last = self.ranges
        before = [Range(r.start, min(start if r.stop is None else r.stop, start)) for r in self.ranges]
        behind = [Range(max(r.start, stop), r.stop) for r in closed]
        ranges = sorted((r for r in (*before, *behind) if r.start < (r.stop or 0)), key=lambda r: r.start)
        stay = {p for p in self.pinned if not start <= p < stop}
        return Window(compaction, tuple(sorted(stay.union(pinned))), (*ranges, Range(max(last.start, stop))))

    def seqs(self, stop: int) -> Iterator[int]:
        """Every message number shown when the history ends before ``stop``."""
        for r in self.bounded(stop):
            yield from range(r.start, r.stop or 0)


def check_window(window: Window, next_seq: int, first_seq: int = 0) -> None:
    """Refuse a window that no history can have whose messages are ``first_seq`` to before ``next_seq``.

    Raises:
        IllegalInputError: Ranges overlap, do not rise, or show what was pruned or never was; or not the last is open.
    """
    *closed, last = window.ranges or (Range(0, 0),)
    edges = [edge for r in closed for edge in (r.start, -1 if r.stop is None else r.stop)]
    edges = [first_seq, *edges, last.start, next_seq]
    if last.stop is not None or edges != sorted(edges):
        raise IllegalInputError(f"{window} is no window of a history of messages {first_seq} to {next_seq - 1}.")
    if list(window.pinned) != sorted(set(window.pinned)) or any(not first_seq <= p < next_seq for p in window.pinned):
        there = f"{first_seq} to {next_seq - 1}"
        raise IllegalInputError(f"Pinned messages {window.pinned} must rise and exist; there are {there}.")


def _holds(r: Range, seq: int) -> bool:
    return r.start <= seq and (r.stop is None or seq < r.stop)


@dataclass(frozen=True, slots=True)
class Compaction:
    """Record of one compaction; enough to show it and to take it back."""

    id: str
    start: int
    stop: int
    at: int
    summary: tuple[Block, ...]
    method: str
    """``model`` or ``digest`` (mechanical)."""
    window_before: Window
    model: str | None = None
    usage: Usage | None = None
    tokens_before: int = 0
    tokens_after: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A named safe point: what a fork or a revert needs of that moment."""

    id: str
    seq: int
    """Messages below this one belong to it."""
    at: int
    window: Window
    documents: tuple[tuple[str, str, str], ...] = ()
    """``(kind, name, digest)`` as the header had them."""
    tags: tuple[str, ...] = ()
    parent: str | None = None
    tokens: int = 0
    """Size of the window then."""
    template: str = ""
    """``name@version`` then."""
