"""The driver: ask, commit, act. The one loop that moves an agent, under one lease.

    acquire ─▶ load ─▶ ┌─ gather what arrived ─▶ advance (pure) ─▶ commit ─▶ publish ─▶ start effects ─┐ ─▶ release
                       └──────────────────────────── wait ◀───────────────────────────────────────────┘

It stops when nothing is open any more, when it is told to, at its deadline, or when somebody else took over; then it
drops what it holds and never reloads. Every effect runs in its task group and puts one input back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import anyio
from anyio.abc import TaskGroup

from kode.core.config import Dependencies
from kode.core.errors import (
    ConflictError,
    FencedError,
    IllegalInputError,
    LeaseLostError,
    RecordCorruptError,
    StoreUnavailableError,
)
from kode.core.event.base import Envelope
from kode.core.event.hub import Hub
from kode.core.kernel.effects import Deliver, Effect
from kode.core.kernel.events import Event, preview
from kode.core.kernel.inputs import (
    ApprovalDecided,
    DeadlineReached,
    Input,
    InterruptRequested,
    Noted,
    Parked,
    Resumed,
    SandboxBound,
    TimePassed,
)
from kode.core.kernel.limits import Limits
from kode.core.kernel.machine import Context, Transition, advance, next_due, wake_at
from kode.core.kernel.message import Message
from kode.core.kernel.state import RunRecord
from kode.core.kernel.words import ResumeStrategy, Status, StopReason
from kode.core.runtime.binding import Binding
from kode.core.runtime.effects import Worker
from kode.core.runtime.lease import Holding
from kode.core.runtime.plan import plan_input
from kode.core.runtime.resident import Resident
from kode.core.store.contract import Commit, Committed, Item
from kode.core.store.records import item_input

__all__ = ["Drive", "Driver"]

_ANSWERS = ("ModelReplied", "ModelFailed", "ToolFinished", "ToolSuspended", "HistoryCompacted", "Delivered")


@dataclass(slots=True)
class Drive:
    """What one drive did."""

    stop: Literal["idle", "deadline", "told", "parked"] = "idle"
    runs: dict[int, RunRecord] = field(default_factory=dict)
    """Records of runs that rested or ended, the last one of each."""
    answers: dict[int, Message] = field(default_factory=dict)
    """Messages that answered them, by sequence number."""
    taken: dict[str, int] = field(default_factory=dict)
    """Which run took which inbox item."""


class Driver:
    """Drives one agent from acquire to release.

    Args:
        resident: The agent as this process last knew it; loaded again if it is out of date.
    """

    def __init__(
        self, agent_id: str, resident: Resident | None, binding: Binding, deps: Dependencies, hub: Hub, limits: Limits
    ) -> None:
        self.agent_id = agent_id
        self.resident = resident
        self.binding = binding
        self.deps = deps
        self.hub = hub
        self.limits = limits
        self.drive = Drive()
        self._posted: list[Input] = []
        self._noted: list[Event] = []
        self._offers: dict[int, tuple[Item, Input]] = {}
        self._running: dict[str, anyio.CancelScope] = {}
        self._bell = anyio.Event()
        self._look = False
        self._told = False
        self._failure: BaseException | None = None

    # ---- from outside -----------------------------------------------------------------------------------------

    def ring(self) -> None:
        """Something new is in the inbox."""
        self._look = True
        self._bell.set()

    def stop(self) -> None:
        """Stop at the next moment: nothing new is started, streams are cancelled, tools get the grace."""
        self._told = True
        self._bell.set()

    async def run(
        self, *, strategy: ResumeStrategy = "continue", by_hand: bool = False, deadline: float | None = None
    ) -> Drive:
        """Drive until nothing is open.

        Args:
            strategy: What to do about effects that a dead driver left open.
            by_hand: Also drive an agent that is parked after too many crashes.
            deadline: ``clock.monotonic()`` at which the run must rest.

        Raises:
            LeaseLostError: Someone else drives it (``code="held"``), or took over meanwhile.
            ConflictError, FencedError: Someone else wrote; what was not committed is dropped.
            StoreUnavailableError: The store stayed away for as long as the lease lasted.
        """
        holding = await Holding.acquire(self.deps, self.agent_id, self.limits)
        try:
            resident = await self._settle(holding)
            if resident.state.parked is not None and not by_hand:
                self.drive.stop = "parked"
                return self.drive
            await self._with_tasks(resident, holding, strategy, by_hand, deadline)
        except (ConflictError, FencedError, LeaseLostError):
            holding.lost = True
            self.resident = None
            raise
        except BaseException:
            self.resident = None
            raise
        finally:
            await holding.let_go()
        return self.drive

    async def _settle(self, holding: Holding) -> Resident:
        """Have the agent as it is now: what is resident, or loaded again if another version is stored."""
        resident, lease = self.resident, holding.lease
        if resident is None or resident.version != lease.version or resident.state.uid != lease.uid:
            resident = self.resident = await Resident.load(self.deps.store, self.agent_id)
        else:
            await self._read_inbox(resident)
        return resident

    async def _with_tasks(
        self, resident: Resident, holding: Holding, strategy: ResumeStrategy, by_hand: bool, deadline: float | None
    ) -> None:
        self.hub.begin(resident.state.next_cursor - 1)
        self.hub.on_ring = self.ring
        try:
            async with anyio.create_task_group() as tasks:
                try:
                    loop = _Loop(self, resident, holding, tasks, deadline)
                    await loop.run(await self._first(resident, holding, strategy, by_hand))
                except Exception as error:  # noqa: BLE001 - raised again below, without the group around it
                    self._failure = self._failure or error
                finally:
                    tasks.cancel_scope.cancel()
        finally:
            self.hub.end()
        if self._failure is not None:
            raise self._failure

    async def _first(
        self, resident: Resident, holding: Holding, strategy: ResumeStrategy, by_hand: bool
    ) -> list[Input]:
        """What a new driver has to say first: what it makes of the effects that were open."""
        state = resident.state
        if not state.effects and state.parked is None:
            return [TimePassed()]
        if holding.lease.takes > self.limits.max_recoveries and not by_hand and state.run is not None:
            self.drive.stop = "parked"
            return [Parked(StopReason.CRASH_LOOP)]
        if state.sandbox_ref is not None:
            await self._kill_left_overs(state.sandbox_ref)
        return [Resumed(strategy, by_hand), TimePassed()]

    async def _kill_left_overs(self, ref: str) -> None:
        """End what a dead driver's sandbox left running, before anything is said about its calls."""
        killed = await self.deps.sandbox_factory().kill_ref(ref)
        if killed:
            data = {"killed": killed}
            self._noted.append(Event("error", preview="Left-over processes were ended.", data={"code": "orphans", **data}))

    async def _read_inbox(self, resident: Resident) -> None:
        known = {item.position for item in resident.inbox}
        found = await self.deps.store.read_inbox(self.agent_id, resident.state.uid, after=resident.seen)
        resident.inbox += [item for item in found if item.position not in known]


