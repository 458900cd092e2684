"""Values to records and back: which fields are columns, how keys sort, what a body holds. Final from version 1.

========== ===================== ================================================================================
kind       key (after uid)       body, behind its version; columns are in ``COLUMNS`` and not said again in a body
========== ===================== ================================================================================
header     agent id, uid ""      ``{"state": State, "calls": [ids of the open step's calls], "documents":
                                 [[kind, name, digest], …]}``; ``parent`` without its agent id, which is the column;
                                 ``dedupe_us`` counts microseconds
lease      ""                    empty: all is in columns, so that a renewal writes nothing else
message    int_key(seq)          ``Message``
call       int_keys of run.step.n ``Call``
events     int_key(first cursor) all events of one commit, a short array each (``eventrows``)
inbox      int_key(position)     ``Item``: payload, sender, context
consumed   item id               ``[digest of kind and payload]``; the payload's version is no part of the digest
run        int_key(number)       ``RunRecord``
compaction id                    ``Compaction``
snapshot   id                    ``Snapshot``; its column ``tags`` is a JSON list
document   kind/name/digest      ``[data]``, the document's JSON text as a string; a kind and a digest have no
                                 ``/``, a name may; the digest is in the key because snapshots name documents of before
blob       SHA-256 (hex)         the bytes themselves, without a version
staged     commit id/int_key(n)  a record of a commit that is still to be brought to its place: ``[kind, key,
                                 {columns}]``, a line feed, and that record's body as it is; ``[kind, key]`` and no
                                 line feed for a record to be deleted
staged     a uid, uid ""         ``["fork" | "drop", agent id]``: records of that uid may be without a header, for
                                 they are being made or removed (``orphans``)
========== ===================== ================================================================================

Texts that become keys or columns are printable, have no NUL and are bounded in bytes of UTF-8: 200, an item's id 500
(``primitives.check_name``).

Where a body is named after a class it is that value as a JSON object: fields that are columns or in the key are left
out, and so is each field that holds its default. ``size`` is the number of bytes in the body. Text in columns is
well-formed Unicode without NUL (U+FFFD stands for what was wrong), because engines refuse the rest.

What reads a record raises ``RecordCorruptError`` (``raw`` holds the body) or ``SchemaTooNewError``; nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Final, Literal, TypeAlias

from kode.core import jsontext
from kode.core.kernel.events import CHANNEL, Event
from kode.core.kernel.message import Message
from kode.core.kernel.state import Document, RunRecord, State
from kode.core.kernel.toolcall import Call, CallStatus
from kode.core.kernel.window import Compaction, Snapshot
from kode.core.kernel.words import StopReason
from kode.core.store import codec, eventrows
from kode.core.store.columns import (
    COLUMNS,
    call_key,
    call_prefix,
    column,
    corrupt,
    document_key,
    fill,
    int_key,
    key_int,
    maybe_column,
    maybe_text,
    maybe_whole,
    read_body,
    reader,
    text,
    where,
    whole,
    word,
)
from kode.core.store.contract import AgentInfo, Bounds, Commit, DocumentBody, Key, Kind, Lease, Record, Value
from kode.core.store.items import (
    checked_item,
    consumed_record,
    inbox_record,
    input_item,
    item_digest,
    item_input,
    read_consumed,
    read_item,
    same_item,
)

__all__ = [
    "COLUMNS",
    "Act",
    "blob_record",
    "call_key",
    "call_prefix",
    "call_record",
    "checked_item",
    "compaction_record",
    "consumed_record",
    "document_key",
    "document_record",
    "events_record",
    "header_call_keys",
    "header_recipe",
    "header_record",
    "inbox_record",
    "input_item",
    "int_key",
    "item_digest",
    "item_input",
    "key_int",
    "lease_record",
    "message_record",
    "orphan_key",
    "orphan_record",
    "read_bounds",
    "read_call",
    "read_compaction",
    "read_consumed",
    "read_document",
    "read_events",
    "read_header",
    "read_info",
    "read_item",
    "read_lease",
    "read_message",
    "read_orphan",
    "read_run",
    "read_snapshot",
    "read_staged",
    "released_record",
    "run_record",
    "same_item",
    "snapshot_record",
    "staged_record",
]


# ---- header and lease -----------------------------------------------------------------------------------------


def header_record(commit: Commit, *, version: int, wake_at: int | None, staged: str | None = None) -> Record:
    """Make the record that is the act of a commit; ``version`` is the one it makes."""
    state, bounds = commit.state, commit.bounds
    calls = tuple([call.id for call in state.calls])
    documents = tuple([(d.kind, d.name, d.digest) for d in state.documents])
    body = codec.encode("header", codec.HeaderBody(state, calls, documents))
    columns: dict[str, Value] = {
        "agent_id": state.agent_id,
        "uid": state.uid,
        "version": version,
        "commit_id": commit.commit_id,
        "staged": staged,
        "wake_at": wake_at,
        "seen": commit.seen,
        "status": state.status.value,
        "template": column(state.template),
        "tenant": maybe_column(state.tenant),
        "parent": None if state.parent is None else state.parent.agent_id,
        "created_at": state.created_at,
        "updated_at": state.updated_at,
        "max_inbox": bounds.max_inbox,
        "max_message_bytes": bounds.max_message_bytes,
        "dedupe_us": round(bounds.dedupe_for_s * 1_000_000),
        "expires_at": state.expires_at,
        "parked": None if state.parked is None else state.parked.value,
    }
    return Record("header", "", state.agent_id, columns, body)


@reader
def read_header(record: Record, calls: Sequence[Call]) -> State:
    """Read a state; ``calls`` are those of ``header_call_keys``, in any order, more do no harm."""
    body: codec.HeaderBody = read_body(record, "header")
    columns, state = record.columns, body.state
    by_id = {call.id: call for call in calls} if body.calls else {}
    missing = [id for id in body.calls if id not in by_id]
    if missing:
        raise ValueError(f"it names calls that are not there: {', '.join(missing)}")
    if state.parent is not None:
        fill(state.parent, agent_id=text(columns["parent"]))
    fill(
        state,
        agent_id=text(columns["agent_id"]),
        uid=text(columns["uid"]),
        created_at=whole(columns["created_at"]),
        updated_at=whole(columns["updated_at"]),
        template=text(columns["template"]),
        tenant=maybe_text(columns["tenant"]),
        expires_at=maybe_whole(columns["expires_at"]),
        parked=None if columns["parked"] is None else word(StopReason, columns["parked"]),
        calls=tuple([by_id[id] for id in body.calls]),
        documents=tuple([Document(kind, name, digest) for kind, name, digest in body.documents]),
    )
    return state


@reader
def header_call_keys(record: Record) -> list[Key]:
    """Say which call records belong to a header: those of its open step."""
    body: codec.HeaderBody = read_body(record, "header")
    uid = text(record.columns["uid"])
    return [Key("call", uid, call_key(id)) for id in body.calls]


@reader
def header_recipe(record: Record) -> Document | None:
    """Say which document of a header is its template."""
    body: codec.HeaderBody = read_body(record, "header")
    return next((Document(*named) for named in body.documents if named[0] == "template"), None)


@reader
def read_bounds(record: Record) -> Bounds:
    """Read the inbox's bounds from a header."""
    columns = record.columns
    return Bounds(
        whole(columns["max_inbox"]),
        whole(columns["max_message_bytes"]),
        whole(columns["dedupe_us"]) / 1_000_000,
    )


