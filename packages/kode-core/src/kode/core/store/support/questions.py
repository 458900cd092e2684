"""Questions across agents as values: which filters and sorts there are, and places in an answer.

What a caller says is looked up in tables. What comes out names columns of ``records.COLUMNS`` and holds values, so a
store that makes SQL of it has nothing to quote.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, TypedDict

from kode.core.errors import UsageError
from kode.core.kernel.toolcall import CallStatus
from kode.core.store.contract import Kind, Record, Value
from kode.core.store.primitives import check_agent_id
from kode.core.store.records import COLUMNS

__all__ = [
    "AgentFilter",
    "AgentSort",
    "CallFilter",
    "CallSort",
    "MessageFilter",
    "MessageSort",
    "Question",
    "Test",
    "make_question",
    "order",
    "parse_filters",
    "write_cursor",
]

MOST = 1_000
"""Most rows of one page, and values of one filter."""


# ---- what may be asked -------------------------------------------------------------------------------------

Text: TypeAlias = str | Collection[str | None] | None
"""One text or any of several; None: where there is none."""


class AgentFilter(TypedDict, total=False):
    """Which agents; what is left out does not matter. Times are microseconds since the epoch."""

    agent_id: str | Collection[str]
    prefix: str
    """What the id begins with."""
    status: str | Collection[str]
    """WORKING, PAUSED, READY."""
    template: Text
    """``name@version``."""
    tenant: Text
    parent: Text
    """Agent id of the parent."""
    parked: Text
    """A stop reason."""
    created_since: int
    created_until: int
    """Before that moment."""
    updated_since: int
    updated_until: int
    expires_until: int
    """Those that expire before that moment."""


class _Owner(TypedDict, total=False):
    agent_id: str | Collection[str]
    prefix: str
    tenant: Text
    template: Text
    since: int
    """From that moment on."""
    until: int
    """Before that moment."""
    run: int | Collection[int]


class MessageFilter(_Owner, total=False):
    """Which messages, by the moment they were written."""

    role: str | Collection[str]
    step: int | Collection[int]


class CallFilter(_Owner, total=False):
    """Which calls, by the moment they were asked for."""

    tool: str | Collection[str]
    status: str | Collection[str]
    """A call's status."""
    is_error: bool
    """Whether it ended without doing what was asked: FAILED, DENIED or SEALED; False: COMPLETED."""


Op: TypeAlias = Literal["in", ">=", "<"]
_OWNER: Final[dict[str, tuple[Kind, str, Op]]] = {
    name: ("header", name, "in") for name in ("agent_id", "tenant", "template")
}
# What each word of a filter means: whose column, which, and how it is compared. Nothing else ever becomes SQL.
_WORDS: Final[dict[Kind, dict[str, tuple[Kind, str, Op]]]] = {
    "header": {
        **_OWNER,
        "status": ("header", "status", "in"),
        "parent": ("header", "parent", "in"),
        "parked": ("header", "parked", "in"),
        "created_since": ("header", "created_at", ">="),
        "created_until": ("header", "created_at", "<"),
        "updated_since": ("header", "updated_at", ">="),
        "updated_until": ("header", "updated_at", "<"),
        "expires_until": ("header", "expires_at", "<"),
    },
    "message": {
        **_OWNER,
        "role": ("message", "role", "in"),
        "run": ("message", "run", "in"),
        "step": ("message", "step", "in"),
        "since": ("message", "at", ">="),
        "until": ("message", "at", "<"),
    },
    "call": {
        **_OWNER,
        "tool": ("call", "tool", "in"),
        "status": ("call", "status", "in"),
        "run": ("call", "run", "in"),
        "since": ("call", "asked_at", ">="),
        "until": ("call", "asked_at", "<"),
    },
}
_SORTS: Final[dict[Kind, tuple[str, ...]]] = {
    "header": ("agent_id", "created_at", "updated_at", "wake_at", "expires_at"),
    "message": ("at", "size"),
    "call": ("asked_at", "started_at", "finished_at", "size"),
}
AgentSort: TypeAlias = Literal["agent_id", "created_at", "updated_at", "wake_at", "expires_at"]
MessageSort: TypeAlias = Literal["at", "size"]
CallSort: TypeAlias = Literal["asked_at", "started_at", "finished_at", "size"]


@dataclass(frozen=True, slots=True)
class Test:
    """What a column must be: one of several values (None is one), at least a number, or below it.

    ``column`` is always one of ``records.COLUMNS``.
    """

    __test__ = False  # no class of tests, for pytest

    column: str
    op: Op
    values: tuple[Value, ...]

    def holds(self, record: Record) -> bool:
        """Judge a record; what is damaged passes no comparison of numbers."""
        value = record.columns.get(self.column)
        if self.op == "in":
            return value in self.values
        bound = self.values[0]
        if not isinstance(value, int) or not isinstance(bound, int):
            return False
        return value >= bound if self.op == ">=" else value < bound


@dataclass(frozen=True, slots=True)
class Question:
    """What `QuerySupport.select` answers: rows of a kind whose agent and who themselves pass all tests."""

    kind: Kind
    sort: str
    """A column; the order is by it, then by agent id, then by key. Null counts as -1."""
    descending: bool = False
    limit: int = 100
    agents: tuple[Test, ...] = ()
    """Of headers."""
    rows: tuple[Test, ...] = ()
    """Of rows of that kind, unless it is the header."""
    prefix: str = ""
    """What agent ids begin with."""
    after: tuple[Value, str, str] | None = None
    """Place of the last row that was given: value of the sort column, agent id, key."""

    def place(self, agent_id: str, row: Record) -> tuple[Value, str, str]:
        """Say where a row stands in the order."""
        value = row.columns.get(self.sort)
        return -1 if value is None else value, agent_id, row.key


