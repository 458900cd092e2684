"""The machine: ``transition`` applies one input, ``advance`` a batch. Pure functions of values.

``advance`` is what a driver calls: it offers all that has arrived, offers again what had to wait, lets the
agent proceed, and says what changed. Its result is one commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kode.core.errors import IllegalInputError
from kode.core.kernel.draft import Context, Draft
from kode.core.kernel.effects import Effect
from kode.core.kernel.events import Event
from kode.core.kernel.history import may_fire, timer_moment
from kode.core.kernel.inputs import Input, Instructed, Proceed
from kode.core.kernel.message import Message
from kode.core.kernel.state import RunRecord, State
from kode.core.kernel.step import proceed
from kode.core.kernel.table import LATE, POSTPONE, REJECT, cell
from kode.core.kernel.toolcall import Call
from kode.core.kernel.window import Compaction, Snapshot
from kode.core.kernel.words import Breakpoint, Status
from kode.core.quick import quick

__all__ = ["Context", "Transition", "advance", "next_due", "transition", "wake_at"]


@quick
@dataclass(frozen=True, slots=True)
class Transition:
    """What an application of inputs made: the next state, what to store with it, what to do after that."""

    state: State
    effects: tuple[Effect, ...]
    """To start once this is durable; they are open in ``state``."""
    events: tuple[Event, ...]
    """Durable events, numbered."""
    messages: tuple[Message, ...] = ()
    calls: tuple[Call, ...] = ()
    runs: tuple[RunRecord, ...] = ()
    compactions: tuple[Compaction, ...] = ()
    snapshots: tuple[Snapshot, ...] = ()
    postponed: tuple[Input, ...] = ()
    """Inputs that must wait; their inbox items are not used up."""


def transition(state: State, input: Input, context: Context) -> Transition:
    """Apply one input.

    Raises:
        IllegalInputError: The table forbids it in this phase, or it contradicts itself; nothing changed.
    """
    draft = Draft(state, context)
    taken = _apply(draft, input)
    return _finish(draft, () if taken else (input,))


def advance(state: State, inputs: Sequence[Input], context: Context, *, hold: bool = False) -> Transition:
    """Apply a batch and proceed.

    Args:
        state: What it applies to; it is not changed.
        inputs: In the order of arrival. What must wait is offered again after each change of phase.
        context: Time, fence and bounds of this batch.
        hold: Start nothing (the driver is about to stop); a model call is journaled at most.

    Raises:
        IllegalInputError: As ``transition``; nothing of the batch was applied.
    """
    draft = Draft(state, context)
    before, was = draft.status, draft.breakpoint
    waiting = _offer(draft, inputs)
    proceed(draft, Proceed(hold))
    _note_changes(draft, before, was)
    return _finish(draft, tuple(waiting))


def _offer(draft: Draft, inputs: Sequence[Input]) -> list[Input]:
    """Offer each input in its turn; what had to wait goes before what came later, once the phase allows."""
    waiting: list[Input] = []
    for input in inputs:
        phase = draft.phase
        if not _apply(draft, input):
            waiting.append(input)
        elif waiting and draft.phase is not phase:
            waiting = _offer(draft, waiting)
    return waiting


def _apply(draft: Draft, input: Input) -> bool:
    if isinstance(input, Instructed):
        return _obey(draft, input)
    what = cell(input, draft.phase)
    if callable(what):
        what(draft, input)
        return True
    if what == POSTPONE:
        return False
    name = type(input).__name__
    if what == LATE:
        draft.late(_subject(input, "effect", "call"), name)
    elif what == REJECT:
        draft.reject(_subject(input, "item"), f"{name} finds nothing to act on: the agent is {draft.phase}.")
    else:
        raise IllegalInputError(
            f"{name} is illegal while the agent is {draft.phase}.", input=name, phase=draft.phase.value
        )
    return True


def _obey(draft: Draft, input: Instructed) -> bool:
    """Apply what somebody asked for; what is illegal is theirs to mend, not the shell's."""
    try:
        return _apply(draft, input.what)
    except IllegalInputError as error:
        draft.reject(input.item, error.message)
        return True


def _subject(input: Input, *names: str) -> str:
    return next((str(getattr(input, name)) for name in names if hasattr(input, name)), "")


def _note_changes(draft: Draft, status: Status, was: Breakpoint) -> None:
    stages = [was]
    for stage in (*draft.passed, draft.breakpoint):
        if stage is not stages[-1]:
            stages.append(stage)
    if stages[1:]:
        between: dict[str, Any] = {"passed": " ".join(stages[1:-1])} if stages[2:] else {}
        draft.note("breakpoint_changed", previous=str(was), current=str(stages[-1]), **between)
    now = draft.status
    if now is not status:
        draft.note("state_changed", previous=str(status), current=str(now))


def _finish(draft: Draft, postponed: tuple[Input, ...]) -> Transition:
    return Transition(
        state=draft.finish(),
        effects=tuple(draft.started),
        events=tuple(draft.events),
        messages=tuple(draft.messages),
        calls=tuple(draft.call_records.values()),
        runs=tuple(draft.runs.values()),
        compactions=tuple(draft.compactions),
        snapshots=tuple(draft.snapshots),
        postponed=postponed,
    )


def wake_at(state: State) -> int | None:
    """The earliest moment at which this state wants a driver; ``state.updated_at`` means now, None never.

    What waits in the inbox is the store's to add.
    """
    if state.parked is not None:
        return None
    waits = state.status is Status.PAUSED
    if state.effects or (state.run is not None and not waits):
        return state.updated_at
    return next_due(state)


def next_due(state: State) -> int | None:
    """The earliest deadline or timer that ``TimePassed`` would act on; None: there is none."""
    if not (state.timers or state.calls):
        return None
    armed = [timer_moment(t, state.steps_total) for t in state.timers if may_fire(state.phase, t)]
    moments = [moment for moment in armed if moment is not None]
    for call in state.calls:
        if call.approval is not None and call.approval.due_at is not None:
            moments.append(call.approval.due_at)
        elif call.wait_due_at is not None:
            moments.append(call.wait_due_at)
    return min(moments, default=None)
