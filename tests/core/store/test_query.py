"""Questions across agents: every store gives the same answer, page by page, and SQL is made of tables only."""

from __future__ import annotations

import json
import random
from base64 import urlsafe_b64encode
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kode.core.errors import RecordCorruptError, SchemaTooNewError, UsageError
from kode.core.kernel.message import Message, TextBlock, Usage
from kode.core.kernel.state import RunRecord
from kode.core.kernel.toolcall import CallStatus
from kode.core.kernel.words import StopReason
from kode.core.store import MemoryStore, QuerySupport, SqliteStore, Store
from kode.core.store import records as rec
from kode.core.store.contract import Key
from kode.core.store.support.query import QuerySupport as Default
from kode.core.store.support.questions import Question, Test, make_question
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store.author import AT, Author, open_call

S = 1_000_000


async def fill(store: Store) -> None:
    """Seven agents of two tenants, with messages and calls whose times interleave."""
    for n in range(7):
        author = Author(store, f"t{n % 2}/agent-{n}", f"uid-{n}")
        status = [CallStatus.COMPLETED, CallStatus.FAILED, CallStatus.SEALED][n % 3]
        await author.create(
            state={
                "tenant": f"t{n % 2}" if n else None,
                "template": f"coder@{n % 3}",
                "created_at": AT - n * S,
                "updated_at": AT + (n * 5 % 7) * S,
                "expires_at": AT + n * S if n > 4 else None,
            }
        )
        messages = [
            Message(i, "user" if i % 2 == 0 else "assistant", (TextBlock("x" * (n + i)),), AT + (i * 7 - n) % 5 * S)
            for i in range(6)
        ]
        calls = [
            replace(
                open_call(i, status=status, seq=1),
                tool="bash" if i % 2 else "fs'; DROP",
                asked_at=AT + i * S,
                started_at=AT + i * S,
                finished_at=AT + (i + n) * S if i else None,
            )
            for i in range(3)
        ]
        runs = [
            RunRecord(
                1, "ok", StopReason.END_TURN, AT, AT + 3 * S, None, 1, 0, 5, 1, 1, 2, 3, Usage(10, n, 0, 0, 0, 7), S
            )
        ]
        await author.commit(
            messages=messages,
            calls=calls,
            runs=runs,
            state={"next_seq": 6, "next_run": 3, "step": 1, "next_n": 9, "window": author.state.window},
        )


async def everything(ask: Any, limit: int, **question: Any) -> list[Any]:
    """All pages of an answer."""
    found: list[Any] = []
    after = None
    for _ in range(200):
        page = await ask(limit=limit, after=after, **question)
        assert page.damaged == ()
        found += page.items
        after = page.next
        if after is None:
            return found
    raise AssertionError("no end")


async def test_agents_by_columns(store: Store) -> None:
    assert isinstance(store, QuerySupport)
    assert (await store.query_agents()).items == ()
    await fill(store)

    async def ids(**question: Any) -> list[str]:
        return [info.agent_id[-1] for info in await everything(store.query_agents, 2, **question)]

    assert await ids() == ["0", "2", "4", "6", "1", "3", "5"]
    assert await ids(descending=True) == ["5", "3", "1", "6", "4", "2", "0"]
    assert await ids(tenant="t0") == ["2", "4", "6"]
    assert await ids(tenant=None) == ["0"]
    assert await ids(tenant=["t1", None]) == ["0", "1", "3", "5"]
    assert await ids(prefix="t1/") == ["1", "3", "5"]
    assert await ids(template=("coder@0", "coder@1"), tenant="t1") == ["1", "3"]
    assert await ids(agent_id=["t0/agent-4", "nobody", "t1/agent-1"]) == ["4", "1"]
    assert await ids(agent_id="t0/agent-4", prefix="t1") == []
    assert await ids(sort="created_at") == ["6", "5", "4", "3", "2", "1", "0"]
    assert await ids(created_since=AT - 3 * S, created_until=AT) == ["2", "1", "3"]
    assert await ids(expires_until=AT + 6 * S) == ["5"]
    assert (await ids(sort="expires_at"))[-2:] == ["5", "6"]  # null comes first
    assert await ids(status="READY") == ["0", "2", "4", "6", "1", "3", "5"]
    assert await ids(status=["PAUSED"]) == []
    assert await ids(parent="x") == await ids(parked="crash_loop") == []
    info = (await store.query_agents(agent_id="t0/agent-2")).items[0]
    assert info == (await store.list_agents(prefix="t0/agent-2"))[0]


