"""The list of todos: what a new list keeps of the old one, what is refused, what the model must have seen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kode.core import jsontext
from kode.core.errors import RecordCorruptError, SchemaTooNewError, UsageError
from kode.core.kernel.history import MAX_DOCUMENTS
from kode.core.tools.builtin import todo_read, todo_write
from kode.core.tools.documents import MAX_BYTES
from kode.core.tools.todos import MAX_TODOS, Todo, TodoList, counted, read_todos, replaced, write_todos


def made(*todos: Todo, old: TodoList | None = None, at: int = 1, by: Any = "model") -> TodoList:
    return replaced(old or TodoList(), todos, at=at, by=by)


# ---- the list as a value ---------------------------------------------------------------------------------------


def test_what_keeps_its_id_or_title_keeps_its_birth() -> None:
    first = made(Todo("write"), Todo("test"), Todo("ship", notes="on Friday", assignee="Ann"), at=5)
    assert [(t.id, t.created_at, t.updated_at) for t in first.items] == [("1", 5, 5), ("2", 5, 5), ("3", 5, 5)]
    then = made(
        Todo("ship"), Todo("write it all", "in_progress", id="1"), Todo("test", "completed"), Todo("rest"),
        old=first, at=9,
    )  # fmt: skip
    assert [(t.title, t.id, t.created_at, t.updated_at) for t in then.items] == [
        *(("ship", "3", 5, 5), ("write it all", "1", 5, 9), ("test", "2", 5, 9), ("rest", "4", 9, 9)),
    ]
    assert (then.items[0].notes, then.items[0].assignee) == ("on Friday", "Ann"), "left out: as they were"
    cleared = made(replace(then.items[0], notes="", assignee=""), old=then)
    assert (cleared.items[0].notes, cleared.items[0].assignee) == (None, None)


def test_a_title_is_matched_once_and_never_one_that_an_id_names() -> None:
    old = made(Todo("a"), Todo("a"), at=1)
    assert [t.id for t in old.items] == ["1", "2"]
    new = made(Todo("a"), Todo("a"), Todo("a", id="1"), old=old, at=2)
    assert [(t.id, t.created_at) for t in new.items] == [("2", 1), ("3", 2), ("1", 1)]


def test_a_number_is_not_given_twice() -> None:
    old = made(Todo("a"), Todo("b", id="7"))
    assert [t.id for t in made(Todo("c"), old=old).items] == ["9"]
    assert [t.id for t in made(Todo("c"), Todo("d", id="12"), old=old).items] == ["13", "12"]


def test_the_same_list_is_no_change() -> None:
    old = made(Todo("a", notes="n"), Todo("b"), at=1)
    assert made(Todo("a"), Todo(" b "), old=old, at=2, by="code") is old
    assert made(*old.items, old=old, at=2) is old
    assert made(*reversed(old.items), old=old, at=2).items == tuple(reversed(old.items))


@pytest.mark.parametrize(
    ("todos", "match"),
    [
        ((Todo("a", "in_progress"), Todo("b", "in_progress")), r"2 todos are in_progress \(a, b\), at most one may be"),
        ((Todo("a", "done"),), "todo 1 .a. has the status 'done', give one of pending, in_progress, completed"),  # type: ignore[arg-type]
        ((Todo(" "),), "has a title of 0 characters"),
        ((Todo("x" * 201),), "has a title of 201 characters, give 1 to 200"),
        ((Todo("a", id="1"), Todo("b", id="1")), "the id '1' is there twice"),
        ((Todo("a", notes="x" * 501),), "give a text of at most 500"),
        ((Todo("a", assignee=5),), "has assignee 5"),  # type: ignore[arg-type]
        ((Todo("a", id="x" * 65),), "give a text of at most 64"),
        (tuple(Todo(str(n)) for n in range(101)), "it has 101 todos, at most 100"),
        ((Todo(5),), "give Todo"),  # type: ignore[arg-type]
        (("a",), "A todo is 'a'; give Todo"),
        ((Todo(""), Todo("b", "no")), "0 characters.*; .*status 'no'"),  # type: ignore[arg-type]
    ],
)
def test_a_bad_list_says_all_that_is_wrong(todos: Any, match: str) -> None:
    with pytest.raises(UsageError, match=match) as caught:
        made(*todos)
    assert caught.value.code == "bad_todos"


def test_it_is_read_as_it_was_written() -> None:
    todos = made(Todo("ä", "in_progress", notes="n"), Todo("b", "completed"), at=3, by="code")
    assert read_todos(write_todos(todos)) == todos
    assert (counted(todos), todos.open) == ({"pending": 0, "in_progress": 1, "completed": 1}, todos.items[:1])
    assert read_todos(None) == TodoList()


def test_the_largest_list_fits_into_a_document() -> None:
    worst = [Todo("\x01" * 200, notes="\x01" * 500, assignee="\x01" * 64, id=f"{n:>064}") for n in range(MAX_TODOS)]
    assert len(write_todos(made(*(replace(t, notes="ä" * 500, title="ä" * 200) for t in worst)))) < MAX_BYTES


def test_what_the_predecessor_wrote_is_read() -> None:
    old = {"id": "1", "title": "count", "status": "pending", "createdAt": 1_700_000_000_000, "updatedAt": 5}
    text = jsontext.dump({"todos": [old, {"id": "2", "title": "b", "status": "completed"}], "version": 2})
    (first, second) = read_todos(text).items
    assert (first.created_at, first.updated_at, second.created_at) == (1_700_000_000_000_000, 5_000, 0)
    assert read_todos(text).by == "model"


@pytest.mark.parametrize("text", ["[]", "5", "{}", '{"items":[{"name":"x"}]}', '{"items":5}', '{"todos":[5]}'])
def test_what_is_no_list_is_left_as_it_is(text: Any) -> None:
    with pytest.raises(RecordCorruptError, match="left as they are"):
        read_todos(text)
    with pytest.raises(SchemaTooNewError, match="upgrade"):
        read_todos('{"v":2,"items":[]}')  # type: ignore[arg-type]


# ---- the tools ----------------------------------------------------------------------------------------------------


async def test_the_model_writes_and_reads_its_list(bench: Any) -> None:
    assert await bench(todo_read) == {"todos": [], "open": 0}
    todos = [{"title": "plan", "status": "in_progress"}, {"title": "do", "notes": "well"}]
    assert await bench(todo_write, todos=todos) == {"ok": True, "open": 2, "ids": ["1", "2"]}
    assert await bench(todo_read) == {
        "open": 2,
        "todos": [
            {"id": "1", "title": "plan", "status": "in_progress"},
            {"id": "2", "title": "do", "status": "pending", "notes": "well"},
        ],
    }
    before = await bench.documents.get("todos")
    assert await bench(todo_write, todos=[{"title": "a", "status": "in_progress"}] * 2) == {
        "error": "The list of todos was not written: 2 todos are in_progress (a, a), at most one may be. "
        "Give the whole list again, mended.",
        "code": "bad_todos",
        "retryable": False,
    }
    assert await bench.documents.get("todos") == before, "nothing half-written"
    assert await bench(todo_write, todos=[]) == {"ok": True, "open": 0, "ids": []}


def test_a_list_of_a_wrong_shape_is_explained_before_it_runs() -> None:
    told = todo_write.check(jsontext.dump({"todos": [{"title": "a", "status": "done"}, {"name": "b"}]}))
    assert isinstance(told, str)
    assert "todos.0.status: Input should be 'pending', 'in_progress' or 'completed'" in told
    assert "todos.1.title: is required" in told
    assert "createdAt" not in todo_write.input_schema
    assert (todo_read.readonly, todo_write.readonly) == (True, False)


async def test_what_code_wrote_is_not_replaced_unseen(bench: Any) -> None:
    await bench(todo_write, todos=[{"title": "mine"}])
    old = read_todos(await bench.documents.get("todos"))
    bench.documents.keep_todos(write_todos(made(*old.items, Todo("theirs"), old=old, by="code")))
    refused = await bench(todo_write, todos=[{"title": "mine", "status": "completed"}])
    assert (refused["code"], [t["title"] for t in refused["todos"]]) == ("todos_changed", ["mine", "theirs"])
    assert (await bench(todo_write, todos=[{"title": "mine", "status": "completed"}, {"title": "theirs"}]))["ok"]
    old = read_todos(await bench.documents.get("todos"))
    bench.documents.keep_todos(write_todos(made(Todo("another"), old=old, by="code")))
    await bench(todo_read)
    assert (await bench(todo_write, todos=[]))["ok"], "it has seen what it drops"


async def test_the_list_has_a_slot_of_its_own(bench: Any) -> None:
    for n in range(MAX_DOCUMENTS - 3):
        await bench.documents.put("mine", str(n), "1")
    assert (await bench(todo_write, todos=[{"title": "a"}]))["ok"]
    with pytest.raises(UsageError, match="are the runtime's own"):
        await bench.documents.put("todos", "", "{}")
    with pytest.raises(UsageError, match="are the runtime's own"):
        await bench.documents.remove("todos")
