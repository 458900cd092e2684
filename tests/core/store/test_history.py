"""Messages, snapshots and documents by name: each change is one legal commit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import anyio
import pytest

from kode.core.errors import (
    ConflictError,
    LeaseLostError,
    NotFoundError,
    RecordCorruptError,
    SchemaTooNewError,
    UsageError,
)
from kode.core.kernel.message import Json, Message, TextBlock, ToolResultBlock, ToolUseBlock
from kode.core.kernel.state import Document, Run
from kode.core.kernel.window import Range, Window
from kode.core.store import Store
from kode.core.store import records as rec
from kode.core.store.contract import Due, Key
from kode.core.store.records import codec
from kode.core.testing.conformance.store.author import AT, Author, item, open_effect


def user(seq: int, text: str = "hi", **fields: Any) -> Message:
    return Message(seq, "user", (TextBlock(text),), AT, **fields)


def asks(seq: int, *ids: str) -> Message:
    return Message(seq, "assistant", tuple(ToolUseBlock(id, "bash_run", Json("{}")) for id in ids), AT)


def answers(seq: int, *ids: str, call: str = "") -> Message:
    return Message(seq, "user", tuple(ToolResultBlock(id, (TextBlock("ok"),), call=call) for id in ids), AT)


@pytest.fixture
async def author(store: Store) -> Author:
    author = Author(store, "a")
    await author.create()
    return author


async def texts(store: Store) -> list[str]:
    return [m.blocks[0].text for m in await store.load_messages("a")]  # type: ignore[union-attr]


# ---- messages ------------------------------------------------------------------------------------------------


async def test_what_is_appended_is_there_and_told(store: Store, author: Author) -> None:
    first = await store.append_message("a", "user", "one")
    second = await store.append_message("a", "assistant", [TextBlock("two\ud800")])
    assert second.blocks == (TextBlock("two\ufffd"),)
    assert (first.seq, first.at, second.seq, second.role) == (0, AT, 1, "assistant")
    assert await store.load_messages("a") == (first, second)
    state = await store.read_state("a")
    assert (state.next_seq, state.next_cursor) == (2, 3)
    events = (await store.read_events("a")).items
    assert [(e.type, e.cursor, e.ref and e.ref.seq, e.preview, e.data["role"]) for e in events] == [
        ("message_received", 1, 0, "one", "user"),
        ("message_received", 2, 1, "two\ufffd", "assistant"),
    ]
    assert (await store.check_consistency("a")).ok


async def test_a_history_in_pages_by_offset(store: Store, author: Author) -> None:
    assert await store.save_messages("a", [user(n, str(n)) for n in range(7)]) == 7
    pages, offset = [], 0
    while True:
        page = await store.load_messages_paginated("a", offset=offset, limit=3)
        pages.append([m.seq for m in page.items])
        if page.next is None:
            break
        offset = page.next
    assert pages == [[0, 1, 2], [3, 4, 5], [6]]
    assert (await store.load_messages_paginated("a", offset=7)).items == ()
    for wrong in ({"offset": -1}, {"limit": 0}):
        with pytest.raises(UsageError, match="give"):
            await store.load_messages_paginated("a", **wrong)
    # After a prune the first that is kept has the offset 0.
    assert (await store.prune("a", before=None, keep_messages=0)).messages == 0  # the window shows all
    loaded = await store.load("a")
    assert loaded is not None
    author.state, author.version = loaded.state, loaded.version
    await author.commit(state={"window": Window(ranges=(Range(4),))})
    assert (await store.prune("a", before=None, keep_messages=0)).messages == 4
    assert [m.seq for m in (await store.load_messages_paginated("a", offset=1)).items] == [5, 6]


async def test_saving_extends_and_repeats(store: Store, author: Author) -> None:
    history = [user(0), asks(1, "x", "y"), answers(2, "x", "y"), user(3, "\ud800 lone")]
    assert await store.save_messages("a", history) == 4
    assert await store.save_messages("a", history) == 0  # also where the store has mended or filled something in
    stored = await store.load_messages("a")
    assert await store.save_messages("a", stored) == 0
    assert [block.call for block in stored[2].blocks] == ["0.1.0", "0.1.1"]  # type: ignore[union-attr]
    assert await store.save_messages("a", [*stored[3:], user(4, "end", run=9, step=9)]) == 1
    last = (await store.load_messages("a"))[-1]
    assert (last.run, last.step, len(await store.load_messages("a"))) == (0, 0, 5)
    assert await store.save_messages("a", []) == 0
    assert (await store.check_consistency("a")).ok


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ([user(0, "other")], "message 0 is another one"),
        ([user(0), user(1, "x"), user(2)], "message 1 is another one"),
        ([user(3)], "without a gap"),
        ([user(1), user(3)], "without a gap"),
        ([user(1), user(0)], "without a gap"),
    ],
)
async def test_what_is_stored_is_never_replaced(memory: Store, given: Any, why: str) -> None:
    store = memory
    await Author(store, "a").create()
    await store.save_messages("a", [user(0), user(1)])
    before = await store.load("a")
    with pytest.raises(ConflictError, match=why) as error:
        await store.save_messages("a", given)
    assert error.value.code == "not_an_extension"
    assert await store.load("a") == before


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ([asks(0, "x")], "every tool use has one result"),
        ([asks(0, "x"), user(1)], "every tool use has one result"),
        ([answers(0, "x")], "every tool use has one result"),
        ([asks(0, "x", "x"), answers(1, "x", "x")], "ids of their own"),
        ([Message(0, "user", (), AT)], "not empty"),
        ([replace(asks(0, "x"), role="user"), answers(1, "x")], "model's message"),
    ],
)
async def test_a_history_no_provider_accepts_is_refused(memory: Store, given: Any, rule: str) -> None:
    store = memory
    await Author(store, "a").create()
    with pytest.raises(UsageError, match=rule) as error:
        await store.save_messages("a", given)
    assert error.value.code == "bad_history"
    assert (await store.read_state("a")).next_seq == 0
    with pytest.raises(UsageError, match="every tool use"):
        await store.append_message("a", "assistant", asks(0, "x").blocks)


async def test_nothing_is_appended_under_a_lease_or_a_run(store: Store, author: Author) -> None:
    lease = await store.acquire("a", "driver", 30)
    with pytest.raises(LeaseLostError) as held:
        await store.append_message("a", "user", "x")
    assert held.value.code == "held"
    await store.release(lease)
    await author.commit(state={"run": Run(1, AT, 0, 1), "next_run": 2, "step": 1, "effects": (open_effect(),)})
    with pytest.raises(UsageError) as busy:
        await store.append_message("a", "user", "x")
    assert busy.value.code == "not_safe"
    assert await store.load_messages("a") == ()
    for call in (store.load_messages, store.load_messages_paginated):
        with pytest.raises(NotFoundError):
            await call("nobody")
    with pytest.raises(NotFoundError):
        await store.append_message("nobody", "user", "x")


async def test_a_number_makes_appending_safe_to_repeat(store: Store, author: Author) -> None:
    first = await store.append_message("a", "user", "x", seq=0)
    assert await store.append_message("a", "user", "x", seq=0) == first
    for text, seq in (("y", 0), ("x", 2)):
        with pytest.raises(ConflictError):
            await store.append_message("a", "user", text, seq=seq)
    assert await texts(store) == ["x"]


async def test_all_who_append_at_once_get_in(store: Store, author: Author) -> None:
    """The same words at the same version are two messages, not one that landed before."""
    async with anyio.create_task_group() as tasks:
        for _ in range(6):
            tasks.start_soon(store.append_message, "a", "user", "same")
    assert await texts(store) == ["same"] * 6
    assert (await store.check_consistency("a")).ok


@pytest.mark.parametrize("kind", ["sqlite", "json"])
async def test_two_who_share_the_files_both_get_in(kind: str, make: Callable[[str], Store]) -> None:
    async with make(kind) as one, make(kind) as two:
        await Author(one, "a").create()

        async def write(store: Store) -> None:
            for _ in range(5):
                await store.append_message("a", "user", "same")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write, one)
            tasks.start_soon(write, two)
        assert await texts(two) == ["same"] * 10
        assert (await one.check_consistency("a")).ok


async def test_an_agent_goes_on_from_what_was_appended(lab: Any) -> None:
    agent = await lab.agent(["first", "second"])
    await agent.run("one")
    await lab.store.append_message("a", "user", "from outside")
    await lab.store.append_message("a", "assistant", "noted")
    await agent.run("two")
    assert await lab.texts() == [
        "user: one",
        "assistant: first",
        "user: from outside",
        "assistant: noted",
        "user: two",
        "assistant: second",
    ]
    assert len(lab.provider.requests[-1].messages) == 5
    events = await lab.events()
    assert [event.cursor for event in events] == list(range(1, len(events) + 1))
    assert (await lab.store.check_consistency("a")).problems == ()
    assert (await lab.store.aggregate_stats()).runs == {"ok": 2}


async def test_appending_leaves_inbox_and_alarm_alone(store: Store, author: Author) -> None:
    await author.commit(wake_at=AT + 5_000_000)
    await store.append_message("a", "user", "x")
    assert await store.due(AT + 4_000_000, 9) == []
    assert [due.wake_at for due in await store.due(AT + 5_000_000, 9)] == [AT + 5_000_000]
    await store.enqueue("a", item("i"))
    inbox = await store.read_inbox("a", "uid-1")
    await store.append_message("a", "user", "y")
    assert await store.read_inbox("a", "uid-1") == inbox
    assert await store.due(AT, 9) != []


# ---- snapshots -----------------------------------------------------------------------------------------------


async def test_snapshots_by_name(store: Store, author: Author) -> None:
    await store.append_message("a", "user", "x")
    first = await store.save_snapshot("a", "s1", tags=("good",))
    assert (first.seq, first.tags, first.parent) == (1, ("good",), None)
    assert await store.load_snapshot("a", "s1") == first
    assert await store.load_snapshot("a", "s2") is None
    with pytest.raises(UsageError) as taken:
        await store.save_snapshot("a", "s1")
    assert taken.value.code == "snapshot_exists"
    with pytest.raises(NotFoundError, match="no snapshot 'nothing'"):
        await store.save_snapshot("a", "s2", parent="nothing")
    assert (await store.save_snapshot("a", "s2", parent="s1")).parent == "s1"
    assert [s.id for s in await store.list_snapshots("a")] == ["s1", "s2"]
    assert await store.delete_snapshot("a", "s1") is True
    assert await store.delete_snapshot("a", "s1") is False
    assert [s.id for s in await store.list_snapshots("a")] == ["s2"]
    await store.save_snapshot("a", "s1")
    with pytest.raises(NotFoundError):
        await store.delete_snapshot("nobody", "s1")


async def test_no_snapshot_in_the_middle_of_a_step(store: Store, author: Author) -> None:
    from kode.core.kernel.effects import Attempt, RunTool
    from kode.core.testing.conformance.store.author import open_call

    call = open_call()
    run = Run(1, AT, 0, 1)
    effect = RunTool(call.id, Attempt(1), 60.0)
    await author.say(
        "x",
        calls=[call],
        state={"run": run, "next_run": 2, "step": 1, "next_n": 1, "calls": (call,), "effects": (effect,)},
    )
    with pytest.raises(UsageError) as error:
        await store.save_snapshot("a", "s")
    assert error.value.code == "not_safe"
    assert await store.list_snapshots("a") == ()


# ---- documents -----------------------------------------------------------------------------------------------


async def test_documents_by_name(store: Store, author: Author) -> None:
    digest = await store.save_document("a", "todo", "list", {"b": [1, None], "a": "ü"})
    assert await store.load_document("a", "todo", "list") == {"b": [1, None], "a": "ü"}
    version = (await store.load("a")).version  # type: ignore[union-attr]
    assert await store.save_document("a", "todo", "list", {"b": [1, None], "a": "ü"}) == digest
    assert (await store.load("a")).version == version  # type: ignore[union-attr]
    await store.save_snapshot("a", "s")
    assert await store.save_document("a", "todo", "list", [2]) != digest
    assert await store.load_document("a", "todo", "list") == [2]
    assert (await store.read_state("a")).documents == (
        Document("todo", "list", (await store.read_state("a")).documents[0].digest),
    )
    assert await store.delete_document("a", "todo", "list") is True
    assert await store.delete_document("a", "todo", "list") is False
    with pytest.raises(NotFoundError, match="no document todo/list"):
        await store.load_document("a", "todo", "list")
    await store.fork("a", "b", new_uid="u-b", at="s")
    assert await store.load_document("b", "todo", "list") == {"b": [1, None], "a": "ü"}
    for wrong in ({"kind": "a/b", "name": "", "data": 1}, {"kind": "k", "name": "", "data": float("nan")}):
        with pytest.raises(UsageError):
            await store.save_document("a", **wrong)
    assert (await store.check_consistency("a")).ok


# ---- damage --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("body", "error"), [(b"1{broken", RecordCorruptError), (b"7{}", SchemaTooNewError)])
async def test_what_cannot_be_read_is_named_and_left(
    store: Store, author: Author, body: bytes, error: type[Exception]
) -> None:
    assert codec.VERSION < 7
    await store.save_messages("a", [user(n, str(n)) for n in range(3)])
    await store.save_snapshot("a", "s")
    for key in (Key("message", "uid-1", rec.int_key(1)), Key("snapshot", "uid-1", "s")):
        (row,) = await store.get("a", [key])
        assert row is not None
        bad = replace(row, body=body)
        await store.apply("a", [], [bad], [])
    name = f"uid-1/{rec.int_key(1)}"
    with pytest.raises(error, match=name):
        await store.load_messages("a")
    with pytest.raises(error, match=name):
        await store.save_messages("a", [user(0, "0"), user(1, "1"), user(2, "2"), user(3)])
    with pytest.raises(error, match="uid-1/s"):
        await store.load_snapshot("a", "s")
    # The rest can be read, and what is not concerned goes on.
    assert [m.seq for m in (await store.read_messages("a", after=1)).items] == [2]
    assert (await store.append_message("a", "user", "more")).seq == 3
    (row,) = await store.get("a", [Key("message", "uid-1", rec.int_key(1))])
    assert row is not None
    assert row.body == body


async def test_what_is_amended_wakes_nobody(store: Store) -> None:
    """An item that waits for its time goes on waiting for that."""
    author = Author(store, "a", "u-a")
    await author.create()
    await store.enqueue("a", item("later", not_before=AT + 10**9))
    await store.append_message("a", "user", "hi")
    assert await store.due(AT + 10**9 - 1, 9) == []
    assert await store.due(AT + 10**9, 9) == [Due("a", AT + 10**9)]


async def test_an_item_that_comes_while_something_is_amended_is_seen(store: Store) -> None:
    author = Author(store, "a", "u-a")
    await author.create()
    apply_and_look, apply, again = store.apply_and_look, store.apply, [True]

    async def come(puts: Any) -> None:
        if again and any(row.kind == "header" for row in puts):
            again.clear()
            await store.enqueue("a", item("now"))

    async def look(agent_id: str, conditions: Any, puts: Any, deletes: Any, **options: Any) -> Any:
        await come(puts)
        return await apply_and_look(agent_id, conditions, puts, deletes, **options)

    async def late(agent_id: str, conditions: Any, puts: Any, deletes: Any) -> int | None:
        await come(puts)
        return await apply(agent_id, conditions, puts, deletes)

    store.apply_and_look, store.apply = look, late  # type: ignore[method-assign]
    await store.append_message("a", "user", "hi")
    assert not again
    assert [due.agent_id for due in await store.due(await store.now(), 9)] == ["a"]
