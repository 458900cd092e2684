"""Records of version 1 as they lie in people's stores: they must be read, as these values, for ever.

``scripts/make-fixtures`` writes the files from ``STORED``. A change to a file that exists is a change of the format: it
needs a new version and an upgrade, not a new file.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_args

import pytest

from kode.core.kernel.effects import Attempt, CallModel, CompactHistory, Deliver, RunTool
from kode.core.kernel.events import Event, Ref
from kode.core.kernel.inputs import ApprovalDecided, CallResolved, InterruptRequested, MessageReceived
from kode.core.kernel.message import (
    BlobBlock,
    Json,
    MediaBlock,
    Message,
    ReasoningBlock,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
    Usage,
)
from kode.core.kernel.state import Ancestor, Document, Parent, Run, RunError, RunRecord, State, Timer
from kode.core.kernel.toolcall import Approval, Audit, Call, CallStatus, Plan, Wait
from kode.core.kernel.window import Compaction, Range, Snapshot, Window
from kode.core.kernel.words import StopReason
from kode.core.store import records as rec
from kode.core.store.contract import Bounds, Commit, DocumentBody, Item, Key, Kind, Lease, Record
from kode.core.store.records import codec

T = TypeVar("T")

FIXTURES = Path(__file__).parents[2] / "fixtures" / "v1"

AT = 1_767_225_600_123_456
UID = "k3v9q0z7h2m4"
SHA = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
OPAQUE = Json('{"cache_control":{"type":"ephemeral"}}')

USAGE = Usage(15_000, 930, 8_400, 600, 120, 1_234_500)
TEXT = TextBlock('Grüße, "世界" 😀\n\t\\ \u2028\x00\x7f', OPAQUE)
REASONING = ReasoningBlock("Let me think.", "c2lnbmVk", True, OPAQUE)
TOOL_USE = ToolUseBlock("toolu_1", "bash_run", Json('{"cmd":"ls -la","n":1.5e+300,"z":-0.0}'), OPAQUE)
MEDIA = MediaBlock("image", "image/png", "https://example.org/a.png", "file_1", "aGk=", SHA, "a.png", OPAQUE)
BLOB = BlobBlock(SHA, 5_000_000, "application/pdf", "Annual report")
TOOL_RESULT = ToolResultBlock("toolu_1", (TEXT, MEDIA, BLOB), True, "3.5.0")

MESSAGE = Message(
    seq=7,
    role="assistant",
    blocks=(TEXT, REASONING, TOOL_USE, TOOL_RESULT, MEDIA, BLOB),
    at=AT,
    run=3,
    step=5,
    origin="inbox:m-1",
    provider="anthropic",
    model="some-model-1",
    attempt="2.1",
    stop_reason="tool_use",
    sender="ada",
    usage=USAGE,
    metadata=Json('{"user":"u-1"}'),
)
CALL = Call(
    run=3,
    step=5,
    n=1,
    provider_id="toolu_1",
    tool="bash_run",
    seq=7,
    block=2,
    status=CallStatus.SEALED,
    plan=Plan("ask", SHA, True, "ask", 120.5, "Mode approval asks before bash_run.", True),
    asked_at=AT,
    input=Json('{"cmd":"ls -la"}'),
    changed_input=Json('{"cmd":"ls"}'),
    started_at=AT + 1,
    finished_at=AT + 2,
    attempts=("2.1", "3.1"),
    approvals=(
        Approval(
            1,
            "recovery",
            "approved",
            AT + 3,
            "It may have run.",
            "ada",
            AT + 4,
            "go on",
            Json('{"cmd":"pwd"}'),
        ),
    ),
    wait=Wait(AT + 5, "agents/child", "c5d6e7"),
    result=(TEXT, MEDIA, BLOB),
    result_seq=8,
    is_error=True,
    cut_bytes=17,
    usage=USAGE,
    seal_reason="The process ended while it ran.",
    audit=(Audit(AT, CallStatus.PENDING, "asked"), Audit(AT + 2, CallStatus.SEALED, "crash")),
)
WINDOW = Window("cmp-1", (2, 5), (Range(6, 9), Range(20, None)))
STATE = State(
    agent_id="agents/coder-1",
    uid=UID,
    created_at=AT,
    updated_at=AT + 9,
    first_seq=2,
    first_cursor=40,
    next_seq=12,
    next_cursor=140,
    next_run=4,
    step=5,
    next_n=6,
    steps_total=25,
    usage_total=USAGE,
    window=WINDOW,
    run=Run(
        number=3,
        started_at=AT,
        first_seq=6,
        first_cursor=90,
        item="m-1",
        taken=2,
        steps=4,
        calls=6,
        usage=USAGE,
        used_us=12_345_678,
        resting=StopReason.APPROVAL,
        over=StopReason.MAX_STEPS,
        context=Json('{"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}'),
        limits=Json('{"max_steps":9}'),
    ),
    effects=(
        CallModel("3.5.0", Attempt(2, 3), 12, 600.5),
        RunTool("3.5.1", Attempt(2, 3), 120.25),
        CompactHistory("3.5.2", Attempt(2, 3), 6, 9, "digest", 60.0),
        Deliver("3.5.3", Attempt(2, 3), "agents/lead", "answer:x", "resolve", "1.1.0", "a9b8c7", 3, 5.0),
    ),
    calls=(CALL,),
    timers=(Timer("t-1", AT + 60, "reminder", "look at the build", 60_000_000, "0 9 * * 1", 30, 10),),
    documents=(Document("template", "coder", SHA), Document("todo", "main", SHA)),
    sandbox_ref="docker:0123456789ab",
    template="coder@3",
    tenant="acme",
    parent=Parent("agents/lead", "a9b8c7", "1.1.0", 2, True),
    lineage=(Ancestor("agents/first", "a0b1c2", 4),),
    parked=StopReason.CRASH_LOOP,
    tokens=43_000,
    expires_at=AT + 86_400_000_000,
)
COMMIT = Commit(STATE, "c-77", 7, 2, AT + 9, Bounds(50, 65_536, 3_600.5), seen=9)
EVENTS = [
    Event(
        "tool_start",
        AT,
        140,
        3,
        5,
        "3.5.1",
        Ref(7, 2),
        "ls -la",
        {"s": "é", "i": 1, "f": 0.5, "b": True, "n": None},
    ),
    Event("done", AT + 4, 143, 4, 6, "3.5.2", Ref(8, 1), "total 5", {"status": "ok"}),
]
RUN = RunRecord(
    number=3,
    status="error",
    stop_reason=StopReason.PROVIDER_ERROR,
    started_at=AT,
    ended_at=AT + 9,
    item="m-1",
    taken=2,
    first_seq=6,
    last_seq=11,
    first_cursor=90,
    last_cursor=139,
    steps=4,
    calls=6,
    usage=USAGE,
    used_us=12_345_678,
    pending=("3.5.1",),
    waiting=("3.5.2",),
    answer_seq=11,
    output=Json('{"ok":true}'),
    error=RunError("overloaded", "The provider is overloaded.", True),
    context=Json('{"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}'),
)
COMPACTION = Compaction(
    "cmp-1",
    0,
    6,
    AT,
    (TEXT,),
    "model",
    Window("cmp-0", (1,), (Range(0, 3), Range(5, None))),
    "m",
    USAGE,
    9_000,
    800,
)
SNAPSHOT = Snapshot("snap-1", 12, AT, WINDOW, (("todo", "main", SHA),), ("green", "a,b"), "snap-0", 43_000, "coder@3")
DOCUMENT = DocumentBody("todo", "a/b %ä", Json('{"items":[{"text":"é","done":false}]}'))
LEASE = Lease("agents/coder-1", UID, "host-1:4711:boot", 2, AT + 30_000_000, 8, 1)

INPUTS: dict[str, Any] = {
    "message": MessageReceived(
        "m-1", (TEXT, MEDIA, BLOB), "user", "ada", Json('{"k":1}'), Json('{"tenant":"acme"}'), Json('{"max_steps":9}')
    ),
    "reminder": MessageReceived("m-2", (TEXT,), "reminder", "bob", Json("{}"), Json("{}"), Json("{}")),
    "decision": ApprovalDecided("decision:3.5.1:1", "3.5.1", 1, "deny", "ada", "no", Json('{"cmd":"ls"}')),
    "resolve": CallResolved("m-3", "3.5.1", (TEXT, MEDIA, BLOB), True, USAGE),
    "interrupt": InterruptRequested("m-4", "enough", "ada"),
}


def item(name: str) -> Item:
    """Give the item that carries one of ``INPUTS``, with every field set."""
    made = rec.input_item(
        INPUTS[name], at=AT, not_before=AT + 5, priority=7, tenant="acme", sender="ada", context=Json("{}")
    )
    return Item(**{f.name: getattr(made, f.name) for f in fields(Item)} | {"position": 300})


# Fields that hold their default are not stored. What they mean is written out here: a changed default shows.
def spelled(cls: type[T], **values: Any) -> T:
    """Make a value of which every field is given, so that no default of today can stand for one of then."""
    assert set(values) == {field.name for field in fields(cls)}, set(values) ^ {f.name for f in fields(cls)}  # type: ignore[arg-type]
    return cls(**values)


NO_USAGE = spelled(Usage, input=0, output=0, cache_read=0, cache_write=0, reasoning=0, cost_nanos=0)
ALL = spelled(Window, compaction=None, pinned=(), ranges=(Range(0, None),))
BARE_MESSAGE = spelled(
    Message,
    **{"seq": 0, "role": "user", "blocks": (), "at": 0, "run": 0, "step": 0, "origin": None, "sender": None},
    **{
        "provider": None,
        "model": None,
        "attempt": None,
        "stop_reason": None,
        "usage": None,
        "metadata": None,
    },
)
BARE_PLAN = spelled(
    Plan, verdict="allow", tool_digest=None, readonly=False, recovery="seal", timeout_s=None, reason=None, child=False
)
BARE_CALL = spelled(
    Call,
    **{"run": 1, "step": 1, "n": 0, "provider_id": "", "tool": "t", "seq": 0, "block": 0, "asked_at": 0},
    **{"status": CallStatus.PENDING, "plan": BARE_PLAN, "input": None, "changed_input": None, "usage": None},
    **{
        "started_at": None,
        "finished_at": None,
        "attempts": (),
        "approvals": (),
        "wait": None,
        "result": None,
    },
    **{"result_seq": None, "is_error": False, "cut_bytes": 0, "seal_reason": None, "audit": ()},
)
BARE_STATE = spelled(
    State,
    **{"agent_id": "a", "uid": "u", "created_at": 0, "updated_at": 0, "next_seq": 0, "next_cursor": 1},
    **{"next_run": 1, "step": 0, "next_n": 0, "steps_total": 0, "usage_total": NO_USAGE, "window": ALL},
    **{"run": None, "effects": (), "calls": (), "timers": (), "documents": (), "sandbox_ref": None},
    **{"template": "", "tenant": None, "parent": None, "lineage": (), "parked": None, "tokens": 0},
    **{"first_seq": 0, "first_cursor": 1, "expires_at": None},
)
BARE_RUN_STATE = State(
    "a",
    "u",
    0,
    0,
    run=Run(1, 0, 0, 0, None, 0, 0, 0, Usage(0, 0, 0, 0, 0, 0), 0, None, None, None, None),
    effects=(
        CallModel("1.1.0", Attempt(1, 1), 0, None),
        RunTool("1.1.1", Attempt(1, 1), None),
        CompactHistory("1.1.2", Attempt(1, 1), 0, 0, "model", None),
        Deliver("1.1.3", Attempt(1, 1), "b", "i", "interrupt", None, None, None, None),
    ),
    timers=(Timer("t", None, "message", "", None, None, None, None),),
    parent=Parent("p", "pu", "1.1.0", 1, False),
)
BARE_BLOCKS = Message(
    0,
    "user",
    (
        TextBlock("", None),
        ReasoningBlock("", None, False, None),
        ToolUseBlock("", "", Json("{}"), None),
        ToolResultBlock("", (), False, ""),
        MediaBlock("file", None, None, None, None, None, None, None),
        BlobBlock("", 0, "text/plain", ""),
    ),
    0,
)
BARE_OPEN_CALL = Call(
    *(1, 1, 0, "", "t", 0, 0, CallStatus.WAITING, Plan("allow"), 0),
    approvals=(Approval(1, "permission", "pending", None, None, None, None, None, None),),
    wait=Wait(None, None, None),
    audit=(Audit(0, CallStatus.PENDING, None),),
)
BARE_RUN = spelled(
    RunRecord,
    **{"number": 1, "status": "ok", "stop_reason": StopReason.END_TURN, "started_at": 0, "ended_at": None},
    **{
        "item": None,
        "taken": 0,
        "first_seq": 0,
        "last_seq": 0,
        "first_cursor": 0,
        "last_cursor": 0,
        "steps": 0,
    },
    **{"calls": 0, "usage": NO_USAGE, "used_us": 0, "pending": (), "waiting": (), "answer_seq": None},
    **{"output": None, "error": RunError("", "", False), "context": None},
)
BARE_COMPACTION = spelled(
    Compaction,
    **{"id": "c", "start": 0, "stop": 0, "at": 0, "summary": (), "method": "", "window_before": ALL},
    **{"model": None, "usage": None, "tokens_before": 0, "tokens_after": 0},
)
BARE_SNAPSHOT = spelled(
    Snapshot,
    **{"id": "s", "seq": 0, "at": 0, "window": ALL, "documents": (), "tags": (), "parent": None},
    **{"tokens": 0, "template": ""},
)
BARE_EVENT = Event("done", 0, 1, 0, 0, None, None, None, {})
BARE_ITEM = Item("i", "interrupt", Json("{}"), 0, 0, None, 0, None, None, None)


def header(state: State) -> Record:
    """Make a header with the smallest columns."""
    return rec.header_record(Commit(state, "c", None, None, 0), version=1, wake_at=None)


STORED: dict[str, tuple[Record, Any]] = {
    # name of the file: the record, and what reading it gives
    "header": (rec.header_record(COMMIT, version=8, wake_at=AT + 5, staged="c-78"), STATE),
    "lease": (rec.lease_record(LEASE), LEASE),
    "lease-free": (rec.released_record(LEASE), None),
    "message": (rec.message_record(UID, MESSAGE), MESSAGE),
    "call": (rec.call_record(UID, CALL), CALL),
    "events": (rec.events_record(UID, EVENTS, 8), EVENTS),
    **{f"inbox-{name}": (rec.inbox_record(UID, item(name)), item(name)) for name in INPUTS},
    "consumed": (
        rec.consumed_record(UID, item("message"), 3, AT + 7),
        (300, "message", 3, AT + 7, rec.item_digest(item("message"))),
    ),
    "run": (rec.run_record(UID, RUN), RUN),
    "compaction": (rec.compaction_record(UID, COMPACTION), COMPACTION),
    "snapshot": (rec.snapshot_record(UID, SNAPSHOT), SNAPSHOT),
    "document": (rec.document_record(UID, DOCUMENT, SHA, AT), DOCUMENT),
    "blob": (rec.blob_record(UID, "Grüße".encode(), "text/plain", AT), "Grüße".encode()),
    "staged": (
        rec.staged_record("c-78", 4, AT, UID, rec.message_record(UID, MESSAGE)),
        rec.message_record(UID, MESSAGE),
    ),
    "staged-delete": (
        rec.staged_record("c-78", 5, AT, UID, Key("inbox", UID, "212c")),
        Key("inbox", UID, "212c"),
    ),
    "staged-fork": (rec.orphan_record(UID, "agents/coder-1", "fork", AT), ("fork", "agents/coder-1")),
    "staged-drop": (rec.orphan_record(UID, "agents/coder-1", "drop", AT), ("drop", "agents/coder-1")),
    "bare-message": (rec.message_record("u", BARE_MESSAGE), BARE_MESSAGE),
    "bare-blocks": (rec.message_record("u", BARE_BLOCKS), BARE_BLOCKS),
    "bare-call": (rec.call_record("u", BARE_CALL), BARE_CALL),
    "bare-open-call": (rec.call_record("u", BARE_OPEN_CALL), BARE_OPEN_CALL),
    "bare-header": (header(BARE_STATE), BARE_STATE),
    "bare-run-header": (header(BARE_RUN_STATE), BARE_RUN_STATE),
    "bare-run": (rec.run_record("u", BARE_RUN), BARE_RUN),
    "bare-compaction": (rec.compaction_record("u", BARE_COMPACTION), BARE_COMPACTION),
    "bare-snapshot": (rec.snapshot_record("u", BARE_SNAPSHOT), BARE_SNAPSHOT),
    "bare-events": (rec.events_record("u", [BARE_EVENT], 1), [BARE_EVENT]),
    "bare-inbox": (rec.inbox_record("u", BARE_ITEM), BARE_ITEM),
}


def as_json(record: Record) -> str:
    """Write a record as a fixture file holds it."""
    plain = {
        "kind": record.kind,
        "uid": record.uid,
        "key": record.key,
        "columns": dict(record.columns),
        "body": record.body.decode(),
    }
    return json.dumps(plain, indent=1, ensure_ascii=False) + "\n"


def stored(name: str) -> Record:
    """Read a fixture file."""
    plain = json.loads((FIXTURES / f"{name}.json").read_text(encoding="utf-8"))
    return Record(**plain | {"body": plain["body"].encode()})


def read(record: Record) -> Any:
    """Read a record by its kind."""
    readers: dict[Kind, Any] = {
        "header": lambda r: rec.read_header(r, [CALL]),
        "lease": lambda r: rec.read_lease(r, LEASE.agent_id, LEASE.version),
        "message": rec.read_message,
        "call": rec.read_call,
        "events": rec.read_events,
        "inbox": rec.read_item,
        "consumed": rec.read_consumed,
        "run": rec.read_run,
        "compaction": rec.read_compaction,
        "snapshot": rec.read_snapshot,
        "document": rec.read_document,
        "blob": lambda r: r.body,
        "staged": rec.read_staged if record.uid else rec.read_orphan,
    }
    return readers[record.kind](record)


@pytest.mark.parametrize("name", STORED)
def test_what_was_stored_is_read_as_it_was_meant(name: str) -> None:
    assert read(stored(name)) == STORED[name][1]


@pytest.mark.skipif(codec.VERSION != 1, reason="what is written now is of a later version")
@pytest.mark.parametrize("name", STORED)
def test_the_same_bytes_are_written_today(name: str) -> None:
    assert as_json(STORED[name][0]) == (FIXTURES / f"{name}.json").read_text(encoding="utf-8")


def test_an_item_consumed_before_digests_said_how_they_were_made_is_known_again() -> None:
    old = "52529d502a80502838a1c4acac2784f41537fc8ac7becfb30372f97c75a770d0"
    assert rec.same_item(old, item("message"))
    assert not rec.same_item(old, replace(item("message"), payload=Json('{"blocks":[]}')))


def test_every_file_is_expected_and_every_kind_has_one() -> None:
    assert {path.stem for path in FIXTURES.glob("*.json")} == set(STORED)
    assert {record.kind for record, _ in STORED.values()} == set(get_args(Kind)) == set(rec.COLUMNS)


@pytest.mark.parametrize("name", INPUTS)
def test_inputs_that_were_stored_are_read_as_they_were_meant(name: str) -> None:
    assert rec.item_input(rec.read_item(stored(f"inbox-{name}"))) == (INPUTS[name])


def test_bounds_and_listing_of_a_stored_header() -> None:
    record = stored("header")
    assert rec.read_bounds(record) == COMMIT.bounds
    assert rec.header_call_keys(record) == [Key("call", UID, "13.15.11")]
    assert rec.read_info(record).parent == "agents/lead"


def defaults_in(value: Any, path: str) -> list[str]:
    """Name the fields anywhere in a value that hold their default; a tag has no other value to hold."""
    if isinstance(value, tuple | list):
        return [name for n, inner in enumerate(value) for name in defaults_in(inner, f"{path}[{n}]")]
    if not is_dataclass(value):
        return []
    found = []
    for field in fields(value):
        held, name = getattr(value, field.name), f"{path}.{field.name}"
        if field.default is not MISSING and held == field.default and type(held) is type(field.default):
            found.append(name)
        found += defaults_in(held, name)
    return found


# Where the default is the only value that a field may hold at that place.
FORCED = (".type", ".kind", "[1].stop")


@pytest.mark.parametrize("name", [name for name in STORED if not name.startswith("bare-")])
def test_every_field_of_a_full_fixture_says_something(name: str) -> None:
    plain = defaults_in(STORED[name][1], name)
    assert [found for found in plain if not found.endswith(FORCED)] == []
