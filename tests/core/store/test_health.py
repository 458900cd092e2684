"""A store says how it is, and what of an agent does not fit together; looking changes nothing."""

from __future__ import annotations

import re
import sqlite3
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from kode.core.errors import NotFoundError, RecordCorruptError
from kode.core.kernel.events import Event
from kode.core.kernel.message import BlobBlock, Json, MediaBlock, Message, TextBlock, ToolResultBlock, ToolUseBlock
from kode.core.kernel.toolcall import CallStatus
from kode.core.kernel.window import Range, Snapshot, Window
from kode.core.store import MemoryStore, SqliteStore, Store
from kode.core.store import records as rec
from kode.core.store.contract import Key, Kind, Record, Scan
from kode.core.store.records import codec
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store.author import AT, Author, compaction, item, open_call, open_effect, run_record
from kode.core.testing.faulty import Fault, FaultyStore

# ---- the store -----------------------------------------------------------------------------------------------


async def test_a_store_that_is_well(store: Store) -> None:
    await Author(store, "a").create()
    await Author(store, "b", "u-b").create(state={"effects": (open_effect(),)})
    health = await store.check_health()
    assert health.healthy
    assert (health.reachable, health.writable, health.problems) == (True, True, ())
    assert (health.store, health.format, health.durability) == (type(store).__name__, codec.VERSION, store.durability)
    assert (health.agents, health.due) == (2, 1)
    assert (health.read_s, health.write_s) == (0.0, 0.0)  # the clock stands still
    assert (await store.check_health(count_to=1)).agents == 1
    assert await store.scan("", Scan("staged", "", limit=9)) == []


@pytest.mark.parametrize(
    ("faults", "reachable", "writable", "words"),
    [
        ([Fault("get", times=None)], False, True, "Reading failed: get was refused"),
        ([Fault("apply", times=None)], True, False, "Writing failed: apply was refused"),
        ([Fault("agents", times=None), Fault("due", times=None)], True, True, "Counting agents failed"),
    ],
)
async def test_what_is_wrong_is_said(
    clock: VirtualClock, faults: list[Fault], reachable: bool, writable: bool, words: str
) -> None:
    health = await FaultyStore(MemoryStore(clock), *faults, clock=clock).check_health()
    assert not health.healthy
    assert (health.reachable, health.writable) == (reachable, writable)
    assert words in health.problems[0]
    assert (health.agents is None) == (faults[0].method == "agents")


async def test_a_store_that_never_answers_is_not_waited_for(clock: VirtualClock) -> None:
    store = FaultyStore(
        MemoryStore(clock), Fault("apply", "hang", times=None), Fault("get", "delay", seconds=2.0), clock=clock
    )
    found: list[Any] = []

    async def ask() -> None:
        found.append(await store.check_health(timeout_s=3.0, clock=clock))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        while not found:
            await clock.advance(0.5)
    (health,) = found
    assert (health.read_s, health.writable, health.agents) == (2.0, False, 0)
    assert health.problems == ("Writing gave no answer within 3.0 s.",)


async def test_cancelling_it_cancels_it(clock: VirtualClock) -> None:
    store = FaultyStore(MemoryStore(clock), Fault("get", "hang", times=None), clock=clock)
    with anyio.move_on_after(0.05) as scope:
        await store.check_health(timeout_s=60.0)
    assert scope.cancelled_caught


async def test_files_that_cannot_be_used(tmp_path: Path, clock: VirtualClock) -> None:
    (tmp_path / "text").write_text("no database, and longer than a header of one would be: " * 9)
    async with SqliteStore(tmp_path / "a.db", clock=clock) as closed:
        pass
    for store, words in (
        (SqliteStore(tmp_path / "text", clock=clock), "no SQLite file"),
        (SqliteStore(tmp_path, clock=clock), "is a folder"),
        (closed, "is closed"),
    ):
        health = await store.check_health()
        assert (health.reachable, health.writable, health.agents) == (False, False, None)
        assert words in health.problems[0]
        if store is not closed:
            await store.close()


async def test_a_file_that_another_holds_is_reachable_and_not_writable(tmp_path: Path) -> None:
    async with SqliteStore(tmp_path / "a.db", busy_timeout_s=0.05) as store:
        with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            health = await store.check_health()
            assert (health.reachable, health.writable, health.agents) == (True, False, 0)
            assert "another process holds its write lock" in health.problems[0]
            other.execute("COMMIT")
        assert (await store.check_health()).healthy


async def test_a_driver_s_own_error_is_told_of_by_its_name_only(clock: VirtualClock) -> None:
    class Leaky(MemoryStore):
        async def get(self, *_: Any) -> Any:
            raise ConnectionError("postgresql://u:secret@h")

    health = await Leaky(clock).check_health()
    assert health.problems == ("Reading failed: ConnectionError.",)


