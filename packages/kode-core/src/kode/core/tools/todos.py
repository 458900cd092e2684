"""The list of todos of an agent as a value: what may be in it, how one list replaces another, how it is stored.

It is one document (kind ``todos``), written as a whole by the model's ``todo_write`` or by ``Agent.set_todos``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Literal, TypeAlias

from kode.core import jsontext
from kode.core.errors import RecordCorruptError, SchemaTooNewError, UsageError
from kode.core.kernel.message import Json

__all__ = ["STATUSES", "Todo", "TodoList", "TodoStatus", "counted", "read_todos", "replaced", "write_todos"]

TodoStatus: TypeAlias = Literal["pending", "in_progress", "completed"]
STATUSES = ("pending", "in_progress", "completed")
VERSION = 1
MAX_TODOS = 100
MAX_TITLE = 200
MAX_NOTES = 500
MAX_WORD = 64
"""Characters of an id and of an assignee."""


@dataclass(frozen=True, slots=True)
class Todo:
    """One thing to do."""

    title: str
    status: TodoStatus = "pending"
    id: str = ""
    """Names it from one list to the next; "" is given a number when the list is written."""
    notes: str | None = None
    """None in a new list: as it was."""
    assignee: str | None = None
    """None in a new list: as it was."""
    created_at: int = 0
    """Microseconds since the epoch; kept as long as the id or the title is."""
    updated_at: int = 0


@dataclass(frozen=True, slots=True)
class TodoList:
    """The list as it is stored."""

    items: tuple[Todo, ...] = ()
    by: Literal["model", "code"] = "model"
    """Who wrote it. The model may replace what code wrote only after it has seen it."""
    digest: str | None = None
    """Names this state of the list; None: nothing is stored."""

    @property
    def open(self) -> tuple[Todo, ...]:
        """What is not completed, in the order of the list."""
        return tuple(todo for todo in self.items if todo.status != "completed")


def counted(todos: TodoList) -> dict[str, int]:
    """Count the items of each status."""
    found = Counter[str](todo.status for todo in todos.items)
    return {status: found[status] for status in STATUSES}


# ---- replacing ---------------------------------------------------------------------------------------------


def replaced(old: TodoList, new: Sequence[Todo], *, at: int, by: Literal["model", "code"]) -> TodoList:
    """Replace the whole list. What is in both, by its id or else by its title, keeps its time of creation.

    Returns:
        The list to store; the old one if nothing in it is different.

    Raises:
        UsageError: ``bad_todos``; the message names each problem.
    """
    items = tuple(_tidy(todo) for todo in new)
    problems = list(_problems(items))
    if problems:
        raise UsageError(
            f"The list of todos was not written: {'; '.join(problems[:10])}. Give the whole list again, mended.",
            code="bad_todos",
        )
    items = tuple(_merged(old.items, items, at))
    if items == old.items:
        return old
    made = TodoList(items, by)
    return replace(made, digest=jsontext.digest(write_todos(made)))


def _tidy(todo: Todo) -> Todo:
    if isinstance(todo, Todo) and isinstance(todo.title, str):
        return replace(todo, title=todo.title.strip())
    raise UsageError(f"A todo is {todo!r:.100}; give Todo('its title').", code="bad_todos")


def _problems(items: tuple[Todo, ...]) -> Iterator[str]:
    if len(items) > MAX_TODOS:
        yield f"it has {len(items)} todos, at most {MAX_TODOS} are kept"
        return
    for n, todo in enumerate(items, 1):
        name = f"todo {n} ({todo.title:.40})"
        if not 0 < len(todo.title) <= MAX_TITLE:
            yield f"{name} has a title of {len(todo.title)} characters, give 1 to {MAX_TITLE}"
        if todo.status not in STATUSES:
            yield f"{name} has the status {todo.status!r}, give one of {', '.join(STATUSES)}"
        for field, most in (("id", MAX_WORD), ("assignee", MAX_WORD), ("notes", MAX_NOTES)):
            value = getattr(todo, field)
            if value is not None and not (isinstance(value, str) and len(value) <= most):
                yield f"{name} has {field} {value!r:.40}, give a text of at most {most} characters"
    twice = [id for id, times in Counter(todo.id for todo in items if todo.id).items() if times > 1]
    if twice:
        yield f"the id {twice[0]!r} is there twice"
    busy = [todo.title for todo in items if todo.status == "in_progress"]
    if len(busy) > 1:
        yield f"{len(busy)} todos are in_progress ({', '.join(busy):.200}), at most one may be"


def _merged(old: tuple[Todo, ...], new: tuple[Todo, ...], at: int) -> Iterator[Todo]:
    claimed = {todo.id for todo in new}
    by_id = {todo.id: todo for todo in old}
    by_title = {todo.title: todo for todo in reversed(old) if todo.id not in claimed}
    # A number is not given again, not even that of a todo which goes with this very list.
    numbers = count(1 + max((int(id) for id in {*by_id, *claimed} if id.isdecimal()), default=0))
    for todo in new:
        was = by_id.get(todo.id) or by_title.pop(todo.title, None)
        kept = was or Todo("", created_at=at)
        made = replace(
            todo,
            id=todo.id or kept.id or str(next(numbers)),
            notes=(kept.notes if todo.notes is None else todo.notes) or None,
            assignee=(kept.assignee if todo.assignee is None else todo.assignee) or None,
            created_at=kept.created_at,
            updated_at=kept.updated_at,
        )
        yield made if made == was else replace(made, updated_at=at)


# ---- stored ------------------------------------------------------------------------------------------------


def write_todos(todos: TodoList) -> Json:
    """Write a list as the text of its document."""
    return jsontext.dump({"v": VERSION, "by": todos.by, "items": [_row(todo) for todo in todos.items]})


def _row(todo: Todo) -> dict[str, Any]:
    told = {name: getattr(todo, name) for name in Todo.__dataclass_fields__}
    return {name: value for name, value in told.items() if value is not None}


def read_todos(text: Json | None) -> TodoList:
    """Read the text of the document; None is an empty list.

    Raises:
        RecordCorruptError: It is none.
        SchemaTooNewError: A newer KODE wrote it.
    """
    if text is None:
        return TodoList()
    try:
        found = jsontext.parse(text)
        if found.get("v", VERSION) > VERSION:
            raise SchemaTooNewError(
                f"The stored todos have version {found['v']}, this KODE reads up to {VERSION}; upgrade it.",
                found=found["v"],
                known=VERSION,
            )
        rows = map(_imported, found["todos"]) if "todos" in found else found["items"]
        return TodoList(tuple(Todo(**row) for row in rows), found.get("by", "model"), jsontext.digest(text))
    except (UsageError, TypeError, KeyError, AttributeError, ValueError) as error:
        raise RecordCorruptError(
            f"The stored todos cannot be read ({type(error).__name__}); they are left as they are.",
            kind="document",
            raw=text.encode(),
        ) from None


def _imported(row: dict[str, Any]) -> dict[str, Any]:
    """Read a todo as the predecessor wrote it: its times are milliseconds, if they are there."""
    times = {
        name: int(row.get(old, 0) * 1_000) for name, old in (("created_at", "createdAt"), ("updated_at", "updatedAt"))
    }
    kept = {name: row[name] for name in ("title", "status", "id", "notes", "assignee") if row.get(name)}
    return {**kept, **times}
