"""Loading an agent in two round trips: its header, then at once all that the header names."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Generator
from typing import Any, TypeAlias

from kode.core.store import Key, Lease, Loaded, Record, plans
from kode.core.store import records as rec
from kode.core.store.plans import Get, Scan, lease_key, uid_of
from kode.store.postgres.reads import MOST, Together

__all__ = ["load"]

Live: TypeAlias = Callable[[Record | None, Record], Lease | None]


def load(agent_id: str, live: Live, now: int, *, recipe: bool) -> Generator[Any, Any, Loaded | None]:
    """Do what `plans.load` does, asking for what it will ask for before it does.

    What is foreseen wrongly is asked for when it is wanted: the answer does not depend on foresight.
    """
    plan = plans.load(agent_id, live, now, recipe=recipe)
    ask = next(plan)
    (header,) = yield ask
    known: dict[Key, Record | None] = {}
    ranges: dict[tuple[str, str], list[Record]] = {}
    if header is not None and header.columns["staged"] is None:
        get, *scans = _named(header, recipe)
        found, *listed = yield Together((get, *scans))
        known = dict(zip(get.keys, found, strict=True))
        ranges = {(scan.kind, scan.after): rows for scan, rows in zip(scans, listed, strict=True)}
    try:
        ask = plan.send([header])
        while True:
            answer = _answer(ask, known, ranges)
            ask = plan.send((yield ask) if answer is None else answer)
    except StopIteration as end:
        loaded: Loaded | None = end.value
        return loaded


def _named(header: Record, recipe: bool) -> list[Any]:
    """Foresee what `plans.load` will ask for."""
    uid, state = uid_of(header), rec.header_counters(header)
    named = rec.header_recipe(header) if recipe else None
    documents = [] if named is None else [plans.document_key(uid, named)]
    scans = [Scan("inbox", uid, limit=MOST)]
    for part in state.window.bounded(state.next_seq):
        start, stop = max(part.start, state.first_seq), part.stop or 0
        if start < stop:
            scans.append(plans.message_range(uid, start, stop, MOST))
    return [Get((lease_key(uid), *documents, *rec.header_call_keys(header))), *scans]


def _answer(
    ask: Get | Scan, known: dict[Key, Record | None], ranges: dict[tuple[str, str], list[Record]]
) -> list[Record | None] | None:
    if isinstance(ask, Get):
        return [known[key] for key in ask.keys] if known.keys() >= set(ask.keys) else None
    for (kind, after), rows in ranges.items():
        # The next page of a range: its rows are those behind a key, as far as the same end.
        if kind == ask.kind and (after == ask.after or (rows and rows[0].key <= ask.after <= rows[-1].key)):
            first = bisect_right(rows, ask.after, key=lambda row: row.key)
            return [*rows[first : first + ask.limit]]
    return None