@reader
def read_info(record: Record) -> AgentInfo:
    """Read one row of a listing from a header's columns; its body is not looked at."""
    columns = record.columns
    return AgentInfo(
        text(columns["agent_id"]),
        text(columns["uid"]),
        whole(columns["version"]),
        text(columns["status"]),
        text(columns["template"]),
        maybe_text(columns["tenant"]),
        maybe_text(columns["parent"]),
        whole(columns["created_at"]),
        whole(columns["updated_at"]),
        maybe_whole(columns["wake_at"]),
        maybe_whole(columns["expires_at"]),
        maybe_text(columns["parked"]),
    )


def lease_record(lease: Lease) -> Record:
    """Make the record of a lease that is held."""
    return _lease(lease, lease.holder)


def released_record(lease: Lease) -> Record:
    """Make the record of a lease that was given back: nobody holds it, the fence is remembered."""
    return _lease(lease, None)


def _lease(lease: Lease, holder: str | None) -> Record:
    columns: dict[str, Value] = {
        "holder": holder,
        "fence": lease.fence,
        "until": lease.until,
        "takes": lease.takes,
    }
    return Record("lease", lease.uid, "", columns, b"")


@reader
def read_lease(record: Record, agent_id: str, version: int) -> Lease | None:
    """Read a lease; None if nobody holds it. Whether it has lapsed is for who knows the time."""
    columns = record.columns
    holder = maybe_text(columns["holder"])
    if holder is None:
        return None
    fence, until, takes = whole(columns["fence"]), whole(columns["until"]), whole(columns["takes"])
    return Lease(agent_id, record.uid, holder, fence, until, version, takes)


