"""Many reads with few statements: lookups that came together take their steps together.

Each time around, all lookups of a batch say what they ask for next; headers and leases are then read by one
statement per kind, one statement tells whose inbox has anything in it, and what is left is read plainly. Why
fewer statements matter is said in `sets`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeAlias, TypeVar

from kode.core.store.contract import Key, Kind, Record, Scan
from kode.core.store.lookups import Ask, Get, Lookup
from kode.core.store.sqlite import rows, sets

__all__ = ["Reading", "run"]

T = TypeVar("T")
_TOGETHER: Final[tuple[Kind, ...]] = ("header", "lease")
"""Kinds of which every agent has one."""
_BODY = "CASE WHEN length(t.body) <= 8192 THEN hex(t.body) END"
_Answer: TypeAlias = list[Record | None]


@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    """A lookup to be run; called with a connection it runs by itself."""

    lookup: Lookup[T]
    short: bool = False
    """It asks once, and needs no snapshot for that when it runs by itself."""

    def __call__(self, db: sqlite3.Connection) -> T:
        """Run it by itself."""
        return rows.run_lookup(db, self.lookup, snapshot=not self.short)


def run(db: sqlite3.Connection, lookups: dict[int, Lookup[Any]]) -> dict[int, tuple[Any, Exception | None]]:
    """Run lookups to their ends, inside a snapshot of the caller: the value of each, or what it raised.

    What one of them raises, or the file at one's records, is its own and hinders no other.
    """
    outcomes: dict[int, tuple[Any, Exception | None]] = {}
    answers: dict[int, _Answer | Exception | None] = dict.fromkeys(lookups)
    while answers:
        asks: dict[int, Ask] = {}
        for n, answer in answers.items():
            if isinstance(answer, Exception):
                outcomes[n] = None, answer
                continue
            try:
                asks[n] = next(lookups[n]) if answer is None else lookups[n].send(answer)
            except StopIteration as end:
                outcomes[n] = end.value, None
            except Exception as error:  # noqa: BLE001 - it is raised in the task that asked
                outcomes[n] = None, error
        answers = _answers(db, asks)
    return outcomes


def _answers(db: sqlite3.Connection, asks: dict[int, Ask]) -> dict[int, _Answer | Exception | None]:
    known: dict[Key, Record | None] = {}
    quiet: set[int] = set()
    if len(asks) > 1:
        try:
            known, quiet = _records(db, asks.values()), _quiet(db, asks)
        except (sqlite3.Error, sets.Unfit):
            pass  # each finds out by itself
    answers: dict[int, _Answer | Exception | None] = {}
    for n, ask in asks.items():
        try:
            if n in quiet:
                answers[n] = []
            elif isinstance(ask, Get):
                answers[n] = _get(db, ask.keys, known)
            else:
                answers[n] = [*rows.scan(db, ask)]
        except Exception as error:  # noqa: BLE001 - it is raised in the task that asked
            answers[n] = error
    return answers


def _get(db: sqlite3.Connection, keys: tuple[Key, ...], known: dict[Key, Record | None]) -> _Answer:
    missing = [key for key in keys if key not in known]
    found = iter(rows.get(db, missing))
    return [known[key] if key in known else next(found) for key in keys]


def _records(db: sqlite3.Connection, asks: Iterable[Ask]) -> dict[Key, Record | None]:
    """Read the headers and leases that are asked for, unless they are large; None for what is not there."""
    wanted: dict[Kind, list[Key]] = {}
    for ask in asks:
        if isinstance(ask, Get):
            for key in ask.keys:
                if key.kind in _TOGETHER:
                    wanted.setdefault(key.kind, []).append(key)
    known: dict[Key, Record | None] = {}
    for kind, keys in wanted.items():
        names = rows.TABLES[kind].names
        known |= dict.fromkeys(keys)
        for i, *values, body in sets.columns(db, kind, [(key.uid, key.key) for key in keys], names, _BODY):
            key = keys[i]
            if body is None:
                known.pop(key, None)
            else:
                columns = dict(zip(names, values, strict=True))
                known[key] = Record(kind, key.uid, key.key, columns, bytes.fromhex(body))
    return known


def _quiet(db: sqlite3.Connection, asks: dict[int, Ask]) -> set[int]:
    """Find the inboxes in which there is nothing of what is asked for."""
    looks = {n: (ask.uid, ask.after) for n, ask in asks.items() if isinstance(ask, Scan) and ask.kind == "inbox"}
    return looks.keys() - sets.more(db, list(looks), looks.values())
