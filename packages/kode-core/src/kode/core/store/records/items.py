"""Items of an inbox as records, and the inputs that they carry.

An item's payload is the input as JSON without what the item says itself (id, sender, context). It has its own version,
``"v"``, left out while it is 1: it also travels inside other agents' effects.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Final

from kode.core import jsontext
from kode.core.errors import IllegalInputError, KodeError, SchemaTooNewError, UsageError
from kode.core.kernel.inputs import (
    ApprovalDecided,
    CallResolved,
    InboxInput,
    Instructed,
    MessageReceived,
)
from kode.core.kernel.message import Json
from kode.core.store.contract import Item, ItemKind, Record, Value
from kode.core.store.records import codec
from kode.core.store.records.columns import (
    fill,
    int_key,
    key_int,
    maybe_column,
    maybe_text,
    maybe_whole,
    read_body,
    reader,
    text,
    whole,
)

__all__ = [
    "checked_item",
    "consumed_record",
    "inbox_record",
    "input_item",
    "item_digest",
    "item_input",
    "read_consumed",
    "read_item",
    "same_item",
]

MAX_PRIORITY: Final = 1_000_000
"""Of an item, to both sides of 0."""


def inbox_record(uid: str, item: Item) -> Record:
    """Make the record of an item; a store that numbers it in the act of appending sets the key."""
    body = codec.encode("inbox", item)
    columns: dict[str, Value] = {
        "id": item.id,
        "kind": item.kind,
        "at": item.at,
        "not_before": item.not_before,
        "priority": item.priority,
        "tenant": maybe_column(item.tenant),
        "size": len(body),
    }
    return Record("inbox", uid, int_key(item.position), columns, body)


@reader
def read_item(record: Record) -> Item:
    """Read an item; its payload is not looked into."""
    item: Item = read_body(record, "inbox")
    columns = record.columns
    fill(
        item,
        id=text(columns["id"]),
        kind=text(columns["kind"]),
        at=whole(columns["at"]),
        position=key_int(record.key),
        not_before=maybe_whole(columns["not_before"]),
        priority=whole(columns["priority"]),
        tenant=maybe_text(columns["tenant"]),
    )
    return item


def consumed_record(uid: str, item: Item, run: int | None, expires_at: int) -> Record:
    """Make what remembers a consumed item, so that the same id is not taken twice."""
    columns: dict[str, Value] = {"position": item.position, "kind": item.kind, "run": run, "expires_at": expires_at}
    return Record("consumed", uid, item.id, columns, codec.encode("consumed", (item_digest(item),)))


@reader
def read_consumed(record: Record) -> tuple[int, str, int | None, int, str]:
    """Read position, kind, run, expiry and digest of a consumed item."""
    columns = record.columns
    (digest,) = read_body(record, "consumed")
    run, expires_at = maybe_whole(columns["run"]), whole(columns["expires_at"])
    return whole(columns["position"]), text(columns["kind"]), run, expires_at, digest


def item_digest(item: Item) -> str:
    """Give the digest by which a repeated id is told from a different item: over what is said, and by whom.

    What only comes with a message (metadata, bounds, trace context) may differ when it is delivered again; the first
    counts. The payload's version is no part of it either, so that a message sent again by a newer process is still the
    same one. A payload that is no JSON has a digest too: of its bytes.
    """
    return _SAID + _digest(item, item.sender or "", ("v", *_BESIDE.get(item.kind, ())))


def same_item(digest: str, item: Item) -> bool:
    """Whether a stored digest is of this item; before there was ``_SAID`` it was over kind and all of the payload."""
    return digest == (item_digest(item) if digest.startswith(_SAID) else _digest(item, None, ("v",)))


_SAID: Final = "2:"
"""What digests begin with; those of the first way have nothing in front."""
_BESIDE: Final[dict[str, tuple[str, ...]]] = {"message": ("metadata", "limits"), "reminder": ("metadata", "limits")}


def _digest(item: Item, sender: str | None, without: tuple[str, ...]) -> str:
    try:
        parsed = jsontext.parse(item.payload)
        if isinstance(parsed, dict):
            parsed = {name: value for name, value in parsed.items() if name not in without}
        body = jsontext.digest(jsontext.dump(parsed))
    except KodeError:
        body = hashlib.sha256(item.payload.encode("utf-8", "surrogatepass")).hexdigest()
    parts = [item.kind, body] if sender is None else [item.kind, body, sender]
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


# ---- inputs ---------------------------------------------------------------------------------------------------

_BODY: Final[dict[str, codec.BodyKind]] = {
    "message": "input.message",
    "reminder": "input.message",
    "decision": "input.decision",
    "resolve": "input.resolve",
    "interrupt": "input.interrupt",
    "instruction": "input.instruction",
}


def input_item(
    input: InboxInput,
    *,
    at: int,
    not_before: int | None = None,
    priority: int = 0,
    tenant: str | None = None,
    sender: str | None = None,
    context: Json | None = None,
) -> Item:
    """Make the item that carries an input; a message brings its own sender and context.

    A decision's ``plan`` stays behind: the shell that drives the agent plans a changed input itself.

    Raises:
        UsageError: The input is not of its declared types.
    """
    kind: ItemKind
    if isinstance(input, MessageReceived):
        kind = "reminder" if input.kind == "reminder" else "message"
        sender, context = input.sender, input.context
    elif isinstance(input, ApprovalDecided):
        kind = "decision"
    elif isinstance(input, CallResolved):
        kind = "resolve"
    elif isinstance(input, Instructed):
        kind = "instruction"
    else:
        kind = "interrupt"
    payload = codec.encode_json(_BODY[kind], input).decode()
    if codec.VERSION > 1:
        payload = jsontext.dump(json.loads(payload) | {"v": codec.VERSION})
    return Item(input.item, kind, Json(payload), at, 0, not_before, priority, tenant, sender, context)


def item_input(item: Item) -> InboxInput:
    """Read the input that an item carries.

    Raises:
        IllegalInputError: The payload is no such input (``illegal_item``): consume it as rejected.
        SchemaTooNewError: A newer KODE wrote it: leave it for a process that knows.
    """
    kind = _BODY.get(item.kind)
    if kind is None:
        raise _illegal(item, f"there is no kind {item.kind!r}")
    try:
        version, body = _versioned(item.payload)
        found = codec.decode_json(kind, version, body, f"{item.kind} item {item.id}")
    except SchemaTooNewError:
        raise
    except KodeError as error:
        raise _illegal(item, error.fields.get("why", "it is no JSON text of the right form")) from None
    if isinstance(found, MessageReceived):
        spoken = "reminder" if item.kind == "reminder" else "user"
        fill(found, item=item.id, kind=spoken, sender=item.sender, context=item.context)
    elif isinstance(found, ApprovalDecided):
        fill(found, item=item.id, plan=None)
    else:
        fill(found, item=item.id)
    result: InboxInput = found
    return result


def checked_item(item: Item) -> Item:
    """Give an item as it may be stored: its payload in canonical form, every column of its type.

    What passes here can be read back by every driver, so that no item can stop one for ever.

    Raises:
        UsageError: ``bad_item``: something in it is not of its kind; the message names the field.
        SchemaTooNewError: Its payload is of a later version.
    """
    for name, low, high in _RANGES:
        value = getattr(item, name)
        if value is None and name == "not_before":
            continue
        if type(value) is not int or not low <= value <= high:
            raise _bad_item(item, f"{name} must be a whole number from {low} to {high}")
    for name in ("sender", "context"):
        value = getattr(item, name)
        if value is not None and type(value) is not str:
            raise _bad_item(item, f"{name} must be a text or None")
    if type(item.payload) is not str:
        raise _bad_item(item, "payload must be JSON text")
    if item.context is not None:
        item = replace(item, context=_canonical(item, "context", item.context))
    try:
        found = item_input(item)
    except IllegalInputError as error:
        raise _bad_item(item, f"payload: {error.fields['why']}") from None
    # Nearly all payloads are what `input_item` made, and its text is canonical.
    if codec.encode_json(_BODY[item.kind], found) == item.payload.encode("utf-8", "surrogatepass"):
        return item
    return replace(item, payload=_canonical(item, "payload", item.payload))


_TIMES_END: Final = 2**53
_RANGES: Final = (
    ("at", 0, _TIMES_END),
    ("not_before", 0, _TIMES_END),
    ("priority", -MAX_PRIORITY, MAX_PRIORITY),
)


def _canonical(item: Item, name: str, text: str) -> Json:
    try:
        return jsontext.canonical(text)
    except UsageError:
        raise _bad_item(item, f"{name} must be JSON text: no key twice, finite numbers, at most 100 deep") from None


def _bad_item(item: Item, why: str) -> UsageError:
    return UsageError(f"The {item.kind} item {item.id!r} cannot be sent: {why}.", code="bad_item", item_id=item.id)


def _versioned(payload: str) -> tuple[int, bytes]:
    # Most payloads are of version 1 and do not say so; the word may also stand in a text, hence the second look.
    if '"v"' in payload:
        parsed = jsontext.parse(payload)
        if isinstance(parsed, dict) and type(version := parsed.pop("v", 1)) is int and version > 0:
            return version, jsontext.dump(parsed).encode()
    return 1, payload.encode("utf-8", "replace")


def _illegal(item: Item, why: str) -> IllegalInputError:
    return IllegalInputError(
        f"The {item.kind} item {item.id!r} holds no input that can be read: {why}",
        code="illegal_item",
        item=item.id,
        kind=item.kind,
        why=why,
    )