# ---- an agent ------------------------------------------------------------------------------------------------

BLOB = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"  # of b"x"


async def whole(store: Store) -> Author:
    """An agent with something of everything, all of it in order."""
    author = Author(store, "a", "u-a")
    await author.create()
    await store.save_document("a", "todo", "list", [1])
    await store.put_blob("a", b"x")
    loaded = await store.load("a")
    assert loaded is not None
    author.state, author.version = loaded.state, loaded.version
    call = replace(open_call(0, status=CallStatus.COMPLETED), seq=1, result_seq=2)
    messages = [
        Message(0, "user", (TextBlock("do"), MediaBlock("image", blob=BLOB)), AT),
        Message(1, "assistant", (ToolUseBlock("x", "bash", Json("{}")),), AT, 1, 1),
        Message(2, "user", (ToolResultBlock("x", (BlobBlock(BLOB, 1),), call="1.1.0"),), AT, 1, 1),
        Message(3, "assistant", (TextBlock("done"),), AT, 1, 1),
    ]
    window = Window("c", ranges=(Range(2),))
    documents = tuple((d.kind, d.name, d.digest) for d in author.state.documents)
    cursor = author.state.next_cursor
    await store.enqueue("a", item("consumed"))
    await store.enqueue("a", item("waits"))
    inbox = await store.read_inbox("a", "u-a")
    await author.commit(
        messages=messages,
        calls=[call],
        events=[Event("done", AT, cursor + n) for n in range(3)],
        runs=[run_record(1)],
        compactions=[compaction("c", 0, 2)],
        snapshots=[Snapshot("s", 4, AT, window, documents)],
        consumed={inbox[0].position: inbox[0]},
        state={"next_seq": 4, "next_run": 2, "step": 1, "next_n": 2, "next_cursor": cursor + 3, "window": window},
    )
    await author.commit(events=[Event("done", AT, cursor + 3)], state={"next_cursor": cursor + 4})
    await store.release(await store.acquire("a", "driver", 30))
    return author


async def test_all_is_in_order(store: Store) -> None:
    await whole(store)
    found = await store.check_consistency("a")
    assert found.problems == ()
    assert found.ok
    assert (found.agent_id, found.uid, found.version) == ("a", "u-a", 4)
    assert found.records == 1 + 4 + 1 + 3 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1
    with pytest.raises(NotFoundError):
        await store.check_consistency("nobody")


Break = Callable[[Record], Record | None]


def body(text: bytes) -> Break:
    return lambda row: replace(row, body=text)


def column(**columns: Any) -> Break:
    return lambda row: replace(row, columns={**row.columns, **columns})


def key(key: str) -> Break:
    return lambda row: replace(row, key=key)


def gone(row: Record) -> None:
    return None


def doc(row: Record) -> Record:
    return rec.document_record("u-a", rec.read_document(row), "0" * 64, AT)


M = rec.int_key
CALL = rec.call_key("1.1.0")


