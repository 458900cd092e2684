"""`AgentPool`: the owner of background work. Everything it starts ends with its ``async with``.

It drives agents that somebody rang for in this process, and those that ``Store.due`` finds: what other processes
enqueued, approvals that were decided or expired, timers, agents whose driver died. `places` keeps which agents are
open, `turns` who is driven.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from signal import SIGINT, SIGTERM, Signals
from types import TracebackType
from typing import Any, Literal, TypeAlias

import anyio
from anyio.abc import TaskGroup

from kode.core.config import AgentConfig, Dependencies
from kode.core.errors import NotFoundError, StoreError, UsageError
from kode.core.event.hub import listen_for_rings
from kode.core.kernel.effects import RunTool
from kode.core.kernel.limits import Limits
from kode.core.runtime.agent import Agent
from kode.core.runtime.birth import check_dependencies, given
from kode.core.runtime.result import RunResult
from kode.core.runtime.sending import Content
from kode.core.runtime.subagent import remove
from kode.core.runtime.turns import Turns
from kode.core.template import AgentTemplate

__all__ = ["AgentPool", "PoolStats", "ShutdownReport"]

_log = logging.getLogger("kode")
SPARE_S = 1.0
"""Seconds for what is cancelled to end."""
_How: TypeAlias = Literal["finished", "rested", "recovering"]


@dataclass(frozen=True, slots=True)
class PoolStats:
    """How many agents of a pool are in which state."""

    open: int
    """Held in memory, at most ``max_agents``."""
    driving: int
    """Being driven by the pool."""
    waiting: int
    """Rung for or found, without a place so far."""
    retrying: int
    """Failed, and to be tried again later."""


@dataclass(frozen=True, slots=True)
class ShutdownReport:
    """What became of the agents that were driven when the shutdown began, by id. Nothing of any of them is lost."""

    finished: tuple[str, ...]
    """Came to an end, or wait for a person or a moment; nothing is open."""
    rested: tuple[str, ...]
    """Rest between two effects. Whoever drives them next, anywhere, goes on; a reply in progress is asked for again."""
    recovering: tuple[str, ...]
    """A call did not stop in time, or the store did not answer: the next driver treats them as after a crash, each call
    by its tool's ``recovery``."""
    took_s: float


