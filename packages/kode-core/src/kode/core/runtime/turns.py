"""Whose turn it is: agents wait for a place in the order in which they came, are driven, or failed and wait longer."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import anyio
from anyio.abc import TaskGroup

from kode.core.config import Dependencies
from kode.core.errors import ConflictError, FencedError, KodeError, LeaseLostError, NotFoundError, UsageError
from kode.core.kernel.limits import Limits
from kode.core.runtime.agent import Agent
from kode.core.runtime.backoff import Backoff
from kode.core.runtime.places import Places
from kode.core.store.layers.watch import Changes

__all__ = ["Turns"]

_log = logging.getLogger("kode")
PAGE = 100
"""Due agents asked for at once, and about as many may wait for a place."""
LOOKS = 4
"""How often in the term of a lease to look for leases of dead processes."""
SEARCH = ""
"""What the search for due agents is called among those that failed; no agent has this id."""


@dataclass(slots=True)
class _Turn:
    """One drive."""

    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    again: bool = False
    """Somebody rang meanwhile, or it made way for others: it queues again."""


class Turns:
    """Drives agents in tasks of their own, as many at once as there are places."""

    def __init__(self, deps: Dependencies, limits: Limits) -> None:
        self.deps = deps
        self.limits = limits
        self.places = Places(deps, limits, lambda agent_id: agent_id in self.driving)
        self.driving: dict[str, _Turn] = {}
        self.waiting: dict[str, None] = {}
        """Who is to be driven when there is a place, first come first."""
        self.backoff = Backoff(deps.clock)
        self._tasks: TaskGroup | None = None
        self._find = True
        self._bell = anyio.Event()

    def begin(self, tasks: TaskGroup, *, find: bool, idle_s: float) -> None:
        """Start what goes on by itself, in the pool's task group.

        With ``find`` the store says who is due; without, nobody but this pool remembers whose work is left to do.
        """
        self._tasks = tasks
        self._find = find
        self.places.remember = not find
        self.places.closed = False
        tasks.start_soon(self._sweep, idle_s)
        if find:
            tasks.start_soon(self._search)
            if self.deps.store.same_host and not self.deps.store.alone:
                tasks.start_soon(self._inherit)

    def wake(self, agent_id: str) -> None:
        """Have an agent driven, now or as soon as there is a place; one that just failed, when a moment has passed."""
        if self.places.closed:
            return
        turn = self.driving.get(agent_id)
        if turn is not None:
            turn.again = True
            return
        self.backoff.hasten(agent_id)
        self._queue(agent_id)
        self._admit()

    def heard(self, agent_id: str) -> None:
        """Somebody rang for an agent whom nobody drives: if its background work is ours, it has its turn."""
        if self.places.owns(agent_id):
            self.wake(agent_id)

    def _queue(self, agent_id: str) -> None:
        """Have it wait for a place, unless it is driven, or failed a moment ago."""
        if agent_id not in self.driving and self.backoff.ready(agent_id):
            self.waiting.setdefault(agent_id)

    async def look(self) -> bool:
        """Queue who is due; whether there are more. Who failed a moment ago does not stand before the others."""
        store = self.deps.store
        now, after = await store.now(), None
        troubled = {SEARCH}
        while len(self.waiting) < PAGE and not self.places.closed:
            page = await store.due(now, PAGE, after)
            for due in page:
                if due.agent_id in self.backoff:
                    troubled.add(due.agent_id)
                self._queue(due.agent_id)
            self._admit()
            if len(page) < PAGE:
                self.backoff.keep(troubled | self.driving.keys())
                return False
            after = page[-1]
        return not self.places.closed

    async def settled(self) -> None:
        """Wait until nobody is driven and nobody waits for a place."""
        while self.driving or self.waiting:
            await self._bell.wait()

    def driven(self) -> list[str]:
        """Who is being driven, by the pool or by the owner of its handle."""
        return sorted({*self.driving, *(agent.agent_id for agent in self.places if agent.driving)})

    def stop(self) -> None:
        """Take no more work, and have everybody rest."""
        self.places.closed = True
        self.waiting.clear()
        self._ring()
        for agent in self.places:
            agent.stop()

    def cancel(self, agent_id: str | None = None) -> None:
        """Cancel the drive of one agent, or all."""
        for driven, turn in self.driving.items():
            if agent_id is None or driven == agent_id:
                turn.scope.cancel()

    async def still(self, seconds: float, agent: Agent | None = None) -> None:
        """Wait until that agent, or nobody at all, is driven any more; not longer than that."""
        clock = self.deps.clock
        with clock.move_on_after(seconds):
            while (agent.driving or agent.agent_id in self.driving) if agent else self.driven():
                with clock.move_on_after(0.1):  # who drives by a handle does not ring
                    await self._bell.wait()

    # ---- driving ----------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Start whoever waits, as far as there is room."""
        if self._tasks is None or self.places.closed:
            return
        while self.waiting and len(self.driving) < self.limits.max_agents:
            agent_id = next(iter(self.waiting))
            del self.waiting[agent_id]
            turn = self.driving[agent_id] = _Turn()
            self._tasks.start_soon(self._drive, agent_id, turn)

    async def _drive(self, agent_id: str, turn: _Turn) -> None:
        """Drive one agent; its failure is its own."""
        full = False
        try:
            with turn.scope:
                await self._go(agent_id, turn)
        except (ConflictError, FencedError, LeaseLostError) as error:
            # Somebody else drives it, or wrote: if anything is left to do, it is due, for those who look.
            if not (self._find or self.places.closed):
                self.backoff.failed(agent_id, error)
        except Exception as error:  # noqa: BLE001 - one agent's failure is never another's
            full = isinstance(error, UsageError) and error.code == "pool_full"
            if not (full or self.places.closed):
                self._failed(agent_id, error)
        finally:
            del self.driving[agent_id]
            self.places.use(agent_id)
            self._ring()
        if (full or turn.again) and not self.places.closed:
            self.backoff.hasten(agent_id)
            self._queue(agent_id)
        if not full:  # else every place is taken by those whom others drive: the next sweep looks again
            self._admit()

    async def _go(self, agent_id: str, turn: _Turn) -> None:
        try:
            agent = await self.places.open(agent_id)
        except NotFoundError:
            self.backoff.over(agent_id)
            return
        if self.places.closed or agent.driving:  # its owner drives it, and takes what was rung for
            return
        made_way = False

        def make_way(_: object) -> None:
            nonlocal made_way
            if self.waiting:
                made_way = True
                agent.stop()

        # A run is what one may do while others wait for a place; they come first then, however full its inbox is.
        off = agent.on("done", make_way)
        try:
            drive = await agent.drive()
        except NotFoundError as error:
            await self.places.forget(agent)
            self.backoff.over(agent_id)
            turn.again = error.code == "replaced"
        else:
            turn.again = turn.again or (made_way and drive.stop == "stopped")
            self.backoff.over(agent_id)
        finally:
            off()

    def _failed(self, agent_id: str, error: Exception) -> None:
        """Try it again later, and say so once."""
        news = self.backoff.failed(agent_id, error)
        what = "Looking for due agents" if agent_id == SEARCH else f"Driving agent {agent_id}"
        level = logging.WARNING if news else logging.DEBUG
        trace = None if isinstance(error, KodeError) else error
        _log.log(level, "%s failed and is tried again later: %s", what, error, exc_info=trace)

    # ---- by itself --------------------------------------------------------------------------------------------

    async def _search(self) -> None:
        """Look for due agents when something was written, and at intervals."""
        clock, store = self.deps.clock, self.deps.store
        while True:
            try:
                async with store.watch(poll_s=self.limits.due_poll_s / 4, clock=clock) as changes:
                    while True:
                        more = await self.look()
                        self.backoff.over(SEARCH)
                        await self._pause(changes, more)
            except Exception as error:  # noqa: BLE001 - whatever it is, agents go on being driven
                self._failed(SEARCH, error)
            await clock.sleep(self.limits.due_poll_s)

    async def _inherit(self) -> None:
        """Take over from processes of this machine that died, long before the leases that they held run out."""
        while True:
            try:
                await self._find_orphans()
            except Exception as error:  # noqa: BLE001 - they are due when their leases have run out
                _log.debug("Leases of dead processes were not looked for: %s", error)
            await self.deps.clock.sleep(self.limits.lease_s / LOOKS)

    async def _find_orphans(self) -> None:
        """Queue who would be due, were it not for the lease of a dead process.

        What is due is told without those that somebody holds, until that lease ends. Whether its holder is dead, only
        who asks for the lease is told.
        """
        store = self.deps.store
        now, after = await store.now(), None
        while not self.places.closed:
            page = await store.due(now + round(self.limits.lease_s * 1e6), PAGE, after)
            held = [due.agent_id for due in page if due.wake_at <= now and due.agent_id not in self.driving]
            for agent_id, lease in (await store.leases_of(held)).items():
                if lease is None:
                    self._queue(agent_id)
            self._admit()
            if len(page) < PAGE:
                return
            after = page[-1]

    async def _pause(self, changes: Changes, more: bool) -> None:
        """Wait until it makes sense to look again: who was found is under way, somebody wrote, or time has passed."""
        clock, store, every = self.deps.clock, self.deps.store, self.limits.due_poll_s
        with clock.move_on_after(every):
            if more:
                while self.waiting:
                    await self._bell.wait()
            elif store.alone or await store.look(None) is not None:
                await clock.sleep(every / 4)  # a burst of writing is one look
                await changes.wait()
            else:  # the store cannot tell
                await clock.sleep(every)

    async def _sweep(self, idle_s: float) -> None:
        """Let go of who is idle, try again who failed, and look whether there is room."""
        while True:
            await self.deps.clock.sleep(min(self.limits.due_poll_s, idle_s))
            await self.places.sweep(idle_s)
            for agent_id in self.backoff.due():
                if agent_id != SEARCH:
                    self._queue(agent_id)
            self._admit()

    def _ring(self) -> None:
        """Wake who waits for a drive to end."""
        self._bell.set()
        self._bell = anyio.Event()
