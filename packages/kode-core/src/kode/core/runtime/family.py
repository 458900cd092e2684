"""An agent driven together with its sub-agents, for callers who have no pool.

Each agent is driven by its own handle under its own lease; what lies between them goes through their inboxes, as it
does between processes. Here it is only seen to that somebody drives them.
"""

from __future__ import annotations

from typing import Any, Protocol

import anyio
from anyio.abc import TaskGroup

from kode.core.config import Dependencies
from kode.core.errors import ConflictError, FencedError, LeaseLostError, NotFoundError
from kode.core.event.hub import Hub
from kode.core.kernel.limits import Limits
from kode.core.kernel.state import Parent
from kode.core.kernel.words import ResumeStrategy
from kode.core.runtime.drive import DriveResult
from kode.core.runtime.driver import Driver
from kode.core.runtime.result import RunResult
from kode.core.runtime.subagent import answer_for

__all__ = ["Family", "Member", "drive_family"]


class Member(Protocol):
    """As much of an `Agent` as it takes to drive it together with others."""

    agent_id: str
    uid: str
    hub: Hub
    drives: list[Driver | Family]

    @property
    def limits(self) -> Limits:
        """Its bounds."""
        ...

    @classmethod
    async def open(cls, agent_id: str, dependencies: Dependencies) -> Member:
        """Another one, which is stored."""
        ...

    async def drive(
        self,
        *,
        strategy: ResumeStrategy = "continue",
        by_hand: bool = False,
        until: float | None = None,
        margin_s: float | None = None,
    ) -> DriveResult:
        """Drive it alone."""
        ...

    async def go_on(self, *, until: float | None, margin_s: float | None, wait: bool) -> RunResult:
        """Drive it, and those that it waits for."""
        ...

    def stop(self) -> None:
        """Have it rest at the next moment."""
        ...

    async def close(self) -> None:
        """Let go of what this process holds of it."""
        ...


async def drive_family(
    agent: Member,
    deps: Dependencies,
    *,
    until: float | None = None,
    margin_s: float | None = None,
    wait: bool = True,
    **first: Any,
) -> DriveResult:
    """Drive an agent, then the sub-agents that it waits for, until it has their answers or they all rest.

    ``first`` are further arguments of the first drive. Raises what ``Agent.drive`` does; or what kept a sub-agent from
    being driven, when nothing else is left to do.
    """
    drive = await agent.drive(until=until, margin_s=margin_s, **first)
    if drive.stop != "idle" or not (drive.children or drive.interrupted):
        return drive
    family = Family(agent, deps, until, margin_s, wait)
    agent.drives.append(family)
    failure: Exception | None = None
    try:
        async with anyio.create_task_group() as tasks:
            try:
                drive = await family.run(drive, tasks)
            except Exception as error:  # noqa: BLE001 - raised again below, without the group around it
                failure = error
            finally:
                tasks.cancel_scope.cancel()
    finally:
        agent.drives.remove(family)
    if failure is not None:
        raise failure
    return drive


