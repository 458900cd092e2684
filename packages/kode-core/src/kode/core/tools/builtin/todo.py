"""What the model plans to do, as a list that lasts: through crashes, runs and compaction."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from kode.core.kernel.message import Json
from kode.core.tools.base import ToolContext, ToolOutcome
from kode.core.tools.builtin.answer import answer
from kode.core.tools.builtin.freshness import Seen, digest, known, learn
from kode.core.tools.define import tool
from kode.core.tools.documents import TODOS
from kode.core.tools.todos import Todo, TodoList, TodoStatus, read_todos, replaced, write_todos

__all__ = ["TodoEntry", "todo_read", "todo_write"]

NOTE = ""
"""What the list is called among the notes of what the model has seen; no file is called so."""


class TodoEntry(BaseModel):
    """One todo, as the model writes it."""

    model_config = ConfigDict(extra="forbid")

    title: Annotated[str, Field(description="What is to be done, in one line.")]
    status: Annotated[TodoStatus, Field(description="At most one todo may be in_progress.")] = "pending"
    id: Annotated[str, Field(description="Its id, if it was in the list before.")] = ""
    notes: Annotated[str | None, Field(description="Left out: as they were.")] = None
    assignee: Annotated[str | None, Field(description="Left out: as it was.")] = None


@tool(readonly=True)
async def todo_read(context: ToolContext) -> ToolOutcome:
    """Return the list of todos.

    Args:
        context: Whose list it is; not shown to the model.
    """
    text = await context.documents.get(TODOS)
    todos = read_todos(text)
    await _show(context, todos, text)
    return answer({"todos": _shown(todos), "open": len(todos.open)})


@tool(
    recovery="retry",
    prompt="Use todo_write for work of three steps or more: first write all the steps, then keep the list true. Mark "
    "the one you are at in_progress (one at a time) before you begin it, and completed as soon as it is done. Each "
    "call replaces the whole list: what you leave out is gone.",
)
async def todo_write(todos: list[TodoEntry], context: ToolContext) -> ToolOutcome:
    """Replace the list of todos by another one.

    Args:
        todos: The whole list, completed ones included.
        context: Whose list it is; not shown to the model.
    """
    seen = await known(context, NOTE)
    text = await context.documents.get(TODOS)
    # Nothing is awaited from here until the list is put, so nobody else's is lost.
    old = read_todos(text)
    new = [Todo(one.title, one.status, one.id, one.notes, one.assignee) for one in todos]
    if text is not None and old.by == "code" and not (seen is not None and seen.is_of(text.encode())):
        await _show(context, old, text)
        return _unseen(old)
    made = replaced(old, new, at=context.clock.now(), by="model")
    if made is not old:
        context.documents.keep_todos(write_todos(made))
    return answer({"ok": True, "open": len(made.open), "ids": [todo.id for todo in made.items]})


def _unseen(todos: TodoList) -> ToolOutcome:
    """Refuse to replace a list that somebody wrote whom the model has not read, and show it."""
    return answer(
        {
            "error": "Someone else changed the list since you last saw it, so nothing was written. This is the list "
            "now; write yours again with what they changed.",
            "code": "todos_changed",
            "retryable": False,
            "todos": _shown(todos),
        },
        is_error=True,
    )


async def _show(context: ToolContext, todos: TodoList, text: Json | None) -> None:
    """Note that the model has seen a list that it did not write itself."""
    if text is not None and todos.by == "code":
        data = text.encode()
        await learn(context, NOTE, Seen(len(data), digest(data).hexdigest(), 0))


def _shown(todos: TodoList) -> list[dict[str, Any]]:
    fields = ("id", "title", "status", "notes", "assignee")
    rows = ({name: getattr(todo, name) for name in fields} for todo in todos.items)
    return [{name: value for name, value in row.items() if value is not None} for row in rows]
