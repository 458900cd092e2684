"""Bodies of records to bytes and back: one line of JSON behind the number of its format, ``1{"blocks":…}``.

What ``encode`` accepts ``decode`` reads back as an equal value, on any store and in any later version. Two things are
settled at this door: numbers that are not finite are refused, and text that is not well-formed Unicode is stored with
U+FFFD in place of what is wrong. Nothing is unpickled, nothing is imported by a stored name.

A body is *versioned* as a whole. A version that this process does not know raises ``SchemaTooNewError``; an older one
is taken up step by step by ``UPGRADES``, on the parsed JSON, before it is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from kode.core.errors import RecordCorruptError, SchemaTooNewError, UsageError
from kode.core.jsontext import well_formed
from kode.core.kernel.inputs import ApprovalDecided, CallResolved, Instructed, InterruptRequested, MessageReceived
from kode.core.kernel.message import Message
from kode.core.kernel.state import Parent, RunRecord, State
from kode.core.kernel.toolcall import Call
from kode.core.kernel.window import Compaction, Snapshot
from kode.core.store.contract import Item

if TYPE_CHECKING:
    from kode.core.store.records.schema import Adapter

__all__ = ["APART", "UPGRADES", "VERSION", "BodyKind", "HeaderBody", "decode", "encode"]

VERSION = 1
"""The format that is written."""

_NOW = b"%d" % VERSION
_OPENINGS = (_NOW + b"{", _NOW + b"[")

BodyKind: TypeAlias = Literal[
    "header",
    "message",
    "call",
    "events",
    "inbox",
    "consumed",
    "run",
    "compaction",
    "snapshot",
    "document",
    "orphan",
    "input.message",
    "input.decision",
    "input.resolve",
    "input.interrupt",
    "input.instruction",
]

_PREFIX: Final = re.compile(rb"([0-9]{1,9})(?=[{\[])")

UPGRADES: dict[int, Callable[[BodyKind, Any], Any]] = {
    # n: what makes parsed JSON of version n that of n + 1; pure; one line each that says what changed
}


@dataclass(slots=True)
class HeaderBody:
    """A state without its columns."""

    state: State
    calls: tuple[str, ...] = ()
    """Ids of the open step's calls in their order; they are records of their own."""
    documents: tuple[tuple[str, str, str], ...] = ()
    """``(kind, name, digest)``."""


APART: Final[dict[type, frozenset[str]]] = {
    # Fields that a record keeps in its key or columns, so that its body does not say them again.
    State: frozenset(
        {
            *("agent_id", "uid", "created_at", "updated_at", "template", "tenant", "calls", "documents"),
            *("expires_at", "parked"),
        }
    ),
    Parent: frozenset({"agent_id"}),
    Message: frozenset({"seq", "role", "run", "step", "at"}),
    Call: frozenset({"run", "step", "n", "tool", "seq", "status", "asked_at", "started_at", "finished_at"}),
    RunRecord: frozenset({"number", "status", "stop_reason", "started_at", "ended_at"}),
    Compaction: frozenset({"id", "start", "stop", "at"}),
    Snapshot: frozenset({"id", "seq", "tags", "parent"}),
    Item: frozenset({"id", "kind", "at", "position", "not_before", "priority", "tenant"}),
    # An item says its id, sender and context beside the payload; a plan is made by the driver's own shell, never sent.
    MessageReceived: frozenset({"item", "kind", "sender", "context"}),
    ApprovalDecided: frozenset({"item", "plan"}),
    CallResolved: frozenset({"item"}),
    InterruptRequested: frozenset({"item"}),
    Instructed: frozenset({"item"}),
}

_TYPES: Final[dict[BodyKind, Any]] = {
    "header": HeaderBody,
    "message": Message,
    "call": Call,
    "events": Any,  # rows that ``eventrows`` has made and will judge
    "inbox": Item,
    "consumed": tuple[str],
    "run": RunRecord,
    "compaction": Compaction,
    "snapshot": Snapshot,
    "document": tuple[str],
    "orphan": tuple[str, str],
    "input.message": MessageReceived,
    "input.decision": ApprovalDecided,
    "input.resolve": CallResolved,
    "input.interrupt": InterruptRequested,
    "input.instruction": Instructed,
}


@cache
def adapter(kind: BodyKind) -> Adapter:
    """Give what reads and writes bodies of a kind; built at its first use."""
    from kode.core.store.records.schema import Adapter

    return Adapter(_TYPES[kind], APART)


def encode(kind: BodyKind, value: Any) -> bytes:
    """Write a body.

    Raises:
        UsageError: A number in it is not finite, or something is not of its declared type (``bad_value``).
    """
    return _NOW + encode_json(kind, value)


def encode_json(kind: BodyKind, value: Any) -> bytes:
    """Write a body without its version."""
    write = adapter(kind).write
    try:
        data = write(value)
    except ValueError:
        # Rare, so it may cost: a lone surrogate cannot be written. What is wrong after that is a type.
        try:
            data = write(_clean(value))
        except ValueError as error:
            raise _refused(kind, _reason(error)) from None
    # The serializer lets these through where no value of ours may be so; the words may also stand in a text.
    if kind in _FLOATS and (b"NaN" in data or b"Infinity" in data):
        _prove(kind, data)
    elif kind != "events" and b"null" in data:
        _prove(kind, data)
    return data


