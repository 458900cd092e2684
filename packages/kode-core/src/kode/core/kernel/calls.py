"""Calls of the open step: plans, slots, answers, decisions, seals, and the message that closes it."""

from __future__ import annotations

import re
from dataclasses import replace

from kode.core.errors import IllegalInputError
from kode.core.kernel.draft import Draft, change_call, first_text
from kode.core.kernel.effects import Deliver, RunTool
from kode.core.kernel.events import Ref
from kode.core.kernel.inputs import (
    ApprovalDecided,
    CallResolved,
    PlannedCall,
    ToolFinished,
    ToolSuspended,
)
from kode.core.kernel.message import Json, ResultContent, TextBlock, ToolResultBlock, ToolUseBlock, Usage
from kode.core.kernel.toolcall import Approval, ApprovalState, Audit, Call, CallStatus, Plan, Wait
from kode.core.kernel.words import Breakpoint, StopReason

__all__ = [
    "add_usage",
    "decide",
    "finish",
    "open_calls",
    "resolve",
    "seal",
    "seal_all",
    "sentence",
    "start_calls",
    "suspend",
]

_REFUSED: dict[str, CallStatus] = {
    "deny": CallStatus.DENIED,
    "unknown": CallStatus.FAILED,
    "invalid": CallStatus.FAILED,
    "limit": CallStatus.FAILED,
}

SEAL_TEXT = {
    CallStatus.PENDING: "It had not been started; it had no effect.",
    CallStatus.APPROVED: "It was approved but had not been started; it had no effect.",
    CallStatus.APPROVAL_REQUIRED: "It was waiting for approval and had not been started; it had no effect.",
    CallStatus.EXECUTING: (
        "It had been started and its outcome is unknown: it may have had none, some or all of its effect. "
        "Look at what is there before running it again."
    ),
    CallStatus.WAITING: "It was handed on and had not been answered; whoever took it may still act.",
}


MAX_SHOWN = 1_000
"""Characters that the model is shown of arguments which a person changed."""


def _texts(text: str) -> tuple[ResultContent, ...]:
    return (TextBlock(text),)


def sentence(what: str, by: str, note: str | None, more: str = "") -> str:
    """Say what happened, by whom and why: ``Denied by Ann: too dear.``. Control characters are escaped."""
    said = f"{what} {_plain(by)}{more}"
    why = _plain(note or "", kept="\n\t").rstrip(".")
    return f"{said}: {why}." if note else f"{said}."


def _plain(text: str, kept: str = "") -> str:
    """A text that cannot pass for more than one line of it, or move the cursor."""
    return _CONTROL.sub(lambda c: c[0] if c[0] in kept else c[0].encode("unicode_escape").decode(), text)


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def add_usage(draft: Draft, usage: Usage) -> None:
    """Count tokens and cost for the run and the agent."""
    draft.usage_total += usage
    if draft.run is not None:
        draft.change_run(usage=draft.run.usage + usage)


# ---- from the reply to the first slot ----------------------------------------------------------------------


def open_calls(draft: Draft, seq: int, uses: list[tuple[int, ToolUseBlock]], planned: tuple[PlannedCall, ...]) -> None:
    """Create the step's calls as planned; what was refused or answered in planning has its result already."""
    run = draft.the_run
    draft.passed.append(Breakpoint.TOOL_PENDING)
    allowed = draft.limits.max_tool_calls_per_run
    made = run.calls + len(uses)
    over = allowed is not None and made > allowed
    draft.change_run(calls=made, over=StopReason.MAX_TOOL_CALLS if over else run.over)
    for number, ((block, use), plan) in enumerate(zip(uses, planned, strict=True), start=run.calls + 1):
        beyond = allowed is not None and number > allowed
        _open_call(draft, seq, block, use, _over_limit(plan, allowed) if beyond else plan)
    close_step(draft)


def _over_limit(planned: PlannedCall, allowed: int | None) -> PlannedCall:
    reason = f"Not run: this run may make {allowed} tool calls and has made them."
    return PlannedCall(planned.block, Plan("limit", reason=reason))


