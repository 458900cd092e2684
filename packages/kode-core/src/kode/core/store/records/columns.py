"""Columns and keys of records: the closed list, how numbers and names become keys, and what reads them back.

The format is described at the head of ``records``, through which all of this is used.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from kode.core.errors import RecordCorruptError, SchemaTooNewError, UsageError
from kode.core.jsontext import well_formed
from kode.core.store.contract import Kind, Record, Value
from kode.core.store.records import codec

__all__ = [
    "COLUMNS",
    "call_key",
    "call_prefix",
    "column",
    "corrupt",
    "counter",
    "document_key",
    "fill",
    "int_key",
    "key_int",
    "maybe_column",
    "maybe_text",
    "maybe_whole",
    "read_body",
    "reader",
    "text",
    "where",
    "whole",
    "word",
]

COLUMNS: dict[Kind, tuple[tuple[str, str], ...]] = {
    # (name, "int" | "text"); every column may be null
    "header": (
        ("agent_id", "text"),
        ("uid", "text"),
        ("version", "int"),
        ("commit_id", "text"),
        ("staged", "text"),
        ("wake_at", "int"),
        ("seen", "int"),
        ("status", "text"),
        ("template", "text"),
        ("tenant", "text"),
        ("parent", "text"),
        ("created_at", "int"),
        ("updated_at", "int"),
        ("max_inbox", "int"),
        ("max_message_bytes", "int"),
        ("dedupe_us", "int"),
        ("expires_at", "int"),
        ("parked", "text"),
    ),
    "lease": (("holder", "text"), ("fence", "int"), ("until", "int"), ("takes", "int")),
    "message": (("role", "text"), ("run", "int"), ("step", "int"), ("at", "int"), ("size", "int")),
    "call": (
        ("status", "text"),
        ("tool", "text"),
        ("seq", "int"),
        ("run", "int"),
        ("asked_at", "int"),
        ("started_at", "int"),
        ("finished_at", "int"),
        ("size", "int"),
    ),
    "events": (
        ("last", "int"),
        ("version", "int"),
        ("channels", "text"),
        ("run", "int"),
        ("at", "int"),
        ("size", "int"),
    ),
    "inbox": (
        ("id", "text"),
        ("kind", "text"),
        ("at", "int"),
        ("not_before", "int"),
        ("priority", "int"),
        ("tenant", "text"),
        ("size", "int"),
    ),
    "consumed": (("position", "int"), ("kind", "text"), ("run", "int"), ("expires_at", "int")),
    "run": (("status", "text"), ("stop_reason", "text"), ("started_at", "int"), ("ended_at", "int")),
    "compaction": (("start", "int"), ("stop", "int"), ("at", "int")),
    "snapshot": (("seq", "int"), ("tags", "text"), ("parent", "text")),
    "document": (("digest", "text"), ("at", "int")),
    "blob": (("size", "int"), ("media_type", "text"), ("at", "int")),
    "staged": (("at", "int"),),
}


_KEY_END: Final = 1 << 60
_HEX: Final = "0123456789abcdef"


def int_key(n: int) -> str:
    """Write a number >= 0 so that text order is number order: hex digits behind their count, ``300`` -> ``312c``.

    Raises:
        UsageError: ``bad_key``: it is below 0, or has more than 60 bits.
    """
    if not 0 <= n < _KEY_END:
        raise UsageError(f"A key must be a number from 0 to 2**60 - 1, this is {n}.", code="bad_key")
    digits = f"{n:x}"
    return _HEX[len(digits)] + digits


def key_int(key: str) -> int:
    """Read a number that ``int_key`` wrote.

    Raises:
        ValueError: It is no such text.
    """
    digits = key[1:]
    n = int(digits, 16)
    # The way back, by hand: thousands are read at once.
    if not 0 <= n < _KEY_END or f"{n:x}" != digits or _HEX[len(digits)] != key[0]:
        raise ValueError(f"{key!r} is no key of a number")
    return n


def call_key(call_id: str) -> str:
    """Give the key of a call: its three numbers, so that calls sort in the order they were asked for."""
    return ".".join(map(int_key, _numbers(call_id)))


def call_prefix(run: int) -> str:
    """Give what the keys of all calls of a run begin with."""
    return f"{int_key(run)}."


def document_key(kind: str, name: str) -> str:
    """Give what a document's key begins with, before ``/`` and its digest; a kind has no ``/``, a name may."""
    return f"{kind}/{name}"


def _numbers(call_id: str) -> tuple[int, int, int]:
    parts = call_id.split(".")
    try:
        run, step, n = map(int, parts)
    except ValueError:
        raise UsageError(f"{call_id!r} is no call id: give run.step.n.", code="bad_call_id") from None
    return run, step, n


P = ParamSpec("P")
R = TypeVar("R")


def reader(read: Callable[Concatenate[Record, P], R]) -> Callable[Concatenate[Record, P], R]:
    """Say of damaged columns and keys what the codec says of damaged bodies, and name the record."""

    @wraps(read)
    def guarded(record: Record, /, *args: P.args, **named: P.kwargs) -> R:
        try:
            return read(record, *args, **named)
        except (KeyError, ValueError, TypeError, UsageError) as error:  # the last: a key or an id that is none
            raise corrupt(record, error) from None

    return guarded


def corrupt(record: Record, error: Exception) -> RecordCorruptError:
    """Make the error for a record whose columns or key are damaged."""
    return codec.corrupt(record.kind, record.body, where(record), f"{type(error).__name__}: {error}")


def where(record: Record) -> str:
    """Name a record for a person."""
    return f"{record.uid}/{record.key}"


def read_body(record: Record, kind: codec.BodyKind) -> Any:
    """Decode a record's body."""
    try:
        return codec.decode(kind, record.body)
    except (RecordCorruptError, SchemaTooNewError):
        return codec.decode(kind, record.body, where(record))  # fails again, now with the record's name


def fill(value: Any, **columns: Any) -> None:
    """Set the fields that ``codec.APART`` left unset. The value is fresh: nobody has seen it without them."""
    for name, held in columns.items():
        object.__setattr__(value, name, held)


def whole(value: Value) -> int:
    """Take a number from a column."""
    if type(value) is int:
        return value
    raise TypeError(f"a column holds {type(value).__name__} where a number must be")


def counter(value: Value) -> int:
    """Take a number that is counted on, or becomes a key: one that `int_key` can write."""
    n = whole(value)
    if 0 <= n < _KEY_END:
        return n
    raise ValueError(f"what is counted stands at {n}, not from 0 to 2**60 - 1")


def maybe_whole(value: Value) -> int | None:
    """Take a number or null from a column."""
    return None if value is None else whole(value)


def text(value: Value) -> str:
    """Take text from a column."""
    if type(value) is str:
        return value
    raise TypeError(f"a column holds {type(value).__name__} where text must be")


def maybe_text(value: Value) -> str | None:
    """Take text or null from a column."""
    return None if value is None else text(value)


W = TypeVar("W", bound=StrEnum)


def word(kind: type[W], value: Value) -> W:
    """Take one of a closed list of words from a column."""
    try:
        return kind(text(value))
    except ValueError:
        raise ValueError(f"a column holds what is no {kind.__name__}") from None


def column(text: str) -> str:
    """Make text fit for a column of every engine."""
    return well_formed(text).replace("\0", "\ufffd")


def maybe_column(text: str | None) -> str | None:
    """Make text fit for a column, None stays."""
    return None if text is None else column(text)