async def test_messages_and_calls_by_columns(store: Store) -> None:
    await fill(store)

    async def messages(**question: Any) -> list[tuple[str, int]]:
        found = await everything(store.query_messages, 4, **question)
        assert all(f.read().seq == f.seq for f in found)
        return [(f.agent_id[-1], f.seq) for f in found]

    async def calls(**question: Any) -> list[tuple[str, str]]:
        found = await everything(store.query_tool_calls, 4, **question)
        assert all(f.read().id == f.id for f in found)
        return [(f.agent_id[-1], f.id) for f in found]

    assert len(await messages()) == 42
    one = await messages(agent_id="t0/agent-2", role="assistant")
    assert sorted(one) == [("2", 1), ("2", 3), ("2", 5)]
    assert len(await messages(tenant="t1", role=["user", "assistant"])) == 18
    assert len(await messages(since=AT + S, until=AT + 3 * S)) == sum(
        AT + S <= AT + (i * 7 - n) % 5 * S < AT + 3 * S for n in range(7) for i in range(6)
    )
    assert await messages(run=4) == []
    assert len(await messages(run=0, step=[0, 1])) == 42
    sizes = await messages(sort="size", descending=True)
    assert sizes[0] == ("6", 5)
    assert len(await calls()) == 21
    assert await calls(tool="bash", prefix="t1/", is_error=False) == [("3", "1.1.1")]
    assert {n for n, _ in await calls(is_error=True)} == {"1", "2", "4", "5"}
    assert {n for n, _ in await calls(status="SEALED")} == {"2", "5"}
    assert len(await calls(tool="fs'; DROP")) == 14
    # What has no end comes first.
    assert [id for _, id in await calls(sort="finished_at", agent_id="t0/agent-6")] == ["1.1.0", "1.1.1", "1.1.2"]
    assert len(await calls(since=AT + S, until=AT + 2 * S, run=1)) == 7


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_sql_answers_as_the_default_does(tmp_path: Path, clock: VirtualClock) -> None:
    """Random questions, each page of each; whatever `select` is overridden with must agree with the plain loop."""
    chance = random.Random(7)
    async with SqliteStore(tmp_path / "a.db", durability="process", clock=clock) as store:
        await fill(store)
        # Damage: text where a number must be, and nothing at all.
        for kind, key, column, value in (
            ("message", rec.int_key(2), "at", "soon"),
            ("message", rec.int_key(3), "at", None),
            ("call", rec.call_key("1.1.1"), "size", "big"),
        ):
            (row,) = await store.get("", [Key(kind, "uid-3", key)])  # type: ignore[arg-type]
            assert row is not None
            await store.apply("", [], [replace(row, columns={**row.columns, column: value})], [])
        words: dict[str, dict[str, list[Any]]] = {
            "header": {
                "tenant": ["t0", None, ["t1", None]],
                "template": ["coder@1", ["coder@0", "coder@2"]],
                "prefix": ["t", "t1/", "t1/agent-5", "\U0010ffff"],
                "agent_id": ["t0/agent-0", ["t1/agent-1", "t0/agent-6"]],
                "expires_until": [AT + 6 * S],
            },
            "message": {
                "role": ["user", ["assistant"]],
                "since": [AT + S],
                "until": [AT + 4 * S],
                "prefix": ["t1"],
                "tenant": ["t0"],
            },
            "call": {"tool": ["bash"], "is_error": [True, False], "since": [AT + S], "agent_id": ["t1/agent-3"]},
        }
        sorts = {
            "header": ["agent_id", "created_at", "updated_at", "wake_at", "expires_at"],
            "message": ["at", "size"],
            "call": ["asked_at", "started_at", "finished_at", "size"],
        }
        for _ in range(150):
            kind: Any = chance.choice(["header", "message", "call"])
            some = chance.sample(sorted(words[kind]), chance.randrange(3))
            filters = {word: chance.choice(words[kind][word]) for word in some}
            sort, limit = chance.choice(sorts[kind]), chance.choice([1, 3, 10])
            question = make_question(kind, sort, chance.random() < 0.5, limit, None, filters)
            for _ in range(60):
                plain = await Default.select(store, question)
                assert await store.select(question) == plain, question
                if len(plain) < limit:
                    break
                question = replace(question, after=question.place(*plain[-1]))


