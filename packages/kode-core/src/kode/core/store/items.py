"""Items of an inbox as records, and the inputs that they carry.

An item's payload is the input as JSON without what the item says itself (id, sender, context). It has its own version,
``"v"``, left out while it is 1: it also travels inside other agents' effects.
"""

from __future__ import annotations

import hashlib
import json
from typing import Final

from kode.core import jsontext
from kode.core.errors import IllegalInputError, KodeError, SchemaTooNewError
from kode.core.kernel.inputs import (
    ApprovalDecided,
    CallResolved,
    InboxInput,
    MessageReceived,
)
from kode.core.kernel.message import Json
from kode.core.store import codec
from kode.core.store.columns import (
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
from kode.core.store.contract import Item, ItemKind, Record, Value

__all__ = [
    "consumed_record",
    "inbox_record",
    "input_item",
    "item_digest",
    "item_input",
    "read_consumed",
    "read_item",
]


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
    columns: dict[str, Value] = {"position": item.position, "run": run, "expires_at": expires_at}
    return Record("consumed", uid, item.id, columns, codec.encode("consumed", (item_digest(item),)))


@reader
def read_consumed(record: Record) -> tuple[int, int | None, int, str]:
    """Read position, run, expiry and digest of a consumed item."""
    columns = record.columns
    (digest,) = read_body(record, "consumed")
    return whole(columns["position"]), maybe_whole(columns["run"]), whole(columns["expires_at"]), digest


def item_digest(item: Item) -> str:
    """Give the digest by which a repeated id is told from a different item: over kind and payload only."""
    return hashlib.sha256(f"{item.kind}\n{jsontext.digest(item.payload)}".encode()).hexdigest()


# ---- inputs ---------------------------------------------------------------------------------------------------

_BODY: Final[dict[str, codec.BodyKind]] = {
    "message": "input.message",
    "reminder": "input.message",
    "decision": "input.decision",
    "resolve": "input.resolve",
    "interrupt": "input.interrupt",
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
        raise _illegal(item, error.message) from None
    if isinstance(found, MessageReceived):
        spoken = "reminder" if item.kind == "reminder" else "user"
        fill(found, item=item.id, kind=spoken, sender=item.sender, context=item.context)
    elif isinstance(found, ApprovalDecided):
        fill(found, item=item.id, plan=None)
    else:
        fill(found, item=item.id)
    result: InboxInput = found
    return result


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
    )