class Family:
    """The sub-agents that are driven during one call."""

    def __init__(
        self, agent: Member, deps: Dependencies, until: float | None, margin_s: float | None, wait: bool
    ) -> None:
        self.agent = agent
        self.deps = deps
        self.until = until
        self.margin_s = margin_s
        self.wait = wait
        self._running: dict[str, Member | None] = {}
        self._rested: set[str] = set()
        self._answered: set[str] = set()
        """Those that came to an end."""
        self._late = False
        """The time was over for one of them."""
        self._stopped = False
        self._news = False
        """One of them came to rest since the agent was last looked at."""
        self._failure: Exception | None = None

    def stop(self) -> None:
        """Have all of them rest at the next moment."""
        self._stopped = True
        for child in self._running.values():
            if child is not None:
                child.stop()
        self.agent.hub.wake()

    def ring(self) -> None:
        """Something new is in the agent's inbox."""
        self.agent.hub.wake()

    async def run(self, drive: DriveResult, tasks: TaskGroup) -> DriveResult:
        """Go on until the agent waits for nobody, or all that it waits for rest."""
        while not (self._stopped or drive.stop != "idle"):
            self._begin(drive, tasks)
            self._news = False
            if await self._is_due(drive):
                drive = await self._drive(drive)
            elif self._running:
                await self._pause()
            elif self._answered & {wait.child for wait in drive.children.values()}:
                self._answered.clear()
                drive = await self._drive(drive)  # somebody else took the answer, and may be at work with it
            elif self._failure is not None:
                raise self._failure
            else:
                break
        if self._running:
            self.stop()
        while self._running:
            self._news = False
            await self._pause()
        if drive.stop == "idle":
            drive.stop = "stopped" if self._stopped else "deadline" if self._late and drive.children else "idle"
        return drive

    async def _pause(self) -> None:
        """Wait until one of them rests, something comes in, or it is time to look."""
        if not self._news:
            await self.agent.hub.wait(self.deps.clock, self.agent.limits.due_poll_s)

    async def _is_due(self, drive: DriveResult) -> bool:
        """Whether the agent itself has something to do."""
        store = self.deps.store
        if drive.due is not None and drive.due <= await store.now():
            return True
        return bool(await store.read_inbox(self.agent.agent_id, self.agent.uid, after=drive.seen))

    async def _drive(self, before: DriveResult) -> DriveResult:
        """Drive the agent once more; what comes of it is laid over what came before."""
        try:
            drive = await self.agent.drive(until=self.until, margin_s=self.margin_s)
        except (LeaseLostError, ConflictError, FencedError):
            if not self._running:
                raise
            await self._pause()  # somebody else drives it; its sub-agents are still ours
            return before
        self._rested -= drive.interrupted
        # What rested may have been ended by somebody else since; then the store has the newer word.
        drive.runs = {**{n: run for n, run in before.runs.items() if run.status != "paused"}, **drive.runs}
        drive.answers = {**before.answers, **drive.answers}
        drive.taken = {**before.taken, **drive.taken}
        return drive

    def _begin(self, drive: DriveResult, tasks: TaskGroup) -> None:
        """Have those driven that are not yet."""
        waits = {wait.child: (call, wait.child_uid) for call, wait in drive.children.items() if wait.child}
        for id in {**waits, **dict.fromkeys(drive.interrupted)}:
            if len(self._running) >= self.agent.limits.max_agents:
                return  # the next one that rests makes room
            if id not in self._running and id not in self._rested:
                self._running[id] = None
                tasks.start_soon(self._child, id, *waits.get(id, (None, None)))

    async def _child(self, id: str, call: str | None, uid: str | None) -> None:
        try:
            await self._drive_child(id, uid)
        except NotFoundError:
            if call is not None:
                await self._answer_for(id, call)
        except Exception as error:  # noqa: BLE001 - the others go on; raised when they rest
            self._failure = self._failure or error
        finally:
            del self._running[id]
            self._rested.add(id)
            self._news = True
            self.agent.hub.wake()

    async def _drive_child(self, id: str, uid: str | None) -> None:
        child = await type(self.agent).open(id, self.deps)
        try:
            if uid is not None and child.uid != uid:
                raise NotFoundError(f"Sub-agent {id!r} was deleted and made again.", agent_id=id, uid=uid)
            self._running[id] = child
            if not self._stopped:
                result = await child.go_on(until=self.until, margin_s=self.margin_s, wait=self.wait)
                if result.status not in ("paused", "deadline", "queued"):
                    self._answered.add(id)
                self._late = self._late or result.status in ("deadline", "queued")
        finally:
            with anyio.CancelScope(shield=True):
                await child.close()

    async def _answer_for(self, id: str, call: str) -> None:
        """Whoever was to answer is gone: say so in its place."""
        try:
            await answer_for(self.deps.store, Parent(self.agent.agent_id, self.agent.uid, call), id, "was deleted")
        except Exception as error:  # noqa: BLE001 - as above
            self._failure = self._failure or error
