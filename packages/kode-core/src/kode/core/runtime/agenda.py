"""What an agent is to do later: its todos and its timers. A part of `Agent`."""

from __future__ import annotations

from collections.abc import Sequence

from kode.core.runtime.handle import Handle
from kode.core.runtime.schedule import Scheduler
from kode.core.runtime.todos import read_list, replace_list
from kode.core.tools.todos import Todo, TodoList

__all__ = ["Agenda"]


class Agenda(Handle):
    """The members of `Agent` for its todos and its timers."""

    @property
    def schedule(self) -> Scheduler:
        """Sets, lists and cancels its timers."""
        return Scheduler(self._deps.store, self.agent_id, uid=self.uid, ids=self._deps.ids)

    async def todos(self) -> TodoList:
        """The list of todos, with what ``set_todos`` asked for and no driver has taken yet."""
        await self._state()  # it is still this one
        return await read_list(self._deps.store, self.agent_id, self.uid)

    async def set_todos(self, items: Sequence[Todo], *, expects: TodoList | None = None) -> TodoList:
        """Replace the list of todos; durable like a message, taken up by whoever drives the agent.

        If the model changes the list before that, this one is dropped with an ``input_rejected`` event; and the model
        is shown it before it can replace it. So neither loses the other's work unseen.

        Args:
            items: The whole new list. What keeps its id or its title keeps its time of creation.
            expects: The list that you made it from, as ``todos()`` gave it; None: the one that is there now.

        Returns:
            The list as it will be.

        Raises:
            UsageError: ``bad_todos``; ``todos_changed``: it is not that list any more.
        """
        with self._noting_gone():
            return await replace_list(self.agent_id, self.uid, items, self._deps, expects=expects)
