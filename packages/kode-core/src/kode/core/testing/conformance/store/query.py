"""The contract of questions across agents: filters, orders and pages, whatever answers them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kode.core.errors import RecordCorruptError, UsageError
from kode.core.kernel.message import Message, TextBlock
from kode.core.kernel.toolcall import CallStatus
from kode.core.store.base import Store
from kode.core.store.contract import Key
from kode.core.store.records import call_record, int_key, message_record
from kode.core.testing.conformance.store.author import AT, Author, StoreCase, keep, open_call

__all__ = ["QueryContract", "fill"]

AGENTS: dict[str, dict[str, Any]] = {
    "t/a": {"tenant": "t1", "template": "coder@1", "created_at": AT + 3, "updated_at": AT + 5},
    "t/b": {"tenant": "t1", "template": "coder@2", "created_at": AT + 1, "updated_at": AT + 5, "expires_at": AT + 9},
    "t_c": {"tenant": None, "template": "coder@1", "created_at": AT + 3, "updated_at": AT + 5, "expires_at": AT + 4},
    "tx/d": {"tenant": "T1", "template": "coder@1", "created_at": AT + 2, "updated_at": AT + 7, "expires_at": AT + 9},
    "u": {"tenant": "t2", "template": "coder@2", "created_at": AT + 3, "updated_at": AT + 5},
}
"""In the order of their ids; moments that are the same in several, and such that are null."""
STATUSES = (CallStatus.COMPLETED, CallStatus.FAILED, CallStatus.SEALED, CallStatus.DENIED)
SORTS = {
    "query_agents": ("agent_id", "created_at", "updated_at", "wake_at", "expires_at"),
    "query_messages": ("at", "size"),
    "query_tool_calls": ("asked_at", "started_at", "finished_at", "size"),
}


async def fill(store: Store) -> None:
    """Write five agents with three messages and three calls each, whose moments interleave."""
    for n, (id, state) in enumerate(AGENTS.items()):
        messages = [
            Message(i, "assistant" if i == 1 else "user", (TextBlock("x" * (n * i % 3)),), AT + i // 2, 1, i % 2)
            for i in range(3)
        ]
        calls = [
            replace(
                open_call(i, status=STATUSES[n % 4], seq=1),
                tool="bash" if i else "read",
                asked_at=AT + i // 2,
                started_at=None if i == n else AT + i,
                finished_at=None if i == n else AT + i + n,
            )
            for i in range(3)
        ]
        state = {**state, "next_seq": 3, "next_run": 2, "step": 2}
        await Author(store, id, f"uid-{n}").create(
            messages=messages, calls=calls, state=state, wake_at=AT + n % 2 if n else None
        )


async def everything(store: Store, ask: str, limit: int = 100, **question: Any) -> list[Any]:
    """Read all pages of an answer."""
    found: list[Any] = []
    after = None
    for _ in range(100):
        page = await getattr(store, ask)(limit=limit, after=after, **question)
        assert len(page.items) <= limit
        assert page.damaged == ()
        found += page.items
        after = page.next
        if after is None:
            return found
    raise AssertionError("the pages have no end")


async def ids(store: Store, **question: Any) -> list[Any]:
    """Ask for agents; their ids."""
    return [found.agent_id for found in await everything(store, "query_agents", **question)]


async def said(store: Store, **question: Any) -> list[Any]:
    """Ask for messages; whose they are and their numbers."""
    return [(found.agent_id, found.seq) for found in await everything(store, "query_messages", **question)]


async def called(store: Store, **question: Any) -> list[Any]:
    """Ask for calls; whose they are and their ids."""
    return [(found.agent_id, found.id) for found in await everything(store, "query_tool_calls", **question)]


def _place(found: Any, sort: str) -> tuple[Any, ...]:
    """Say where the contract puts it."""
    value = getattr(found, sort)
    name = getattr(found, "seq", 0) if not hasattr(found, "id") else [int(part) for part in found.id.split(".")]
    return -1 if value is None else value, found.agent_id, name


class QueryContract(StoreCase):
    """The same answer from every store, page by page."""

    group = "query"

    async def test_a_store_without_agents_answers_nothing(self, store: Store) -> None:
        """Where there are no agents every answer is empty and has no next page."""
        for ask in SORTS:
            page = await getattr(store, ask)()
            assert (page.items, page.next, page.damaged) == ((), None, ())

    async def test_all_are_found_with_all_that_their_columns_say(self, store: Store) -> None:
        """Without a filter every agent, message and call is in the answer once, with its columns, and can be read."""
        await fill(store)
        assert await everything(store, "query_agents") == list(await store.list_agents())
        assert sorted(await said(store)) == [(id, n) for id in AGENTS for n in range(3)]
        assert sorted(await called(store)) == [(id, f"1.1.{n}") for id in AGENTS for n in range(3)]
        for found in (await store.query_messages(agent_id="t_c")).items:
            read = found.read()
            assert (found.uid, found.seq, found.role, found.at) == ("uid-2", read.seq, read.role, read.at)
            assert (found.run, found.step, found.size) == (read.run, read.step, len(found.record.body))
        for call in (await store.query_tool_calls(agent_id="t/a")).items:
            kept = call.read()
            assert (call.uid, call.id, call.tool, call.status) == ("uid-0", kept.id, kept.tool, kept.status)
            assert (call.asked_at, call.started_at, call.finished_at) == (
                *(kept.asked_at, kept.started_at),
                kept.finished_at,
            )

    async def test_agents_by_each_filter(self, store: Store) -> None:
        """Each filter of agents finds those whose column is that, and no others; None is where there is none."""
        await fill(store)
        assert await ids(store, tenant="t1") == ["t/a", "t/b"]
        assert await ids(store, tenant=None) == ["t_c"]
        assert await ids(store, tenant=["t2", None, "T1"]) == ["t_c", "tx/d", "u"]
        assert await ids(store, template="coder@2") == ["t/b", "u"]
        assert await ids(store, status="READY") == list(AGENTS)
        assert await ids(store, status=["WORKING", "PAUSED"]) == []
        assert await ids(store, parked=None, parent=None) == list(AGENTS)
        assert await ids(store, parked="crash_loop") == await ids(store, parent="t/a") == []
        assert await ids(store, agent_id=["u", "nobody", "t/a"]) == ["t/a", "u"]

    async def test_bounds_of_time_are_half_open(self, store: Store) -> None:
        """`…since` is from that moment on, `…until` before it; what has no moment is on neither side."""
        await fill(store)
        assert await ids(store, created_since=AT + 2) == ["t/a", "t_c", "tx/d", "u"]
        assert await ids(store, created_until=AT + 3) == ["t/b", "tx/d"]
        assert await ids(store, updated_since=AT + 5, updated_until=AT + 7) == ["t/a", "t/b", "t_c", "u"]
        assert await ids(store, expires_until=AT + 9) == ["t_c"]
        assert await ids(store, expires_until=AT + 10) == ["t/b", "t_c", "tx/d"]
        assert await said(store, since=AT + 1) == [(id, 2) for id in AGENTS]
        assert await said(store, until=AT) == await called(store, until=AT) == []
        assert await called(store, since=AT, until=AT + 1) == [(id, f"1.1.{n}") for id in AGENTS for n in (0, 1)]

    async def test_messages_and_calls_by_each_filter(self, store: Store) -> None:
        """Each filter of messages and calls finds those whose column is that, and no others."""
        await fill(store)
        assert await said(store, role="assistant") == [(id, 1) for id in AGENTS]
        assert await said(store, step=1) == await said(store, run=[1, 7], step=[1, 5])
        assert await said(store, run=0) == []
        assert await called(store, tool="read") == [(id, "1.1.0") for id in AGENTS]
        assert {id for id, _ in await called(store, status="FAILED")} == {"t/b"}
        assert {id for id, _ in await called(store, is_error=False)} == {"t/a", "u"}
        assert {id for id, _ in await called(store, is_error=True)} == {"t/b", "t_c", "tx/d"}
        assert await called(store, run=2) == []

    async def test_those_of_some_agents(self, store: Store) -> None:
        """Messages and calls are found by what their agent is: id, prefix, tenant, template."""
        await fill(store)
        owners: list[tuple[dict[str, Any], list[str]]] = [
            ({"agent_id": "t_c"}, ["t_c"]),
            ({"prefix": "t/"}, ["t/a", "t/b"]),
            ({"tenant": "t1"}, ["t/a", "t/b"]),
            ({"tenant": [None, "t2"]}, ["t_c", "u"]),
            ({"template": "coder@1", "tenant": ["t1", "T1"]}, ["t/a", "tx/d"]),
        ]
        for owner, expected in owners:
            assert {id for id, _ in await said(store, **owner)} == set(expected)
            assert {id for id, _ in await called(store, **owner)} == set(expected)

    async def test_all_filters_must_hold(self, store: Store) -> None:
        """Several filters find what passes all of them; several values of one filter are alternatives."""
        await fill(store)
        assert await ids(store, tenant=["t1", "t2"], template="coder@2") == ["t/b", "u"]
        assert await ids(store, prefix="t/", tenant="t1", updated_since=AT + 6) == []
        assert await ids(store, agent_id="u", prefix="t") == []
        assert await said(store, tenant="t1", role="user", since=AT + 1) == [("t/a", 2), ("t/b", 2)]
        assert await called(store, tool="bash", is_error=False, prefix="t") == [("t/a", "1.1.1"), ("t/a", "1.1.2")]

    async def test_the_order_is_exact_both_ways(self, store: Store) -> None:
        """By every column that can be sorted by, null first, then by agent and number; descending is the reverse."""
        await fill(store)
        for ask, sorts in SORTS.items():
            for sort in sorts:
                up = await everything(store, ask, sort=sort)
                assert up == sorted(up, key=lambda found: _place(found, sort)), (ask, sort)
                assert await everything(store, ask, sort=sort, descending=True) == up[::-1], (ask, sort)

    async def test_pages_fit_together_where_values_are_the_same(self, store: Store) -> None:
        """Pages of any size, by any order, both ways, give each row once and in its place, also among equals."""
        await fill(store)
        for ask, sorts in SORTS.items():
            for sort, descending in ((sorts[1], False), (sorts[-1], True)):
                whole = await everything(store, ask, sort=sort, descending=descending)
                for limit in (1, 2, 4, len(whole), len(whole) + 1):
                    assert await everything(store, ask, limit, sort=sort, descending=descending) == whole, (ask, limit)

    async def test_what_does_not_change_is_seen_once_while_others_come_and_go(self, store: Store) -> None:
        """An agent that stays is in the pages once, though the last one of a page goes and others come."""
        await fill(store)
        page = await store.query_agents(limit=2)
        await store.erase("t/b")
        await Author(store, "t/a1", "new").create()
        await Author(store, "tz", "newer").create()
        rest = await store.query_agents(limit=100, after=page.next)
        assert [found.agent_id for found in (*page.items, *rest.items)] == ["t/a", "t/b", "t_c", "tx/d", "tz", "u"]

    async def test_values_are_text_and_never_commands(self, store: Store) -> None:
        """A value is compared as it is: quotes, patterns, SQL and characters beyond the BMP mean nothing else."""
        tenants = ["' OR 1=1 --", 'a"b', "%", "_", "t1'; DROP TABLE header; --", "\U0001f600", "\u00e9", "e\u0301", "A"]
        for n, tenant in enumerate(tenants):
            call = replace(open_call(status=CallStatus.COMPLETED), tool=tenant)
            state = {"tenant": tenant, "template": tenant, "next_run": 2, "step": 2}
            await Author(store, f"agent-{n}", f"uid-{n}").create(state=state, calls=[call])
        for n, tenant in enumerate(tenants):
            assert await ids(store, tenant=tenant) == await ids(store, template=[tenant, "x'"]) == [f"agent-{n}"]
            assert await called(store, tool=tenant, tenant=tenant) == [(f"agent-{n}", "1.1.0")]
        for none in ("a", "' OR ''='", "%%", "agent%", "__", "\U0001f601"):
            assert await ids(store, tenant=none) == await called(store, tool=none) == []
        assert len(await ids(store)) == len(tenants)

    async def test_a_prefix_of_ids_is_no_pattern(self, store: Store) -> None:
        """`prefix` takes ids that begin with exactly that, the id itself included."""
        await fill(store)
        given = {"t/": 2, "t_": 1, "t": 4, "t/a": 1, "T": 0, "%": 0, "t%": 0, "": 5, "u": 1, "u/": 0, "\U0010ffff": 0}
        assert {prefix: len(await ids(store, prefix=prefix)) for prefix in given} == given

    async def test_what_cannot_be_asked_is_refused(self, store: Store) -> None:
        """An unknown filter or order, a NUL, half a character, or a bad limit is `UsageError` and no answer."""
        refused: list[dict[str, Any]] = [
            {"nam": "x"},
            {"uid": "uid-1"},
            {"role": "user"},
            {"sort": "agent_id; DROP TABLE header"},
            {"sort": "commit_id"},
            {"tenant": "a\0b"},
            {"tenant": "\ud800"},
            {"prefix": "\0"},
            {"tenant": []},
            {"tenant": 1},
            {"created_since": "now"},
            {"created_since": 2**63},
            {"limit": 0},
            {"limit": 1_001},
        ]
        for question in refused:
            with pytest.raises(UsageError) as error:
                await store.query_agents(**question)
            assert error.value.code == "bad_query", question
        with pytest.raises(UsageError):
            await store.query_agents(agent_id="../x")

    async def test_a_place_belongs_to_its_question(self, store: Store) -> None:
        """`after` of another order, another way round, another kind or of no answer at all is ``bad_cursor``."""
        await fill(store)
        place = (await store.query_agents(sort="created_at", limit=2)).next
        assert place is not None
        others: list[tuple[Any, dict[str, Any]]] = [
            (store.query_agents, {"sort": "updated_at", "after": place}),
            (store.query_agents, {"sort": "created_at", "descending": True, "after": place}),
            (store.query_messages, {"after": place}),
            (store.query_agents, {"sort": "created_at", "after": place[:-3]}),
            (store.query_agents, {"after": "x' OR 1=1 --"}),
        ]
        for ask, question in others:
            with pytest.raises(UsageError) as error:
                await ask(**question)
            assert error.value.code == "bad_cursor"

    async def test_the_answer_is_of_today(self, store: Store) -> None:
        """What was committed is in the next answer, and what was erased or made anew is as it is now."""
        await fill(store)
        assert len(await said(store, agent_id="t/a", sort="size")) == 3
        await store.append_message("t/a", "user", "later")
        assert (await said(store, agent_id="t/a", sort="size"))[-1] == ("t/a", 3)
        await store.erase("t/b")
        assert await said(store, agent_id="t/b") == await called(store, agent_id="t/b") == []
        await Author(store, "t/b", "uid-9").create(state={"tenant": "t9"})
        assert (await ids(store, tenant="t1"), await ids(store, tenant="t9")) == (["t/a"], ["t/b"])
        assert await said(store, tenant="t9") == []

    async def test_what_no_header_names_is_not_there(self, store: Store) -> None:
        """Rows of nobody, rows beyond what the header has counted, and rows that were pruned are in no answer."""
        await fill(store)
        beyond = Message(3, "user", (TextBlock("x"),), AT)
        await keep(store, [message_record("nobody", beyond), message_record("uid-0", beyond)], "t/a")
        await keep(store, [call_record("uid-0", replace(open_call(0), run=2))], "t/a")
        u = Author(store, "u", "uid-4")
        u.state, u.version = await store.read_state("u"), 1
        await u.commit(state={"first_seq": 2}, commit_id="pruned")
        there = [(id, n) for id in AGENTS for n in range(3) if id != "u" or n == 2]
        assert sorted(await said(store)) == sorted(await said(store, limit=1)) == there
        assert len(await called(store)) == 15

    async def test_damage_is_named_and_left_out(self, store: Store) -> None:
        """A row whose columns cannot be read is left out and named in `damaged`; the others are answered."""
        await fill(store)
        (row,) = await store.get("t/a", [Key("message", "uid-0", int_key(1))])
        assert row is not None
        await keep(store, [replace(row, columns={**row.columns, "size": None})], "t/a")
        found = await store.query_messages()
        assert len(found.items) == 14
        (error,) = found.damaged
        assert isinstance(error, RecordCorruptError)
        assert row.key in str(error)
