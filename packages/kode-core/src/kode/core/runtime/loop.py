"""The one loop that moves an agent: ask, commit, act.

    ┌─▶ gather what arrived ─▶ advance (pure) ─▶ commit ─▶ publish ─▶ start effects ─┐
    └──────────────────────────────────── wait ◀────────────────────────────────────┘

It ends when nothing is open. Every effect runs in the driver's task group and puts one input into the mailbox.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from anyio.abc import TaskGroup

from kode.core.errors import SandboxError, SchemaTooNewError, StoreUnavailableError, UsageError
from kode.core.event.base import Envelope
from kode.core.kernel.effects import Effect, RunTool
from kode.core.kernel.events import Event, preview
from kode.core.kernel.inputs import (
    DeadlineReached,
    HistoryCompacted,
    Input,
    Instructed,
    InterruptRequested,
    ModelFailed,
    ModelReplied,
    SandboxBound,
    ToolFinished,
    ToolSuspended,
)
from kode.core.kernel.limits import narrowed
from kode.core.kernel.machine import Context, Transition, advance, next_due
from kode.core.kernel.words import Status, StopReason
from kode.core.runtime.documents import bodies, document_inputs
from kode.core.runtime.drive import Work
from kode.core.runtime.effects.worker import Worker
from kode.core.runtime.hands import Hands
from kode.core.runtime.lease import Holding
from kode.core.runtime.offers import Offers
from kode.core.runtime.pace import Pace
from kode.core.runtime.resident import Resident
from kode.core.runtime.schedule import time_passed
from kode.core.runtime.todos import todo_inputs
from kode.core.store.contract import Commit, Committed

if TYPE_CHECKING:
    from kode.core.tools.documents import Changes

__all__ = ["Loop"]

T = TypeVar("T")

_ANSWERS = frozenset({ModelReplied, ModelFailed, ToolFinished, ToolSuspended, HistoryCompacted})
"""Inputs that show progress: a driver that commits one is in no crash loop."""


@dataclass(slots=True)
class _Step:
    """What came of one batch."""

    idle: bool
    """Nothing is open in the state it left."""
    released: bool
    """The lease went back with the commit."""


class Loop:
    """One drive in progress. Lives as long as its task group."""

    def __init__(
        self,
        work: Work,
        resident: Resident,
        holding: Holding,
        tasks: TaskGroup,
        until: float | None,
        margin_s: float | None,
    ) -> None:
        self.work = work
        self.resident = resident
        self.holding = holding
        self.tasks = tasks
        self.box = work.box
        self.result = work.result
        self.binding = work.binding
        self.deps = work.deps
        self.hub = work.hub
        self.clock = work.deps.clock
        self.store = work.deps.store
        self.worker = Worker(resident, work.binding, work.deps, work.hub, work.limits, work.box.noted.append)
        self.worker.interrupted = work.result.interrupted
        self.pace = Pace(self.clock, holding, self.box, work.limits, until, margin_s)
        self.hands = Hands(self.worker, self.box, tasks)
        self.offers = Offers(work, resident, self.worker.documents)
        self.limits = work.limits
        """Those of the agent, within those of its run; see ``_bound``."""
        self._opening = False
        self._bound()

    async def run(self, first: list[Input]) -> None:
        """Go round until nothing is open, or until it is time to stop."""
        self.tasks.start_soon(self._metronome)
        inputs = first + await self._ready()
        while True:
            inputs += await self._gather()
            stopping = self.result.stop != "idle"
            if self.result.stop == "deadline":
                # Behind the inbox: a run that it starts rests as well, and can be told of.
                inputs.append(DeadlineReached(StopReason.DEADLINE))
            step = await self._step(inputs, hold=stopping or self.pace.late)
            if stopping:
                self.result.unfinished = tuple(e.id for e in self.resident.state.effects if isinstance(e, RunTool))
            if stopping or step.released or (step.idle and not await self._look_again()):
                return
            if not step.idle:
                await self._wait()
            if self.box.failure is not None:
                raise self.box.failure
            inputs = await self._out_of_time()

    def dismiss(self) -> bool:
        """Have the tasks of the drive end by themselves; whether all of them will."""
        self.pace.end()
        return self.hands.dismiss() and (self.binding.ready or not self._opening)

    async def _ready(self) -> list[Input]:
        """Open the sandbox, which may take long; meanwhile the lease is held, and time may run out."""
        if not self.binding.ready:
            self._opening = True
            self.tasks.start_soon(self._open_sandbox)
        while not self.binding.ready:
            await self.pace.wait_to_open()
            if self.box.failure is not None:
                raise self.box.failure
            await self._keep_lease()
            late = await self._out_of_time()
            if self.result.stop != "idle":
                return late
        return []

    async def _open_sandbox(self) -> None:
        # Tools are what needs it. Without a bound one that hangs would keep a pool's turn for ever.
        seconds = self.limits.tool_timeout_s
        try:
            with self.clock.move_on_after(seconds):
                await self.binding.open_sandbox(self.resident.state.sandbox_ref, self.clock)
            if not self.binding.ready:
                text = f"The sandbox did not open within {seconds:g} s (tool_timeout_s)."
                raise SandboxError(text, code="open_timeout", timeout_s=seconds)
        except Exception as error:  # noqa: BLE001 - it ends the drive, which raises it
            self.box.fail(error)
        self.box.wake()

    # ---- gather -----------------------------------------------------------------------------------------------

    async def _gather(self) -> list[Input]:
        """All that has arrived: answers first, then the inbox in its order, then time."""
        offers = self.offers.ready(self.holding.now()) if self.resident.inbox else []
        if offers and any(isinstance(input, InterruptRequested) for input in offers):
            await self._cancel_effects()
        inputs = self.box.take() + offers
        state = self.resident.state
        due = next_due(state)
        # Behind the inbox: what was answered in time is not late because nobody looked. A timer may be due at the
        # boundary that this very batch reaches.
        timers = state.timers or (offers and any(isinstance(input, Instructed) for input in offers))
        if timers or (due is not None and due <= self.holding.now()):
            inputs.append(time_passed(state, offers, self.holding.now()))
        return inputs

    def _bound(self) -> None:
        """Bind what happens here by the limits of the agent and of the run in progress."""
        limits, run = self.work.limits, self.resident.state.run
        if run is not None and run.limits is not None:
            try:
                limits = narrowed(limits, run.limits)
            except UsageError as error:
                # They were checked before they were stored, by who knows more limits than this one.
                text = f"Run {run.number} has limits that this KODE cannot keep; upgrade it. {error.message}"
                raise SchemaTooNewError(text, run=run.number) from None
        self.limits = self.worker.limits = self.pace.limits = limits
        self.hub.keep, self.hub.keep_live = limits.event_buffer, limits.live_buffer_bytes

    # ---- advance and commit -----------------------------------------------------------------------------------

    async def _step(self, inputs: Sequence[Input], *, hold: bool) -> _Step:
        """Apply a batch and make it durable; then, and only then, show it and start what it asks for."""
        before = self.resident.state
        monotonic = self.clock.monotonic()
        used = self.pace.worked(before, monotonic)
        cut, full = await self.worker.context.look(inputs)
        context = Context(self.holding.now(), self.holding.lease.fence, self.work.limits, used, cut, full)
        changes = self.worker.documents.pending()
        changed = [*document_inputs(changes), *todo_inputs(changes, before, self.binding.template)]
        transition = advance(before, [*inputs, *self._sandbox(), *changed], context, hold=hold)
        state = transition.state
        idle = not state.effects and state.status is not Status.WORKING
        answered = not _ANSWERS.isdisjoint(map(type, inputs))
        commit = self._commit(transition, inputs, changes, release=idle, answered=answered)
        if not self._worth_it(commit, transition, idle=idle):
            return _Step(idle, False)
        committed = await self._insist(partial(self.store.commit, commit))
        self.pace.committed(monotonic)
        self._adopt(transition, commit, committed)
        if not (hold or self.box.stopping):  # whoever is told to stop meanwhile starts nothing that it would cancel
            await self._start(transition.effects)
        return _Step(idle, committed.released)

    def _worth_it(self, commit: Commit, transition: Transition, *, idle: bool) -> bool:
        """Whether a commit says anything new. Documents ride along; they ask for no commit of their own."""
        if any(event.type != "documents_changed" for event in commit.events):
            return True
        if commit.runs or commit.consumed or transition.effects:
            return True
        if transition.state.effects != self.resident.state.effects:
            # An answer that says nothing to watchers still closes its effect, and it is given only once.
            return True
        if commit.seen > self.resident.seen:
            return True
        # Due for nothing (its last driver died with the lease): say when it really is, or it stays due.
        woken = self.resident.wake_at
        return idle and woken is not None and woken <= commit.at

    def _sandbox(self) -> list[Input]:
        """Name the sandbox in the header before the first tool runs in it."""
        sandbox = self.binding.sandbox
        if sandbox is None or sandbox.ref == self.resident.state.sandbox_ref:
            return []
        return [SandboxBound(sandbox.ref)]

    def _commit(
        self, transition: Transition, inputs: Sequence[Input], changes: Changes, *, release: bool, answered: bool
    ) -> Commit:
        consumed = self.offers.used(inputs, transition.postponed)
        return self.resident.commit(
            transition.state,
            self.deps.ids.commit_id(),
            self.holding.lease.fence,
            consumed,
            messages=transition.messages,
            calls=transition.calls,
            events=transition.events,
            runs=transition.runs,
            compactions=transition.compactions,
            snapshots=transition.snapshots,
            documents=bodies(changes),
            taken=_taken(transition) if consumed else {},
            seen=self.resident.offered,
            release=release,
            answered=answered,
        )

    async def _insist(self, work: Callable[[], Awaitable[T]]) -> T:
        """Have the store do something; while it is away, the same again.

        A store finishes the write of a caller that is cancelled, or never begins it (its contract), so nothing is
        shielded here: a cancelled driver gives its lease back behind that write.
        """
        delay = 0.05
        while True:
            try:
                return await work()
            except StoreUnavailableError as error:
                await self._hold_out(error, delay)
            delay = min(delay * 2, 2.0)

    async def _hold_out(self, error: StoreUnavailableError, delay: float) -> None:
        """Wait a little for the store to come back; not longer than the lease lasts, or this drive."""
        left = self.holding.left()
        if self.pace.until is not None:
            left = min(left, self.pace.until - self.clock.monotonic())
        if left <= 0:
            raise error
        failed = Event("storage_failure", preview=preview(error.message))
        self.hub.publish_live(Envelope(self.resident.agent_id, failed, self.hub.cursor or 0))
        await self.clock.sleep(min(delay, max(left, 0.01)))

    def _adopt(self, transition: Transition, commit: Commit, committed: Committed) -> None:
        """Become what is durable now, show it, and stop what is not wanted any more."""
        resident, result = self.resident, self.result
        resident.take(transition, commit, committed)
        self._bound()
        self.offers.forget(commit.consumed)
        if committed.released:
            self.holding.gave_back(resident)
        result.taken.update(commit.taken)
        for record in transition.runs:
            result.runs[record.number] = record
            answer = None if record.answer_seq is None else resident.message(record.answer_seq)
            if answer is not None:
                result.answers[answer.seq] = answer
        self.hub.publish(transition.events)
        self.hands.keep(transition.state.effects)

    # ---- act --------------------------------------------------------------------------------------------------

    async def _start(self, effects: Sequence[Effect]) -> None:
        """Start what is durable, with enough of the lease left that nobody else can start it too."""
        if effects and self.holding.left() < self.limits.lease_margin_s:
            await self._insist(self.holding.renew)
        for effect in effects:
            self.hands.start(effect)

    async def _cancel_effects(self, at_most_s: float | None = None) -> None:
        """Cancel the model and the tools and give them the grace to end; real results that come within it are kept."""
        mine = self.hands.cancel(self.resident.state)
        grace = self.limits.cancel_grace_s
        ends = self.clock.monotonic() + (grace if at_most_s is None else min(grace, at_most_s))
        while mine & self.hands.active:
            left = ends - self.clock.monotonic()
            if left <= 0:
                return
            await self._keep_lease()
            with self.clock.move_on_after(min(left, max(self.holding.patience(), 0.01))):
                await self.box.wait()

    # ---- wait -------------------------------------------------------------------------------------------------

    async def _metronome(self) -> None:
        try:
            await self.pace.beat()
        except StoreUnavailableError as error:
            self.box.fail(error)
            self.tasks.cancel_scope.cancel()

    async def _keep_lease(self) -> None:
        """Renew the lease if it is time to."""
        if self.holding.patience() <= 0:
            await self._insist(self.holding.renew)

    async def _wait(self) -> None:
        """Wait for an answer, a ring or a beat, and read what came into the inbox."""
        box = self.box
        await self.pace.wait(self.resident.state)
        await self._keep_lease()
        if box.look or box.tick:
            box.look = box.tick = False
            await self.resident.read_inbox(self.store)

    async def _look_again(self) -> bool:
        """The lease was not given back, perhaps because something new waits: read it."""
        before = self.resident.seen
        await self.resident.read_inbox(self.store)
        return any(item.position > before for item in self.resident.inbox)

    async def _out_of_time(self) -> list[Input]:
        """Say what time has run out, and stop for it; behind the results that came within the grace."""
        if self.pace.exhausted(self.resident.state):
            await self._cancel_effects()
            return [*self.box.take(), DeadlineReached(StopReason.PROCESSING_TIMEOUT)]
        if self.pace.until is not None and self.pace.late:
            self.result.stop = "deadline"
            await self._cancel_effects(self.pace.until - self.clock.monotonic())
            return self.box.take()
        if self.box.stopping:
            self.result.stop = "stopped"
            await self._cancel_effects()
        return []


def _taken(transition: Transition) -> dict[str, int]:
    """Which run took which message; what ends a run and what starts the next may share a commit."""
    return {
        str(event.data["item"]): event.run
        for event in transition.events
        if event.type == "message_received" and event.run
    }
