"""What a write decides: conditions are judged and an inbox is appended to, on what a `View` shows.

Stores that judge in Python share this text; those whose engine judges (SQL, scripts) say the same in its language.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final, Protocol

from kode.core.store.contract import Appended, Condition, Key, Kind, Record, Value
from kode.core.store.lookups import integer
from kode.core.store.records import int_key, key_int

__all__ = ["COUNTED", "View", "append", "counted", "counted_kinds", "free", "holds", "judge"]

COUNTED: Final = {
    "message": ("message", "reminder"),
    "reminder": ("message", "reminder"),
    "instruction": ("instruction", "instruction"),
}
"""Kinds of items that are refused when an inbox is full, each with the two that are counted for it. Instructions have
room of their own: however many messages wait, limits can be changed."""


class View(Protocol):
    """What is stored, at the moment of an act."""

    def row(self, kind: Kind, uid: str, key: str) -> Record | None:
        """Read a record."""
        ...

    def has(self, key: Key) -> bool:
        """Tell whether a record is there."""
        ...

    def last(self, uid: str) -> str:
        """Find the greatest key of an inbox; "" if it is empty."""
        ...

    def waiting(self, uid: str, item_id: str) -> Record | None:
        """Find the item of that id in an inbox."""
        ...

    def filled(self, uid: str, kind: str, most: int) -> bool:
        """Tell whether so many items wait in an inbox that are `counted` for that kind."""
        ...


def judge(view: View, conditions: Sequence[Condition]) -> int | None:
    """Find the first condition that fails."""
    for i, condition in enumerate(conditions):
        if not holds(view, condition):
            return i
    return None


def holds(view: View, condition: Condition) -> bool:
    """Do what `Condition` says."""
    op, key = condition.op, condition.key
    if op == "equals":
        row = view.row(key.kind, key.uid, key.key)
        return row is not None and row.columns[condition.column] == condition.value
    if op == "no_inbox_after":
        return view.last(key.uid) <= str(condition.value)
    if op == "absent":
        return not view.has(key)
    return free(view.row(key.kind, key.uid, key.key), integer(condition.value))


def free(lease: Record | None, now: int) -> bool:
    """Tell whether nobody holds a lease."""
    return lease is None or lease.columns["holder"] is None or integer(lease.columns["until"]) <= now


def append(view: View, agent_id: str, record: Record, now: int, bounded: bool) -> tuple[Appended, list[Record]]:
    """Do what `Records.append_inbox` says; also gives what is to be put, for `new`."""
    header = view.row("header", "", agent_id)
    if header is None or record.uid not in ("", header.columns["uid"]):
        return Appended("gone"), []
    uid, item_id = str(header.columns["uid"]), str(record.columns["id"])
    refused = _known(view, uid, item_id, now) or (_refused(view, header, record) if bounded else None)
    if refused is not None:
        return refused, []
    last = view.last(uid)
    position = max(key_int(last) if last else 0, integer(header.columns["seen"])) + 1
    puts = [Record("inbox", uid, int_key(position), record.columns, record.body)]
    wake_at, before = max(now, integer(record.columns["not_before"])), header.columns["wake_at"]
    if header.columns["parked"] is None and (before is None or integer(before) > wake_at):
        puts.append(replace(header, columns={**header.columns, "wake_at": wake_at}))
    return Appended("new", position), puts


def counted_kinds(kind: Value) -> tuple[str, str]:
    """The kinds of items that leave no room for one of that kind, should it be bounded."""
    return COUNTED.get(str(kind), COUNTED["message"])


def counted(rows: Iterable[Record], kind: str) -> int:
    """Count the items that leave no room for another of that kind."""
    kinds = counted_kinds(kind)
    return sum(row.columns["kind"] in kinds for row in rows)


def _known(view: View, uid: str, item_id: str, now: int) -> Appended | None:
    waiting = view.waiting(uid, item_id)
    if waiting is not None:
        return Appended("waiting", key_int(waiting.key), known=waiting)
    consumed = view.row("consumed", uid, item_id)
    if consumed is not None and integer(consumed.columns["expires_at"]) > now:
        return Appended("consumed", integer(consumed.columns["position"]), known=consumed)
    return None


def _refused(view: View, header: Record, record: Record) -> Appended | None:
    largest, most = integer(header.columns["max_message_bytes"]), integer(header.columns["max_inbox"])
    if integer(record.columns["size"]) > largest:
        return Appended("too_big", limit=largest)
    if view.filled(str(header.columns["uid"]), str(record.columns["kind"]), most):
        return Appended("full", limit=most)
    return None
