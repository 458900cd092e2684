"""Events of an agent and of all who work for it, in one stream.

It holds no task between two events: while nothing is there, one task per followed agent waits, and all of them end
with the next event. Each agent's events come in their order; between agents there is none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping

import anyio
from anyio.abc import TaskGroup

from kode.core.errors import NotFoundError
from kode.core.event.base import Envelope
from kode.core.event.subscription import Subscription

__all__ = ["FamilySubscription"]


class FamilySubscription(AsyncIterator[Envelope]):
    """An endless reader of an agent's events and its sub-agents', each envelope with its ``agent_id``.

    A sub-agent is followed from its beginning, once ``tool_suspended`` names it, to the end of its task.

    Args:
        root: The reader of the agent's own events.
        children: Sub-agents that are at work, with the cursor to begin behind.
        follow: Makes a reader for one more agent, behind a cursor.
    """

    def __init__(
        self, root: Subscription, children: Mapping[str, int], follow: Callable[[str, int], Subscription]
    ) -> None:
        # What is followed is decided by events that a filter may leave out, so the filter is applied here.
        self.types, root.types = root.types, None
        self._follow = follow
        self._root = root.hub.agent_id
        self._open = {self._root: root}
        self._known = {self._root}
        self._ready: deque[Envelope] = deque()
        self._failure: Exception | None = None
        for id, cursor in children.items():
            self._add(id, cursor)

    def __aiter__(self) -> FamilySubscription:
        return self

    async def __anext__(self) -> Envelope:
        while True:
            while self._ready:
                envelope = self._ready.popleft()
                self._heed(envelope)
                if self.types is None or envelope.type in self.types:
                    return envelope
            if self._failure is not None:
                raise self._failure
            async with anyio.create_task_group() as tasks:
                for id in tuple(self._open):
                    tasks.start_soon(self._read, id, tasks)

    def _add(self, id: str, cursor: int) -> None:
        if id not in self._known:
            self._known.add(id)
            self._open[id] = self._follow(id, cursor)

    def _heed(self, envelope: Envelope) -> None:
        """Follow who begins to work, and nobody whose task is over."""
        child = envelope.event.data.get("child") if envelope.type == "tool_suspended" else None
        if child is not None:
            self._add(str(child), 0)
        if envelope.type == "done" and envelope.agent_id != self._root:
            self._open.pop(envelope.agent_id, None)

    async def _read(self, id: str, tasks: TaskGroup) -> None:
        """Take the next event of one agent; the others are then let go, and have lost nothing."""
        try:
            self._ready.append(await anext(self._open[id]))
        except NotFoundError as error:
            del self._open[id]
            if id == self._root:
                self._failure = error
        except Exception as error:  # noqa: BLE001 - raised to the reader, without the group around it
            self._failure = error
        tasks.cancel_scope.cancel()
