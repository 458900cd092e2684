from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kode.core.errors import IllegalInputError, RecordCorruptError, SchemaTooNewError, UsageError
from kode.core.jsontext import canonical
from kode.core.kernel.effects import Attempt, CallModel, RunTool
from kode.core.kernel.events import Event, Ref
from kode.core.kernel.inputs import ApprovalDecided, InboxInput, MessageReceived
from kode.core.kernel.message import Json, Message, TextBlock, Usage
from kode.core.kernel.state import Document, Run, State, Timer
from kode.core.kernel.toolcall import Audit, Call, CallStatus, Plan, call_id
from kode.core.store import records as rec
from kode.core.store.contract import Commit, DocumentBody, Item, Key, Lease, Record
from kode.core.store.records import codec
from kode.core.testing import strategies as draw

AT = 1_767_225_600_123_456
UID = "0123456789abcdefghijkmnpqr"


def agent(**changes: Any) -> State:
    """Give an agent in the middle of a run as most are."""
    state = State(
        agent_id="agents/coder-1",
        uid=UID,
        created_at=AT,
        updated_at=AT + 1,
        next_seq=12,
        next_cursor=140,
        next_run=4,
        step=5,
        next_n=2,
        steps_total=25,
        usage_total=Usage(150_000, 9_300, 84_000, 0, 0, 12_345_000),
        run=Run(3, AT, 8, 90, "m-01JGZ5Q8Z6", 1, 4, 6, Usage(15_000, 930, 8_400, 0, 0, 1_234_500), 12_345_678),
        effects=(CallModel("3.5.0", Attempt(2), 12, 600.0),),
        documents=(Document("template", "coder", "ab" * 32), Document("todo", "", "cd" * 32)),
        template="coder@3",
        tokens=43_000,
    )
    return replace(state, **changes)


def call(n: int, **changes: Any) -> Call:
    made = Call(3, 5, n, f"toolu_{n}", "bash_run", 11, n, CallStatus.EXECUTING, Plan("allow"), AT)
    return replace(made, **changes)


def header(state: State, **changes: Any) -> Record:
    commit = replace(Commit(state, "c-1", 7, 2, AT, seen=9), **changes)
    return rec.header_record(commit, version=8, wake_at=AT)


def matches_columns(record: Record) -> bool:
    """Whether a record has exactly the columns of its kind, of their types, and its size is right."""
    names = dict(rec.COLUMNS[record.kind])
    types = {"int": int, "text": str}
    return (
        list(record.columns) == list(names)
        and all(v is None or type(v) is types[names[k]] for k, v in record.columns.items())
        and record.columns.get("size", len(record.body)) == len(record.body)
    )


# ---- round trips


@given(draw.commits(), draw.numbers, st.none() | draw.times, st.none() | draw.ids)
@settings(max_examples=60)
def test_headers(commit: Commit, version: int, wake_at: int | None, staged: str | None) -> None:
    record = rec.header_record(commit, version=version, wake_at=wake_at, staged=staged)
    state = commit.state
    assert matches_columns(record)
    assert record.address == Key("header", "", state.agent_id)
    assert rec.read_header(record, state.calls[::-1]) == state
    assert rec.read_bounds(record) == commit.bounds
    assert rec.header_call_keys(record) == [rec.call_record(state.uid, c).address for c in state.calls]
    info = rec.read_info(record)
    assert (info.agent_id, info.uid, info.version, info.status) == (
        state.agent_id,
        state.uid,
        version,
        state.status.value,
    )
    assert (info.wake_at, info.template, info.tenant) == (wake_at, state.template, state.tenant)
    assert (info.expires_at, info.parked) == (state.expires_at, state.parked and state.parked.value)
    assert info.parent == (state.parent and state.parent.agent_id)
    assert record.columns["staged"] == staged
    assert record.columns["commit_id"] == commit.commit_id


ROUND: dict[str, tuple[st.SearchStrategy[Any], Callable[[str, Any], Record], Callable[[Record], Any]]] = {
    "message": (draw.messages, rec.message_record, rec.read_message),
    "call": (draw.calls, rec.call_record, rec.read_call),
    "events": (draw.event_lists(), lambda uid, value: rec.events_record(uid, value, 3), rec.read_events),
    "inbox": (draw.items, rec.inbox_record, rec.read_item),
    "run": (draw.run_records, rec.run_record, rec.read_run),
    "compaction": (draw.compactions, rec.compaction_record, rec.read_compaction),
    "snapshot": (draw.snapshots, rec.snapshot_record, rec.read_snapshot),
    "document": (
        draw.documents,
        lambda uid, value: rec.document_record(uid, value, "d", 5),
        rec.read_document,
    ),
}