class _Loop:
    """One drive in progress: the part of a driver that lives as long as its task group."""

    def __init__(
        self, driver: Driver, resident: Resident, holding: Holding, tasks: TaskGroup, deadline: float | None
    ) -> None:
        self.driver = driver
        self.resident = resident
        self.holding = holding
        self.tasks = tasks
        self.deadline = deadline
        self.clock = driver.deps.clock
        self.store = driver.deps.store
        self.limits = driver.limits
        self.worker = Worker(resident, driver.binding, driver.deps, driver.hub, driver.limits, driver._noted.append)
        self.used_from = self.clock.monotonic()
        self.polled_at = self.used_from

    # ---- the loop ---------------------------------------------------------------------------------------------

    async def run(self, first: list[Input]) -> None:
        """Gather, advance, commit, act; until nothing is open."""
        driver = self.driver
        inputs: list[Input] = first
        while True:
            inputs += await self._gather()
            hold = driver.drive.stop != "idle"
            committed = await self._step(inputs, hold)
            if hold:
                return
            if committed.released or (committed.idle and not await self._look_again()):
                return
            if not committed.idle:
                await self._wait()
            inputs = []
            if driver._failure is not None:
                return
            await self._check_time(inputs)

    async def _gather(self) -> list[Input]:
        """All that has arrived: answers first, then the inbox in its order."""
        driver, resident = self.driver, self.resident
        offers = self._offers()
        if any(isinstance(input, InterruptRequested) for input in offers):
            await self._cancel_tools(self.limits.cancel_grace_s)
        answers, driver._posted = driver._posted, []
        if driver._noted:
            answers.append(Noted(tuple(driver._noted)))
            driver._noted.clear()
        due = next_due(resident.state)
        if due is not None and due <= self.clock.now():
            answers.append(TimePassed())
        return [*answers, *offers]

    def _offers(self) -> list[Input]:
        """Inbox items that may be offered now, as inputs; what cannot be read is refused, not raised."""
        known = self.driver._offers
        now = self.clock.now()
        ready = [i for i in self.resident.inbox if i.not_before is None or i.not_before <= now]
        for item in ready:
            if item.position not in known:
                known[item.position] = (item, self._read(item))
        return [known[item.position][1] for item in sorted(ready, key=lambda i: (-i.priority, i.position))]

    def _read(self, item: Item) -> Input:
        try:
            input = item_input(item)
        except (IllegalInputError, RecordCorruptError) as error:
            text = preview(error.message)
            return Noted((Event("input_rejected", preview=text, data={"item": item.id}),))
        if isinstance(input, ApprovalDecided) and input.input is not None:
            call = self.resident.state.call(input.call)
            if call is not None:
                return replace(input, plan=plan_input(self.driver.binding, call.tool, input.input))
        return input

    async def _step(self, inputs: Sequence[Input], hold: bool) -> _Outcome:
        """Apply a batch and make it durable; then, and only then, show it and start what it asks for."""
        resident, driver = self.resident, self.driver
        monotonic = self.clock.monotonic()
        working = resident.state.status is Status.WORKING and resident.state.run is not None
        used = round((monotonic - self.used_from) * 1e6) if working else 0
        context = Context(self.clock.now(), self.holding.lease.fence, self.limits, used)
        before = resident.state
        transition = advance(before, [*inputs, *self._sandbox(inputs)], context, hold=hold)
        postponed = {id(input) for input in transition.postponed}
        consumed = {
            position: item for position, (item, input) in driver._offers.items() if id(input) not in postponed
        }
        seen = max((item.position for item in resident.inbox), default=resident.seen)
        idle = not transition.state.effects and transition.state.status is not Status.WORKING
        changed = transition.events or consumed or seen > resident.seen or transition.state.effects != before.effects
        if not changed:
            return _Outcome(idle, False)
        answered = any(type(input).__name__ in _ANSWERS for input in inputs)
        commit = self._commit(transition, consumed, max(seen, resident.seen), idle, answered)
        committed = await self._save(commit)
        self.used_from = monotonic
        self._after(transition, committed, commit)
        if not hold:
            await self._start(transition.effects)
        return _Outcome(idle, committed.released)

    def _sandbox(self, inputs: Sequence[Input]) -> Iterable[Input]:
        """Name the sandbox in the header before the first tool runs in it."""
        ref = self.driver.binding.open_sandbox().ref if self.driver.binding.tools else None
        return [SandboxBound(ref)] if self.resident.state.sandbox_ref != ref else []

    def _commit(
        self, transition: Transition, consumed: dict[int, Item], seen: int, idle: bool, answered: bool
    ) -> Commit:
        state = transition.state
        moments = [wake_at(state)]
        moments += [i.not_before for i in self.resident.inbox if i.position not in consumed]
        return Commit(
            state=state,
            commit_id=self.driver.deps.ids.commit_id(),
            version=self.resident.version,
            fence=self.holding.lease.fence,
            at=state.updated_at,
            bounds=self.resident.bounds,
            wake_at=min((m for m in moments if m is not None), default=None),
            messages=transition.messages,
            calls=transition.calls,
            events=transition.events,
            runs=transition.runs,
            compactions=transition.compactions,
            snapshots=transition.snapshots,
            consumed=consumed,
            taken=_taken(transition),
            seen=seen,
            release=idle,
            answered=answered,
        )

    async def _save(self, commit: Commit) -> Committed:
        """Commit, once at a time and not to be cancelled; while the store is away, the same again."""
        delay = 0.05
        while True:
            try:
                with anyio.CancelScope(shield=True):
                    return await self.store.commit(commit)
            except StoreUnavailableError as error:
                if self.holding.left() <= 0:
                    raise
                self.driver.hub.publish_live(
                    Envelope(commit.state.agent_id, Event("storage_failure", preview=preview(error.message)), 0)
                )
            await self.clock.sleep(min(delay, max(self.holding.left(), 0.01)))
            delay = min(delay * 2, 2.0)

    def _after(self, transition: Transition, committed: Committed, commit: Commit) -> None:
        driver, resident = self.driver, self.resident
        resident.take(transition, committed.version, commit.seen, commit.consumed)
        for position in commit.consumed:
            driver._offers.pop(position, None)
        driver.drive.taken.update(commit.taken)
        known = {item.position for item in resident.inbox}
        resident.inbox += [item for item in committed.inbox if item.position not in known]
        if committed.released:
            self.holding.lost = True
        for record in transition.runs:
            driver.drive.runs[record.number] = record
            answer = None if record.answer_seq is None else resident.message(record.answer_seq)
            if answer is not None:
                driver.drive.answers[answer.seq] = answer
        driver.hub.publish(transition.events)
        wanted = {effect.id for effect in transition.state.effects}
        for id, scope in list(driver._running.items()):
            if id not in wanted:
                scope.cancel()

    # ---- effects ----------------------------------------------------------------------------------------------

    async def _start(self, effects: Sequence[Effect]) -> None:
        """Start what is durable, with enough of the lease left that nobody else can start it too."""
        if effects and self.holding.left() < self.limits.lease_margin_s:
            await self.holding.renew()
        for effect in effects:
            scope = anyio.CancelScope()
            self.driver._running[effect.id] = scope
            self.tasks.start_soon(self._perform, effect, scope)

    async def _perform(self, effect: Effect, scope: anyio.CancelScope) -> None:
        driver = self.driver
        try:
            with scope:
                answer = await self.worker.perform(effect)
                # Not in one line: `_gather` puts another list in its place while this waits.
                driver._posted.append(answer)
        except Exception as error:  # noqa: BLE001 - it ends the drive, which raises it
            driver._failure = driver._failure or error
        finally:
            if driver._running.get(effect.id) is scope:
                del driver._running[effect.id]
            driver._bell.set()

    async def _cancel_tools(self, grace_s: float) -> None:
        """Cancel the model and the tools and give them the grace to end; real results that come within it are kept."""
        running = self.driver._running
        mine = {id for id in running if not isinstance(self.resident.state.effect(id), Deliver)}
        for id in mine:
            running[id].cancel()
        with self.clock.move_on_after(grace_s):
            while mine & running.keys():
                await self._ring_once()

    # ---- waiting ----------------------------------------------------------------------------------------------

    async def _wait(self) -> None:
        """Wait for an answer or a ring, and no longer than the next thing that must be done in time."""
        driver = self.driver
        while not (driver._posted or driver._look or driver._told or driver._failure):
            seconds = self._patience()
            if seconds <= 0:
                break
            with self.clock.move_on_after(seconds):
                await self._ring_once()
        if self.holding.left() < self.holding.term / 2:
            await self.holding.renew()
        poll = self.clock.monotonic() - self.polled_at >= self.limits.due_poll_s
        if driver._look or poll:
            driver._look = False
            self.polled_at = self.clock.monotonic()
            await driver._read_inbox(self.resident)

    async def _ring_once(self) -> None:
        driver = self.driver
        await driver._bell.wait()
        driver._bell = anyio.Event()

    async def _look_again(self) -> bool:
        """The lease was not given back because something new waits: read it."""
        before = self.resident.seen
        await self.driver._read_inbox(self.resident)
        return any(item.position > before for item in self.resident.inbox)

    def _patience(self) -> float:
        """Seconds until something must be done even if nothing arrives."""
        now = self.clock.monotonic()
        moments = [self.holding.left() - self.holding.term / 2, self.polled_at + self.limits.due_poll_s - now]
        if self.deadline is not None:
            moments.append(self.deadline - now)
        budget = self._processing_left()
        if budget is not None:
            moments.append(budget)
        due = next_due(self.resident.state)
        if due is not None:
            moments.append((due - self.clock.now()) / 1e6)
        return min(moments)

    def _processing_left(self) -> float | None:
        run, allowed = self.resident.state.run, self.limits.processing_timeout_s
        if run is None or allowed is None:
            return None
        return allowed - run.used_us / 1e6 - (self.clock.monotonic() - self.used_from)

    async def _check_time(self, inputs: list[Input]) -> None:
        """Say what time has run out."""
        driver = self.driver
        left = self._processing_left()
        if left is not None and left <= 0:
            await self._cancel_tools(self.limits.cancel_grace_s)
            inputs.append(DeadlineReached(StopReason.PROCESSING_TIMEOUT))
        elif self.deadline is not None and self.clock.monotonic() >= self.deadline:
            driver.drive.stop = "deadline"
            await self._cancel_tools(self.limits.cancel_grace_s)
            inputs.append(DeadlineReached(StopReason.DEADLINE))
        elif driver._told:
            driver.drive.stop = "told"
            await self._cancel_tools(self.limits.cancel_grace_s)


@dataclass(slots=True)
class _Outcome:
    idle: bool
    released: bool



def _taken(transition: Transition) -> dict[str, int]:
    """Which run took which message; what ends a run and what starts the next may share a commit."""
    return {
        str(event.data["item"]): event.run for event in transition.events if event.type == "message_received" and event.run
    }
