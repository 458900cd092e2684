"""Steps: the model's reply taken in, and the decision what to start next."""

from __future__ import annotations

from kode.core.errors import IllegalInputError
from kode.core.kernel.calls import add_usage, open_calls, seal_all, sentence, start_calls
from kode.core.kernel.draft import Draft
from kode.core.kernel.effects import CallModel
from kode.core.kernel.events import Ref
from kode.core.kernel.history import cancel_compaction, request_compaction
from kode.core.kernel.inputs import (
    DeadlineReached,
    InterruptRequested,
    ModelFailed,
    ModelReplied,
    Parked,
    Proceed,
)
from kode.core.kernel.message import ReasoningBlock, TextBlock, ToolUseBlock
from kode.core.kernel.run import end_run, limit_reached, rest_run
from kode.core.kernel.state import RunError
from kode.core.kernel.toolcall import CallStatus
from kode.core.kernel.words import Breakpoint, Status, StopReason

__all__ = ["deadline", "failed", "interrupt", "park", "proceed", "replied", "stop"]


def replied(draft: Draft, got: ModelReplied) -> None:
    """Append the reply; its calls begin their life as planned, a reply without calls ends the run."""
    model = draft.model
    if model is None or model.id != got.effect:
        draft.late(got.effect, "ModelReplied")
        return
    uses = [(i, block) for i, block in enumerate(got.blocks) if isinstance(block, ToolUseBlock)]
    if [i for i, _ in uses] != [planned.block for planned in got.calls]:
        raise IllegalInputError(
            f"ModelReplied plans blocks {[p.block for p in got.calls]}, but its tool uses are {[i for i, _ in uses]}."
        )
    if uses and len({use.id for _, use in uses} - {""}) < len(uses):
        raise IllegalInputError("Each tool use of a reply needs an id of its own; give the later ones new ids.")
    if "tool_result" in [block.type for block in got.blocks]:
        raise IllegalInputError("A model does not answer calls: a reply may not hold tool results.")
    draft.close(model.id)
    _count_step(draft, got)
    seq = None
    if got.blocks:
        seq = draft.append(
            "assistant", got.blocks, provider=got.provider, model=got.model,
            attempt=got.attempt or str(model.attempt), stop_reason=got.stop.value, usage=got.usage,
        )  # fmt: skip
        _note_blocks(draft, seq, got)
    if uses and seq is not None:
        open_calls(draft, seq, uses, got.calls)
        return
    draft.note("step_complete", ref=None if seq is None else Ref(seq))
    end_run(draft, got.stop, answer_seq=seq, output=got.output)


def _count_step(draft: Draft, got: ModelReplied) -> None:
    run, usage = draft.the_run, got.usage
    draft.usage_total += usage
    draft.steps_total += 1
    draft.change_run(steps=run.steps + 1, usage=run.usage + usage)
    draft.tokens = got.tokens or usage.tokens or draft.tokens
    if usage.tokens:
        beside = {name: count for name in _BESIDE if (count := getattr(usage, name))}
        draft.note("token_usage", input=usage.input, output=usage.output, **beside)


_BESIDE = ("cache_read", "cache_write", "reasoning", "cost_nanos")
"""Counts of a reply that most have none of."""


def _note_blocks(draft: Draft, seq: int, got: ModelReplied) -> None:
    for i, block in enumerate(got.blocks):
        if isinstance(block, TextBlock):
            draft.note("text_chunk_end", ref=Ref(seq, i), preview_of=block.text)
        elif isinstance(block, ReasoningBlock):
            draft.note("think_chunk_end", ref=Ref(seq, i))


def failed(draft: Draft, got: ModelFailed) -> None:
    """The provider gave up: the run ends with its error, never with an older answer.

    A request that was too long is made once more, with less in it, if there is anything to leave out.
    """
    model = draft.model
    if model is None or model.id != got.effect:
        draft.late(got.effect, "ModelFailed")
        return
    draft.close(model.id)
    add_usage(draft, got.usage)
    draft.note("error", preview_of=got.error.text, code=got.error.code, phase="model")
    first = model.id == f"{draft.the_run.number}.{draft.step}.0"
    if got.stop is StopReason.CONTEXT_TOO_LONG and first and draft.context.cut is not None:
        request_compaction(draft, draft.context.cut)
        return
    end_run(draft, got.stop, error=got.error)


def proceed(draft: Draft, got: Proceed) -> None:
    """All that has arrived was offered: start what may start now.

    The only place that asks for a model call or gives slots away: what arrives together is seen together.
    """
    if draft.parked is not None:
        return
    if draft.calls:
        if not got.hold:
            start_calls(draft)
    elif draft.run is not None and draft.model is None and not _compacting(draft):
        reason = limit_reached(draft)
        if reason is not None:
            end_run(draft, reason)
        elif draft.context.full and draft.context.cut is not None:
            request_compaction(draft, draft.context.cut)
        else:
            _ask_model(draft)
    if draft.run is None:
        return
    if draft.status is Status.PAUSED:
        asked = any(c.status is CallStatus.APPROVAL_REQUIRED for c in draft.calls)
        rest_run(draft, StopReason.APPROVAL if asked else StopReason.SUSPENDED)
    elif draft.run.resting is not None and not (got.hold and draft.run.resting is StopReason.DEADLINE):
        draft.change_run(resting=None)


def _compacting(draft: Draft) -> bool:
    return any(e.kind == "CompactHistory" for e in draft.effects)


def _ask_model(draft: Draft) -> None:
    if draft.step == draft.the_run.steps:  # else this step was asked before, and its request was too long
        draft.step += 1
        draft.next_n = 0
    draft.passed.append(Breakpoint.PRE_MODEL)
    draft.start(CallModel(draft.next_id(), draft.attempt(), draft.next_seq, draft.limits.model_timeout_s))


def interrupt(draft: Draft, got: InterruptRequested) -> None:
    """End the run: the model is not listened to any more, what has not answered is sealed.

    Between runs there is only a compaction to stop.
    """
    if draft.run is None:
        if _compacting(draft):
            cancel_compaction(draft)
        else:
            draft.reject(got.item, "There is no run to interrupt.")
        return
    stop(draft, StopReason.INTERRUPTED, sentence("Interrupted by", got.by or "a request", got.note))


def stop(draft: Draft, reason: StopReason, text: str) -> None:
    """Close whatever the run has open, and end it; ``text`` says why to the model and to people."""
    seal_all(draft, text)
    for effect in draft.effects:
        if effect.kind == "CallModel":
            draft.close(effect.id)
    cancel_compaction(draft)
    end_run(draft, reason, error=RunError(reason.value, text))


def deadline(draft: Draft, got: DeadlineReached) -> None:
    """``processing_timeout`` ends the run; ``deadline`` only rests it, whoever comes next goes on."""
    if got.reason is StopReason.PROCESSING_TIMEOUT:
        stop(draft, got.reason, "The run's processing time was used up.")
    elif got.reason is StopReason.DEADLINE:
        rest_run(draft, got.reason)
    else:
        raise IllegalInputError(f"A deadline is reached for reason deadline or processing_timeout, not {got.reason}.")


def park(draft: Draft, got: Parked) -> None:
    """Stop waking up for this agent until someone resumes it by hand."""
    draft.parked = got.reason
    rest_run(draft, got.reason)
    draft.note("agent_parked", reason=got.reason.value)
