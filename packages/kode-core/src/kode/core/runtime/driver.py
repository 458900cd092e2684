"""The driver: one agent, one lease, from acquire to release. What it does meanwhile is in `loop`.

It stops when nothing is open any more, when it is told to, at its deadline, or when somebody else took over; then it
drops what it holds and never reloads.
"""

from __future__ import annotations

import anyio

from kode.core.errors import (
    ConflictError,
    FencedError,
    KodeError,
    LeaseLostError,
    NotBoundError,
    NotFoundError,
    SchemaTooNewError,
    StoreUnavailableError,
)
from kode.core.kernel.events import Event
from kode.core.kernel.inputs import Input, Parked, Resumed
from kode.core.kernel.words import ResumeStrategy, StopReason
from kode.core.runtime.birth import inbox_bounds, read_template, recipe_digest
from kode.core.runtime.drive import DriveResult, Work
from kode.core.runtime.lease import Holding, check_identity
from kode.core.runtime.loop import Loop
from kode.core.runtime.observing import BLINK_S, Observers
from kode.core.runtime.resident import Resident
from kode.core.runtime.subagent import answer_for

__all__ = ["Driver"]

_NO_BREAKDOWN = (
    *(StoreUnavailableError, SchemaTooNewError, NotBoundError),
    *(NotFoundError, ConflictError, FencedError, LeaseLostError),
)
"""What another process, or a newer one, may do better."""


class Driver(Work):
    """Drives one agent once; afterwards ``resident`` is what may be kept of it, None if nothing may."""

    async def run(
        self,
        *,
        strategy: ResumeStrategy = "continue",
        by_hand: bool = False,
        until: float | None = None,
        margin_s: float | None = None,
    ) -> DriveResult:
        """Drive until nothing is open.

        Args:
            strategy: What to do about effects that a dead driver left open.
            by_hand: Also drive an agent that is parked after too many crashes.
            until: ``clock.monotonic()`` by which it must have rested; a margin before that nothing new is started.
            margin_s: That margin; None: 2 s, or a tenth of the time if that is less.

        Raises:
            LeaseLostError: Someone else drives it (``code="held"``), or took over meanwhile.
            ConflictError, FencedError: Someone else wrote; what was not committed is dropped.
            StoreUnavailableError: The store stayed away for as long as the lease lasted.
        """
        if self.binding.plugins:
            await self.deps.start(self.binding.plugins)
        holding = await Holding.acquire(self.deps, self.agent_id, self.limits, self.resident, until)
        try:
            resident = await self._settle(holding)
            if resident.state.parked is not None and not by_hand:
                self.result.stop = "parked"
                await self._acknowledge(resident, holding)
            else:
                first = await self._first(resident, holding, strategy, by_hand)
                await self._with_tasks(resident, holding, first, until, margin_s)
            if self.result.stop == "parked":
                state = resident.state
                await answer_for(self.deps.store, state.parent, self.agent_id, "was parked after too many crashes")
        except BaseException as error:
            self.resident = None
            if isinstance(error, ConflictError | FencedError | LeaseLostError):
                holding.over = True
            broken = isinstance(error, Exception) and not isinstance(error, _NO_BREAKDOWN)
            await holding.let_go(failed=broken)
            self.hub.rest()
            raise
        self.result.leave(resident)
        await holding.let_go()
        self.hub.rest()
        # Nothing follows that the failures of observers could ride in: the next drive says it.
        self.binding.watched.unsaid += [event for event in self.box.noted if event.type == "hook_failed"]
        return self.result

    async def _settle(self, holding: Holding) -> Resident:
        """Have the agent as it is now: what is resident, or loaded again if another version is stored."""
        resident, lease = self.resident, holding.lease
        check_identity(lease, self.uid)
        if resident is None or resident.version != lease.version:
            resident = self.resident = await Resident.load(self.deps.store, self.agent_id)
        elif holding.waiting:
            resident.add(holding.waiting)
        else:
            await resident.read_inbox(self.deps.store)
        await self._reread(resident)
        return resident

    async def _reread(self, resident: Resident) -> None:
        """Read the recipe again if another process changed it since it was bound."""
        digest = recipe_digest(resident.state)
        if digest != self.binding.recipe:
            _, template, self.binding.recipe = await read_template(self.agent_id, self.deps)
            self.adopt(template)
        # What the store checks by itself follows the recipe, also where a fork or a revert brought an older one.
        resident.bounds = inbox_bounds(self.binding.template.limits)

    async def _first(
        self, resident: Resident, holding: Holding, strategy: ResumeStrategy, by_hand: bool
    ) -> list[Input]:
        """What a new driver has to say first: what it makes of the effects that were open."""
        state = resident.state
        given_up = strategy == "crash" and state.run is not None
        if not (state.effects or state.parked or given_up):
            return []
        if holding.lease.takes > self.limits.max_recoveries and not by_hand and state.run is not None:
            self.result.stop = "parked"
            return [Parked(StopReason.CRASH_LOOP)]
        own = self.binding.sandbox
        if state.sandbox_ref is not None and (own is None or own.ref != state.sandbox_ref):
            # Before anything is said about its calls, end what a dead driver's sandbox left running.
            killed = await self.deps.sandbox_factory().kill_ref(state.sandbox_ref)
            if killed:
                text = f"{killed} processes of a dead driver were ended."
                self.box.noted.append(Event("error", preview=text, data={"code": "orphans", "killed": killed}))
        return [Resumed(strategy, by_hand)]

    async def _acknowledge(self, resident: Resident, holding: Holding) -> None:
        """Note that what waits was seen, though nothing is done about it, so that it wakes nobody again."""
        if resident.offered > resident.seen:
            id, fence = self.deps.ids.commit_id(), holding.lease.fence
            await self.deps.store.commit(resident.commit(resident.state, id, fence, seen=resident.offered))

    async def _with_tasks(
        self, resident: Resident, holding: Holding, first: list[Input], until: float | None, margin_s: float | None
    ) -> None:
        """Run the loop inside the task group that owns all it starts."""
        self.hub.begin(resident.state.next_cursor - 1, self.ring)
        failure: Exception | None = KodeError("A task of the drive was cancelled by a stranger.", code="cancelled")
        note = self.box.noted.append
        observers = Observers(self.agent_id, resident, self.binding, self.deps, self.hub, note)
        try:
            async with anyio.create_task_group() as tasks:
                done = False
                try:
                    observers.start(tasks)
                    loop = Loop(self, resident, holding, tasks, until, margin_s)
                    await loop.run(first)
                    failure = None
                    seen = await observers.finish(self._blink(until))
                    done = loop.dismiss() and seen
                except Exception as error:  # noqa: BLE001 - raised again below, without the group around it
                    failure = error
                finally:
                    observers.stop()
                    if not done:
                        tasks.cancel_scope.cancel()
        finally:
            self.hub.end(self.ring)
        failure = self.box.failure or failure
        if failure is not None:
            raise failure
        if self.box.look:
            # Somebody rang after the last look. Whoever owns the agent must hear it, for we are done.
            self.hub.ring()

    def _blink(self, until: float | None) -> float:
        """How long observers may still look."""
        return BLINK_S if until is None else min(BLINK_S, until - self.deps.clock.monotonic())