def _open_call(draft: Draft, seq: int, block: int, use: ToolUseBlock, planned: PlannedCall) -> None:
    plan = planned.plan
    call = Call(
        draft.the_run.number, draft.step, draft.next_n, use.id, use.name, seq, block, CallStatus.PENDING,
        plan, draft.at, use.input, planned.input, audit=(Audit(draft.at, CallStatus.PENDING),),
    )  # fmt: skip
    draft.next_n += 1
    draft.calls = (*draft.calls, call)
    id = call.id
    draft.call_records[id] = call
    draft.note("tool_start", call=id, ref=Ref(seq, block), preview_of=planned.input or use.input, tool=use.name)
    if plan.verdict == "ask":
        require_approval(draft, call, plan.reason, kind="permission")
    elif plan.verdict == "answer":
        _close(draft, call, CallStatus.COMPLETED, planned.answer or (), note="answered by a hook")
    elif plan.verdict in _REFUSED:
        text = plan.reason or f"{use.name} was not run: {plan.verdict}."
        _close(
            draft,
            call,
            _REFUSED[plan.verdict],
            planned.answer or _texts(text),
            is_error=True,
            note=plan.verdict,
        )


def require_approval(draft: Draft, call: Call, reason: str | None, *, kind: str) -> None:
    """Put question n+1 to a person; the event rides in the same commit."""
    n = len(call.approvals) + 1
    wait_s = draft.limits.approval_deadline_s
    due = None if wait_s is None else draft.at + round(wait_s * 1e6)
    asked = Approval(n, "recovery" if kind == "recovery" else "permission", due_at=due, reason=reason)
    draft.put_call(call, reason, status=CallStatus.APPROVAL_REQUIRED, approvals=(*call.approvals, asked))
    draft.note(
        "permission_required", call=call.id, ref=Ref(call.seq, call.block), preview_of=reason,
        tool=call.tool, n=n, kind=kind, due_at=due,
    )  # fmt: skip


def start_calls(draft: Draft) -> None:
    """Give free slots away: readers beside one writer, ``max_tool_concurrency`` in all, and as many sub-agents."""
    running = [c for c in draft.calls if c.status is CallStatus.EXECUTING]
    slots = draft.limits.max_tool_concurrency - len(running)
    at_work = [c for c in draft.calls if c.plan.child and c.status in (CallStatus.EXECUTING, CallStatus.WAITING)]
    children = draft.limits.max_tool_concurrency - len(at_work)
    writing = any(not c.plan.readonly for c in running)
    for call in draft.calls:
        if slots <= 0:
            return
        if call.status not in (CallStatus.PENDING, CallStatus.APPROVED) or (writing and not call.plan.readonly):
            continue
        if call.plan.child and children <= 0:
            continue
        draft.passed.append(Breakpoint.PRE_TOOL)
        start_call(draft, call)
        slots -= 1
        children -= call.plan.child
        writing = writing or not call.plan.readonly


def start_call(draft: Draft, call: Call) -> None:
    """Ask the shell to run a call, under the same id (and so the same idempotency key) each time."""
    attempt = draft.attempt()
    draft.put_call(
        call,
        "again" if call.attempts else None,
        status=CallStatus.EXECUTING,
        started_at=draft.at if call.started_at is None else call.started_at,
        attempts=(*call.attempts, str(attempt)),
    )
    timeout = call.plan.timeout_s if call.plan.timeout_s is not None else draft.limits.tool_timeout_s
    draft.start(RunTool(call.id, attempt, timeout))


# ---- answers -----------------------------------------------------------------------------------------------


def finish(draft: Draft, got: ToolFinished) -> None:
    """Take a tool's answer; the shell says ``sealed`` when it cannot vouch for the outcome."""
    call = draft.call(got.effect)
    if call is None or call.status is not CallStatus.EXECUTING:
        draft.late(got.effect, "ToolFinished")
        return
    if got.usage is not None:
        add_usage(draft, got.usage)
        call = replace(call, usage=got.usage)
    if got.sealed is not None:
        seal(draft, call, got.sealed)
    else:
        status = CallStatus.FAILED if got.is_error else CallStatus.COMPLETED
        status = CallStatus.DENIED if got.denied else status
        _close(draft, call, status, got.result, is_error=got.is_error, cut_bytes=got.cut_bytes)
    close_step(draft)


