"""The agents that a pool has open: at most so many; who was longest unused goes when another one needs the place.

To be let go costs an agent its window in memory and what its sandbox runs, nothing else: handles stay good, and it is
opened again when it is needed. While anybody holds its handle there is one handle, never two.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from weakref import WeakValueDictionary

import anyio

from kode.core.config import Dependencies
from kode.core.errors import UsageError
from kode.core.kernel.limits import Limits
from kode.core.runtime.agent import Agent

__all__ = ["Places"]

_log = logging.getLogger("kode")


@dataclass(slots=True)
class _Place:
    """One of them."""

    agent: Agent | None = None
    """None: it is being made."""
    used: float = 0.0
    """``clock.monotonic()`` of the last use."""


class Places:
    """Opens, keeps and lets go; one at a time for each agent.

    Args:
        deps: What agents are opened with.
        limits: ``max_agents`` is the number of places; what it names binds the agents too.
        driven: Whether the pool drives an agent of that id.
    """

    def __init__(self, deps: Dependencies, limits: Limits, driven: Callable[[str], bool]) -> None:
        self.deps = deps
        self.limits = limits
        self.closed = True
        """No place is given."""
        self.remember = False
        """Know those too that were let go: nobody finds them when there is something to do."""
        self._once: set[str] = set()
        """Those that are remembered."""
        self._driven = driven
        self._places: dict[str, _Place] = {}
        """Longest unused first."""
        self._handles: WeakValueDictionary[str, Agent] = WeakValueDictionary()
        self._doors: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Agent]:
        return iter([place.agent for place in self._places.values() if place.agent is not None])

    def use(self, agent_id: str) -> Agent | None:
        """Note that an agent is used, which puts it last among those to be let go; the agent, if it is open."""
        place = self._places.get(agent_id)
        if place is None or place.agent is None or place.agent.gone:
            return None
        self._places[agent_id] = self._places.pop(agent_id)
        place.used = self.deps.clock.monotonic()
        return place.agent

    def owns(self, agent_id: str) -> bool:
        """Whether its background work is the pool's: it is open, its handle is held, or it is remembered."""
        return agent_id in self._handles or agent_id in self._once

    def busy(self, agent: Agent) -> bool:
        """Whether anybody drives it, the pool or the owner of its handle."""
        return agent.driving or self._driven(agent.agent_id)

    async def open(self, agent_id: str) -> Agent:
        """The agent of that id, opened if it is not.

        Raises:
            NotFoundError, NotBoundError: As ``Agent.open``.
            UsageError: ``pool_full``: every place is taken by an agent at work; ``pool_closed``.
        """
        known = self.use(agent_id)
        if known is not None:
            return known
        async with self._door(agent_id):
            known = self.use(agent_id)
            if known is not None:
                return known
            self._check_open()
            agent = await self._handle(agent_id)  # for an id that nobody has nobody goes
            return await self._fill(agent_id, partial(_given, agent))

    async def add(self, agent_id: str, make: Callable[[], Awaitable[Agent]]) -> Agent:
        """Make an agent and keep it open; there is a place for it before it is made.

        Raises:
            UsageError: As ``open``; nothing was made.
        """
        async with self._door(agent_id):
            return await self._fill(agent_id, make)

    async def evict(self, agent_id: str) -> None:
        """Let an agent go if nobody drives or opens it just now."""
        if agent_id in self._places and self._free(agent_id):
            await self._let_go(agent_id)

    async def forget(self, agent: Agent) -> None:
        """Let go of a handle that is good for nothing any more: its agent is gone, or another one has its id."""
        if self._handles.get(agent.agent_id) is agent:
            del self._handles[agent.agent_id]
        place = self._places.get(agent.agent_id)
        if place is not None and place.agent is agent:
            del self._places[agent.agent_id]
        self._once.discard(agent.agent_id)
        await self._close(agent)

    async def remove(self, agent_id: str, work: Callable[[Agent | None], Awaitable[None]]) -> None:
        """Take an agent out and do away with it; who opens it meanwhile waits, and finds that it is gone."""
        async with self._door(agent_id):
            agent = self._handles.get(agent_id)
            self._places.pop(agent_id, None)
            try:
                await work(agent)
                self._handles.pop(agent_id, None)
                self._once.discard(agent_id)
            finally:
                if agent is not None:
                    await self._close(agent)

    async def sweep(self, idle_s: float) -> None:
        """Let go of all that were not used for that long."""
        before = self.deps.clock.monotonic() - idle_s
        for agent_id in [known for known, place in self._places.items() if place.used <= before]:
            place = self._places.get(agent_id)
            if place is not None and place.used <= before and self._free(agent_id):
                await self._let_go(agent_id)

    async def close(self) -> None:
        """Let everybody go, all at once: one that hangs delays none of the others."""
        self.closed = True
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as tasks:
                for agent in self:
                    tasks.start_soon(self._close, agent)
        self._places.clear()

    # ---- inside -----------------------------------------------------------------------------------------------

    def _door(self, agent_id: str) -> anyio.Lock:
        """Who opens, makes, lets go or removes an agent goes through here, one at a time."""
        door = self._doors.get(agent_id)
        if door is None:
            door = self._doors[agent_id] = anyio.Lock()
        return door

    def _free(self, agent_id: str) -> bool:
        """Whether an agent may be let go this moment."""
        place, door = self._places[agent_id], self._doors.get(agent_id)
        return place.agent is not None and not self.busy(place.agent) and (door is None or not door.locked())

    async def _fill(self, agent_id: str, make: Callable[[], Awaitable[Agent]]) -> Agent:
        """Take a place, make the agent, put it there."""
        former = self._places.get(agent_id)
        try:
            if former is None:
                await self._reserve(agent_id)
            agent = await make()
        except BaseException:
            if former is None:
                self._places.pop(agent_id, None)
            raise
        if former is not None and former.agent is not None:
            await self._close(former.agent)  # another process deleted what it was a handle of
        agent.within = self.limits
        if not self.closed:
            self._handles[agent_id] = agent
            if self.remember:
                self._once.add(agent_id)
            self._places.pop(agent_id, None)
            self._places[agent_id] = _Place(agent, self.deps.clock.monotonic())
        return agent

    def _check_open(self) -> None:
        if self.closed:
            raise UsageError(
                "The AgentPool is closed, shutting down, or not entered yet; it works inside its 'async with' only.",
                code="pool_closed",
            )

    async def _reserve(self, agent_id: str) -> None:
        """Have a place, for which another agent may have to go.

        Who goes is chosen, and gone from the list, before anything is waited for: there are never too many.
        """
        self._check_open()
        most = self.limits.max_agents
        goes = None
        if len(self._places) >= most:
            goes = next(filter(self._free, self._places), None)
            if goes is None:
                raise UsageError(
                    f"All {len(self._places)} agents of the pool are at work and max_agents is {most}; wait for one, "
                    "raise Limits.max_agents, or use another pool.",
                    code="pool_full",
                    limit=most,
                    count=len(self._places),
                )
        self._places[agent_id] = _Place()
        if goes is not None:
            await self._let_go(goes)

    async def _let_go(self, agent_id: str) -> None:
        """Let go of an agent that is free."""
        door = self._door(agent_id)
        door.acquire_nowait()
        try:
            agent = self._places.pop(agent_id).agent
            if agent is not None:
                await self._close(agent)
        finally:
            door.release()

    async def _handle(self, agent_id: str) -> Agent:
        """The handle that somebody still holds, or a new one."""
        known = self._handles.get(agent_id)
        return known if known is not None and not known.gone else await Agent.open(agent_id, self.deps)

    async def _close(self, agent: Agent) -> None:
        """Give its memory and its sandbox back. A sandbox that fails or hangs at that is nobody else's trouble."""
        agent.release_window()
        with self.deps.clock.move_on_after(agent.limits.cancel_grace_s + 1, shield=True):
            try:
                await agent.close()
            except Exception:  # noqa: BLE001 - the pool goes on
                _log.exception("Agent %s was let go, but what it had open did not close", agent.agent_id)


async def _given(agent: Agent) -> Agent:
    return agent
