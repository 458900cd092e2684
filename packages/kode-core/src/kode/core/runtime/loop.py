"""The one loop that moves an agent: ask, commit, act.

    ┌─▶ gather what arrived ─▶ advance (pure) ─▶ commit ─▶ publish ─▶ start effects ─┐
    └──────────────────────────────────── wait ◀────────────────────────────────────┘

It ends when nothing is open. Every effect runs in the driver's task group and puts one input into the mailbox.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskGroup

from kode.core.errors import (
    IllegalInputError,
    KodeError,
    RecordCorruptError,
    SandboxError,
    SchemaTooNewError,
    StoreUnavailableError,
    UsageError,
)
from kode.core.event.base import Envelope
from kode.core.kernel.effects import Deliver, Effect, RunTool
from kode.core.kernel.events import Event, preview
from kode.core.kernel.inputs import (
    ApprovalDecided,
    DeadlineReached,
    HistoryCompacted,
    Input,
    Instructed,
    InterruptRequested,
    LimitsChanged,
    MessageReceived,
    ModelFailed,
    ModelReplied,
    Noted,
    SandboxBound,
    TimerSet,
    TodosSet,
    ToolFinished,
    ToolSuspended,
)
from kode.core.kernel.limits import laid_over, limits_of, narrowed
from kode.core.kernel.machine import Context, Transition, advance, next_due
from kode.core.kernel.message import Json
from kode.core.kernel.words import Status, StopReason
from kode.core.runtime.asked import check_in_time
from kode.core.runtime.birth import bounds_of
from kode.core.runtime.documents import bodies, said
from kode.core.runtime.effects import Worker
from kode.core.runtime.lease import Holding
from kode.core.runtime.plan import plan_input
from kode.core.runtime.resident import Resident
from kode.core.runtime.schedule import take_timer, time_passed
from kode.core.runtime.todos import take_todos, told
from kode.core.store.contract import Commit, Committed, Item
from kode.core.store.records import item_input
from kode.core.template import encode_template
from kode.core.tools.base import is_failure

if TYPE_CHECKING:
    from kode.core.config import Dependencies
    from kode.core.runtime.driver import Driver
    from kode.core.tools.documents import Changes

__all__ = ["Loop", "acknowledge"]

MARGIN_S = 2.0
"""Time kept at the end of a request to stop in; a tenth of the request if that is less."""
_ANSWERS = (ModelReplied, ModelFailed, ToolFinished, ToolSuspended, HistoryCompacted)
"""Inputs that show progress: a driver that commits one is in no crash loop."""


@dataclass(slots=True)
class _Step:
    """What came of one batch."""

    idle: bool
    """Nothing is open in the state it left."""
    released: bool
    """The lease went back with the commit."""


class _Hand:
    """Where a runner is given its next effect."""

    __slots__ = ("_bell", "effect")

    def __init__(self, effect: Effect) -> None:
        self.effect = effect
        self._bell = anyio.Event()

    def give(self, effect: Effect) -> None:
        """Hand over an effect; the runner waits for one."""
        self.effect = effect
        self._bell.set()

    async def wait(self) -> None:
        """Wait for the next effect."""
        await self._bell.wait()
        self._bell = anyio.Event()


class Loop:
    """One drive in progress. Lives as long as its task group."""

    def __init__(
        self,
        driver: Driver,
        resident: Resident,
        holding: Holding,
        tasks: TaskGroup,
        until: float | None,
        margin_s: float | None,
    ) -> None:
        self.driver = driver
        self.resident = resident
        self.holding = holding
        self.tasks = tasks
        self.until = until
        """``clock.monotonic()`` by which the drive must be over."""
        self.box = driver.box
        self.drive = driver.drive
        self.binding = driver.binding
        self.deps = driver.deps
        self.hub = driver.hub
        self.limits = driver.limits
        """Those of the agent, within those of its run; see ``_bound``."""
        self.clock = driver.deps.clock
        self.store = driver.deps.store
        self.worker = Worker(resident, driver.binding, driver.deps, driver.hub, driver.limits, driver.box.noted.append)
        self.worker.interrupted = driver.drive.interrupted
        self._offered: dict[int, tuple[Item, Input]] = {}
        """Inbox items and the inputs made of them, by position."""
        self._active: set[str] = set()
        """Effects being carried out."""
        self._idle: list[_Hand] = []
        """Runners that wait for an effect."""
        self._used_from = self.clock.monotonic()
        self._rest_at = None if until is None else until - _margin(until - self._used_from, margin_s)
        """From here on nothing new is started."""
        self._next_beat = self._used_from + self.limits.due_poll_s
        self._bound()

    async def run(self, first: list[Input]) -> None:
        """Go round until nothing is open, or until it is time to stop."""
        self.tasks.start_soon(self._metronome)
        inputs = first + await self._ready()
        while True:
            inputs += await self._gather()
            stopping = self.drive.stop != "idle"
            if self.drive.stop == "deadline":
                # Behind the inbox: a run that it starts rests as well, and can be told of.
                inputs.append(DeadlineReached(StopReason.DEADLINE))
            late = self._rest_at is not None and self.clock.monotonic() >= self._rest_at
            step = await self._step(inputs, hold=stopping or late)
            if stopping:
                self.drive.unfinished = tuple(e.id for e in self.resident.state.effects if isinstance(e, RunTool))
            if stopping or step.released or (step.idle and not await self._look_again()):
                return
            if not step.idle:
                await self._wait()
            if self.box.failure is not None:
                raise self.box.failure
            inputs = await self._out_of_time()

    async def _ready(self) -> list[Input]:
        """Open the sandbox, which may take long; meanwhile the lease is held, and time may run out."""
        if not self.binding.ready:
            self.tasks.start_soon(self._open_sandbox)
        while not self.binding.ready:
            moments = [self.holding.left() - self.holding.term / 2]
            if self._rest_at is not None:
                moments.append(self._rest_at - self.clock.monotonic())
            with self.clock.move_on_after(max(min(moments), 0.01)):
                await self.box.wait()
            self.box.tick = False
            if self.box.failure is not None:
                raise self.box.failure
            if self.holding.left() <= self.holding.term / 2:
                await self._renew()
            late = await self._out_of_time()
            if self.drive.stop != "idle":
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
        offers = self._offers()
        if any(isinstance(input, InterruptRequested) for input in offers):
            await self._cancel_effects()
        inputs = self.box.take() + offers
        due = next_due(self.resident.state)
        # Behind the inbox: what was answered in time is not late because nobody looked. A timer may be due at the
        # boundary that this very batch reaches.
        timers = self.resident.state.timers or any(isinstance(input, Instructed) for input in offers)
        if timers or (due is not None and due <= self.holding.now()):
            inputs.append(time_passed(self.resident.state, offers, self.holding.now()))
        return inputs

    def _offers(self) -> list[Input]:
        """Inbox items that may be offered now, as inputs; higher priority first, else in their order."""
        inbox = self.resident.inbox
        if not inbox:
            return []
        now = self.holding.now()
        ready = [item for item in inbox if item.not_before is None or item.not_before <= now]
        for item in ready:
            if item.position not in self._offered:
                self._offered[item.position] = (item, self._read(item))
        ready.sort(key=lambda item: (-item.priority, item.position))
        return [self._offered[item.position][1] for item in ready]

    def _read(self, item: Item) -> Input:
        """The input an item carries; what cannot be read is used up with an event, not raised.

        Raises:
            SchemaTooNewError: It names limits that only a newer version knows; it stays for that one.
        """
        try:
            input = item_input(item)
            if isinstance(input, ApprovalDecided):
                check_in_time(self.resident.state, input, item.at)
        except (IllegalInputError, RecordCorruptError) as error:
            return Noted((Event("input_rejected", preview=preview(error.message), data={"item": item.id}),))
        if isinstance(input, ApprovalDecided) and input.input is not None:
            call = self.resident.state.call(input.call)
            if call is not None:
                return replace(input, plan=plan_input(self.binding, call.tool, input.input))
        _check_known(item.id, input)
        if isinstance(input, Instructed) and isinstance(input.what, LimitsChanged):
            return self._change_limits(input, input.what.limits)
        if isinstance(input, Instructed) and isinstance(input.what, TodosSet):
            return take_todos(self.worker.documents, input, input.what)
        if isinstance(input, Instructed) and isinstance(input.what, TimerSet):
            return take_timer(input, input.what, self.holding.now())
        return input

    def _change_limits(self, input: Instructed, text: Json) -> Input:
        """Lay named fields over the recipe's; it rides in the commit that takes the instruction."""
        recipe = self.binding.template
        try:
            recipe = recipe.changed(limits=laid_over(recipe.limits, text))
        except UsageError as error:
            return Noted((Event("input_rejected", preview=preview(error.message), data={"item": input.item}),))
        body, digest = encode_template(recipe)
        self.worker.documents.rewrite_recipe(body, digest)
        self.resident.bounds = bounds_of(recipe.limits)
        self.binding.recipe = digest
        self.driver.adopt(recipe)
        return input

    def _bound(self) -> None:
        """Bind what happens here by the limits of the agent and of the run in progress."""
        limits, run = self.driver.limits, self.resident.state.run
        if run is not None and run.limits is not None:
            try:
                limits = narrowed(limits, run.limits)
            except UsageError as error:
                # They were checked before they were stored, by who knows more limits than this one.
                text = f"Run {run.number} has limits that this KODE cannot keep; upgrade it. {error.message}"
                raise SchemaTooNewError(text, run=run.number) from None
        self.limits = self.worker.limits = limits
        self.hub.keep, self.hub.keep_live = limits.event_buffer, limits.live_buffer_bytes

    # ---- advance and commit -----------------------------------------------------------------------------------

    async def _step(self, inputs: Sequence[Input], *, hold: bool) -> _Step:
        """Apply a batch and make it durable; then, and only then, show it and start what it asks for."""
        before = self.resident.state
        monotonic = self.clock.monotonic()
        working = before.run is not None and before.status is Status.WORKING
        used = round((monotonic - self._used_from) * 1e6) if working else 0
        cut, full = await self.worker.context.look(inputs)
        context = Context(self.holding.now(), self.holding.lease.fence, self.driver.limits, used, cut, full)
        changes = self.worker.documents.pending()
        changed = [*said(changes), *told(changes, before, self.binding.template)]
        transition = advance(before, [*inputs, *self._sandbox(), *changed], context, hold=hold)
        state = transition.state
        idle = not state.effects and state.status is not Status.WORKING
        answered = any(isinstance(input, _ANSWERS) for input in inputs)
        commit = self._commit(transition, inputs, changes, release=idle, answered=answered)
        if not self._worth_it(commit, transition, idle=idle):
            return _Step(idle, False)
        committed = await self._save(commit)
        self._used_from = monotonic
        self._adopt(transition, commit, committed)
        if not (hold or self.box.told):  # whoever is told to stop meanwhile starts nothing that it would cancel
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
        state, resident = transition.state, self.resident
        consumed: dict[int, Item] = {}
        if self._offered:
            # What was not offered this time (a clock was set back) is as little used up as what must wait.
            taken = {id(input) for input in inputs} - {id(input) for input in transition.postponed}
            consumed = {at: item for at, (item, input) in self._offered.items() if id(input) in taken}
        return Commit(
            state=state,
            commit_id=self.deps.ids.commit_id(),
            version=resident.version,
            fence=self.holding.lease.fence,
            at=state.updated_at,
            bounds=resident.bounds,
            wake_at=resident.wake_at_of(state, consumed),
            messages=transition.messages,
            calls=transition.calls,
            events=transition.events,
            runs=transition.runs,
            compactions=transition.compactions,
            snapshots=transition.snapshots,
            documents=bodies(changes),
            consumed=consumed,
            taken=_taken(transition) if consumed else {},
            seen=max((item.position for item in resident.inbox), default=resident.seen),
            release=release,
            answered=answered,
        )

    async def _save(self, commit: Commit) -> Committed:
        """Commit; while the store is away, the same again.

        A store finishes the write of a caller that is cancelled, or never begins it (its contract), so nothing is
        shielded here: a cancelled driver gives its lease back behind that write.
        """
        delay = 0.05
        while True:
            try:
                return await self.store.commit(commit)
            except StoreUnavailableError as error:
                await self._hold_out(error, delay)
            delay = min(delay * 2, 2.0)

    async def _renew(self) -> None:
        """Hold the lease longer; while the store is away, ask again as long as it lasts."""
        delay = 0.05
        while True:
            try:
                return await self.holding.renew()
            except StoreUnavailableError as error:
                await self._hold_out(error, delay)
            delay = min(delay * 2, 2.0)

    async def _hold_out(self, error: StoreUnavailableError, delay: float) -> None:
        """Wait a little for the store to come back; not longer than the lease lasts, or this drive."""
        left = self.holding.left()
        if self.until is not None:
            left = min(left, self.until - self.clock.monotonic())
        if left <= 0:
            raise error
        failed = Event("storage_failure", preview=preview(error.message))
        self.hub.publish_live(Envelope(self.resident.agent_id, failed, self.hub.cursor or 0))
        await self.clock.sleep(min(delay, max(left, 0.01)))

    def _adopt(self, transition: Transition, commit: Commit, committed: Committed) -> None:
        """Become what is durable now, show it, and stop what is not wanted any more."""
        resident, drive = self.resident, self.drive
        resident.take(transition, commit, committed)
        self._bound()
        for position in commit.consumed:
            del self._offered[position]
        if committed.released:
            self.holding.lost = True
        drive.taken.update(commit.taken)
        for record in transition.runs:
            drive.runs[record.number] = record
            answer = None if record.answer_seq is None else resident.message(record.answer_seq)
            if answer is not None:
                drive.answers[answer.seq] = answer
        self.hub.publish(transition.events)
        if self._active:
            for id in self._active - {effect.id for effect in transition.state.effects}:
                self.worker.drop(id)

    # ---- act --------------------------------------------------------------------------------------------------

    async def _start(self, effects: Sequence[Effect]) -> None:
        """Start what is durable, with enough of the lease left that nobody else can start it too."""
        if effects and self.holding.left() < self.limits.lease_margin_s:
            await self._renew()
        for effect in effects:
            self._active.add(effect.id)
            if self._idle:
                self._idle.pop().give(effect)
            else:
                self.tasks.start_soon(self._runner, _Hand(effect))

    async def _runner(self, hand: _Hand) -> None:
        """Carry out one effect after another: a task is dearer than most effects' own work."""
        while True:
            effect = hand.effect
            try:
                answer = await self.worker.perform(effect)
                if answer is not None:
                    self.box.post(answer)
            except anyio.get_cancelled_exc_class() as error:
                if not is_failure(error):
                    raise
                self.box.fail(KodeError(f"What effect {effect.id} waited for was cancelled.", code="cancelled"))
            except Exception as error:  # noqa: BLE001 - it ends the drive, which raises it
                self.box.fail(error)
            finally:
                self._active.discard(effect.id)
                self.box.wake()
            self._idle.append(hand)
            await hand.wait()

    async def _cancel_effects(self, at_most_s: float | None = None) -> None:
        """Cancel the model and the tools and give them the grace to end; real results that come within it are kept."""
        state, holding = self.resident.state, self.holding
        mine = {id for id in self._active if not isinstance(state.effect(id), Deliver)}
        for id in mine:
            self.worker.drop(id)
        grace = self.limits.cancel_grace_s
        ends = self.clock.monotonic() + (grace if at_most_s is None else min(grace, at_most_s))
        while mine & self._active:
            left = ends - self.clock.monotonic()
            if left <= 0:
                return
            if holding.left() <= holding.term / 2:
                await self._renew()
            with self.clock.move_on_after(min(left, max(holding.left() - holding.term / 2, 0.01))):
                await self.box.wait()

    # ---- wait -------------------------------------------------------------------------------------------------

    async def _metronome(self) -> None:
        """Beat at intervals, so that an ordinary wait needs no time-out of its own."""
        every = self.limits.due_poll_s
        unread = 0
        while True:
            await self.clock.sleep(every)
            every = self.limits.due_poll_s
            self._next_beat = self.clock.monotonic() + every
            unread = unread + 1 if self.box.tick else 0
            if unread > 1 and self.holding.left() <= 0:
                # The loop has not come back for two beats: it hangs on a store that does not answer.
                text = "The store has not answered for as long as the lease lasted."
                self.box.fail(StoreUnavailableError(text, code="no_answer"))
                self.tasks.cancel_scope.cancel()
            self.box.beat()

    async def _wait(self) -> None:
        """Wait for an answer, a ring or a beat, and no longer than the next thing that must be done in time."""
        box = self.box
        while not box.full:
            seconds = self._patience()
            if seconds <= 0:
                break
            if self.clock.monotonic() + seconds >= self._next_beat:
                await box.wait()
            else:
                with self.clock.move_on_after(seconds):
                    await box.wait()
        if self.holding.left() <= self.holding.term / 2:
            await self._renew()
        if box.look or box.tick:
            box.look = box.tick = False
            await self.resident.read_inbox(self.store)

    async def _look_again(self) -> bool:
        """The lease was not given back, perhaps because something new waits: read it."""
        before = self.resident.seen
        await self.resident.read_inbox(self.store)
        return any(item.position > before for item in self.resident.inbox)

    def _patience(self) -> float:
        """Seconds until something must be done even if nothing arrives."""
        moments = [self.holding.left() - self.holding.term / 2]
        if self._rest_at is not None:
            moments.append(self._rest_at - self.clock.monotonic())
        budget = self._processing_left()
        if budget is not None:
            moments.append(budget)
        due = next_due(self.resident.state)
        if due is not None:
            moments.append((due - self.holding.now()) / 1e6)
        return min(moments)

    def _processing_left(self) -> float | None:
        run, allowed = self.resident.state.run, self.limits.processing_timeout_s
        if run is None or allowed is None:
            return None
        return allowed - run.used_us / 1e6 - (self.clock.monotonic() - self._used_from)

    async def _out_of_time(self) -> list[Input]:
        """Say what time has run out, and stop for it; behind the results that came within the grace."""
        left = self._processing_left()
        if left is not None and left <= 0:
            await self._cancel_effects()
            return [*self.box.take(), DeadlineReached(StopReason.PROCESSING_TIMEOUT)]
        now = self.clock.monotonic()
        if self._rest_at is not None and self.until is not None and now >= self._rest_at:
            self.drive.stop = "deadline"
            await self._cancel_effects(self.until - now)
            return self.box.take()
        if self.box.told:
            self.drive.stop = "told"
            await self._cancel_effects()
        return []


