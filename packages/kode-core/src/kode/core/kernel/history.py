"""The window and what is beside the run: compaction, snapshots, reverts, documents, timers, deliveries."""

from __future__ import annotations

from dataclasses import replace

from kode.core.errors import IllegalInputError
from kode.core.kernel.calls import add_usage, close_step, expire, seal
from kode.core.kernel.draft import Draft
from kode.core.kernel.effects import CompactHistory, Deliver
from kode.core.kernel.events import Ref
from kode.core.kernel.inputs import (
    CompactionFailed,
    CompactionRequested,
    Delivered,
    DocumentsChanged,
    HistoryCompacted,
    LimitsChanged,
    Noted,
    Reverted,
    SandboxBound,
    SnapshotTaken,
    TimePassed,
    TimerCancelled,
    TimerSet,
    TodosSet,
)
from kode.core.kernel.message import TextBlock
from kode.core.kernel.run import start_run
from kode.core.kernel.state import Timer
from kode.core.kernel.window import Compaction, Snapshot, check_window
from kode.core.kernel.words import Phase

__all__ = [
    "adopt_events",
    "bind_sandbox",
    "cancel_compaction",
    "cancel_timer",
    "change_documents",
    "change_limits",
    "compacted",
    "compaction_failed",
    "delivered",
    "request_compaction",
    "revert",
    "set_timer",
    "set_todos",
    "take_snapshot",
    "time_passed",
]


# What lies in the header is written with every commit, so it is bounded.
MAX_TIMERS = 32
MAX_TIMER_DATA = 1_000
MAX_TIMER_WORDS = 256
"""Characters of a timer's id, and of its schedule."""
RESERVED = "kode:"
"""Ids of the runtime's own timers begin so; they take no place from the others."""
TODO_TIMER = f"{RESERVED}todos"
"""Id of the timer that reminds the model of open todos; the shell sets it."""
MAX_DOCUMENTS = 64
LAST_MOMENT = 2**58
"""Microseconds: beyond the year 9999, and within what every store takes as a number."""


# ---- compaction --------------------------------------------------------------------------------------------


def request_compaction(draft: Draft, got: CompactionRequested) -> None:
    """Ask for a summary of a closed range; the window moves when it is there."""
    if any(e.kind == "CompactHistory" for e in draft.effects):
        raise IllegalInputError("A compaction is open already.")
    if got.stop == 0 and draft.context.cut is not None:
        got = draft.context.cut
    if not draft.first_seq <= got.start < got.stop <= draft.next_seq:
        raise IllegalInputError(
            f"Cannot compact messages {got.start} to {got.stop}: there are {draft.first_seq} to {draft.next_seq}, "
            "and what is shown of them can be cut between two steps only."
        )
    timeout_s = draft.limits.model_timeout_s
    effect = CompactHistory(draft.next_id(), draft.attempt(), got.start, got.stop, got.method, timeout_s)
    draft.start(effect)
    draft.note("context_compression", phase="start", start=got.start, stop=got.stop)


def compacted(draft: Draft, got: HistoryCompacted) -> None:
    """Record the summary and move the window behind it; the history stays."""
    effect = draft.effect(got.effect)
    if not isinstance(effect, CompactHistory):
        draft.late(got.effect, "HistoryCompacted")
        return
    draft.close(effect.id)
    if got.usage is not None:
        add_usage(draft, got.usage)
    before = draft.window
    draft.compactions.append(
        Compaction(
            got.id,
            effect.start,
            effect.stop,
            draft.at,
            got.summary,
            got.method,
            before,
            got.model,
            got.usage,
            got.tokens_before,
            got.tokens_after,
        )
    )
    draft.window = before.without(effect.start, effect.stop, got.id, got.pinned)
    draft.tokens = got.tokens_after
    draft.note("context_compression", phase="end", id=got.id, method=got.method, start=effect.start, stop=effect.stop)


def compaction_failed(draft: Draft, got: CompactionFailed) -> None:
    """The window stays; the run goes on with it."""
    if not isinstance(draft.effect(got.effect), CompactHistory):
        draft.late(got.effect, "CompactionFailed")
        return
    draft.close(got.effect)
    draft.note("error", preview_of=got.error.text, code=got.error.code, phase="compaction")