# ---- history --------------------------------------------------------------------------------------------------


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
        "channels": ",".join(sorted({CHANNEL.get(event.type, "monitor") for event in events})),
        "run": first.run,
        "at": first.at,
        "size": len(body),
    }
    return Record("events", uid, int_key(first.cursor), columns, body)


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


# ---- records on their way, identities without a header --------------------------------------------------------

Act: TypeAlias = Literal["fork", "drop"]
"""Why records of a uid have no header: they are being made, or removed."""


def staged_record(commit_id: str, n: int, at: int, uid: str, row: Record | Key) -> Record:
    """Wrap the n-th record of a commit, or the key of one to delete; the body is taken over as it is."""
    said: list[Any] = [row.kind, row.key]
    body = b""
    if isinstance(row, Record):
        said.append(dict(row.columns))
        body = b"\n" + row.body
    line = json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode()
    return Record("staged", uid, f"{commit_id}/{int_key(n)}", {"at": at}, b"%d%b%b" % (codec.VERSION, line, body))


def read_staged(record: Record) -> Record | Key:
    """Unwrap what ``staged_record`` wrapped."""
    line, feed, body = record.body.partition(b"\n")
    version, said = codec.decode_line(line, record.body, where(record))
    if version > codec.VERSION:
        raise codec.too_new("staged", version, where(record))
    if not (isinstance(said, list) and len(said) == 2 + len(feed) and said[0] in COLUMNS and type(said[1]) is str):
        raise codec.corrupt("staged", record.body, where(record), "it is no [kind, key, columns]")
    kind: Kind = said[0]
    if not feed:
        return Key(kind, record.uid, said[1])
    if not isinstance(said[2], dict) or said[2].keys() != {name for name, _ in COLUMNS[kind]}:
        raise codec.corrupt("staged", record.body, where(record), f"its columns are not those of {kind} records")
    return Record(kind, record.uid, said[1], said[2], body)


def orphan_key(uid: str) -> Key:
    """Where it is marked that records of a uid may be without a header."""
    return Key("staged", "", uid)


def orphan_record(uid: str, agent_id: str, act: Act, at: int) -> Record:
    """Make such a mark."""
    return Record("staged", "", uid, {"at": at}, codec.encode("orphan", (act, agent_id)))


@reader
def read_orphan(record: Record) -> tuple[str, str]:
    """Read a mark: what goes on, and the agent id that tells where the records lie."""
    act, agent_id = read_body(record, "orphan")
    return act, agent_id