def suspend(draft: Draft, got: ToolSuspended) -> None:
    """The call waits for someone outside; nothing runs for it here."""
    call = draft.call(got.effect)
    if call is None or call.status is not CallStatus.EXECUTING:
        draft.late(got.effect, "ToolSuspended")
        return
    draft.close(call.id)
    draft.put_call(call, "suspended", status=CallStatus.WAITING, wait=Wait(got.due_at, got.child, got.child_uid))
    draft.note("tool_suspended", call=call.id, tool=call.tool, child=got.child)


def resolve(draft: Draft, got: CallResolved) -> None:
    """Close a call from outside: a suspended one, or one whose suspension is not committed yet."""
    call = draft.call(got.call)
    if call is None or call.status not in (CallStatus.EXECUTING, CallStatus.WAITING):
        draft.late(got.call, "CallResolved")
        if got.usage is not None:  # it was spent, though its run is over or has gone on without it
            draft.usage_total += got.usage
        return
    if got.usage is not None:
        add_usage(draft, got.usage)
        call = replace(call, usage=got.usage)
    status = CallStatus.FAILED if got.is_error else CallStatus.COMPLETED
    _close(draft, call, status, got.result, is_error=got.is_error, note="answered from outside")
    close_step(draft)


def decide(draft: Draft, got: ApprovalDecided) -> None:
    """Apply a person's answer to the question that is open; any other answer is refused and noted."""
    call = draft.call(got.call)
    asked = None if call is None else call.approval
    if call is None or asked is None or asked.n != got.n:
        draft.reject(got.item, f"No open question {got.n} of call {got.call}.")
        return
    if got.input is not None and got.plan is None:
        raise IllegalInputError(f"The input of call {got.call} was changed but not planned again; give its plan.")
    allowed = got.decision == "allow"
    call = _answer(draft, call, "approved" if allowed else "refused", got.by, got.note, got.input)
    who = got.by or "someone"
    if not allowed and asked.kind == "recovery":
        seal(draft, call, sentence("Not run again, decided by", who, got.note), known=CallStatus.EXECUTING)
    elif not allowed:
        text = sentence("Denied by", who, got.note)
        _close(draft, call, CallStatus.DENIED, _texts(text), is_error=True, note=got.note)
    elif got.plan is not None and got.plan.verdict in _REFUSED:
        text = got.plan.reason or "The changed input was refused."
        call = replace(call, changed_input=got.input)
        _close(draft, call, _REFUSED[got.plan.verdict], _texts(text), is_error=True, note=got.plan.verdict)
    else:
        changed = call.changed_input if got.input is None else got.input
        plan = call.plan if got.plan is None else got.plan
        draft.put_call(call, got.note, status=CallStatus.APPROVED, changed_input=changed, plan=plan)
    close_step(draft)


def expire(draft: Draft, call: Call) -> None:
    """Nobody answered in time: what was asked about is not done."""
    call = _answer(draft, call, "expired", None, None)
    if call.approvals[-1].kind == "recovery":
        seal(draft, call, "Nobody decided in time whether to run it again.", known=CallStatus.EXECUTING)
    else:
        text = "Not run: nobody approved it in time."
        _close(draft, call, CallStatus.DENIED, _texts(text), is_error=True, note="expired")


def _answer(
    draft: Draft,
    call: Call,
    state: ApprovalState,
    by: str | None,
    note: str | None,
    input: Json | None = None,
) -> Call:
    asked = replace(call.approvals[-1], state=state, by=by, at=draft.at, note=note, input=input)
    draft.note("permission_decided", call=call.id, preview_of=note, n=asked.n, decision=state, by=by)
    return replace(call, approvals=(*call.approvals[:-1], asked))


# ---- closing -----------------------------------------------------------------------------------------------