@pytest.mark.parametrize(
    ("ask", "given", "words"),
    [
        ("query_agents", {"sort": "agent_id; DROP TABLE header"}, "sort by agent_id, created_at"),
        ("query_agents", {"sort": "commit_id"}, "sort by"),
        ("query_agents", {"nam": "x"}, "no filter 'nam'"),
        ("query_agents", {"role": "user"}, "no filter 'role'"),
        ("query_agents", {"is_error": True}, "no filter"),
        ("query_messages", {"is_error": True}, "no filter"),
        ("query_agents", {"limit": 0}, "1 to 1000"),
        ("query_agents", {"limit": 1001}, "1 to 1000"),
        ("query_agents", {"tenant": 5}, "tenant holds int; give text"),
        ("query_agents", {"tenant": []}, "0 values"),
        ("query_agents", {"status": ["x"] * 1001}, "1001 values"),
        ("query_agents", {"created_since": "now"}, "one number"),
        ("query_agents", {"created_since": [1, 2]}, "one number"),
        ("query_agents", {"prefix": 5}, "prefix is int"),
        ("query_agents", {"prefix": "\ud800"}, "prefix holds"),
        ("query_agents", {"prefix": "a\0"}, "prefix holds"),
        ("query_agents", {"tenant": "\udc00"}, "tenant holds"),
        ("query_agents", {"agent_id": ""}, "no agent id"),
        ("query_agents", {"agent_id": ["a", "../b"]}, "no agent id"),
        ("query_agents", {"agent_id": None}, "no agent id"),
        ("query_agents", {"created_since": 2**63}, "64 bits"),
        ("query_messages", {"run": -(2**63) - 1}, "64 bits"),
        ("query_agents", {"limit": "5"}, "limit is 5"),
        ("query_agents", {"limit": 2.0}, "limit is 2.0"),
        ("query_agents", {"limit": True}, "limit is True"),
        ("query_tool_calls", {"is_error": "no"}, "is_error is str"),
        ("query_messages", {"run": "1"}, "run holds str; give numbers"),
        ("query_messages", {"run": True}, "bool"),
        ("query_messages", {"run": None}, "NoneType"),
        ("query_tool_calls", {"sort": "at"}, "asked_at"),
        ("aggregate_stats", {"tool": "bash"}, "no filter"),
    ],
)
async def test_what_cannot_be_asked(ask: str, given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        await getattr(MemoryStore(), ask)(**given)
    assert error.value.code == ("bad_agent_id" if "agent id" in words else "bad_query")


async def test_a_cursor_belongs_to_its_question(store: Store) -> None:
    await fill(store)
    page = await store.query_agents(sort="created_at", limit=2)
    assert page.next is not None
    forged = urlsafe_b64encode(b'["header","agent_id",false,null,"a","b"]').decode()
    places: list[list[object]] = [
        [2**63, "a", "b"],
        ["\ud800", "a", "b"],
        [1, 2, "b"],
        [1, "a", "\0"],
        [True, "a", "b"],
    ]
    packed = [json.dumps(["header", "agent_id", False, *place]) for place in places]
    bad = [urlsafe_b64encode(text.encode()).decode() for text in (*packed, "[" * 100_000)]
    for wrong in ("", "x", "!!!", page.next[:-4], "W10", forged, "\u00e9", 5, *bad):
        with pytest.raises(UsageError) as error:
            await store.query_agents(after=wrong)  # type: ignore[arg-type]
        assert error.value.code == "bad_cursor"
    for question in ({"sort": "updated_at"}, {"sort": "created_at", "descending": True}):
        with pytest.raises(UsageError):
            await store.query_agents(after=page.next, **question)  # type: ignore[arg-type]
    # Whoever changes a cursor asks for another place, no more.
    forged = urlsafe_b64encode(b'["header","agent_id",false,"x\' OR 1=1 --","a","b"]').decode()
    assert (await store.query_agents(after=forged)).items == ()


async def test_an_answer_goes_on_while_agents_come_and_go(store: Store) -> None:
    await fill(store)
    page = await store.query_agents(limit=3)
    await store.erase("t0/agent-4")
    await Author(store, "t0/agent-1", "new").create()
    await Author(store, "t0/agent-9", "newer").create()
    rest = await store.query_agents(limit=100, after=page.next)
    assert [info.agent_id for info in rest.items] == [
        "t0/agent-6",
        "t0/agent-9",
        "t1/agent-1",
        "t1/agent-3",
        "t1/agent-5",
    ]


async def test_what_no_header_names_is_not_found(store: Store) -> None:
    """Rows that a broken fork or prune left, and rows beyond what the header has counted."""
    await fill(store)
    orphan = rec.message_record("nobody", Message(0, "user", (TextBlock("x"),), AT))
    beyond = rec.message_record("uid-1", Message(6, "user", (TextBlock("x"),), AT))
    call = rec.call_record("uid-1", replace(open_call(9), run=2))
    await store.apply("t1/agent-1", [], [orphan, beyond], [])
    await store.apply("t1/agent-1", [], [call], [])
    author = Author(store, "t1/agent-1", "uid-1")
    loaded = await store.load("t1/agent-1")
    assert loaded is not None
    author.state, author.version = loaded.state, loaded.version
    await author.commit(state={"first_seq": 2})
    found = await everything(store.query_messages, 1, agent_id="t1/agent-1")
    assert sorted(f.seq for f in found) == [2, 3, 4, 5]
    assert len(await everything(store.query_messages, 7)) == 40
    assert len(await everything(store.query_tool_calls, 7)) == 21


@pytest.mark.parametrize(("body", "kind"), [(b"1{broken", RecordCorruptError), (b"7{}", SchemaTooNewError)])
async def test_damage_is_named_and_the_rest_is_answered(store: Store, body: bytes, kind: type[Exception]) -> None:
    await fill(store)

    async def put(key: Key, body: bytes | None = None, **columns: Any) -> None:
        agent_id = key.key if key.kind == "header" else "t1/agent-1"
        (row,) = await store.get(agent_id, [key])
        assert row is not None
        changed = replace(row, columns={**row.columns, **columns}, body=row.body if body is None else body)
        await store.apply(agent_id, [], [changed], [])

    await put(Key("message", "uid-1", rec.int_key(2)), body)
    await put(Key("message", "uid-1", rec.int_key(3)), size="big")
    await put(Key("call", "uid-1", rec.call_key("1.1.1")), tool=None)
    await put(Key("run", "uid-1", rec.int_key(1)), body)
    await put(Key("header", "", "t1/agent-3"), body)
    await put(Key("header", "", "t1/agent-5"), template=None)
    page = await store.query_messages(limit=1000)
    assert len(page.items) == 42 - 6 - 1
    assert sorted(error.fields["record"] for error in page.damaged) == ["/t1/agent-3", f"uid-1/{rec.int_key(3)}"]
    (broken,) = [f for f in page.items if (f.uid, f.seq) == ("uid-1", 2)]
    with pytest.raises(kind, match="uid-1/"):
        broken.read()
    calls = await store.query_tool_calls(limit=1000)
    assert len(calls.items) == 21 - 3 - 1
    agents = await store.query_agents()
    assert len(agents.items) == 6
    assert [error.fields["record"] for error in agents.damaged] == ["/t1/agent-5"]
    stats = await store.aggregate_stats()
    assert {error.fields["record"] for error in stats.damaged} == {
        "/t1/agent-3",
        f"uid-1/{rec.call_key('1.1.1')}",
        f"uid-1/{rec.int_key(1)}",
    }
    assert (stats.agents, stats.messages, stats.runs["ok"]) == (7, 36, 6)


async def test_numbers_are_true(store: Store) -> None:
    assert (await store.aggregate_stats()).agents == 0
    await fill(store)
    stats = await store.aggregate_stats()
    assert (stats.agents, dict(stats.agents_by_status), stats.messages) == (7, {"READY": 7}, 42)
    assert {tool: dict(n) for tool, n in stats.calls.items()} == {
        "bash": {"COMPLETED": 3, "FAILED": 2, "SEALED": 2},
        "fs'; DROP": {"COMPLETED": 6, "FAILED": 4, "SEALED": 4},
    }
    bash = stats.call_seconds["bash"]
    assert (bash.count, bash.seconds, bash.longest, bash.mean) == (7, 21.0, 6.0, 3.0)
    assert stats.call_seconds["fs'; DROP"].count == 7  # those without an end have no duration
    assert (dict(stats.runs), dict(stats.stop_reasons)) == ({"ok": 7}, {"end_turn": 7})
    assert (stats.run_seconds.count, stats.run_seconds.seconds, stats.used_seconds) == (7, 21.0, 7.0)
    assert stats.usage == Usage(70, 21, 0, 0, 0, 49)
    one = await store.aggregate_stats(agent_id="t1/agent-5")
    assert (one.agents, one.messages, one.usage.output, one.damaged) == (1, 6, 5, [])
    assert (await store.aggregate_stats(tenant="t1")).agents == 3
    assert (await store.aggregate_stats(agent_id="nobody")).agents == 0
    assert (await store.aggregate_stats(prefix="t1/", template="coder@2")).agents == 1


async def test_a_column_that_is_none_never_becomes_sql(tmp_path: Path, clock: VirtualClock) -> None:
    async with SqliteStore(tmp_path / "a.db", clock=clock) as store:
        for question in (
            Question("header", '"; DROP TABLE header; --'),
            Question("header", "agent_id", agents=(Test("1=1 OR agent_id", "in", ("x",)),)),
            Question("message", "at", rows=(Test("x", "<", (1,)),)),
        ):
            with pytest.raises(ValueError, match="no column"):
                await store.select(question)
