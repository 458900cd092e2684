"""Compares two texts line by line, within a bound: what a model writes must not be able to hold up who is asked."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import Match, SequenceMatcher
from itertools import accumulate

__all__ = ["MAX_STEPS", "changes"]

MAX_STEPS = 5_000_000
"""Pairs of equal lines that are looked at: about a second."""
CONTEXT = 3
_LINES = re.compile(r"[^\n]*\n|[^\n]+")


class _TooDifferentError(Exception):
    """The comparison would take too long."""


class _Bounded(SequenceMatcher[str]):
    """A matcher that gives up. Each search costs what it looks at, which is known before."""

    def __init__(self, old: Sequence[str], new: Sequence[str]) -> None:
        super().__init__(None, old, new, autojunk=False)
        counts = Counter(new)
        self._left = MAX_STEPS
        self._sums = [0, *accumulate(1 + counts[line] for line in old)]

    def find_longest_match(self, alo: int = 0, ahi: int | None = None, blo: int = 0, bhi: int | None = None) -> Match:
        self._left -= self._sums[-1 if ahi is None else ahi] - self._sums[alo]
        if self._left < 0:
            raise _TooDifferentError
        return super().find_longest_match(alo, ahi, blo, bhi)


def changes(before: str, after: str) -> Iterator[tuple[str, str]]:
    """Give the rows of a difference: a sign (`+`, `-`, blank, `@` for a place) and the line without its end.

    Texts that are too different are not compared: all of the new one that is not common to their beginnings and ends
    is given, and of the old one how many lines that replaces. Nothing is given if they are the same.
    """
    old, new = _LINES.findall(before), _LINES.findall(after)
    head = _common(old, new)
    tail = _common(old[head:][::-1], new[head:][::-1])
    first = max(head - CONTEXT, 0)
    old, new = old[first : len(old) - max(tail - CONTEXT, 0)], new[first : len(new) - max(tail - CONTEXT, 0)]
    try:
        groups = list(_Bounded(old, new).get_grouped_opcodes(CONTEXT)) if old != new else []
    except _TooDifferentError:
        gone = len(old) - (head - first) - min(tail, CONTEXT)
        come = new[head - first : len(new) - min(tail, CONTEXT)]
        yield "@", f"@ line {head + 1}: replaces {gone:,} lines with these {len(come):,}, which are too many to compare"
        yield from (("+", _bare(line)) for line in come)
        return
    for group in groups:
        (_, i1, _, j1, _), (_, _, i2, _, j2) = group[0], group[-1]
        yield "@", f"@ -{_span(first + i1, i2 - i1)} +{_span(first + j1, j2 - j1)} @@"
        for kind, a1, a2, b1, b2 in group:
            if kind == "equal":
                yield from ((" ", _bare(line)) for line in old[a1:a2])
            else:
                yield from (("-", _bare(line)) for line in old[a1:a2])
                yield from (("+", _bare(line)) for line in new[b1:b2])


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """How many lines are the same at the beginning."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _span(start: int, size: int) -> str:
    """Lines as a unified difference counts them: from one, but an empty span stands behind the line before it."""
    return f"{start + 1 if size else start}" + ("" if size == 1 else f",{size}")


def _bare(line: str) -> str:
    return line.removesuffix("\n")
