"""Being woken when an agent changes, instead of asking again and again.

What is written through this store object wakes its watchers at once. What others write (another process, another
object on the same file) is found by looking at intervals, and is told of no later than one interval after it is
durable. A store whose engine can tell more cheaply overrides `look`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

import anyio

from kode.core.clock import Clock, RealClock
from kode.core.errors import StoreUnavailableError
from kode.core.store.contract import Scan
from kode.core.store.layers.reading import Reading
from kode.core.store.lookups import header_key, uid_of
from kode.core.store.primitives import check_agent_id

__all__ = ["Changes", "WatchSupport"]


class Changes:
    """Wakes one watcher; made by `WatchSupport.watch`. Use it from one task, inside its ``async with``.

    Many changes may be one waking, and there may be a waking without a change; a change that is durable is never
    without a waking after it. So read what you are interested in first, then wait, then read again.
    """

    def __init__(
        self,
        agent_id: str | None,
        watching: list[Changes],
        look: Callable[[str | None], Awaitable[object]],
        clock: Clock,
        poll_s: float | None,
    ) -> None:
        self.agent_id = agent_id
        """Whose changes; None: everybody's."""
        self._watching = watching
        self._look = look
        self._clock = clock
        self._poll_s = poll_s
        self._seen: Any = None
        self._bell = anyio.Event()

    async def __aenter__(self) -> Changes:
        self._watching.append(self)
        try:
            await self._looks_changed()
        except BaseException:
            self._watching.remove(self)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watching.remove(self)

    async def wait(self) -> None:
        """Wait until something has changed since the last waking, or since the watch began."""
        while not self._bell.is_set():
            with self._clock.move_on_after(self._poll_s):
                await self._bell.wait()
            if not self._bell.is_set() and await self._looks_changed():
                break
        self._bell = anyio.Event()

    def ring(self) -> None:
        """Note a change."""
        self._bell.set()

    async def _looks_changed(self) -> bool:
        if self._poll_s is None:
            return False
        try:
            found = await self._look(self.agent_id)
        except StoreUnavailableError:
            return True  # who reads now is told by the store itself what is wrong
        before, self._seen = self._seen, found
        return found is None or found != before


class WatchSupport(Reading):
    """Watching agents change."""

    alone: bool = False
    """Whether nobody but this object can write, so that nothing is looked for at intervals."""

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__()
        self.clock: Clock = RealClock() if clock is None else clock
        """What is measured in this process is measured by it, and `now` is told by it where the engine has no clock."""
        self._watching: list[Changes] = []

    def watch(self, agent_id: str | None = None, *, poll_s: float = 1.0, clock: Clock | None = None) -> Changes:
        """Watch one agent, or all of them (None).

        ::

            async with store.watch("a") as changes:
                while ...:
                    ...  # read what you want to know
                    await changes.wait()

        An agent changes by a commit or an enqueue, and when it comes, goes, or is forked; a lease is no change. It
        need not be there yet.

        Args:
            agent_id: Whose changes.
            poll_s: How often to look for what others wrote.
            clock: What intervals are measured by; None: the store's.
        """
        if agent_id is not None:
            check_agent_id(agent_id)
        every = None if self.alone else poll_s
        return Changes(agent_id, self._watching, self.look, clock or self.clock, every)

    async def look(self, agent_id: str | None) -> object:
        """Give a value that is another one after every change that others made; None: it cannot be told.

        The default reads header and inbox of one agent, and cannot tell for all of them, whose watchers are
        therefore woken at every interval. A store may override it where its engine knows.
        """
        if agent_id is None:
            return None
        (header,) = await self.get(agent_id, [header_key(agent_id)])
        if header is None:
            return "gone"
        uid = uid_of(header)
        last = await self.scan(agent_id, Scan("inbox", uid, limit=1, reverse=True))
        return uid, header.columns["version"], [row.key for row in last]

    # ---- inside --------------------------------------------------------------------------------------------

    def _changed(self, agent_id: str) -> None:
        """Wake who watches that agent."""
        for changes in self._watching:
            if changes.agent_id is None or changes.agent_id == agent_id:
                changes.ring()