def typed(value: Any) -> Any:
    """Give a value with all types in it; a ``repr`` would leave out what people said."""
    if is_dataclass(value):
        return type(value), [typed(getattr(value, field.name)) for field in fields(value)]
    if isinstance(value, tuple | list):
        return type(value), [typed(inner) for inner in value]
    return type(value), repr(value)


@pytest.mark.parametrize("kind", ROUND)
def test_records_read_back_equal(kind: str) -> None:
    values, make, read = ROUND[kind]

    @settings(max_examples=60)
    @given(values)
    def check(value: Any) -> None:
        record = make(UID, value)
        assert (record.kind, record.uid) == (kind, UID)
        assert matches_columns(record)
        found = read(record)
        assert found == value
        # The types too: 1 is not True, and a status is its enum.
        assert typed(found) == typed(value)

    check()


@given(draw.leases)
def test_leases(lease: Lease) -> None:
    record = rec.lease_record(lease)
    assert matches_columns(record)
    assert (record.address, record.body) == (Key("lease", lease.uid, ""), b"")
    assert rec.read_lease(record, lease.agent_id, lease.version) == lease
    free = rec.released_record(lease)
    assert rec.read_lease(free, lease.agent_id, 1) is None
    assert free.columns == {**record.columns, "holder": None}


@given(draw.items, st.none() | draw.numbers, draw.times)
def test_consumed_items(item: Item, run: int | None, expires_at: int) -> None:
    record = rec.consumed_record(UID, item, run, expires_at)
    assert matches_columns(record)
    assert record.address == Key("consumed", UID, item.id)
    assert rec.read_consumed(record) == (item.position, item.kind, run, expires_at, rec.item_digest(item))


@given(draw.messages, st.binary(max_size=9))
@settings(max_examples=30)
def test_staged_records(message: Message, body: bytes) -> None:
    row = replace(rec.message_record(UID, message), body=body)
    staged = rec.staged_record("c-1", 7, AT, UID, row)
    assert matches_columns(staged)
    assert staged.address == Key("staged", UID, "c-1/17")
    assert rec.read_staged(staged) == row
    gone = rec.staged_record("c-1", 8, AT, UID, row.address)
    assert (rec.read_staged(gone), b"\n" in gone.body) == (row.address, False)


def test_a_staged_record_is_hardly_larger_than_what_it_holds() -> None:
    row = rec.message_record(UID, Message(7, "user", (TextBlock('"\\é' * 50_000),), AT))
    assert len(rec.staged_record("c-1", 0, AT, UID, row).body) < len(row.body) + 200


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"x", b"1{", b'1["message"]', b'1["x","17"]', b'1["message",7]', b'1["message","17",{}]', b"1{}\n"),
        *(b'1["message","17"]\nbody', b'1["message","17",{"role":"user"}]\nbody', b'1["message","17",[]]\nbody'),
    ],
)
def test_damaged_staged_records_are_told(body: bytes) -> None:
    staged = rec.staged_record("c-1", 0, AT, UID, Key("message", UID, "17"))
    with pytest.raises(RecordCorruptError) as raised:
        rec.read_staged(replace(staged, body=body))
    assert raised.value.fields["raw"] == body
    with pytest.raises(SchemaTooNewError):
        rec.read_staged(replace(staged, body=b'2["message","17"]'))


def test_marks_of_orphans_and_blobs() -> None:
    mark = rec.orphan_record(UID, "agents/x", "fork", AT)
    assert matches_columns(mark)
    assert (mark.address, rec.read_orphan(mark)) == (Key("staged", "", UID), ("fork", "agents/x"))
    blob = rec.blob_record(UID, b"\x00\xff", "image/png", AT)
    assert matches_columns(blob)
    assert (blob.uid, len(blob.key), blob.body) == (UID, 64, b"\x00\xff")


# ---- keys


@given(st.integers(0, 2**60 - 1), st.integers(0, 2**60 - 1))
def test_numbers_sort_as_text(a: int, b: int) -> None:
    assert (rec.int_key(a) < rec.int_key(b)) == (a < b)
    assert rec.key_int(rec.int_key(a)) == a


@pytest.mark.parametrize("n", [-1, 2**60])
def test_a_number_out_of_range_has_no_key(n: int) -> None:
    with pytest.raises(UsageError, match="from 0 to"):
        rec.int_key(n)