def cancel_compaction(draft: Draft) -> None:
    """Let go of an open compaction: its summary would not fit the window any more, or nobody waits for it."""
    for effect in draft.effects:
        if effect.kind == "CompactHistory":
            draft.close(effect.id)
            draft.note("context_compression", phase="cancelled", start=effect.start, stop=effect.stop)


# ---- snapshots and documents -------------------------------------------------------------------------------


def take_snapshot(draft: Draft, got: SnapshotTaken) -> None:
    """Name this safe point."""
    documents = tuple((d.kind, d.name, d.digest) for d in draft.documents)
    draft.snapshots.append(
        Snapshot(
            got.id,
            draft.next_seq,
            draft.at,
            draft.window,
            documents,
            got.tags,
            got.parent,
            draft.tokens,
            draft.template,
        )
    )
    draft.note("snapshot_created", id=got.id, seq=draft.next_seq)


def revert(draft: Draft, got: Reverted) -> None:
    """Take an older window and its documents; every counter goes on."""
    check_window(got.window, draft.next_seq, draft.first_seq)
    cancel_compaction(draft)
    draft.window = got.window
    draft.documents = got.documents
    draft.tokens = got.tokens
    # It quotes the list of todos that was: there may be another one now. The next change of the list sets it again.
    draft.timers = tuple(t for t in draft.timers if t.id != TODO_TIMER)
    draft.note("agent_reverted", to=got.to)


def change_documents(draft: Draft, got: DocumentsChanged) -> None:
    """Name the documents of this commit, and forget those removed."""
    table = {(d.kind, d.name): d for d in draft.documents}
    for key in got.removed:
        table.pop(key, None)
    table.update({(d.kind, d.name): d for d in got.documents})
    if len(table) > MAX_DOCUMENTS:
        raise IllegalInputError(f"An agent names at most {MAX_DOCUMENTS} documents; this makes {len(table)}.")
    draft.documents = tuple(table.values())
    draft.note("documents_changed", count=len(got.documents), removed=len(got.removed))


def change_limits(draft: Draft, got: LimitsChanged) -> None:
    """Tell observers. The bounds themselves come with the context of each batch."""
    draft.note("limits_changed", preview_of=got.limits)


def set_todos(_draft: Draft, _got: TodosSet) -> None:
    """Nothing to do: the list is a document, and what is said of it rides with that."""


def bind_sandbox(draft: Draft, got: SandboxBound) -> None:
    """Remember how the sandbox's processes are found after a crash."""
    draft.sandbox_ref = got.ref


def adopt_events(draft: Draft, got: Noted) -> None:
    """Store events that the shell found."""
    for event in got.events:
        if not event.durable:
            raise IllegalInputError(f"{event.type!r} is a live event; only durable ones ride in a commit.")
        draft.adopt(event)


# ---- time --------------------------------------------------------------------------------------------------


def time_passed(draft: Draft, got: TimePassed) -> None:
    """Fire what is due: approvals expire, waits are sealed, timers speak."""
    for call in draft.calls:
        asked = call.approval
        if asked is not None and asked.due_at is not None and asked.due_at <= draft.at:
            expire(draft, call)
        elif call.wait_due_at is not None and call.wait_due_at <= draft.at:
            seal(draft, call, "No answer came in time.")
    close_step(draft)
    said = dict(got.next)
    for timer in draft.timers:
        moment = timer_moment(timer, draft.steps_total)
        if moment is None or moment > draft.at or not may_fire(draft.phase, timer):
            continue
        if timer.schedule is None or timer.id in said:
            # One by schedule fires in the commit that says when again, or waits for a shell that can read it.
            _fire(draft, timer, said.get(timer.id))


def timer_moment(timer: Timer, steps: int) -> int | None:
    """When a timer is due: 0 once the agent has made its steps, else its time; None: not armed."""
    if timer.due_step is not None and steps >= timer.due_step:
        return 0
    return timer.due_at


def may_fire(phase: Phase, timer: Timer) -> bool:
    """A timer that speaks waits for the end of the step, like a message; a signal never waits.

    A reminder that comes again and again also waits for a run: else it would pile up while nobody is shown it.
    """
    again = timer.every_us is not None or timer.schedule is not None
    if timer.kind == "reminder" and again and phase is Phase.IDLE:
        return False
    return timer.kind == "signal" or phase in (Phase.IDLE, Phase.BOUNDARY)