def order(place: tuple[Value, str, str]) -> tuple[bool, Any, str, str]:
    """Make places comparable; in a damaged column text may stand where a number must, and is above all numbers."""
    return isinstance(place[0], str), *place


# ---- questions from words ----------------------------------------------------------------------------------


def make_question(
    kind: Kind, sort: str, descending: bool, limit: int, after: str | None, filters: Mapping[str, Any]
) -> Question:
    """Make a question of what a caller said.

    Raises:
        UsageError: ``bad_query``, ``bad_cursor``.
    """
    if sort not in _SORTS[kind]:
        raise _bad(f"cannot sort by {sort!r}; sort by {', '.join(_SORTS[kind])}")
    if type(limit) is not int or not 1 <= limit <= MOST:
        raise _bad(f"limit is {str(limit)[:60]}; give a whole number from 1 to {MOST}")
    agents, rows = parse_filters(kind, filters)
    place = None if after is None else _read_cursor(after, kind, sort, descending)
    return Question(kind, sort, descending, limit, agents, rows, filters.get("prefix", ""), place)


def parse_filters(kind: Kind, filters: Mapping[str, Any]) -> tuple[tuple[Test, ...], tuple[Test, ...]]:
    """Make tests of what a caller gave: those of headers, and those of rows.

    Raises:
        UsageError: ``bad_query``, ``bad_agent_id``.
    """
    agents: list[Test] = []
    rows: list[Test] = []
    for name, given in filters.items():
        if name == "prefix":
            if not isinstance(given, str):
                raise _bad(f"prefix is {type(given).__name__}; give text")
            if not _askable(given):
                raise _bad("prefix holds what no id can; give well-formed text without NUL")
            continue
        if name == "is_error" and kind == "call":
            if not isinstance(given, bool):
                raise _bad(f"is_error is {type(given).__name__}; give True or False")
            statuses = [status.value for status in CallStatus if status.final and status is not CallStatus.COMPLETED]
            rows.append(Test("status", "in", tuple(statuses) if given else (CallStatus.COMPLETED.value,)))
            continue
        if name not in _WORDS[kind]:
            raise _bad(f"there is no filter {name!r}; filters are {', '.join(sorted((*_WORDS[kind], 'prefix')))}")
        of, column, op = _WORDS[kind][name]
        (agents if of == "header" else rows).append(Test(column, op, _values(name, of, column, op, given)))
    return tuple(agents), tuple(rows)


def _values(name: str, kind: Kind, column: str, op: Op, given: Any) -> tuple[Value, ...]:
    sort = int if dict(COLUMNS[kind])[column] == "int" else str
    several = isinstance(given, Collection) and not isinstance(given, str | bytes)
    values: tuple[Any, ...] = tuple(given) if several else (given,)
    if not 0 < len(values) <= MOST:
        raise _bad(f"{name} has {len(values)} values; give 1 to {MOST}")
    if op != "in" and (len(values) != 1 or type(values[0]) is not int):
        raise _bad(f"{name} must be one number, microseconds since the epoch")
    for value in values:
        if not (isinstance(value, sort) or (value is None and sort is str)) or isinstance(value, bool):
            raise _bad(f"{name} holds {type(value).__name__}; give {'numbers' if sort is int else 'text'}")
        if not _askable(value):
            raise _bad(f"{name} holds what no column can: text must be well-formed without NUL, numbers fit in 64 bits")
        if column == "agent_id":
            check_agent_id(str(value or ""))
    # Enums of text are text, but not what a driver may want to bind.
    return tuple([str.__str__(value) if isinstance(value, str) else value for value in values])


def _askable(value: Value) -> bool:
    """Whether an engine takes it for the value of a column."""
    if isinstance(value, str):
        return "\0" not in value and value.encode(errors="replace").decode() == value
    return value is None or -(2**63) <= value < 2**63


def _bad(what: str) -> UsageError:
    return UsageError(f"This cannot be asked: {what}.", code="bad_query")


# ---- cursors -----------------------------------------------------------------------------------------------


def write_cursor(question: Question, agent_id: str, row: Record) -> str:
    """Write down where an answer goes on behind this row."""
    place = question.place(agent_id, row)
    packed = json.dumps([question.kind, question.sort, question.descending, *place], separators=(",", ":"))
    return urlsafe_b64encode(packed.encode()).decode().rstrip("=")


def _read_cursor(cursor: str, kind: Kind, sort: str, descending: bool) -> tuple[Value, str, str]:
    try:
        packed = json.loads(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        *question, value, agent_id, key = packed
        known = type(value) in (int, str) and type(agent_id) is type(key) is str
        if question != [kind, sort, descending] or not known or not all(map(_askable, (value, agent_id, key))):
            raise ValueError(cursor)
        return value, agent_id, key
    except (ValueError, TypeError, RecursionError):
        raise UsageError(
            "`after` is no place in this answer; give `next` of its last page, with the same kind and sort.",
            code="bad_cursor",
        ) from None
