"""What a write decides: conditions are judged and an inbox is appended to, on what a `View` shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from kode.core.store import rules
from kode.core.store.contract import Appended, Condition, Key, Kind, Record, Scan

__all__ = ["Act", "View", "append", "apply", "apply_and_look"]

T = TypeVar("T")


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
    failed = rules.judge(_Seen(view), conditions)
    if failed is not None:
        return Act(failed)
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
    return Act(*rules.append(_Seen(view), agent_id, record, now, bounded))


class _Seen:
    """What the rules ask of a folder."""

    def __init__(self, view: View) -> None:
        self._view = view
        self.has = view.has

    def row(self, kind: Kind, uid: str, key: str) -> Record | None:
        (row,) = self._view.get([Key(kind, uid, key)])
        return row

    def last(self, uid: str) -> str:
        keys = self._view.keys("inbox", uid)
        return keys[-1] if keys else ""

    def waiting(self, uid: str, item_id: str) -> Record | None:
        return next((row for row in self._inbox(uid) if row.columns["id"] == item_id), None)

    def filled(self, uid: str, kind: str, most: int) -> bool:
        return len(self._view.keys("inbox", uid)) >= most and rules.counted(self._inbox(uid), kind) >= most

    def _inbox(self, uid: str) -> list[Record]:
        keys = [Key("inbox", uid, key) for key in self._view.keys("inbox", uid)]
        return [row for row in self._view.get(keys) if row is not None]
