"""What an agent said and did as records: messages, calls, events, runs and all else that stands behind a header."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from kode.core import jsontext
from kode.core.kernel.events import CHANNEL, Event
from kode.core.kernel.message import Message
from kode.core.kernel.state import RunRecord
from kode.core.kernel.toolcall import Call, CallStatus
from kode.core.kernel.window import Compaction, Snapshot
from kode.core.kernel.words import StopReason
from kode.core.store.contract import DocumentBody, Record, Value
from kode.core.store.records import codec, eventrows
from kode.core.store.records.columns import (
    column,
    corrupt,
    document_key,
    fill,
    int_key,
    key_int,
    maybe_text,
    maybe_whole,
    read_body,
    reader,
    text,
    whole,
    word,
)

__all__ = [
    "blob_record",
    "call_record",
    "compaction_record",
    "document_record",
    "events_record",
    "message_record",
    "read_call",
    "read_compaction",
    "read_document",
    "read_events",
    "read_message",
    "read_run",
    "read_snapshot",
    "run_record",
    "snapshot_record",
]


def message_record(uid: str, message: Message) -> Record:
    """Make the record of a message."""
    body = codec.encode("message", message)
    columns: dict[str, Value] = {
        "role": message.role,
        "run": message.run,
        "step": message.step,
        "at": message.at,
        "size": len(body),
    }
    return Record("message", uid, int_key(message.seq), columns, body)


_set = object.__setattr__
_ROLES: Final = frozenset({"user", "assistant", "system"})


def read_message(record: Record) -> Message:
    """Read a message."""
    # Thousands are read at once, so this one does by hand what ``reader`` and ``fill`` do for the others.
    message: Message = read_body(record, "message")
    columns = record.columns
    try:
        role, run, step, at = columns["role"], columns["run"], columns["step"], columns["at"]
        if role not in _ROLES or type(run) is not int or type(step) is not int or type(at) is not int:
            raise ValueError("a column holds what it may not")
        _set(message, "seq", key_int(record.key))
    except (KeyError, ValueError) as error:
        raise corrupt(record, error) from None
    _set(message, "role", role)
    _set(message, "run", run)
    _set(message, "step", step)
    _set(message, "at", at)
    return message


def call_record(uid: str, call: Call) -> Record:
    """Make the record of a call."""
    body = codec.encode("call", call)
    columns: dict[str, Value] = {
        "status": call.status.value,
        "tool": column(call.tool),
        "seq": call.seq,
        "run": call.run,
        "asked_at": call.asked_at,
        "started_at": call.started_at,
        "finished_at": call.finished_at,
        "size": len(body),
    }
    return Record("call", uid, f"{int_key(call.run)}.{int_key(call.step)}.{int_key(call.n)}", columns, body)


@reader
def read_call(record: Record) -> Call:
    """Read a call."""
    call: Call = read_body(record, "call")
    columns = record.columns
    run, step, n = map(key_int, record.key.split("."))
    fill(
        call,
        run=run,
        step=step,
        n=n,
        tool=text(columns["tool"]),
        seq=whole(columns["seq"]),
        status=word(CallStatus, columns["status"]),
        asked_at=whole(columns["asked_at"]),
        started_at=maybe_whole(columns["started_at"]),
        finished_at=maybe_whole(columns["finished_at"]),
    )
    return call


def events_record(uid: str, events: Sequence[Event], version: int) -> Record:
    """Make one record of all events of the commit that made ``version``; at least one, with rising cursors."""
    first = events[0]
    body = codec.encode("events", eventrows.rows(events))
    columns: dict[str, Value] = {
        "last": events[-1].cursor,
        "version": version,
        "channels": _channels(tuple([event.type for event in events])),
        "run": first.run,
        "at": first.at,
        "size": len(body),
    }
    return Record("events", uid, int_key(first.cursor), columns, body)


@lru_cache(maxsize=1_024)
def _channels(types: tuple[str, ...]) -> str:
    """The channels of a commit's events; a few sequences of types make up nearly all commits."""
    return ",".join(sorted({CHANNEL.get(name, "monitor") for name in types}))


@reader
def read_events(record: Record) -> list[Event]:
    """Read the events of one commit."""
    columns = record.columns
    base = Event("", at=whole(columns["at"]), cursor=key_int(record.key), run=whole(columns["run"]))
    return eventrows.events(read_body(record, "events"), base)


def run_record(uid: str, run: RunRecord) -> Record:
    """Make the record of a run."""
    columns: dict[str, Value] = {
        "status": run.status,
        "stop_reason": run.stop_reason.value,
        "started_at": run.started_at,
        "ended_at": run.ended_at,
    }
    return Record("run", uid, int_key(run.number), columns, codec.encode("run", run))


@reader
def read_run(record: Record) -> RunRecord:
    """Read what became of a run."""
    run: RunRecord = read_body(record, "run")
    columns = record.columns
    fill(
        run,
        number=key_int(record.key),
        status=text(columns["status"]),
        stop_reason=word(StopReason, columns["stop_reason"]),
        started_at=whole(columns["started_at"]),
        ended_at=maybe_whole(columns["ended_at"]),
    )
    return run


def compaction_record(uid: str, compaction: Compaction) -> Record:
    """Make the record of a compaction."""
    columns: dict[str, Value] = {"start": compaction.start, "stop": compaction.stop, "at": compaction.at}
    return Record("compaction", uid, compaction.id, columns, codec.encode("compaction", compaction))


@reader
def read_compaction(record: Record) -> Compaction:
    """Read a compaction."""
    compaction: Compaction = read_body(record, "compaction")
    columns = record.columns
    start, stop, at = whole(columns["start"]), whole(columns["stop"]), whole(columns["at"])
    fill(compaction, id=record.key, start=start, stop=stop, at=at)
    return compaction


def snapshot_record(uid: str, snapshot: Snapshot) -> Record:
    """Make the record of a snapshot."""
    columns: dict[str, Value] = {
        "seq": snapshot.seq,
        "tags": column(jsontext.dump(snapshot.tags)),
        "parent": snapshot.parent,
    }
    return Record("snapshot", uid, snapshot.id, columns, codec.encode("snapshot", snapshot))


@reader
def read_snapshot(record: Record) -> Snapshot:
    """Read a snapshot."""
    snapshot: Snapshot = read_body(record, "snapshot")
    columns = record.columns
    tags = tuple([text(tag) for tag in json.loads(text(columns["tags"]))])
    fill(snapshot, id=record.key, seq=whole(columns["seq"]), tags=tags, parent=maybe_text(columns["parent"]))
    return snapshot


def document_record(uid: str, document: DocumentBody, digest: str, at: int) -> Record:
    """Make the record of a document; ``digest`` (hex) is what the state names it by."""
    body = codec.encode("document", (document.data,))
    key = f"{document_key(document.kind, document.name)}/{digest}"
    return Record("document", uid, key, {"digest": digest, "at": at}, body)


@reader
def read_document(record: Record) -> DocumentBody:
    """Read a document."""
    kind, slash, rest = record.key.partition("/")
    name, another, _ = rest.rpartition("/")
    if not slash or not another:
        raise ValueError("its key is not kind/name/digest")
    (data,) = read_body(record, "document")
    return DocumentBody(kind, name, data)


def blob_record(uid: str, data: bytes, media_type: str, at: int) -> Record:
    """Make the record of a blob, named by its SHA-256; ``body`` is the bytes as they are."""
    columns: dict[str, Value] = {"size": len(data), "media_type": column(media_type), "at": at}
    return Record("blob", uid, hashlib.sha256(data).hexdigest(), columns, bytes(data))
