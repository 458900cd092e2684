"""Todos of an agent outside its tools: read and replaced by anybody, told to observers, recalled to the model."""

from __future__ import annotations

from collections.abc import Sequence

from kode.core.config import Dependencies
from kode.core.errors import UsageError
from kode.core.kernel.events import Event, preview
from kode.core.kernel.history import TODO_TIMER
from kode.core.kernel.inputs import Input, Instructed, Noted, TimerCancelled, TimerSet, TodosSet
from kode.core.kernel.state import State
from kode.core.runtime.asked import read_instructions
from kode.core.runtime.sending import enqueue
from kode.core.store.base import Store
from kode.core.template import AgentTemplate
from kode.core.tools.documents import MAX_BYTES, TODOS, Changes, Documents
from kode.core.tools.todos import Todo, TodoList, counted, read_todos, replaced, write_todos

__all__ = ["read_list", "replace_list", "take_todos", "todo_inputs"]

SHOWN = 10
"""Open todos that a reminder names."""
SHOWN_CHARS = 50
"""Of each: the reminder lies in the header until it is due."""


# ---- from outside ------------------------------------------------------------------------------------------


async def read_list(store: Store, agent_id: str, uid: str) -> TodoList:
    """Read the list, with what code has written and no driver has taken yet."""
    waiting = await read_instructions(store, agent_id, uid)
    document = await store.read_document(agent_id, TODOS, "")
    todos = read_todos(None if document is None else document.data)
    for what in waiting:
        if isinstance(what, TodosSet) and what.expects == todos.digest:
            todos = read_todos(what.todos)
    return todos


async def replace_list(
    agent_id: str, uid: str, items: Sequence[Todo], deps: Dependencies, *, expects: TodoList | None
) -> TodoList:
    """Ask for another list in the place of the present one, or of the one the caller has seen.

    Raises:
        UsageError: ``bad_todos``; ``todos_changed``: it is not the list the caller has seen any more.
    """
    now = await read_list(deps.store, agent_id, uid)
    if expects is not None and expects.digest != now.digest:
        raise UsageError(
            "The list of todos was changed since you read it, so nothing was written. Read it again with "
            "agent.todos(), and give set_todos that one.",
            code="todos_changed",
            agent_id=agent_id,
        )
    made = replaced(now, items, at=deps.clock.now(), by="code")
    if made is now:
        return now
    text = write_todos(made)
    if len(text.encode()) > MAX_BYTES:
        raise UsageError(
            f"The list of todos has {len(text.encode()):,} bytes, at most {MAX_BYTES:,} are kept; shorten its notes.",
            code="bad_todos",
        )
    await enqueue(deps.store, agent_id, Instructed(deps.ids.item_id(), TodosSet(text, now.digest)), uid=uid)
    return made


# ---- in a drive --------------------------------------------------------------------------------------------


def take_todos(documents: Documents, asks: Instructed, what: TodosSet) -> Input:
    """Write the list that somebody asks for; if it was changed meanwhile, theirs is dropped and they are told."""
    try:
        replaced(TodoList(), read_todos(what.todos).items, at=0, by="code")  # for what came past set_todos
        if documents.digest(TODOS) != what.expects:
            raise UsageError(
                "The list of todos was changed meanwhile; this one was not written. Read it, set it again."
            )
        documents.keep_todos(what.todos)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it is theirs to mend
        text = preview(getattr(error, "message", str(error)))
        return Noted((Event("input_rejected", preview=text, data={"item": asks.item, "code": "todos_changed"}),))
    return asks


def todo_inputs(changes: Changes, state: State, template: AgentTemplate) -> list[Input]:
    """Say that the list is another one, and when the model is reminded of what is open in it.

    The reminder is a timer by steps that begins again with each change of the list: so it is there after a crash, and
    speaks between steps only.
    """
    version = changes.get((TODOS, ""))
    if version is None:
        return []
    todos, every = read_todos(version.text), template.remind_todos_every
    inputs: list[Input] = [Noted((Event("todo_changed", data={"by": todos.by, **counted(todos)}),))]
    if todos.open and every is not None:
        due = state.steps_total + every
        timer = TimerSet(TODO_TIMER, None, "reminder", _reminder(todos), due_step=due, every_steps=every)
        # Not an input of the driver's own: if there is no room for one more timer, that is no reason to stop.
        inputs.append(Instructed(TODO_TIMER, timer))
    else:
        inputs.append(TimerCancelled(TODO_TIMER))
    return inputs


def _reminder(todos: TodoList) -> str:
    lines = [f"- {_line(todo)}" for todo in todos.open[:SHOWN]]
    if len(todos.open) > SHOWN:
        lines.append(f"- and {len(todos.open) - SHOWN} more")
    head = f"Reminder: {len(todos.open)} of your {len(todos.items)} todos are open."
    return "\n".join([head, *lines, "Go on with them, and keep the list true with todo_write."])


def _line(todo: Todo) -> str:
    title = todo.title if len(todo.title) <= SHOWN_CHARS else todo.title[: SHOWN_CHARS - 1] + "…"
    return f"{title} (in progress)" if todo.status == "in_progress" else title
