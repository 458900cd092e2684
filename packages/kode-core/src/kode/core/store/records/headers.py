"""The header and the lease of an agent as records, and what is read back from them."""

from __future__ import annotations

from collections.abc import Sequence

from kode.core.kernel.state import Document, State
from kode.core.kernel.toolcall import Call
from kode.core.kernel.words import StopReason
from kode.core.store.contract import AgentInfo, Bounds, Commit, Key, Lease, Record, Value
from kode.core.store.records import codec
from kode.core.store.records.columns import (
    call_key,
    column,
    counter,
    fill,
    maybe_column,
    maybe_text,
    maybe_whole,
    read_body,
    reader,
    text,
    whole,
    word,
)

__all__ = [
    "header_call_keys",
    "header_counters",
    "header_recipe",
    "header_record",
    "lease_record",
    "read_bounds",
    "read_header",
    "read_info",
    "read_lease",
    "released_record",
]


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
    columns, state = record.columns, _counted(body.state)
    if columns["agent_id"] != record.key:
        raise ValueError("it names another agent")
    counter(columns["version"])
    counter(columns["seen"])
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
        created_at=counter(columns["created_at"]),
        updated_at=counter(columns["updated_at"]),
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
def header_counters(record: Record) -> State:
    """Read the part of a state that is in the body of its header; the rest is unset."""
    return _counted(read_body(record, "header").state)


def _counted(state: State) -> State:
    """Give a state that can be gone on from: what it counts is in range, as everything that it numbers must be."""
    for n in (state.next_seq, state.next_cursor, state.next_run):
        counter(n)
    return state


@reader
def read_bounds(record: Record) -> Bounds:
    """Read the inbox's bounds from a header."""
    columns = record.columns
    return Bounds(
        whole(columns["max_inbox"]),
        whole(columns["max_message_bytes"]),
        counter(columns["dedupe_us"]) / 1_000_000,
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
    holder, until = maybe_text(columns["holder"]), whole(columns["until"])
    # The next one counts on from these, also when nobody holds it.
    fence, takes = counter(columns["fence"]), counter(columns["takes"])
    if holder is None:
        return None
    return Lease(agent_id, record.uid, holder, fence, until, version, takes)
