"""`AgentPool`: the owner of background work. Everything it starts ends with its ``async with``.

It drives agents that somebody rang for in this process, and those that ``Store.due`` finds: what other processes
enqueued, approvals that were decided or expired, timers, agents whose driver died.
"""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Any

import anyio
from anyio.abc import TaskGroup

from kode.core.config import AgentConfig, Dependencies
from kode.core.errors import (
    ConflictError,
    FencedError,
    KodeError,
    LeaseLostError,
    NotFoundError,
    StoreUnavailableError,
    UsageError,
)
from kode.core.kernel.limits import Limits
from kode.core.runtime.agent import Agent

__all__ = ["AgentPool"]

_log = logging.getLogger("kode")
PAGE = 100
"""Due agents asked for at once."""


class AgentPool:
    """Drives agents of one store in the background: ``async with AgentPool(deps) as pool: …``.

    Args:
        dependencies: For every agent it opens.
        limits: ``max_agents`` bounds how many are open, ``due_poll_s`` how often work is looked for.
        find: Look for due agents; False: drive only those that are rung for in this process.

    Raises:
        UsageError: It is used outside its ``async with``, or is full.
    """

    def __init__(self, dependencies: Dependencies, *, limits: Limits | None = None, find: bool = True) -> None:
        self.dependencies = dependencies
        self.limits = limits or Limits()
        self.find = find
        self._agents: dict[str, Agent] = {}
        self._driving: dict[str, bool] = {}
        """Agents being driven; True: somebody rang meanwhile."""
        self._failures: dict[str, tuple[int, float]] = {}
        """Agents whose drive failed: how often in a row, and when to try again."""
        self._found: set[str] = set()
        """Agents that were opened because they were due, and that nobody else asked for."""
        self._tasks: TaskGroup | None = None
        self._bell = anyio.Event()
        self._closing = False

    async def __aenter__(self) -> AgentPool:
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        if self.find:
            self._tasks.start_soon(self._search)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks, self._tasks = self._tasks, None
        self._closing = True
        for agent in self._agents.values():
            agent.hub.on_call = None
            agent.stop()
        if tasks is not None:
            with self.dependencies.clock.move_on_after(self.limits.cancel_grace_s + 1, shield=True):
                while self._driving:
                    await self._wait(0.1)
            tasks.cancel_scope.cancel()
            await tasks.__aexit__(None, None, None)
        with anyio.CancelScope(shield=True):
            for agent in self._agents.values():
                await agent.close()
        self._agents.clear()

    # ---- agents -----------------------------------------------------------------------------------------------

    async def create(self, config: AgentConfig | None = None, **options: Any) -> Agent:
        """Create an agent and own its background work."""
        self._room()
        return self._adopt(await Agent.create(config, self.dependencies, **options))

    async def open(self, agent_id: str) -> Agent:
        """The agent of that id, opened at first use."""
        agent = self._agents.get(agent_id)
        if agent is None:
            self._room()
            agent = self._adopt(await Agent.open(agent_id, self.dependencies))
        return agent

    def __len__(self) -> int:
        return len(self._agents)

    async def evict(self, agent_id: str) -> None:
        """Let go of an idle agent's memory; it is opened again when it is needed."""
        if agent_id not in self._driving:
            await self._forget(agent_id)

    def wake(self, agent_id: str) -> None:
        """Have an agent driven now, if it is not."""
        if self._closing or self._tasks is None:
            return
        if agent_id in self._driving:
            self._driving[agent_id] = True
            return
        self._driving[agent_id] = False
        self._tasks.start_soon(self._drive, agent_id)

    # ---- inside -----------------------------------------------------------------------------------------------

    def _room(self) -> None:
        if self._tasks is None:
            raise UsageError("An AgentPool works inside its 'async with' only.", code="pool_closed")
        if len(self._agents) >= self.limits.max_agents:
            raise UsageError(
                f"The pool holds {len(self._agents)} agents and max_agents is {self.limits.max_agents}; evict some, "
                "raise Limits.max_agents, or use another pool.",
                code="pool_full",
                limit=self.limits.max_agents,
                count=len(self._agents),
            )

    def _adopt(self, agent: Agent) -> Agent:
        known = self._agents.setdefault(agent.agent_id, agent)
        known.hub.on_call = lambda: self.wake(agent.agent_id)
        return known

    async def _drive(self, agent_id: str) -> None:
        """Drive one agent; its failure is its own."""
        try:
            while True:
                self._driving[agent_id] = False
                agent = self._agents.get(agent_id)
                if agent is None:
                    agent = await self.open(agent_id)
                    self._found.add(agent_id)
                await agent.drive()
                if not self._driving[agent_id] or self._closing:
                    break
            self._failures.pop(agent_id, None)
        except (LeaseLostError, FencedError):
            return
        except (ConflictError, NotFoundError):
            await self._forget(agent_id)
        except KodeError as error:
            self._failed(agent_id)
            _log.warning("Agent %s was not driven: %s", agent_id, error)
        except Exception:  # noqa: BLE001 - one agent's failure is never another's
            self._failed(agent_id)
            _log.exception("Driving agent %s failed", agent_id)
        finally:
            self._driving.pop(agent_id, None)
            self._bell.set()

    async def _search(self) -> None:
        """Look for due agents at intervals."""
        while not self._closing:
            try:
                await self._wake_due()
            except StoreUnavailableError as error:
                _log.warning("The store cannot be asked for due agents: %s", error)
            await self.dependencies.clock.sleep(self.limits.due_poll_s)

    async def _wake_due(self) -> None:
        """Wake what is due, as far as there is room; what failed a moment ago does not stand before the others."""
        store = self.dependencies.store
        now, after = await store.now(), None
        while len(self._driving) < self.limits.max_agents:
            page = await store.due(now, PAGE, after)
            for due in page:
                if len(self._driving) >= self.limits.max_agents:
                    return
                if due.agent_id not in self._driving and self._may_try(due.agent_id):
                    await self._make_room()
                    self.wake(due.agent_id)
            if len(page) < PAGE:
                return
            after = page[-1]

    async def _make_room(self) -> None:
        """Let go of an idle agent if the pool is full; it is opened again when it is due."""
        if len(self._agents) >= self.limits.max_agents:
            idle = next((id for id in self._found if id not in self._driving), None)
            if idle is not None:
                await self._forget(idle)

    async def _forget(self, agent_id: str) -> None:
        agent = self._agents.pop(agent_id, None)
        self._found.discard(agent_id)
        if agent is not None:
            agent.hub.on_call = None
            await agent.close()

    def _failed(self, agent_id: str) -> None:
        """Wait longer from failure to failure: 1 s, 2 s, 4 s … 5 minutes."""
        tries = self._failures.get(agent_id, (0, 0.0))[0] + 1
        delay = min(2.0 ** (tries - 1), 300.0)
        self._failures[agent_id] = (tries, self.dependencies.clock.monotonic() + delay)

    def _may_try(self, agent_id: str) -> bool:
        failed = self._failures.get(agent_id)
        return failed is None or self.dependencies.clock.monotonic() >= failed[1]

    async def _wait(self, seconds: float) -> None:
        with self.dependencies.clock.move_on_after(seconds):
            await self._bell.wait()
        self._bell = anyio.Event()