def seal(draft: Draft, call: Call, reason: str, *, known: CallStatus | None = None) -> None:
    """Close a call whose outcome we do not have, and say to the model what is known of it.

    ``known``: judge by this status instead of its own (a call that asks whether to run again may have run).
    """
    before = known or call.status
    text = f"{reason} {SEAL_TEXT[before]}"
    asked = call.approval
    if asked is not None:
        call = replace(call, approvals=(*call.approvals[:-1], replace(asked, state="superseded", at=draft.at)))
        draft.note("permission_decided", call=call.id, n=asked.n, decision="superseded", by=None)
        if asked.kind == "recovery":
            text = f"{reason} {SEAL_TEXT[CallStatus.EXECUTING]}"
    _interrupt_child(draft, call)
    draft.note("tool_sealed", call=call.id, preview_of=reason, was=before.value)
    call = replace(call, seal_reason=reason)
    _close(draft, call, CallStatus.SEALED, _texts(text), is_error=True, note=reason)


def _interrupt_child(draft: Draft, call: Call) -> None:
    """Stop the sub-agent that works for a call: the one it waits for, or one that its tool may have made already."""
    child = uid = None
    if call.status is CallStatus.WAITING and call.wait is not None:
        child, uid = call.wait.child, call.wait.child_uid
    elif call.plan.child and call.attempts:
        child = f"{draft.uid}/{call.id}"
    if child is not None:
        item = f"interrupt:{draft.uid}:{call.id}"
        draft.start(Deliver(draft.next_id(), draft.attempt(), child, item, "interrupt", uid=uid))


def seal_all(draft: Draft, reason: str) -> int:
    """Seal every unfinished call and close the step; says how many."""
    unfinished = [c for c in draft.calls if not c.status.final]
    for call in unfinished:
        seal(draft, call, reason)
    close_step(draft)
    return len(unfinished)


def _close(
    draft: Draft,
    call: Call,
    status: CallStatus,
    result: tuple[ResultContent, ...],
    *,
    is_error: bool = False,
    cut_bytes: int = 0,
    note: str | None = None,
) -> None:
    id = call.id
    draft.close(id)
    draft.put_call(
        call, note, status=status, result=result, is_error=is_error, cut_bytes=cut_bytes, finished_at=draft.at
    )
    text: str | None = first_text(result)
    if status is CallStatus.FAILED:
        draft.note("tool_error", call=id, preview_of=text, tool=call.tool)
        text = None
    elif status is CallStatus.COMPLETED and call.attempts:
        started = next(line.at for line in reversed(call.audit) if line.status is CallStatus.EXECUTING)
        draft.note("tool_executed", call=id, tool=call.tool, duration_us=draft.at - started)
    draft.note("tool_end", call=id, preview_of=text, tool=call.tool, status=status.value)


def close_step(draft: Draft) -> None:
    """Once every call has its result: one message with all of them, and the records let go of theirs."""
    if not draft.calls or not all(c.status.final for c in draft.calls):
        return
    seq = draft.append("user", tuple(_result_block(c) for c in draft.calls), origin="tools")
    for call in draft.calls:
        draft.call_records[call.id] = change_call(call, input=None, result=None, result_seq=seq)
    draft.calls = ()
    draft.passed.append(Breakpoint.POST_TOOL)
    draft.note("step_complete", ref=Ref(seq))


def _result_block(call: Call) -> ToolResultBlock:
    said = _texts_of_approvers(call) or _text_of_hooks(call)
    return ToolResultBlock(call.provider_id, (*(call.result or ()), *said), call.is_error, call.id)


def _texts_of_approvers(call: Call) -> tuple[ResultContent, ...]:
    """What those said who allowed it: the model sees the arguments that it gave, not those that were run."""
    said = [a for a in call.approvals if a.state == "approved" and (a.note or a.input is not None)]
    return tuple(TextBlock(sentence("Approved by", a.by or "someone", a.note, _instead(a.input))) for a in said)


def _text_of_hooks(call: Call) -> tuple[ResultContent, ...]:
    """Who reads the result must know what it is the result of."""
    ran = call.attempts and call.status in (CallStatus.COMPLETED, CallStatus.FAILED, CallStatus.SEALED)
    if not ran or call.changed_input is None:
        return ()
    return (TextBlock(f"It was run with other arguments than you gave: {_shown(call.changed_input)}."),)


def _instead(input: Json | None) -> str:
    return "" if input is None else f", with other arguments than you gave: {_shown(input)}"


def _shown(input: Json) -> str:
    return input if len(input) <= MAX_SHOWN else f"{input[:MAX_SHOWN]}…"
