"""The contract of consistency: what of an agent does not fit together is named, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import anyio
import pytest

from kode.core.errors import NotFoundError
from kode.core.kernel.effects import Attempt, CallModel
from kode.core.kernel.events import Event
from kode.core.kernel.message import BlobBlock, Json, MediaBlock, Message, TextBlock, ToolResultBlock, ToolUseBlock
from kode.core.kernel.state import Run, Timer
from kode.core.kernel.toolcall import CallStatus
from kode.core.kernel.window import Range, Snapshot, Window
from kode.core.store.base import Store
from kode.core.store.contract import Key, Kind, Record, Scan
from kode.core.store.records import COLUMNS, call_key, int_key
from kode.core.testing.conformance.store.author import (
    AT,
    Author,
    StoreCase,
    compaction,
    item,
    keep,
    open_call,
    run_record,
)

__all__ = ["ConsistencyContract"]

BLOB = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"  # of b"x"
CALL = call_key("1.1.0")
Break = Callable[[Record], Record | None]


async def whole(store: Store) -> Author:
    """Write an agent with something of everything, all of it in order."""
    author = Author(store)
    await author.create()
    await store.save_document("agent", "todo", "list", [1])
    await store.put_blob("agent", b"x")
    author.state, author.version = await store.read_state("agent"), 2
    call = replace(open_call(0, status=CallStatus.COMPLETED, seq=1), result_seq=2)
    messages = [
        Message(0, "user", (TextBlock("do"), MediaBlock("image", blob=BLOB)), AT),
        Message(1, "assistant", (ToolUseBlock("x", "bash", Json("{}")),), AT, 1, 1),
        Message(2, "user", (ToolResultBlock("x", (BlobBlock(BLOB, 1),), call="1.1.0"),), AT, 1, 1),
        Message(3, "assistant", (TextBlock("done"),), AT, 1, 1),
    ]
    window = Window("c", ranges=(Range(2),))
    documents = tuple((d.kind, d.name, d.digest) for d in author.state.documents)
    for id in ("consumed", "waits"):
        await store.enqueue("agent", item(id))
    first, _ = await store.read_inbox("agent", "uid-1")
    await author.commit(
        messages=messages,
        calls=[call],
        events=[Event("done", AT, 1), Event("done", AT, 2)],
        runs=[run_record(1)],
        compactions=[compaction("c", 0, 2)],
        snapshots=[Snapshot("s", 4, AT, window, documents)],
        consumed={first.position: first},
        state={"next_seq": 4, "next_run": 2, "step": 1, "next_n": 2, "next_cursor": 3, "window": window},
    )
    await author.commit(events=[Event("done", AT, 3)], state={"next_cursor": 4})
    return author


def body(text: bytes) -> Break:
    """Replace the body."""
    return lambda row: replace(row, body=text)


def column(**columns: Any) -> Break:
    """Replace columns."""
    return lambda row: replace(row, columns={**row.columns, **columns})


def gone(row: Record) -> None:
    """Remove it."""
    return


class ConsistencyContract(StoreCase):
    """Whatever does not fit together is named, and left as it is."""

    group = "consistency"

    async def _found(self, store: Store, kind: Kind, key: str, broken: Break) -> set[str]:
        """Damage one record, look, and mend it; the codes of what was found that name the record or its kind."""
        (row,) = await store.get("agent", [Key(kind, "uid-1", key)])
        assert row is not None
        changed = broken(row)
        if changed is None:
            assert await store.apply("agent", (), (), [row.address]) is None
        else:
            await keep(store, [changed], "agent")
        before = await store.get("agent", [row.address])
        problems = (await store.check_consistency("agent")).problems
        assert await store.get("agent", [row.address]) == before
        await keep(store, [row], "agent")
        return {f"{problem.code} {problem.record.split('/')[0].split()[0]}" for problem in problems}

    async def test_what_is_in_order_has_no_finding(self, store: Store) -> None:
        """An agent with something of everything, consumed and waiting items, and a lease, has no finding."""
        await whole(store)
        for _ in range(2):
            found = await store.check_consistency("agent")
            assert (found.problems, found.ok, found.agent_id, found.uid, found.version) == (
                *((), True),
                *("agent", "uid-1", 4),
            )
            stored = [row for kind in COLUMNS for row in await store.scan("agent", Scan(kind, "uid-1", limit=99))]
            assert found.records >= len(stored)  # the header lies elsewhere
            await store.acquire("agent", "driver", 30)
        with pytest.raises(NotFoundError):
            await store.check_consistency("nobody")

    async def test_a_busy_agent_has_no_finding(self, store: Store) -> None:
        """An agent that is written to while it is looked at is not said to be damaged."""
        author = await whole(store)

        async def work() -> None:
            for n in range(12):
                await author.say(f"{n}")
                await store.enqueue("agent", item(f"i{n}"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work)
            for _ in range(6):
                codes = {problem.code for problem in (await store.check_consistency("agent")).problems}
                assert codes <= {"unsettled"}
        assert (await store.check_consistency("agent")).ok

    async def test_an_agent_in_the_middle_of_work_has_no_finding(self, store: Store) -> None:
        """An open effect, a timer, a run without an end that is in progress, and a lease are no faults."""
        author = await whole(store)
        await author.drive()
        state = {
            "run": Run(2, AT, 4, 4),
            "effects": (CallModel("2.1.0", Attempt(1), 4),),
            "timers": (Timer("t", AT, "message"),),
            **{"next_run": 3, "next_n": 1},
        }
        await author.commit(state=state, runs=[replace(run_record(2), ended_at=None)])
        assert (await store.check_consistency("agent")).problems == ()

    async def test_damaged_messages_are_named(self, store: Store) -> None:
        """A message that is gone, unreadable, newer or changed in its role is found."""
        await whole(store)
        seq = int_key(1)
        assert "gap message" in await self._found(store, "message", seq, gone)
        assert "missing call" in await self._found(store, "message", seq, gone)
        for text in (b"1{", b"9{}"):
            assert "unreadable message" in await self._found(store, "message", seq, body(text))
        assert "invariant message" in await self._found(store, "message", int_key(2), column(role="assistant"))
        assert (await store.check_consistency("agent")).ok

    async def test_damaged_calls_and_runs_are_named(self, store: Store) -> None:
        """A call without an answer or of no message, and a run without an end, are found."""
        await whole(store)
        assert await self._found(store, "call", CALL, column(status="EXECUTING")) == {"unanswered call"}
        assert await self._found(store, "call", CALL, column(status="DREAMING")) == {"unreadable call"}
        assert await self._found(store, "call", CALL, column(seq=77)) == {"missing call"}
        assert await self._found(store, "run", int_key(1), column(ended_at=None)) == {"unanswered run"}
        assert await self._found(store, "run", int_key(1), body(b"")) == {"unreadable run"}

    async def test_damaged_events_are_named(self, store: Store) -> None:
        """Events that are gone, unreadable or miscounted are found."""
        await whole(store)
        first, last = int_key(1), int_key(3)
        assert await self._found(store, "events", first, gone) == {"gap events"}
        assert await self._found(store, "events", last, gone) == {"gap events"}
        assert "unreadable events" in await self._found(store, "events", first, body(b"1[["))
        assert "orphan events" in await self._found(store, "events", last, column(last=9))

    async def test_what_is_named_and_not_there_is_named(self, store: Store) -> None:
        """A compaction, document or blob that somebody names and that is gone or changed is found."""
        await whole(store)
        (document,) = await store.scan("agent", Scan("document", "uid-1", limit=9))
        missing = {"missing header", "missing snapshot"}
        assert await self._found(store, "compaction", "c", gone) == missing
        assert await self._found(store, "document", document.key, gone) == missing
        assert await self._found(store, "document", document.key, body(b'1["[2]"]')) == {"differs document"}
        assert await self._found(store, "blob", BLOB, gone) == {"missing message"}
        assert await self._found(store, "blob", BLOB, body(b"y")) == {"differs blob"}
        assert await self._found(store, "snapshot", "s", column(tags="{")) == {"unreadable snapshot"}

    async def test_a_damaged_inbox_is_named(self, store: Store) -> None:
        """An item that cannot be read, and one that waits and was consumed, are found."""
        await whole(store)
        assert await self._found(store, "inbox", int_key(2), body(b"1{}")) == {"unreadable inbox"}
        assert await self._found(store, "consumed", "consumed", column(position=None)) == {"unreadable consumed"}
        (done,) = await store.get("agent", [Key("consumed", "uid-1", "consumed")])
        assert done is not None
        await keep(store, [replace(done, key="waits")], "agent")
        assert [p.code for p in (await store.check_consistency("agent")).problems] == ["order"]

    async def test_what_nobody_counted_is_named(self, store: Store) -> None:
        """Records beyond what the header has counted are found, and stay."""
        await whole(store)
        rows = [(Key("message", "uid-1", int_key(3)), int_key(4)), (Key("run", "uid-1", int_key(1)), int_key(2))]
        for place, key in rows:
            (row,) = await store.get("agent", [place])
            assert row is not None
            await keep(store, [replace(row, key=key)], "agent")
        found = await store.check_consistency("agent")
        assert {(p.code, p.record) for p in found.problems} == {
            ("orphan", f"message uid-1/{int_key(4)}"),
            ("orphan", f"run uid-1/{int_key(2)}"),
        }
        assert len(await store.scan("agent", Scan("message", "uid-1", limit=9))) == 5

    async def test_a_damaged_header_is_named(self, store: Store) -> None:
        """A header that breaks the rules or cannot be read is found."""
        author = await whole(store)
        await author.commit(state={"steps_total": -1})
        assert [p.code for p in (await store.check_consistency("agent")).problems] == ["invariant"]
        (header,) = await store.get("agent", [Key("header", "", "agent")])
        assert header is not None
        await keep(store, [replace(header, body=b"5{}")], "agent")
        (problem,) = (await store.check_consistency("agent")).problems
        assert (problem.code, problem.record) == ("unreadable", "header /agent")
