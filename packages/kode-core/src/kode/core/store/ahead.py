"""Loading an agent in two journeys: its header, then at once all that the header names. For stores over a network.

Between the two, others may commit. So the header comes again with what it named, and if it then names something else,
that is asked for: what is loaded is of one moment.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from kode.core.store import lookups
from kode.core.store import records as rec
from kode.core.store.contract import Key, Lease, Loaded, Record, Scan
from kode.core.store.lookups import Get, lease_key, uid_of

__all__ = ["Together", "load"]

Live: TypeAlias = Callable[[Record | None, Record], Lease | None]
Foreseen: TypeAlias = Sequence[tuple[Scan, list[Record]]]
ALL: Final = 2**62
"""A limit that is none."""
JOURNEYS: Final = 8
"""After so many that were each overtaken by a commit, what is not known is read when it is wanted."""


@dataclass(frozen=True, slots=True)
class Together:
    """What is wanted at once, of one moment. The answer: the records of `get`, and all that each range holds."""

    get: Get
    scans: tuple[Scan, ...]


def load(agent_id: str, live: Live, now: int, *, recipe: bool) -> Generator[Any, Any, Loaded | None]:
    """Do what `lookups.load` does, asking for what it will ask for before it does.

    What is foreseen wrongly is asked for when it is wanted: the answer does not depend on foresight.

    Args:
        agent_id: As of `lookups.load`, like `live`, `now` and `recipe`.
        live: See there.
        now: See there.
        recipe: See there.
    """
    lookup, at = lookups.load(agent_id, live, now, recipe=recipe), lookups.header_key(agent_id)
    ask = next(lookup)
    (header,) = yield ask
    wanted: Together | None = None
    known: dict[Key, Record | None] = {}
    ranges: Foreseen = ()
    for _ in range(JOURNEYS):
        named = _named(header, recipe)
        if named is None or named == wanted:
            break
        wanted = named
        (header, *found), listed = yield Together(Get((at, *wanted.get.keys)), wanted.scans)
        known = dict(zip(wanted.get.keys, found, strict=True))
        ranges = [*zip(wanted.scans, listed, strict=True)]
    try:
        ask = lookup.send([header])
        while True:
            answer = _answer(ask, known, ranges)
            ask = lookup.send((yield ask) if answer is None else answer)
    except StopIteration as end:
        loaded: Loaded | None = end.value
        return loaded


def _named(header: Record | None, recipe: bool) -> Together | None:
    """Foresee what `lookups.load` will ask for; None: nothing, or first of all that a staged commit be ended."""
    if header is None or header.columns["staged"] is not None:
        return None
    uid, state = uid_of(header), rec.header_counters(header)
    named = rec.header_recipe(header) if recipe else None
    documents = [] if named is None else [lookups.document_key(uid, named)]
    scans = [Scan("inbox", uid, limit=ALL)]
    for part in state.window.bounded(state.next_seq):
        start, stop = max(part.start, state.first_seq), part.stop or 0
        if start < stop:
            scans.append(lookups.message_range(uid, start, stop, ALL))
    return Together(Get((lease_key(uid), *documents, *rec.header_call_keys(header))), tuple(scans))


def _answer(ask: Get | Scan, known: dict[Key, Record | None], ranges: Foreseen) -> list[Record | None] | None:
    if isinstance(ask, Get):
        return [known[key] for key in ask.keys] if known.keys() >= set(ask.keys) else None
    for scan, rows in ranges:
        # Ranges may touch, so that one begins behind the last key of another; no two have one end.
        if (scan.kind, scan.before) != (ask.kind, ask.before):
            continue
        if scan.after == ask.after:
            return [*rows[: ask.limit]]
        if rows and rows[0].key <= ask.after <= rows[-1].key:  # the next page of that range
            first = bisect_right(rows, ask.after, key=lambda row: row.key)
            return [*rows[first : first + ask.limit]]
    return None
