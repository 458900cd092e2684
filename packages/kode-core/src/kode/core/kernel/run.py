"""Runs: how one starts, rests and ends, and the limits that end it."""

from __future__ import annotations

from dataclasses import replace

from kode.core.errors import UsageError
from kode.core.kernel.draft import Draft, first_text
from kode.core.kernel.effects import Deliver
from kode.core.kernel.events import Ref
from kode.core.kernel.inputs import MessageReceived
from kode.core.kernel.limits import limits_of
from kode.core.kernel.message import Json
from kode.core.kernel.state import Parent, Run, RunError, RunRecord
from kode.core.kernel.toolcall import CallStatus
from kode.core.kernel.words import RESULT_STATUS, StopReason

__all__ = ["end_run", "limit_reached", "rest_run", "start_run", "take_message"]


_MODELS_OWN = frozenset({"tool_use", "tool_result", "reasoning"})


def take_message(draft: Draft, got: MessageReceived) -> None:
    """Append a message; a user's message starts a run where there is none."""
    if not got.blocks or any(block.type in _MODELS_OWN for block in got.blocks):
        draft.reject(got.item, "A message needs blocks, and none that only a model or a tool may make.")
        return
    if got.limits is not None and (problem := _unreadable(got.limits)):
        # A bound that cannot be read must not be taken for none.
        draft.reject(got.item, problem)
        return
    if draft.run is None and got.kind == "user":
        start_run(draft, got.context, got.item, got.limits)
    if draft.run is not None:
        draft.change_run(taken=draft.run.taken + 1)
    origin = "inbox" if got.kind == "user" else "reminder"
    seq = draft.append("user", got.blocks, origin=f"{origin}:{got.item}", sender=got.sender, metadata=got.metadata)
    draft.note(
        "message_received" if got.kind == "user" else "reminder_sent",
        ref=Ref(seq),
        preview_of=first_text(got.blocks),
        item=got.item,
        sender=got.sender,
    )


def start_run(draft: Draft, context: Json | None = None, item: str | None = None, limits: Json | None = None) -> None:
    """Open the next run."""
    draft.run = Run(
        draft.next_run,
        draft.at,
        draft.next_seq,
        draft.next_cursor,
        item=item,
        context=_small(context),
        limits=limits,
    )
    draft.next_run += 1
    draft.step = 0
    draft.next_n = 0
    draft.note("run_started")


MAX_CONTEXT = 1_024
"""Characters of trace context, and of limits, that a run carries in the header."""


def _unreadable(limits: Json) -> str | None:
    if len(limits) > MAX_CONTEXT:
        return f"The limits have {len(limits):,} characters; at most {MAX_CONTEXT:,} are taken."
    try:
        limits_of(limits)
    except UsageError as error:
        return error.message
    return None


def _small(text: Json | None) -> Json | None:
    return text if text is None or len(text) <= MAX_CONTEXT else None


def limit_reached(draft: Draft) -> StopReason | None:
    """The bound that forbids another step, if one does."""
    run, limits, total = draft.the_run, draft.limits, draft.usage_total
    if run.over is not None:
        return run.over
    bounds = (
        (StopReason.MAX_STEPS, limits.max_steps_per_run, run.steps),
        (StopReason.MAX_TOKENS, limits.max_tokens_per_run, run.usage.tokens),
        (StopReason.MAX_TOKENS, limits.max_tokens_per_agent, total.tokens),
        (StopReason.MAX_COST, limits.max_cost_per_run, run.usage.cost_nanos / 1e9),
        (StopReason.MAX_COST, limits.max_cost_per_agent, total.cost_nanos / 1e9),
    )
    return next((why for why, bound, used in bounds if bound is not None and used >= bound), None)


def rest_run(draft: Draft, reason: StopReason) -> None:
    """Write down why the run rests; its number and counters go on when it does."""
    run = draft.run
    if run is None or (run.resting is reason and not draft.call_records):
        return
    draft.change_run(resting=reason)
    draft.runs[run.number] = _record(draft, run, reason)


def end_run(
    draft: Draft,
    reason: StopReason,
    *,
    answer_seq: int | None = None,
    output: Json | None = None,
    error: RunError | None = None,
) -> None:
    """End the run for good, tell observers, and answer the parent that waits for it."""
    run = draft.the_run
    draft.note(
        "done", ref=None if answer_seq is None else Ref(answer_seq),
        preview_of=None if error is None else error.text, reason=reason.value, status=RESULT_STATUS[reason],
    )  # fmt: skip
    record = _record(draft, run, reason)
    draft.runs[run.number] = replace(
        record, ended_at=draft.at, answer_seq=answer_seq, output=output, error=error, pending=(), waiting=()
    )
    if draft.parent is not None and not draft.parent.answered:
        _answer_parent(draft, draft.parent, run.number)
    draft.run = None
    draft.parked = None


def _answer_parent(draft: Draft, parent: Parent, number: int) -> None:
    """Ask for the run's answer to be put into the parent's inbox, once."""
    draft.parent = replace(parent, answered=True)
    item = f"answer:{draft.uid}"
    id = draft.next_id()
    draft.start(Deliver(id, draft.attempt(), parent.agent_id, item, "resolve", parent.call, parent.uid, number))


def _record(draft: Draft, run: Run, reason: StopReason) -> RunRecord:
    pending = tuple(c.id for c in draft.calls if c.status is CallStatus.APPROVAL_REQUIRED)
    waiting = tuple(c.id for c in draft.calls if c.status is CallStatus.WAITING)
    return RunRecord(
        number=run.number,
        status=RESULT_STATUS[reason],
        stop_reason=reason,
        started_at=run.started_at,
        ended_at=None,
        item=run.item,
        taken=run.taken,
        first_seq=run.first_seq,
        last_seq=draft.next_seq - 1,
        first_cursor=run.first_cursor,
        last_cursor=draft.next_cursor - 1,
        steps=run.steps,
        calls=run.calls,
        usage=run.usage,
        used_us=run.used_us,
        pending=pending,
        waiting=waiting,
        context=run.context,
    )