@pytest.mark.parametrize(
    ("kind", "at", "broken", "problems"),
    [
        ("message", M(1), gone, {("gap", "message"), ("missing", f"call u-a/{CALL}")}),
        ("message", M(3), key(M(4)), {("gap", "message"), ("orphan", f"message u-a/{M(4)}")}),
        (
            "message",
            M(1),
            body(b"1{"),
            {("unreadable", f"message u-a/{M(1)}"), ("gap", "message"), ("missing", f"call u-a/{CALL}")},
        ),
        (
            "message",
            M(1),
            body(b"9{}"),
            {("unreadable", f"message u-a/{M(1)}"), ("gap", "message"), ("missing", f"call u-a/{CALL}")},
        ),
        ("message", M(2), column(role="assistant"), {("invariant", f"message u-a/{M(1)}")}),
        ("message", M(3), column(role="robot"), {("unreadable", f"message u-a/{M(3)}"), ("gap", "message")}),
        ("call", CALL, column(status="EXECUTING"), {("unanswered", f"call u-a/{CALL}")}),
        ("call", CALL, column(status="DREAMING"), {("unreadable", f"call u-a/{CALL}")}),
        ("call", CALL, key(rec.call_key("2.0.0")), {("orphan", f"call u-a/{rec.call_key('2.0.0')}")}),
        ("call", CALL, column(seq=77), {("missing", f"call u-a/{CALL}")}),
        ("events", M(2), gone, {("gap", f"events u-a/{M(5)}")}),
        ("events", M(5), gone, {("gap", "events")}),
        ("events", M(2), column(last=3), {("order", f"events u-a/{M(2)}"), ("gap", f"events u-a/{M(5)}")}),
        ("events", M(5), key(M(4)), {("order", f"events u-a/{M(4)}")}),
        ("events", M(5), key(M(6)), {("gap", f"events u-a/{M(6)}"), ("order", f"events u-a/{M(6)}")}),
        ("events", M(5), column(last=9), {("order", f"events u-a/{M(5)}"), ("orphan", f"events u-a/{M(5)}")}),
        ("events", M(2), body(b"1[["), {("unreadable", f"events u-a/{M(2)}")}),
        ("run", M(1), key(M(2)), {("orphan", f"run u-a/{M(2)}")}),
        ("run", M(1), column(ended_at=None), {("unanswered", f"run u-a/{M(1)}")}),
        ("run", M(1), body(b""), {("unreadable", f"run u-a/{M(1)}")}),
        ("compaction", "c", gone, {("missing", "header"), ("missing", "snapshot u-a/s")}),
        (
            "compaction",
            "c",
            body(b"x"),
            {("unreadable", "compaction u-a/c"), ("missing", "header"), ("missing", "snapshot u-a/s")},
        ),
        ("document", None, gone, {("missing", "header"), ("missing", "snapshot u-a/s")}),
        (
            "document",
            None,
            doc,
            {("missing", "header"), ("missing", "snapshot u-a/s"), ("differs", f"document u-a/todo/list/{'0' * 64}")},
        ),
        ("snapshot", "s", column(seq=5), {("orphan", "snapshot u-a/s")}),
        ("snapshot", "s", column(tags="{"), {("unreadable", "snapshot u-a/s")}),
        ("blob", BLOB, gone, {("missing", f"message u-a/{M(0)}")}),
        ("blob", BLOB, body(b"y"), {("differs", f"blob u-a/{BLOB}")}),
        ("inbox", M(2), body(b"1{}"), {("unreadable", f"inbox u-a/{M(2)}")}),
        ("consumed", "consumed", key("waits"), {("order", f"inbox u-a/{M(2)}")}),
        ("consumed", "consumed", column(position=None), {("unreadable", "consumed u-a/consumed")}),
        ("lease", "", column(fence="x"), {("unreadable", "lease u-a/")}),
        ("lease", "", column(holder="h", until="x"), {("unreadable", "lease u-a/")}),
    ],
)
async def test_each_kind_of_damage_is_named(
    clock: VirtualClock, kind: Kind, at: str | None, broken: Break, problems: set[tuple[str, str]]
) -> None:
    store = MemoryStore(clock)
    await whole(store)
    place = at if at is not None else (await store.scan("a", Scan(kind, "u-a", limit=1)))[0].key
    (row,) = await store.get("a", [Key(kind, "u-a", place)])
    assert row is not None
    changed = broken(row)
    await store.apply(
        "a",
        [],
        [] if changed is None else [changed],
        [row.address] if changed is None or changed.key != row.key else [],
    )
    before = {kind: await store.scan("a", Scan(kind, "u-a", limit=99)) for kind in rec.COLUMNS}
    found = await store.check_consistency("a")
    assert {(problem.code, problem.record) for problem in found.problems} == problems
    assert all(len(problem.what) > 10 for problem in found.problems)
    assert {kind: await store.scan("a", Scan(kind, "u-a", limit=99)) for kind in rec.COLUMNS} == before


async def test_a_header_that_breaks_the_rules_or_cannot_be_read(store: Store) -> None:
    author = await whole(store)
    await author.commit(state={"steps_total": -1})
    (problem,) = (await store.check_consistency("a")).problems
    assert (problem.code, problem.record) == ("invariant", "header")
    assert "counters" in problem.what
    (header,) = await store.get("a", [Key("header", "", "a")])
    assert header is not None
    await store.apply("a", [], [replace(header, body=b"5{}")], [])
    (problem,) = (await store.check_consistency("a")).problems
    assert (problem.code, problem.record) == ("unreadable", "header /a")


def counted(name: str, to: int) -> Break:
    return lambda row: replace(row, body=re.sub(rb'("%b":)\d+' % name.encode(), rb"\g<1>%d" % to, row.body))


