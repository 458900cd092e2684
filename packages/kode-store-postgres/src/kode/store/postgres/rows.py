"""Acts as arguments of the server's functions, and what these give as answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from kode.core.store import Appended, Condition, Key, Kind, Record
from kode.store.postgres.tables import LAYOUTS

__all__ = ["Act", "Drop", "Item", "append", "appended", "applied", "apply", "waiting"]

_Condition: TypeAlias = tuple[int, int, int | None, str, str, str, str, str, str | None]
ROW: Final = 500
"""Bytes of a row beside its body, more than nearly all have."""
_WAITING: Final = LAYOUTS["inbox"]
_CONSUMED: Final = LAYOUTS["consumed"]


@dataclass(frozen=True, slots=True)
class Act:
    """`Records.apply_and_look` as data; `look` is the uid and the key to look behind, None: do not look."""

    agent_id: str
    conditions: Sequence[Condition]
    puts: Sequence[Record]
    deletes: Sequence[Key]
    look: tuple[str, str] | None = None

    @property
    def weight(self) -> int:
        """Its bytes, roughly."""
        return sum([len(row.body) + ROW for row in self.puts])


@dataclass(frozen=True, slots=True)
class Item:
    """`Records.append_inbox` as data."""

    agent_id: str
    record: Record
    now: int
    bounded: bool

    @property
    def weight(self) -> int:
        """Its bytes, roughly."""
        return len(self.record.body) + ROW


@dataclass(frozen=True, slots=True)
class Drop:
    """`Records.drop` as data."""

    agent_id: str
    uid: str
    weight: int = 2**62
    """It shares its transaction with nothing."""


def columns(rows: Iterable[tuple[Any, ...]], width: int) -> list[list[Any]] | None:
    """Turn rows into arrays, one for each column; None when there are none."""
    found = [*zip(*rows, strict=True)]
    return [list(column) for column in found[:width]] if found else None


# ---- acts --------------------------------------------------------------------------------------------------


def apply(acts: Sequence[Act]) -> list[Any]:
    """Write acts as the arguments of `apply_v1`; they are numbered from 1."""
    plain: list[_Condition] = []
    rare: list[_Condition] = []
    deletes: list[tuple[int, str, str, str]] = []
    looks: list[tuple[int, str, str]] = []
    puts: dict[Kind, list[tuple[int, Record]]] = {}
    for n, act in enumerate(acts, 1):
        for i, condition in enumerate(act.conditions):
            at_once = condition.key.kind in ("header", "lease") or condition.op == "no_inbox_after"
            (plain if at_once else rare).append(_condition(n, i, condition))
        # Of two puts of one key the last counts, and what is put is not deleted.
        last = {(row.kind, row.uid, row.key): row for row in act.puts}
        for row in last.values():
            puts.setdefault(row.kind, []).append((n, row))
        deletes += [(n, k.kind, k.uid, k.key) for k in act.deletes if (k.kind, k.uid, k.key) not in last]
        if act.look is not None:
            looks.append((n, *act.look))
    arguments: list[Any] = [[act.agent_id for act in acts]]
    for rows, numbers, width in ((plain, 3, 9), (rare, 3, 9), (deletes, 1, 4), (looks, 1, 3)):
        found = columns(rows, width)
        arguments += [None, None] if found is None else [found[:numbers], found[numbers:]]
    for kind, layout in LAYOUTS.items():
        here = puts.get(kind)
        arguments += (None, None, None) if here is None else layout.arrays(here)
    return arguments


def _condition(act: int, i: int, condition: Condition) -> _Condition:
    key, value = condition.key, condition.value
    number, text = (value, None) if isinstance(value, int) else (None, value)
    return act, i, number, condition.op, key.kind, key.uid, key.key, condition.column, text


def applied(acts: Sequence[Act], rows: Sequence[Any]) -> list[tuple[int | None, list[Record]]]:
    """Read the answers of `apply_v1`, but for its first row."""
    failed: list[int | None] = [None] * len(acts)
    seen: list[list[Record]] = [[] for _ in acts]
    for row in rows:
        if row["failed"] is not None:
            failed[row["act"] - 1] = row["failed"]
        else:
            seen[row["act"] - 1].append(waiting(row))
    return [*zip(failed, seen, strict=True)]


def waiting(row: Any) -> Record:
    """Read a row of an inbox."""
    return _named(_WAITING.kind, row, _WAITING.names)


def _named(kind: Kind, row: Any, names: Sequence[str]) -> Record:
    return Record(kind, row["owner"], row["key"], {name: row[name] for name in names}, row["body"])


# ---- items -------------------------------------------------------------------------------------------------


def append(items: Sequence[Item]) -> list[Any]:
    """Write items as the arguments of `append_v1`; they are numbered from 1."""
    texts, numbers, bodies = [], [], []
    for n, item in enumerate(items, 1):
        held = item.record.columns
        texts.append((item.record.uid, item.agent_id, held["id"], held["kind"], held["tenant"]))
        numbers.append((n, *(held[name] for name in _WAITING.numbers), item.now, int(item.bounded)))
        bodies.append(item.record.body)
    return [[item.agent_id for item in items], columns(texts, 5), columns(numbers, 7), bodies]


def appended(items: Sequence[Item], rows: Sequence[Any]) -> list[Appended]:
    """Read the answers of `append_v1`, but for its first row."""
    return [_appended(row) for row in rows]


def _appended(row: Any) -> Appended:
    known = None
    if row["waiting"] is not None:
        layout = _WAITING if row["waiting"] else _CONSUMED
        known = _named(layout.kind, row, layout.names)
    return Appended(row["outcome"], row["position"], limit=row["limit"], known=known)