def _margin(left: float, asked: float | None) -> float:
    """How long before the end to rest; never more than half of what is left."""
    left = max(left, 0.0)
    return min(MARGIN_S, left / 10) if asked is None else min(asked, left / 2)


def _check_known(item: str, input: Input) -> None:
    """Refuse limits that this version does not know: used up, they would be lost to those who do."""
    text = input.limits if isinstance(input, MessageReceived) else None
    if isinstance(input, Instructed) and isinstance(input.what, LimitsChanged):
        text = input.what.limits
    if text is None:
        return
    try:
        limits_of(text)
    except UsageError as error:
        if error.code == "unknown_limit":
            newer = f"Item {item!r} names limits that this KODE does not know; upgrade it. {error.message}"
            raise SchemaTooNewError(newer, item=item) from None


def _taken(transition: Transition) -> dict[str, int]:
    """Which run took which message; what ends a run and what starts the next may share a commit."""
    return {
        str(event.data["item"]): event.run
        for event in transition.events
        if event.type == "message_received" and event.run
    }


async def acknowledge(resident: Resident, holding: Holding, deps: Dependencies) -> None:
    """Note that what waits was seen, though nothing is done about it, so that it wakes nobody again."""
    seen = max((item.position for item in resident.inbox), default=resident.seen)
    if seen <= resident.seen:
        return
    state = resident.state
    await deps.store.commit(
        Commit(
            state=state,
            commit_id=deps.ids.commit_id(),
            version=resident.version,
            fence=holding.lease.fence,
            at=state.updated_at,
            bounds=resident.bounds,
            wake_at=resident.wake_at_of(state),
            seen=seen,
        )
    )