class AgentPool:
    """Drives agents of one store in the background: ``async with AgentPool(deps) as pool: …``.

    Args:
        dependencies: For every agent it opens.
        limits: ``max_agents`` bounds how many are open, ``due_poll_s`` how long a due agent may be overlooked; what
            it names of the other fields binds the pool's agents, within their own.
        find: Look for due agents; False: drive only those that were opened or made here, when they are rung for in
            this process, and those that `wake` names. Their ids are remembered until they are deleted.
        idle_s: Let go of an agent's memory and sandbox when it was not used for that long.
        signals: Heed SIGTERM and SIGINT: at the first `graceful_shutdown`, then the body of the ``async with`` is
            cancelled and the program goes on behind it; at the second everything is cancelled at once.

    Raises:
        UsageError: It is used outside its ``async with``, or is full.
    """

    def __init__(
        self,
        dependencies: Dependencies,
        *,
        limits: Limits | None = None,
        find: bool = True,
        idle_s: float = 60.0,
        signals: bool = False,
    ) -> None:
        check_dependencies(dependencies)
        if not idle_s > 0:
            raise UsageError(f"idle_s is {idle_s!r}; give a number of seconds above 0.", code="bad_option")
        if not isinstance(limits, Limits | None):
            raise UsageError(f"limits is {limits!r}; give Limits(…), or None.", code="bad_option")
        self.dependencies = dependencies
        self.limits = limits or Limits()
        self.find = find
        self.idle_s = idle_s
        self.report: ShutdownReport | None = None
        """What became of its agents, once it was shut down or its ``async with`` was left."""
        self._signals = signals
        self._turns = Turns(dependencies, self.limits)
        self._places = self._turns.places
        self._stack: AsyncExitStack | None = None
        self._scope = anyio.CancelScope()
        """Around everything, the body of the ``async with`` included."""
        self._leaving = anyio.Lock()
        self._ending: tuple[float, list[str]] | None = None
        """When its end began, and who was driven then."""

    # ---- its life ---------------------------------------------------------------------------------------------

    async def __aenter__(self) -> AgentPool:
        if self._stack is not None:
            raise UsageError("An AgentPool can be entered once; make another one.", code="pool_used")
        async with AsyncExitStack() as stack:
            stack.enter_context(self._scope)
            received = stack.enter_context(_receiver()) if self._signals else None
            stack.push_async_callback(self._places.close)
            tasks = anyio.create_task_group()
            await tasks.__aenter__()
            stack.push_async_callback(self._end, tasks)
            stack.enter_context(listen_for_rings(self.dependencies.store, self._turns.heard))
            self._turns.begin(tasks, find=self.find, idle_s=self.idle_s)
            if received is not None:
                tasks.start_soon(self._heed, received, tasks)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return None if self._stack is None else await self._stack.__aexit__(kind, error, trace)

    async def graceful_shutdown(self, timeout_s: float = 25.0) -> ShutdownReport:
        """Have every agent rest at a safe point, and take no more work.

        Model streams are cancelled and asked for again by whoever drives next; tools get ``cancel_grace_s`` to report
        a real result. What does not rest in time is cancelled. Agents stay stored as they are: nothing has to be
        written down for the next process, whose pool finds them by ``due``.

        Args:
            timeout_s: For all of it, the last quarter (2 s at most) for who had to be cancelled and for the report;
                somewhat less than what your supervisor allows between its two signals.
        """
        async with self._leaving:
            if self.report is None:
                self.report = await self._rest(timeout_s)
            return self.report

    async def wait_idle(self) -> None:
        """Wait until nothing is left to do: nobody is driven by the pool, waits for a place, or is due.

        For tests and scripts. Who failed and is to be tried later is not waited for, nor who is driven by others or
        held by the lease of a process that died.
        """
        turns = self._turns
        await turns.settled()
        while self.find and not self._places.closed:
            await turns.look()
            if not (turns.driving or turns.waiting):
                return
            await turns.settled()

    # ---- agents -----------------------------------------------------------------------------------------------

    async def create(
        self,
        config: AgentConfig | None = None,
        *,
        template: str | AgentTemplate | None = None,
        agent_id: str | None = None,
        **options: Any,
    ) -> Agent:
        """Create an agent, as `Agent.create` does, and own its background work.

        If the pool closes meanwhile, the agent is stored all the same and its handle is good; nobody drives it.
        """
        config, deps = given(config, self.dependencies, template, agent_id, options)
        id = deps.ids.agent_id() if config.agent_id is None else config.agent_id
        return await self._places.add(id, partial(Agent.create, replace(config, agent_id=id), deps))

    async def open(self, agent_id: str) -> Agent:
        """The handle of that agent; its background work is the pool's from now on.

        The handle stays good for as long as you like. When nobody drives the agent, the pool may let go of its memory
        and its sandbox (``idle_s``; ``max_agents``, whoever was longest unused first); it comes back with the next
        message. While you hold the handle, opening it again gives the same one.

        Raises:
            NotFoundError: No such agent.
            NotBoundError: Its template names something that is not registered here.
            UsageError: ``pool_full``: ``max_agents`` agents are at work just now.
        """
        return await self._places.open(agent_id)

    async def run(
        self, agent_id: str, message: Content, *, timeout_s: float | None = None, **options: Any
    ) -> RunResult:
        """Open an agent and have it take a message; arguments and result as for `Agent.run`."""
        until = None if timeout_s is None else self.dependencies.clock.monotonic() + timeout_s
        agent = await self.open(agent_id)
        try:
            sent = await agent.send(message, **options)
        except NotFoundError:  # deleted elsewhere; if it was made again since, it is opened again
            agent = await self.open(agent_id)
            sent = await agent.send(message, **options)
        return await agent.finish(sent, until=until)

    async def fork(self, agent_id: str, new_id: str | None = None, *, at: str | None = None) -> Agent:
        """Fork an agent, as `Agent.fork` does, and own the new one's background work too."""
        agent = await self.open(agent_id)
        id = new_id or self.dependencies.ids.agent_id()
        return await self._places.add(id, partial(agent.fork, id, at=at))

    async def delete(self, agent_id: str) -> None:
        """Stop an agent, end what its sandbox runs, and remove everything stored of it.

        Raises:
            NotFoundError: No such agent.
            LeaseLostError: Another process drives it; nothing was removed.
        """
        await self._places.remove(agent_id, partial(self._do_away, agent_id))

    async def evict(self, agent_id: str) -> None:
        """Let go of an idle agent's memory and sandbox; it is opened again when it is needed."""
        await self._places.evict(agent_id)

    def wake(self, agent_id: str) -> None:
        """Have an agent driven, now or as soon as there is a place."""
        self._turns.wake(agent_id)

    def stats(self) -> PoolStats:
        """How many agents are open, driven, waiting for a place, or to be tried again."""
        turns = self._turns
        return PoolStats(len(self._places), len(turns.driving), len(turns.waiting), len(turns.backoff))

    def __len__(self) -> int:
        """How many agents are open."""
        return len(self._places)

    def __iter__(self) -> Iterator[Agent]:
        """The handles of the agents that are open."""
        return iter(self._places)

    # ---- inside -----------------------------------------------------------------------------------------------

    async def _end(self, tasks: TaskGroup) -> None:
        """Everybody rests, or is cancelled; then nothing runs any more."""
        grace = max((agent.limits.cancel_grace_s for agent in self._places), default=0.0)
        with anyio.CancelScope(shield=True):
            await self.graceful_shutdown(grace + 3)
        tasks.cancel_scope.cancel()
        await tasks.__aexit__(None, None, None)

    async def _rest(self, timeout_s: float) -> ShutdownReport:
        clock, turns = self.dependencies.clock, self._turns
        if self._ending is None:  # else whoever began to end it was cancelled
            self._ending = clock.monotonic(), turns.driven()
            turns.stop()
        began, driven = self._ending
        ends, spare = clock.monotonic() + timeout_s, min(SPARE_S, timeout_s / 8)
        await turns.still(timeout_s - 2 * spare)
        turns.cancel()
        await turns.still(ends - spare - clock.monotonic())
        left: dict[str, _How] = dict.fromkeys(driven, "recovering")
        with clock.move_on_after(ends - clock.monotonic()):
            async with anyio.create_task_group() as tasks:
                for agent_id in driven:
                    tasks.start_soon(self._find_out, agent_id, left)
        finished, rested, recovering = (
            tuple(agent_id for agent_id, found in left.items() if found == how)
            for how in ("finished", "rested", "recovering")
        )
        _log.info("The pool rests: %d finished, %d rested, %d recovering", len(finished), len(rested), len(recovering))
        return ShutdownReport(finished, rested, recovering, clock.monotonic() - began)

    async def _find_out(self, agent_id: str, left: dict[str, _How]) -> None:
        """Write down under what to report an agent, by what is stored of it; no answer is the worst one."""
        try:
            state = await self.dependencies.store.read_state(agent_id)
        except NotFoundError:
            left[agent_id] = "finished"
        except StoreError:
            pass
        else:
            if not any(isinstance(effect, RunTool) for effect in state.effects):
                left[agent_id] = "rested" if state.effects else "finished"

    async def _do_away(self, agent_id: str, agent: Agent | None) -> None:
        """Stop an agent and delete it; nobody here can open it meanwhile."""
        if agent is not None:
            agent.stop()
            await self._turns.still(agent.limits.cancel_grace_s + 1, agent)
            self._turns.cancel(agent_id)
            await self._turns.still(SPARE_S, agent)
        await remove(self.dependencies.store, agent_id)
        self._turns.backoff.over(agent_id)

    async def _heed(self, received: AsyncIterator[Signals], tasks: TaskGroup) -> None:
        """Rest at the first signal, stop at the second."""
        async for signal in received:
            if self._places.closed:
                _log.warning("%s: what still runs is cancelled", signal.name)
                self._turns.cancel()
                self._scope.cancel()
            else:
                _log.info("%s: the pool rests, then ends", signal.name)
                tasks.start_soon(self._leave)

    async def _leave(self) -> None:
        await self.graceful_shutdown()
        self._scope.cancel()


def _receiver() -> AbstractContextManager[AsyncIterator[Signals]]:
    """What tells of SIGTERM and SIGINT, once it is entered.

    Raises:
        UsageError: Not in the main thread, where alone a process hears of signals.
    """
    if threading.current_thread() is not threading.main_thread():
        raise UsageError(
            "AgentPool(signals=True) works in the main thread only; leave signals off here and call "
            "graceful_shutdown() where you are told to end.",
            code="bad_option",
        )
    return anyio.open_signal_receiver(SIGTERM, SIGINT)
