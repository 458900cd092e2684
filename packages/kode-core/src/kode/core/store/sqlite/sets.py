"""Many writes with few statements: what a transaction holds is done set by set.

Python gives its lock away around every step of a statement and must win it back from the event loop, which
costs more than the step itself. So works on different agents form a set: all of their conditions are looked up
by one statement per kind, judged here one work after the other, and written by a few statements with many rows.

What keeps this the same as one after the other: no two works of a set touch the same agent, identity or
record. Works that do go into sets one after the other, in the order they came. A set of one is done by the
plain statements of `rows`, which are faster for it.

Keys go in, and columns come out, as one JSON text per statement; SQLite keeps 64-bit integers exact in it. It
cuts texts at a NUL, so a set that has one in a key is done one by one. Bodies never pass through JSON.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, TypeAlias, TypeVar

from kode.core.store.contract import Appended, Condition, Key, Kind, Record, Scan, Value
from kode.core.store.lookups import integer
from kode.core.store.records import int_key
from kode.core.store.sqlite import rows

__all__ = ["LOOK", "Append", "Apply", "Unfit", "columns", "more", "run"]

LOOK: Final = 1_000
"""Most inbox records that `Apply` looks at."""
_Place: TypeAlias = tuple[str, str]
_Look: TypeAlias = tuple[str, Value]
"""A uid and a key."""

T = TypeVar("T")

# Which of the (uid, key) have something behind them in the inbox; the index in the list names them.
_MORE = (
    'SELECT json_group_array(k."key") FROM json_each(?) k WHERE EXISTS (SELECT 1 FROM inbox '
    "WHERE owner = json_extract(k.value, '$[0]') AND \"key\" > json_extract(k.value, '$[1]'))"
)
# The header is there, it was read in the same transaction: this never inserts.
_WAKE = (
    "INSERT INTO header (owner, \"key\", wake_at, body) SELECT '', json_extract(value, '$[0]'), "
    "json_extract(value, '$[1]'), x'' FROM json_each(?) WHERE true ON CONFLICT (owner, \"key\") "
    "DO UPDATE SET wake_at = min(ifnull(wake_at, excluded.wake_at), excluded.wake_at) WHERE parked IS NULL"
)


# ---- works -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Apply:
    """`Records.apply_and_look` as data; called with a connection it does so by itself.

    `look` is the uid and the key to look behind; None: do not look.
    """

    agent_id: str
    conditions: Sequence[Condition]
    puts: Sequence[Record]
    deletes: Sequence[Key] = ()
    look: _Place | None = None

    def __call__(self, db: sqlite3.Connection) -> tuple[int | None, list[Record]]:
        """Do it by itself."""
        failed = rows.apply(db, self.conditions, self.puts, self.deletes)
        return failed, _look(db, self) if failed is None else []

    def places(self) -> set[str]:
        """Name all it may read or write: agent, identities, and records that have no identity."""
        found = {self.agent_id} if self.agent_id else set()
        for condition in self.conditions:
            key = condition.key
            found.add(key.uid or f"{key.kind}/{key.key}")
        for row in self.puts:
            found.add(row.uid or f"{row.kind}/{row.key}")
        for key in self.deletes:
            found.add(key.uid or f"{key.kind}/{key.key}")
        if self.look is not None:
            found.add(self.look[0])
        return found


@dataclass(frozen=True, slots=True)
class Append:
    """`Records.append_inbox` as data; called with a connection it does so by itself."""

    agent_id: str
    item: Record
    now: int
    bounded: bool

    def __call__(self, db: sqlite3.Connection) -> Appended:
        """Do it by itself."""
        return rows.append_inbox(db, self.agent_id, self.item, self.now, self.bounded)

    def places(self) -> set[str]:
        """Name all it may read or write but its uid, which stands in the header: who touches that names the agent."""
        header = f"header/{self.agent_id}"
        return {self.agent_id, header, self.item.uid} if self.item.uid else {self.agent_id, header}


_Work: TypeAlias = Callable[[sqlite3.Connection], Any]


@dataclass(slots=True)
class _Level:
    """Works that touch nothing in common, by their number."""

    applies: dict[int, Apply] = field(default_factory=dict)
    appends: dict[int, Append] = field(default_factory=dict)


def run(db: sqlite3.Connection, works: Sequence[_Work]) -> list[Any]:
    """Do works inside a transaction of the caller; the answers are those of doing them in that order.

    When one raises, the transaction must be rolled back: others may have been written.
    """
    answers: dict[int, Any] = {}
    levels: list[_Level] = []
    # A place is touched by the levels below this number.
    depth: dict[str, int] = {}
    for n, work in enumerate(works):
        if not isinstance(work, Apply | Append):
            _finish(db, levels, answers)  # nobody knows what it touches
            levels, depth = [], {}
            answers[n] = work(db)
            continue
        places = work.places()
        at = max((depth.get(place, 0) for place in places), default=0)
        depth.update(dict.fromkeys(places, at + 1))
        if at == len(levels):
            levels.append(_Level())
        if isinstance(work, Apply):
            levels[at].applies[n] = work
        else:
            levels[at].appends[n] = work
    _finish(db, levels, answers)
    return [answers[n] for n in range(len(works))]


def _finish(db: sqlite3.Connection, levels: Sequence[_Level], answers: dict[int, Any]) -> None:
    for level in levels:
        answers.update(_set(db, level.applies, _apply))
        answers.update(_set(db, level.appends, _append))


class Unfit(Exception):  # noqa: N818 - a turn of the road
    """A set cannot be done as one; nothing of it is written or answered yet."""


def _set(db: sqlite3.Connection, works: dict[int, Any], together: Callable[..., dict[int, Any]]) -> dict[int, Any]:
    if len(works) > 1:
        try:
            return together(db, works)
        except Unfit:
            pass
    return {n: work(db) for n, work in works.items()}


# ---- applies -----------------------------------------------------------------------------------------------


def _apply(db: sqlite3.Connection, works: dict[int, Apply]) -> dict[int, tuple[int | None, list[Record]]]:
    judge = _Judge(db, [condition for work in works.values() for condition in work.conditions])
    failed = {n: judge.first_failed(work.conditions) for n, work in works.items()}
    passed = {n: work for n, work in works.items() if failed[n] is None}
    looks = {n: work.look for n, work in passed.items() if work.look is not None}
    behind = _text(looks.values())  # before anything is written: it may find the set unfit
    rows.delete_all(db, [key for work in passed.values() for key in work.deletes])
    rows.put_all(db, [row for work in passed.values() for row in work.puts])
    waiting = _more(db, list(looks), behind)
    return {n: (failed[n], _look(db, work) if n in waiting else []) for n, work in works.items()}


def _look(db: sqlite3.Connection, work: Apply) -> list[Record]:
    if work.look is None:
        return []
    uid, after = work.look
    return rows.scan(db, Scan("inbox", uid, after=after, limit=LOOK))


class _Judge:
    """All that a list of conditions asks for, looked up by one statement per kind."""

    def __init__(self, db: sqlite3.Connection, conditions: Iterable[Condition]) -> None:
        asked: dict[Kind, dict[_Place, None]] = {}
        names: dict[Kind, set[str]] = {}
        ends: dict[tuple[str, Value], None] = {}
        for condition in conditions:
            key = condition.key
            if condition.op == "no_inbox_after":
                ends[key.uid, condition.value] = None
                continue
            asked.setdefault(key.kind, {})[key.uid, key.key] = None
            needed = names.setdefault(key.kind, set())
            if condition.op == "equals":
                needed.add(condition.column)
            elif condition.op == "free":
                needed |= {"holder", "until"}
        # Lists as they came, not an object per record: thousands of new ones would call the garbage collector.
        self._found: dict[Kind, dict[_Place, list[Any]]] = {}
        self._at: dict[Kind, dict[str, int]] = {}
        for kind, keys in asked.items():
            wanted, places = tuple(sorted(names[kind])), list(keys)
            self._found[kind] = {places[row[0]]: row for row in columns(db, kind, places, wanted)}
            self._at[kind] = {name: i + 1 for i, name in enumerate(wanted)}
        self._more = more(db, list(ends), ends)

    def first_failed(self, conditions: Sequence[Condition]) -> int | None:
        """Judge one work: the index of the first condition that does not hold."""
        for i, condition in enumerate(conditions):
            if not self._holds(condition):
                return i
        return None

    def _holds(self, condition: Condition) -> bool:
        op, key, value = condition.op, condition.key, condition.value
        if op == "no_inbox_after":
            return (key.uid, value) not in self._more
        row, at = self._found[key.kind].get((key.uid, key.key)), self._at[key.kind]
        if op == "absent":
            return row is None
        if op == "equals":
            return row is not None and row[at[condition.column]] == value
        # What is null is never later.
        until = None if row is None or row[at["holder"]] is None else row[at["until"]]
        return not (isinstance(until, int) and isinstance(value, int) and until > value)


# ---- appends -----------------------------------------------------------------------------------------------

_BOUNDS: Final = ("max_inbox", "max_message_bytes", "seen", "uid")


def _append(db: sqlite3.Connection, works: dict[int, Append]) -> dict[int, Appended]:
    """Append the plain ones together: into an inbox that is empty, of an item nobody knows.

    Whatever is special about one (no agent, a known id, a bound, other items in front) is left to
    `rows.append_inbox`, afterwards.
    """
    numbers, agents = list(works), [("", work.agent_id) for work in works.values()]
    headers: dict[int, dict[str, Value]] = {
        numbers[i]: dict(zip(_BOUNDS, values, strict=True)) for i, *values in columns(db, "header", agents, _BOUNDS)
    }
    uids: dict[str, int] = {}
    for n, work in works.items():
        header = headers.get(n)
        if header is not None and _fits(work, header):
            uids.setdefault(str(header["uid"]), n)  # of two agents with one uid the second waits
    empty = set(uids.values()) - more(db, list(uids.values()), [(uid, "") for uid in uids])
    ids = {(uid, str(works[n].item.columns["id"])): n for uid, n in uids.items() if n in empty}
    numbers = list(ids.values())
    known = {numbers[row[0]] for row in columns(db, "consumed", list(ids), ())}
    puts: list[Record] = []
    wakes: list[tuple[str, int]] = []
    answers: dict[int, Appended] = {}
    for (uid, _), n in ids.items():
        if n in known:
            continue
        item = works[n].item
        position = integer(headers[n]["seen"]) + 1
        puts.append(Record("inbox", uid, int_key(position), item.columns, item.body))
        wakes.append((works[n].agent_id, max(works[n].now, integer(item.columns["not_before"]))))
        answers[n] = Appended("new", position)
    wake = _text(wakes)
    rows.put_all(db, puts)
    if wakes:
        db.execute(_WAKE, (wake,))
    return answers | {n: work(db) for n, work in works.items() if n not in answers}


def _fits(work: Append, header: dict[str, Value]) -> bool:
    """Whether an item is for this agent and within its bounds, if nothing waits there."""
    if work.item.uid not in ("", header["uid"]):
        return False
    largest, most = integer(header["max_message_bytes"]), integer(header["max_inbox"])
    return not work.bounded or (integer(work.item.columns["size"]) <= largest and most > 0)


# ---- statements --------------------------------------------------------------------------------------------

_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode


def _text(values: Iterable[Any]) -> str:
    """Write a list as a parameter for `json_each`.

    Raises:
        Unfit: A NUL is in it, where SQLite would cut the text.
    """
    text = _encode(list(values))
    if "\\u0000" in text:
        raise Unfit
    return text


def more(db: sqlite3.Connection, names: Sequence[T], looks: Iterable[_Look]) -> set[T]:
    """Tell which of the inboxes, each given as uid and key, have anything behind that key, by their names.

    Raises:
        Unfit: A NUL is in one of them.
    """
    return _more(db, names, _text(looks))


def _more(db: sqlite3.Connection, names: Sequence[T], text: str) -> set[T]:
    if not names:
        return set()
    found: list[int] = json.loads(db.execute(_MORE, (text,)).fetchone()[0])
    return {names[i] for i in found}


def columns(
    db: sqlite3.Connection, kind: Kind, places: Sequence[_Place], names: tuple[str, ...], *extra: str
) -> list[list[Any]]:
    """Read columns, and other expressions over `t`, of the records at (uid, key) by one statement.

    Returns: a list for each record that is there: its index in `places`, then the values.

    Raises:
        Unfit: A NUL is in a key.
    """
    if not places:
        return []
    found: list[list[Any]] = json.loads(db.execute(_select(kind, names, extra), (_text(places),)).fetchone()[0])
    return found


@lru_cache(maxsize=256)
def _select(kind: Kind, names: tuple[str, ...], extra: tuple[str, ...]) -> str:
    wanted = ", ".join(['k."key"', *[f't."{name}"' for name in names], *extra])
    return f"SELECT json_group_array(json_array({wanted})) FROM {rows.joined(kind)}"