_FLOATS: Final = frozenset({"header", "call", "events"})


def _prove(kind: BodyKind, data: bytes) -> None:
    """Raise unless what was written can be read back."""

    def refuse(name: str) -> None:
        raise ValueError(f"it holds the number {name}")

    try:
        json.loads(data, parse_constant=refuse)
        adapter(kind).read(data)
    except ValueError as error:
        raise _refused(kind, _reason(error)) from None


def _refused(kind: BodyKind, why: str) -> UsageError:
    return UsageError(
        f"A {kind} record cannot be stored: {why}. Give finite numbers and values of the declared types.",
        code="bad_value",
        kind=kind,
    )


def decode(kind: BodyKind, data: bytes, where: str = "") -> Any:
    """Read a body that ``encode`` wrote, now or in an earlier version. Fields in ``APART`` are left unset.

    Args:
        kind: What it is.
        data: The whole body.
        where: Which record it is of, for the message of an error.

    Raises:
        RecordCorruptError: It is damaged; ``raw`` in ``fields`` holds it.
        SchemaTooNewError: A newer KODE wrote it.
    """
    # Nearly all that is read is of the version of today.
    if data.startswith(_OPENINGS):
        try:
            return adapter(kind).read(data[len(_NOW) :])
        except ValueError as error:  # pydantic's is one
            raise corrupt(kind, data, where, _reason(error)) from None
    found = _PREFIX.match(data)
    if found is None:
        raise corrupt(kind, data, where, "it does not begin with a version")
    return decode_json(kind, int(found[1]), data[found.end() :], where, data)


def decode_line(line: bytes, raw: bytes, where: str) -> tuple[int, Any]:
    """Read the first line of a staged record: its version and what stands behind that.

    Raises:
        RecordCorruptError: It is damaged.
    """
    found = _PREFIX.match(line)
    if found is None:
        raise corrupt("staged", raw, where, "it does not begin with a version")
    try:
        return int(found[1]), json.loads(line[found.end() :])
    except (ValueError, RecursionError) as error:
        raise corrupt("staged", raw, where, _reason(error)) from None


def decode_json(kind: BodyKind, version: int, body: bytes, where: str = "", raw: bytes | None = None) -> Any:
    """Read a body of that version; what it says is not looked at while the version is a newer one."""
    raw = _NOW + body if raw is None else raw
    if version > VERSION:
        raise too_new(kind, version, where)
    try:
        if version < VERSION:
            body = _upgraded(kind, version, body)
        return adapter(kind).read(body)
    except (ValueError, RecursionError) as error:
        raise corrupt(kind, raw, where, _reason(error)) from None


def _upgraded(kind: BodyKind, version: int, body: bytes) -> bytes:
    parsed = json.loads(body)
    for step in range(version, VERSION):
        if step not in UPGRADES:
            raise ValueError(f"there was never a version {step}")
        parsed = UPGRADES[step](kind, parsed)
    return json.dumps(parsed, ensure_ascii=False, separators=(",", ":")).encode()


def too_new(kind: str, version: int, where: str) -> SchemaTooNewError:
    """Make the error for a record that a newer KODE wrote."""
    return SchemaTooNewError(
        f"The {kind} record {where or '(unnamed)'} has version {version}; this process knows up to {VERSION}. "
        "Upgrade KODE here; nothing was changed.",
        kind=kind,
        record=where,
        found=version,
        known=VERSION,
    )


_UNEXPECTED: Final = re.compile(r"Expected `(\w+)` - [^\[\]]*\[(?:field_name='(\w+)', )?input_value=")


def _reason(error: Exception) -> str:
    """Say what is wrong without a word of what was stored: pydantic's own text quotes it."""
    listed = getattr(error, "errors", None)
    if listed is not None:
        found = listed(include_input=False, include_url=False, include_context=False)
        return "; ".join(_line(line) for line in found[:3]) or "it has another shape"
    if type(error).__name__ == "PydanticSerializationError":
        expected = _UNEXPECTED.search(str(error))
        if expected is None:
            return "a value in it has another type than is declared"
        name, field = expected.groups()
        return f"{field} is not of type {name}" if field else f"it is not of type {name}"
    return "it nests too deep" if isinstance(error, RecursionError) else str(error)


def _line(found: Mapping[str, Any]) -> str:
    # A field that nobody knows has its name from the stored text.
    path = found["loc"][:-1] if found["type"] == "unexpected_keyword_argument" else found["loc"]
    return f"{found['type']} at {'.'.join(map(str, path)) or 'its top'}"


def _clean(value: Any) -> Any:
    """Copy a value with all its text well-formed; the value itself where nothing is wrong with it."""
    if isinstance(value, str):
        return value if isinstance(value, StrEnum) else well_formed(value)
    if isinstance(value, tuple | list):
        return type(value)(_clean(item) for item in value)
    if isinstance(value, Mapping):
        return {_clean(key): _clean(item) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _clean(getattr(value, field.name)) for field in fields(value)})
    return value


def corrupt(kind: str, data: bytes, where: str, why: str) -> RecordCorruptError:
    """Make the error for a body that cannot be read."""
    return RecordCorruptError(
        f"The {kind} record {where or '(unnamed)'} cannot be read: {why}. "
        "It was left as it is; restore it from a backup.",
        kind=kind,
        record=where,
        why=why,
        raw=data,
    )
