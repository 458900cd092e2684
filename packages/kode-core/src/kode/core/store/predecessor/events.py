"""The predecessor's events as ours: renumbered, as references and previews, and only those that are durable here."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, Final

from kode.core.jsontext import well_formed
from kode.core.kernel.events import DURABLE, Event, Scalar, preview
from kode.core.store.predecessor.folder import mapping, number
from kode.core.store.predecessor.history import Use

__all__ = ["convert_events"]

LIVE: Final = frozenset({"text_chunk_start", "text_chunk", "think_chunk_start", "think_chunk"})
TEXTS: Final = ("text", "message", "summary", "content", "error")
"""Fields whose text an event of ours shows the beginning of."""
APART: Final = frozenset({"type", "channel", "bookmark", "call", "step", *TEXTS})
MOST_DATA: Final = 200
"""Characters of a field that an event keeps."""


def convert_events(
    envelopes: Sequence[dict[str, Any]], calls: Mapping[str, Use], since: int, taken: Counter[str], left: Counter[str]
) -> list[Event]:
    """Make events of envelopes that stand in the order of time; their cursors count on from 2.

    Args:
        envelopes: The predecessor's.
        calls: Tool uses by their id.
        since: No event is older (microseconds).
        taken: Counts what was kept and what had to be renumbered.
        left: Counts what is not kept, by type.
    """
    events: list[Event] = []
    numbers: set[float] = set()
    at = since
    for envelope in envelopes:
        said = envelope["event"]
        mark = mapping(envelope.get("bookmark"))
        taken["events whose number was used twice"] += number(mark.get("seq")) in numbers
        numbers.add(number(mark.get("seq")))
        kind = str(said.get("type")).replace(":", "_")
        if kind not in DURABLE:
            left["events shown live only" if kind in LIVE else "events of unknown types"] += 1
            continue
        at = max(at, int(number(mark.get("timestamp")) * 1_000))
        events.append(_event(kind, said, at, len(events) + 2, calls))
    taken["events"] += len(events)
    return events


def _event(kind: str, said: dict[str, Any], at: int, cursor: int, calls: Mapping[str, Use]) -> Event:
    call = mapping(said.get("call"))
    use = calls.get(str(call.get("id") or said.get("callId")))
    text = next((said[name] for name in TEXTS if isinstance(said.get(name), str)), None)
    data: dict[str, Scalar] = {"imported": True}
    shown: dict[str, Any] = {**{name: call[name] for name in ("name", "state") if name in call}, **said}
    data |= {well_formed(name): _short(value) for name, value in shown.items() if name not in APART}
    return Event(
        kind,
        at=at,
        cursor=cursor,
        run=use.run if use else 0,
        step=use.step if use else max(int(number(said.get("step"))), 0),
        call=f"{use.run}.{use.step}.{use.n}" if use else None,
        preview=None if text is None else preview(well_formed(text)),
        data=data,
    )


def _short(value: Any) -> Scalar:
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and isfinite(value)):
        return value
    text = well_formed(value if isinstance(value, str) else json.dumps(value))
    return text if len(text) <= MOST_DATA else text[: MOST_DATA - 1] + "…"
