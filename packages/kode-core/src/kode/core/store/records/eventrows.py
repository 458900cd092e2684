"""Events as short rows: what the record of a commit's events holds, some 50 bytes each.

A row is ``[type, step, at, data, call, ref, preview, run, cursor]``; what is absent is null, nulls at the end are cut.
``at`` and ``run`` count from the record's columns, ``cursor`` is there only if it does not count on from the event
before, ``ref`` is ``[seq, block]``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from kode.core.errors import UsageError
from kode.core.kernel.events import Event, Ref, Scalar

__all__ = ["events", "rows"]

_WIDTH: Final = 9
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})


def rows(events: Sequence[Event]) -> list[list[Any]]:
    """Write events as rows; ``at`` and ``run`` of the first are the record's.

    Raises:
        UsageError: ``data`` of one holds more than scalars under text keys.
    """
    base = events[0]
    at, run, cursor = base.at, base.run, base.cursor
    out: list[list[Any]] = []
    for event in events:
        ref, data = event.ref, event.data
        row: list[Any] = [
            event.type,
            event.step,
            event.at - at,
            _plain(data) if data else None,
            event.call,
            None if ref is None else (ref.seq, ref.block),
            event.preview,
        ]
        if event.run != run or event.cursor != cursor:
            row.append(event.run - run or None)
            if event.cursor != cursor:
                row.append(event.cursor)
                cursor = event.cursor
        else:
            while row[-1] is None:
                row.pop()
        out.append(row)
        cursor += 1
    return out


def _plain(data: Mapping[str, Scalar]) -> dict[str, Scalar]:
    for key, value in data.items():
        if type(key) is not str or (type(value) not in _SCALARS and not isinstance(value, str | int | float)):
            raise UsageError(
                f"An event's data holds {key!r}: {type(value).__name__}; "
                "give text keys and str, int, float, bool or None.",
                code="bad_value",
            )
    return data if type(data) is dict else dict(data)


def events(body: Any, base: Event) -> list[Event]:
    """Read rows; ``base`` has the record's ``at``, ``run`` and first cursor.

    Raises:
        ValueError: A row has another shape.
    """
    if type(body) is not list:
        raise ValueError("it is no list of events")
    cursor = base.cursor
    out: list[Event] = []
    for row in body:
        event = _event(row, base.at, base.run, cursor)
        cursor = event.cursor + 1
        out.append(event)
    return out


def _event(row: Any, at: int, run: int, cursor: int) -> Event:
    if type(row) is not list or not 3 <= len(row) <= _WIDTH:
        raise ValueError(f"an event is no row of 3 to {_WIDTH}")
    name, step, after, data, call, ref, preview, runs, numbered = row + _NOTHING[len(row) :]
    if (
        type(name) is not str
        or type(step) is not int
        or type(after) is not int
        or type(data) not in _DATA
        or type(call) not in _TEXT
        or type(preview) not in _TEXT
        or type(runs) not in _NUMBER
        or type(numbered) not in _NUMBER
    ):
        raise ValueError("a field of an event has another type")
    return Event(
        name,
        at + after,
        cursor if numbered is None else numbered,
        run + (runs or 0),
        step,
        call,
        None if ref is None else _ref(ref),
        preview,
        data or {},
    )


_NOTHING: Final[list[Any]] = [None] * _WIDTH
_DATA: Final = frozenset({dict, type(None)})
_TEXT: Final = frozenset({str, type(None)})
_NUMBER: Final = frozenset({int, type(None)})


def _ref(ref: Any) -> Ref:
    if type(ref) is not list or len(ref) != 2 or type(ref[0]) is not int or type(ref[1]) is not int:
        raise ValueError("a reference of an event is no pair of numbers")
    return Ref(ref[0], ref[1])
