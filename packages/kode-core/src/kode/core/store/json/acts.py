"""What a write decides: conditions are judged and an inbox is appended to, on what a `View` shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from kode.core.store.contract import Appended, Condition, Key, Kind, Record
from kode.core.store.plans import Scan, integer
from kode.core.store.records import int_key, key_int

__all__ = ["Act", "View", "append", "apply", "apply_and_look"]

T = TypeVar("T")
_BOUNDED = ("message", "reminder")


class View(Protocol):
    """What a folder holds."""

    def get(self, keys: Sequence[Key]) -> list[Record | None]:
        """Read records by key."""
        ...

    def scan(self, ask: Scan) -> list[Record]:
        """Read records in order."""
        ...

    def keys(self, kind: Kind, uid: str) -> Sequence[str]:
        """List keys in order."""
        ...

    def has(self, key: Key) -> bool:
        """Tell whether a record is there."""
        ...


@dataclass(frozen=True, slots=True)
class Act(Generic[T]):
    """What is to be written, and the answer to give once it is durable."""

    answer: T
    puts: Sequence[Record] = ()
    deletes: Sequence[Key] = ()


def apply(
    view: View, conditions: Sequence[Condition], puts: Sequence[Record], deletes: Sequence[Key]
) -> Act[int | None]:
    """Do what `Records.apply` says."""
    for i, condition in enumerate(conditions):
        if not _holds(view, condition):
            return Act(i)
    kept = {record.address for record in puts} if deletes else set()
    return Act(None, puts, [key for key in deletes if key not in kept and view.has(key)])


def apply_and_look(
    view: View, conditions: Sequence[Condition], puts: Sequence[Record], deletes: Sequence[Key], uid: str, after: str
) -> Act[tuple[int | None, list[Record]]]:
    """Do what `Records.apply_and_look` says."""
    act = apply(view, conditions, puts, deletes)
    if act.answer is not None:
        return Act((act.answer, []))
    keys = view.keys("inbox", uid)
    if not keys or keys[-1] <= after:
        waiting = []
    else:
        changed = {record.address for record in puts} | set(act.deletes)
        rows = view.scan(Scan("inbox", uid, after=after, limit=len(keys)))
        waiting = [row for row in rows if row.address not in changed]
    waiting += [record for record in puts if (record.kind, record.uid) == ("inbox", uid) and record.key > after]
    return Act((None, sorted(waiting, key=lambda row: row.key)), act.puts, act.deletes)


def append(view: View, agent_id: str, record: Record, now: int, bounded: bool) -> Act[Appended]:
    """Do what `Records.append_inbox` says."""
    (header,) = view.get([Key("header", "", agent_id)])
    if header is None or record.uid not in ("", header.columns["uid"]):
        return Act(Appended("gone"))
    uid, item_id = str(header.columns["uid"]), str(record.columns["id"])
    keys = view.keys("inbox", uid)
    waiting = [row for row in view.get([Key("inbox", uid, key) for key in keys]) if row is not None]
    for row in waiting:
        if row.columns["id"] == item_id:
            return Act(Appended("waiting", key_int(row.key), known=row))
    (consumed,) = view.get([Key("consumed", uid, item_id)])
    if consumed is not None and integer(consumed.columns["expires_at"]) > now:
        return Act(Appended("consumed", integer(consumed.columns["position"]), known=consumed))
    refused = _refused(header, record, waiting) if bounded else None
    if refused is not None:
        return Act(refused)
    position = max(key_int(keys[-1]) if keys else 0, integer(header.columns["seen"])) + 1
    puts = [Record("inbox", uid, int_key(position), record.columns, record.body)]
    wake_at = max(now, integer(record.columns["not_before"]))
    known = header.columns["wake_at"]
    if header.columns["parked"] is None and (known is None or integer(known) > wake_at):
        puts.append(replace(header, columns={**header.columns, "wake_at": wake_at}))
    return Act(Appended("new", position), puts)


def _refused(header: Record, record: Record, waiting: Sequence[Record]) -> Appended | None:
    largest, most = integer(header.columns["max_message_bytes"]), integer(header.columns["max_inbox"])
    if integer(record.columns["size"]) > largest:
        return Appended("too_big", limit=largest)
    if len(waiting) >= most and sum(row.columns["kind"] in _BOUNDED for row in waiting) >= most:
        return Appended("full", limit=most)
    return None


def _holds(view: View, condition: Condition) -> bool:
    key = condition.key
    if condition.op == "no_inbox_after":
        keys = view.keys("inbox", key.uid)
        return not keys or keys[-1] <= str(condition.value)
    if condition.op == "absent":
        return not view.has(key)
    (row,) = view.get([key])
    if row is None:
        return condition.op == "free"
    if condition.op == "free":
        return row.columns["holder"] is None or integer(row.columns["until"]) <= integer(condition.value)
    return row.columns[condition.column] == condition.value