@pytest.mark.parametrize("key", ["", "1", "0", "2f", "20a", "1F", "1_", "3+1f", "x1", "1 1"])
def test_a_key_has_one_spelling(key: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        rec.key_int(key)


TRIPLES = st.tuples(*[st.integers(0, 5_000)] * 3)


@given(TRIPLES, TRIPLES)
def test_calls_sort_as_they_were_asked_for(a: tuple[int, int, int], b: tuple[int, int, int]) -> None:
    one, two = rec.call_key(call_id(*a)), rec.call_key(call_id(*b))
    assert (one < two) == (a < b)
    assert one.startswith(rec.call_prefix(b[0])) == (a[0] == b[0])
    assert one == rec.call_record(UID, replace(call(0), run=a[0], step=a[1], n=a[2])).key


@pytest.mark.parametrize("id", ["", "1.2", "1.2.3.4", "a.b.c"])
def test_only_call_ids_have_a_call_key(id: str) -> None:
    with pytest.raises(UsageError, match=r"run\.step\.n"):
        rec.call_key(id)


WORDS = st.text("a%ä", min_size=1, max_size=3)
PLACES = st.tuples(WORDS, st.text("a/%ä", max_size=4), WORDS)


@given(PLACES, PLACES)
def test_documents_never_share_a_key(one: tuple[str, str, str], two: tuple[str, str, str]) -> None:
    first, second = (
        rec.document_record(UID, DocumentBody(kind, name, Json("1")), digest, AT) for kind, name, digest in (one, two)
    )
    assert (first.key == second.key) == (one == two)
    assert first.key == f"{rec.document_key(*one[:2])}/{one[2]}"
    found = rec.read_document(first)
    assert (found.kind, found.name) == one[:2]


# ---- what engines refuse in a column


def test_text_in_columns_is_fit_for_every_engine() -> None:
    record = rec.call_record(UID, call(0, tool="a\0b\ud800"))
    assert record.columns["tool"] == "a\ufffdb\ufffd"
    assert rec.read_call(record).tool == "a\ufffdb\ufffd"
    assert header(agent(template="\0", tenant="\udfff")).columns["tenant"] == "\ufffd"
    (item,) = [Item("i", "message", Json("{}"), tenant="\0")]
    assert rec.inbox_record(UID, item).columns["tenant"] == "\ufffd"


# ---- sizes


def test_a_header_is_small() -> None:
    assert len(header(agent()).body) <= 700
    assert len(header(State("a", UID, AT, AT)).body) <= 20


def test_a_busy_header_stays_below_two_kilobytes() -> None:
    calls = tuple(call(n) for n in range(10))
    busy = agent(
        calls=calls,
        effects=tuple(RunTool(c.id, Attempt(2), 120.0) for c in calls[:3]),
        timers=tuple(Timer(f"timer-{n}", AT, "reminder", "look at the build") for n in range(4)),
        documents=tuple(Document("skill", f"skill-{n}", "ef" * 32) for n in range(8)),
        sandbox_ref="docker:0123456789abcdef",
    )
    assert len(header(busy).body) <= 2_048


def test_events_are_small() -> None:
    common: dict[str, Any] = {"at": AT, "run": 3, "step": 5}
    events = [
        Event("text_chunk_end", cursor=140, ref=Ref(11, 0), preview="I will list the files", **common),
        Event("token_usage", cursor=141, data={"input": 5000, "output": 300}, **common),
        Event("tool_start", cursor=142, call="3.5.0", ref=Ref(11, 1), preview="ls -la", **common),
        Event("state_changed", cursor=143, data={"from": "READY", "to": "WORKING"}, **common),
        Event("breakpoint_changed", cursor=144, data={"from": "TOOL_EXECUTING", "to": "POST_TOOL"}, **common),
        Event("step_complete", cursor=145, data={"steps": 3}, **common),
    ]
    record = rec.events_record(UID, events, 8)
    assert rec.read_events(record) == events
    assert len(record.body) / len(events) <= 60
    assert record.columns["channels"] == "monitor,progress"
    assert (record.key, record.columns["last"]) == (rec.int_key(140), 145)


def test_a_message_and_a_call_say_nothing_twice() -> None:
    message = rec.message_record(UID, Message(7, "user", (TextBlock("x" * 500),), AT, 3, 5))
    assert len(message.body) == 500 + len('1{"blocks":[{"text":"","type":"text"}]}')
    stored = rec.call_record(UID, call(0, input=Json("{}"), audit=(Audit(AT, CallStatus.PENDING),)))
    assert len(stored.body) <= 180


# ---- damage


def damaged(record: Record, **columns: Any) -> Record:
    return replace(record, columns={**record.columns, **columns})


def without(record: Record, column: str) -> Record:
    return replace(record, columns={k: v for k, v in record.columns.items() if k != column})


MESSAGE = rec.message_record(UID, Message(7, "user", (TextBlock("x"),), AT))
CALL = rec.call_record(UID, call(0))
HEADER = header(agent(calls=(call(0),)))
EVENTS = rec.events_record(UID, [Event("done", AT, 1)], 8)


@pytest.mark.parametrize(
    ("read", "record"),
    [
        (rec.read_message, damaged(MESSAGE, role="robot")),
        (rec.read_message, damaged(MESSAGE, at=None)),
        (rec.read_message, without(MESSAGE, "run")),
        (rec.read_message, replace(MESSAGE, key="x")),
        (rec.read_message, replace(MESSAGE, body=b"1{")),
        (rec.read_call, damaged(CALL, status="LOST")),
        (rec.read_document, Record("document", UID, "todo/x", {}, b'1["1"]')),
        (rec.read_orphan, Record("staged", "", UID, {"at": 1}, b'1["fork"]')),
        (rec.read_info, damaged(HEADER, expires_at="soon")),
        (rec.read_call, damaged(CALL, seq="1")),
        (rec.read_call, replace(CALL, key="11.11")),
        (rec.read_events, replace(EVENTS, body=b"1{}")),
        (rec.read_events, replace(EVENTS, body=b'1[["done"]]')),
        (rec.read_events, replace(EVENTS, body=b'1[["done",1,2,3]]')),
        (rec.read_events, replace(EVENTS, body=b'1[["done",1,2,null,null,[1]]]')),
        (rec.read_events, replace(EVENTS, body=b'1[["done",1,"2"]]')),
        (rec.read_header, HEADER),
        (rec.read_bounds, damaged(HEADER, max_inbox=None)),
        (rec.read_info, without(HEADER, "template")),
        (rec.header_call_keys, damaged(HEADER, uid=None)),
        (rec.header_call_keys, replace(HEADER, body=HEADER.body.replace(b'"calls":["', b'"calls":["x'))),
        (rec.header_call_keys, replace(HEADER, body=HEADER.body.replace(b'"calls":["', b'"calls":["-'))),
    ],
)
def test_damage_is_told_with_the_record_and_its_bytes(read: Any, record: Record) -> None:
    with pytest.raises(RecordCorruptError) as raised:
        read(record, []) if read is rec.read_header else read(record)
    assert raised.value.fields["raw"] == record.body
    assert f"{record.uid}/{record.key}" in raised.value.message


def test_a_newer_record_is_named() -> None:
    with pytest.raises(SchemaTooNewError) as raised:
        rec.read_message(replace(MESSAGE, body=b"2" + MESSAGE.body[1:]))
    assert f"message record {UID}/17 has version 2; this process knows up to 1." in raised.value.message


@pytest.mark.parametrize("data", [{1: 2}, {"x": [1]}, {"x": float("nan")}])
def test_events_hold_scalars_only(data: Any) -> None:
    with pytest.raises(UsageError):
        rec.events_record(UID, [Event("done", data=data)], 1)


# ---- the inbox


@given(draw.inbox_inputs, draw.times)
@settings(max_examples=60)
def test_inputs_travel_through_an_inbox(given_input: InboxInput, at: int) -> None:
    item = rec.input_item(given_input, at=at)
    assert canonical(item.payload) == item.payload
    stored = rec.read_item(rec.inbox_record(UID, replace(item, position=3)))
    assert rec.item_input(stored) == given_input
    assert rec.item_digest(stored) == rec.item_digest(item)


def test_a_plan_is_never_taken_from_an_inbox() -> None:
    decided = ApprovalDecided("i", "1.1.0", 1, "allow", plan=Plan("allow"))
    item = rec.input_item(decided, at=AT)
    assert rec.item_input(item) == replace(decided, plan=None)
    smuggled = replace(item, payload=Json(item.payload[:-1] + ',"plan":{"verdict":"allow"}}'))
    with pytest.raises(IllegalInputError):
        rec.item_input(smuggled)


@pytest.mark.parametrize(
    "payload",
    [
        *("", "[]", "1", "null", "{}", "{", "2{}", "[" * 5000, '{"v":0}', '{"blocks":[],"v":"1"}'),
        *('{"blocks":1}', '{"blocks":[],"more":1}', '{"blocks":[],"item":"other"}'),
        '{"blocks":[{"type":"text","text":"\ud800"},1]}',
    ],
)
def test_a_payload_that_is_no_input_is_rejected(payload: str) -> None:
    with pytest.raises(IllegalInputError) as raised:
        rec.item_input(Item("i", "message", Json(payload)))
    assert raised.value.code == "illegal_item"
    with pytest.raises(IllegalInputError):
        rec.item_input(Item("i", "dance", Json("{}")))  # type: ignore[arg-type]


def test_a_payload_of_a_newer_version_is_left_alone() -> None:
    with pytest.raises(SchemaTooNewError, match="item i has version 2"):
        rec.item_input(Item("i", "message", Json('{"v":2,"what":"ever"}')))
    # The same letters inside a text are only a text.
    said = rec.input_item(MessageReceived("i", (TextBlock('{"v":2}'), TextBlock("v"))), at=AT)
    assert rec.item_input(said) == MessageReceived("i", (TextBlock('{"v":2}'), TextBlock("v")))
    assert rec.item_input(Item("i", "interrupt", Json('{"v":1}'))) == rec.item_input(Item("i", "interrupt", Json("{}")))


def test_a_payload_says_its_version_once_there_are_two(monkeypatch: pytest.MonkeyPatch) -> None:
    said = MessageReceived("i", (TextBlock("x"),))
    old = rec.input_item(said, at=AT)
    monkeypatch.setattr(codec, "VERSION", 2)
    monkeypatch.setattr(codec, "_NOW", b"2")
    monkeypatch.setattr(codec, "_OPENINGS", (b"2{", b"2["))
    monkeypatch.setattr(codec, "UPGRADES", {1: lambda kind, parsed: parsed | {"metadata": f'"{kind}"'}})
    new = rec.input_item(said, at=AT)
    assert new.payload == old.payload[:-1] + ',"v":2}'
    assert rec.item_input(new) == said
    assert rec.item_input(old) == replace(said, metadata=Json('"input.message"'))


def test_a_digest_is_over_what_is_said_and_by_whom() -> None:
    item = Item("i", "message", Json('{"a":1,"b":2}'), at=1, sender="s")
    same = Item("j", "message", Json('{"b":2,"a":1,"limits":{},"metadata":"1"}'), 2, 3, 4, 5, "t", "s", Json("{}"))
    assert rec.item_digest(item) != rec.item_digest(replace(item, sender="t"))
    assert rec.same_item(rec.item_digest(item), same)
    assert not rec.same_item(rec.item_digest(item), replace(item, sender=None))
    assert rec.item_digest(item) == rec.item_digest(same)
    assert rec.item_digest(item) != rec.item_digest(replace(item, kind="reminder"))
    assert rec.item_digest(item) != rec.item_digest(replace(item, payload=Json('{"a":2,"b":1}')))
    # A process of a later version says so in the payload; it is the same message.
    assert rec.item_digest(item) == rec.item_digest(replace(item, payload=Json('{"a":1,"b":2,"v":2}')))


@pytest.mark.parametrize("payload", ["", "{", '{"a":1,"a":1}', "[" * 500, "\ud800", '{"n":NaN}', "1", "null"])
def test_a_digest_is_found_of_anything(payload: str) -> None:
    item = Item("i", "message", Json(payload))
    assert (
        rec.item_digest(item) == rec.item_digest(item) != rec.item_digest(replace(item, payload=Json(payload + " x")))
    )


@given(draw.inbox_inputs, draw.times)
@settings(max_examples=60)
def test_what_was_made_of_an_input_is_fit_to_be_stored(given_input: InboxInput, at: int) -> None:
    item = rec.input_item(given_input, at=at)
    assert rec.checked_item(item) == item


def test_damage_is_told_without_a_word_of_what_was_stored() -> None:
    bodies = [
        *(b'1{"blocks":[{"type":"secret"}]}', b'1{"blocks":[{"type":"text","text":["secret"]}]}', b'1{"secret":1}'),
        *(b'1{"blocks":"secret"}', b'1{"blocks":[],"secret', b'1{"blocks":[],"usage":{"input":"secret"}}'),
    ]
    for body in bodies:
        with pytest.raises(RecordCorruptError) as raised:
            rec.read_message(replace(MESSAGE, body=body))
        assert "secret" not in str(raised.value)
        assert "secret" not in str({**raised.value.fields, "raw": ""})
    for record, read in (
        (damaged(MESSAGE, role="secret"), rec.read_message),
        (damaged(CALL, status="secret"), rec.read_call),
    ):
        with pytest.raises(RecordCorruptError) as raised:
            read(record)
        assert "secret" not in str(raised.value)