@pytest.mark.parametrize(
    ("kind", "broken"),
    [
        *(("header", column(**{name: to})) for name in ("version", "seen") for to in (-1, 2**60, 2**63 - 1)),
        *(("header", column(**{name: to})) for name in ("created_at", "updated_at") for to in (-1, 2**63 - 1)),
        ("header", column(seen=None)),
        *(("header", column(dedupe_us=to)) for to in (-1, 2**63 - 1)),
        ("header", column(agent_id="another")),
        *(("header", counted(f"next_{what}", to)) for what in ("seq", "cursor", "run") for to in (-1, 2**60, 10**30)),
        *(("lease", column(**{name: to})) for name in ("fence", "takes") for to in (-1, 2**60, 2**63 - 1, None)),
    ],
)
async def test_a_count_that_nobody_can_go_on_from_is_damage(clock: VirtualClock, kind: Kind, broken: Break) -> None:
    """It is said of the record, not of what the caller gave; nothing is written on it, and the agent is listed."""
    store = MemoryStore(clock)
    await whole(store)
    place = Key("header", "", "a") if kind == "header" else Key("lease", "u-a", "")
    (row,) = await store.get("a", [place])
    assert row is not None
    changed = broken(row)
    assert changed is not None
    assert changed != row
    await store.apply("a", [], [changed], [])
    calls: list[Any] = [store.load("a")]
    if changed.body != row.body:
        with pytest.raises(RecordCorruptError):
            rec.header_counters(changed)
    if kind == "header":
        calls += [store.prune("a", before=None, keep_messages=1, keep_events=1)]
    else:
        calls += [store.acquire("a", "me", 5), store.lease_of("a")]
    for call in calls:
        with pytest.raises(RecordCorruptError) as corrupt:
            await call
        assert corrupt.value.fields["kind"] == kind
    assert await store.get("a", [place]) == [changed]
    assert len(await store.list_agents()) == 1


async def test_what_a_header_counts_too_far_takes_no_room(clock: VirtualClock) -> None:
    """As many numbers as it says would not fit into memory."""
    store = MemoryStore(clock)
    await whole(store)
    (header,) = await store.get("a", [Key("header", "", "a")])
    assert header is not None
    broken = counted("next_seq", 1_000_000)(header)
    assert broken is not None
    await store.apply("a", [], [broken], [])
    tracemalloc.start()
    try:
        (gap,) = [problem for problem in (await store.check_consistency("a")).problems if problem.code == "gap"]
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert gap.what == "999996 of messages 0 to 999999: 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, …."


async def test_a_commit_on_its_way_is_left_alone(store: Store, clock: VirtualClock) -> None:
    await whole(store)
    (header,) = await store.get("a", [Key("header", "", "a")])
    assert header is not None
    await store.apply("a", [], [replace(header, columns={**header.columns, "staged": "c1"})], [])
    (problem,) = (await store.check_consistency("a")).problems
    assert (problem.code, problem.record) == ("unsettled", "header /a")
    (still,) = await store.get("a", [Key("header", "", "a")])
    assert still is not None
    assert still.columns["staged"] == "c1"
    await store.load("a")
    assert (await store.check_consistency("a")).ok
    row = rec.staged_record("c9", 0, AT, "u-a", rec.message_record("u-a", Message(9, "user", (TextBlock("x"),), AT)))
    await store.apply("a", [], [row], [])
    assert (await store.check_consistency("a")).ok  # it may still be named
    await clock.advance(3_601)
    assert [(p.code, p.record) for p in (await store.check_consistency("a")).problems] == [
        ("orphan", f"staged u-a/{row.key}")
    ]


async def test_an_agent_at_work_is_looked_at_again(clock: VirtualClock) -> None:
    """A store without snapshots may see half of a commit; that is not told as damage."""
    store = MemoryStore(clock)
    author = await whole(store)
    scan, times = store.scan, [2]

    async def busy(agent_id: str, ask: Scan) -> list[Record]:
        if ask.kind == "events" and times[0]:
            times[0] -= 1
            await author.say("more")
        return await scan(agent_id, ask)

    store.scan = busy  # type: ignore[method-assign]
    found = await store.check_consistency("a")
    assert (found.ok, times, found.version) == (True, [0], 6)
    # One that never rests cannot be judged, and that is all that is told.
    times[0] = 99
    (problem,) = (await store.check_consistency("a")).problems
    assert (problem.code, problem.record, times) == ("unsettled", "header /a", [96])


async def test_a_long_history_is_judged_in_parts(memory: Store) -> None:
    store = memory
    author = Author(store, "a", "u-a")
    await author.create()
    messages: list[Message] = []
    for n in range(0, 1_200, 4):
        use = ToolUseBlock(f"p{n}", "bash", Json("{}"))
        messages += [
            Message(n, "user", (TextBlock("x"),), AT),
            Message(n + 1, "assistant", (use,), AT),
            Message(n + 2, "user", (ToolResultBlock(f"p{n}", (), call=f"1.1.{n}"),), AT),
            Message(n + 3, "assistant", (TextBlock("y"),), AT),
        ]
    await author.commit(messages=messages, state={"next_seq": len(messages)})
    assert (await store.check_consistency("a")).ok
    wrong = replace(messages[1002], blocks=(ToolResultBlock("other", (), call="1.1.1"),))
    await store.apply("a", [], [rec.message_record("u-a", wrong)], [])
    (problem,) = (await store.check_consistency("a")).problems
    assert (problem.code, problem.record) == ("invariant", f"message u-a/{rec.int_key(1001)}")