def _fire(draft: Draft, timer: Timer, said: int | None) -> None:
    again = _again(timer, draft, said)
    draft.timers = (*(t for t in draft.timers if t.id != timer.id), *again)
    if timer.kind == "message" and draft.run is None:
        start_run(draft)
    ref = None
    if timer.kind != "signal":
        ref = Ref(draft.append("user", (TextBlock(timer.data),), origin=f"timer:{timer.id}"))
    told = "todo_reminder" if timer.id == TODO_TIMER else "scheduler_triggered"
    draft.note(
        told, ref=ref, preview_of=timer.data or None, id=timer.id, kind=timer.kind, due_at=timer.due_at,
        next_at=again[0].due_at if again else None, missed=_missed(timer, draft) or None,
    )  # fmt: skip


def _missed(timer: Timer, draft: Draft) -> int:
    """How many times of a fixed interval went by unfired since the one that fires now."""
    return max(draft.at - (timer.due_at or 0), 0) // timer.every_us if timer.every_us else 0


def _again(timer: Timer, draft: Draft, said: int | None) -> tuple[Timer, ...]:
    """The timer's next time, armed in the commit in which it fired; times slept through are skipped."""
    if timer.every_steps is not None:
        return (replace(timer, due_step=draft.steps_total + timer.every_steps),)
    if timer.schedule is not None:
        return () if said is None else (replace(timer, due_at=said),)
    if timer.every_us is None or timer.due_at is None:
        return ()
    return (replace(timer, due_at=timer.due_at + (_missed(timer, draft) + 1) * timer.every_us),)


def set_timer(draft: Draft, got: TimerSet) -> None:
    """Set a timer, or replace the one of that id."""
    if got.kind != "signal" and not got.data:
        raise IllegalInputError(f"Timer {got.id!r} is to speak, but has no text; give `data`, or kind `signal`.")
    for every in (got.every_us, got.every_steps):
        if every is not None and every < 1:
            raise IllegalInputError(f"Timer {got.id!r} repeats every {every}; give at least 1.")
    if got.due_at is not None and abs(got.due_at) >= LAST_MOMENT:
        raise IllegalInputError(f"Timer {got.id!r} is due at {got.due_at} µs, which is no date; give less than 2**58.")
    if got.schedule is not None and got.due_at is None:
        raise IllegalInputError(f"Timer {got.id!r} has a schedule but no first time; give `due_at`.")
    if max(len(got.id), len(got.schedule or "")) > MAX_TIMER_WORDS:
        raise IllegalInputError(
            f"Timer {got.id[:50]!r}: its id and its schedule have at most {MAX_TIMER_WORDS} characters each."
        )
    others = [t for t in draft.timers if t.id != got.id]
    full = not got.id.startswith(RESERVED) and sum(not t.id.startswith(RESERVED) for t in others) >= MAX_TIMERS
    if len(got.data) > MAX_TIMER_DATA or full:
        raise IllegalInputError(
            f"Timer {got.id!r}: an agent has at most {MAX_TIMERS} timers with {MAX_TIMER_DATA} characters each, "
            "for they lie in its header; keep a longer text in a document."
        )
    timer = Timer(got.id, got.due_at, got.kind, got.data, got.every_us, got.schedule, got.due_step, got.every_steps)
    draft.timers = (*others, timer)


def cancel_timer(draft: Draft, got: TimerCancelled) -> None:
    """Take a timer away."""
    draft.timers = tuple(t for t in draft.timers if t.id != got.id)


# ---- other agents ------------------------------------------------------------------------------------------


def delivered(draft: Draft, got: Delivered) -> None:
    """The item is where it belongs, or can never be: either way nobody waits here."""
    effect = draft.effect(got.effect)
    if not isinstance(effect, Deliver):
        draft.late(got.effect, "Delivered")
        return
    draft.close(effect.id)
    if got.outcome != "ok":
        text = None if got.error is None else got.error.text
        draft.note("delivery_failed", preview_of=text, target=effect.target, outcome=got.outcome)
