"""Calls: plans, slots, answers, decisions, suspensions, seals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kode.core.errors import IllegalInputError
from kode.core.kernel.effects import Deliver
from kode.core.kernel.inputs import (
    ApprovalDecided,
    CallResolved,
    Delivered,
    InterruptRequested,
    PlannedCall,
    TimePassed,
    ToolFinished,
    ToolSuspended,
)
from kode.core.kernel.machine import next_due, wake_at
from kode.core.kernel.message import Json, TextBlock, ToolResultBlock, ToolUseBlock, Usage
from kode.core.kernel.toolcall import Call, CallStatus, Plan, call_id
from kode.core.kernel.words import Breakpoint, Phase, Status, StopReason

WRITE = Plan("allow")
READ = Plan("allow", readonly=True)
ASK = Plan("ask", reason="It writes.")
TEXT = (TextBlock("answer"),)


def decided(call: Call, decision: Any = "allow", **more: Any) -> ApprovalDecided:
    return ApprovalDecided(f"decision:{call.id}:{len(call.approvals)}", call.id, len(call.approvals), decision, **more)


# ---- plans


@pytest.mark.parametrize(
    ("plan", "status", "text"),
    [
        (Plan("deny", reason="The policy denies write."), "DENIED", "The policy denies write."),
        (Plan("deny"), "DENIED", "write was not run: deny."),
        (Plan("unknown", reason="No tool of that name."), "FAILED", "No tool of that name."),
        (Plan("invalid", reason="`a` is missing."), "FAILED", "`a` is missing."),
    ],
)
def test_what_planning_refused_is_answered_in_the_reply_s_commit(play: Any, plan: Plan, status: str, text: str) -> None:
    play.say()
    got = play.reply(plan)
    assert [c.status for c in got.calls] == [status]
    assert play.texts() == [text]
    assert play.history[-1].blocks[0].is_error
    assert play.state.model is not None, "the next step was asked for in the same commit"


def test_a_plan_may_bring_the_answer(play: Any) -> None:
    play.say()
    reply = play.replied(Plan("answer"), Plan("deny"), Plan("answer"))
    answers = (replace(reply.calls[0], answer=TEXT), replace(reply.calls[1], answer=TEXT), reply.calls[2])
    got = play.feed(replace(reply, calls=answers))
    assert [c.status for c in got.calls] == ["COMPLETED", "DENIED", "COMPLETED"]
    first, second, third = play.history[-1].blocks
    assert (first.content, first.is_error) == (TEXT, False)
    assert (second.content, second.is_error) == (TEXT, True)
    assert third == ToolResultBlock("t2", (), False, "1.1.3")
    assert "tool_executed" not in play.types(got), "it did not run"


def test_a_hook_s_input_is_kept_beside_the_model_s(play: Any) -> None:
    play.say()
    reply = play.replied(WRITE)
    play.feed(replace(reply, calls=(PlannedCall(1, WRITE, Json('{"n":9}')),)))
    assert (play.call().input, play.call().changed_input) == ('{"n":0}', '{"n":9}')


def test_a_reply_that_contradicts_itself_is_illegal(play: Any) -> None:
    play.say()
    reply = play.replied(WRITE, WRITE)
    for wrong, match in (
        (replace(reply, calls=reply.calls[:1]), r"plans blocks \[1\], but its tool uses are \[1, 2\]"),
        (replace(reply, blocks=(reply.blocks[0], reply.blocks[1], reply.blocks[1])), "an id of its own"),
        (replace(reply, blocks=(*reply.blocks[:2], ToolUseBlock("", "x", Json("{}")))), "an id of its own"),
        (replace(reply, blocks=(ToolResultBlock("t", ()), *reply.blocks[1:])), "may not hold tool results"),
    ):
        with pytest.raises(IllegalInputError, match=match):
            play.feed(wrong)
    assert play.state.model is not None


# ---- slots


def test_slots_are_given_in_the_order_of_the_reply(new_play: Any) -> None:
    play = new_play(max_tool_concurrency=2)
    play.acting(READ, READ, READ)
    assert play.statuses == ["EXECUTING", "EXECUTING", "PENDING"]
    got = play.feed(play.finished(2))
    assert play.statuses == ["EXECUTING", "COMPLETED", "EXECUTING"]
    assert [e.id for e in got.effects] == ["1.1.3"]


def test_readers_run_beside_one_writer(play: Any) -> None:
    play.acting(WRITE, WRITE, READ)
    assert play.statuses == ["EXECUTING", "PENDING", "EXECUTING"]
    play.feed(play.finished(1))
    assert play.statuses == ["COMPLETED", "EXECUTING", "EXECUTING"]


def test_a_call_s_own_time_out_goes_before_the_limit(new_play: Any) -> None:
    play = new_play(tool_timeout_s=9.0)
    play.acting(READ, Plan("allow", readonly=True, timeout_s=1.5))
    assert [e.timeout_s for e in play.state.effects] == [9.0, 1.5]


def test_hold_starts_no_tool(play: Any) -> None:
    play.say()
    got = play.feed(play.replied(WRITE), hold=True)
    assert got.effects == ()
    assert (play.statuses, play.state.status) == (["PENDING"], Status.WORKING)
    assert play.state.breakpoint is Breakpoint.TOOL_PENDING
    assert wake_at(play.state) == play.at, "another driver is wanted at once"
    assert [e.id for e in play.feed().effects] == ["1.1.1"]


# ---- answers


def test_results_are_one_message_in_the_order_of_the_reply(play: Any) -> None:
    play.acting(READ, READ)
    got = play.feed(play.finished(2, "second"))
    assert got.messages == ()
    got = play.feed(play.finished(1, "first", is_error=True, cut_bytes=7, usage=Usage(1, 2)))
    assert play.texts() == ["first", "second"]
    assert [b.tool_use_id for b in play.history[-1].blocks] == ["t0", "t1"]
    assert play.history[-1].origin == "tools"
    first = play.records["1.1.1"]
    assert (first.status, first.is_error, first.cut_bytes, first.result_seq) == ("FAILED", True, 7, 2)
    assert (first.input, first.result) == (None, None), "the history has them"
    assert play.state.run.usage == Usage(11, 7)
    assert play.types(got) == ["tool_error", "tool_end", "step_complete", "breakpoint_changed"]


def test_a_tool_that_cannot_vouch_for_its_outcome_is_sealed(play: Any) -> None:
    play.acting(WRITE)
    got = play.feed(play.finished(sealed="It did not stop when told."))
    assert play.records["1.1.1"].seal_reason == "It did not stop when told."
    assert "outcome is unknown" in play.texts()[0]
    assert play.types(got)[0] == "tool_sealed"


def test_answers_to_closed_calls_are_late(play: Any) -> None:
    play.acting(READ, READ)
    answer = play.finished(1)
    play.feed(answer)
    for again in (answer, ToolSuspended("1.1.1"), CallResolved("r", "1.1.1", TEXT)):
        got = play.feed(again)
        assert [(e.type, e.data["effect"]) for e in got.events] == [("late_answer", "1.1.1")]
    play.feed(play.finished(2))
    assert play.texts() == ["done", "done"]


def test_what_a_late_answer_used_counts_for_the_agent_and_for_no_run(play: Any) -> None:
    """A sub-agent that was interrupted tells what it had used when nobody waits for it any more."""
    play.acting(WRITE)
    play.feed(ToolSuspended("1.1.1", child="c"))
    play.feed(InterruptRequested("stop"))
    before, phase = play.state.usage_total, play.state.phase
    got = play.feed(CallResolved("answer", "1.1.1", TEXT, usage=Usage(100, 1)))
    assert play.types(got) == ["late_answer"]
    assert (phase, play.state.usage_total) == (Phase.IDLE, before + Usage(100, 1))
    play.acting(WRITE)
    used = play.state.run.usage
    play.feed(CallResolved("other", "1.1.1", TEXT, usage=Usage(10)))
    assert play.state.run.usage == used, "it is another run's"


# ---- suspended


def test_a_suspended_call_waits_on_no_machine(play: Any) -> None:
    play.acting(WRITE)
    got = play.feed(ToolSuspended("1.1.1", child="uid/1.1.1"))
    assert (play.statuses, play.state.status, play.state.effects) == (["WAITING"], Status.PAUSED, ())
    assert (play.state.breakpoint, wake_at(play.state)) == (Breakpoint.TOOL_EXECUTING, None)
    (record,) = got.runs
    assert (record.status, record.stop_reason, record.waiting) == ("paused", "suspended", ("1.1.1",))
    got = play.feed(CallResolved("answer", "1.1.1", TEXT, usage=Usage(100, 1)))
    assert play.texts() == ["answer"]
    assert play.state.run.usage == Usage(110, 6)
    assert play.state.run.resting is None
    assert play.records["1.1.1"].wait.child == "uid/1.1.1", "the record names the child for ever"


def test_a_child_may_answer_before_the_suspension_is_committed(play: Any) -> None:
    play.acting(WRITE)
    play.feed(CallResolved("answer", "1.1.1", TEXT, is_error=True))
    assert play.records["1.1.1"].status is CallStatus.FAILED
    assert play.types(play.feed(ToolSuspended("1.1.1", child="c"))) == ["late_answer"]


def test_a_waiting_call_holds_no_slot(play: Any) -> None:
    play.acting(WRITE, WRITE)
    play.feed(ToolSuspended("1.1.1"))
    assert play.statuses == ["WAITING", "EXECUTING"]


def test_a_wait_ends_when_it_is_due(play: Any) -> None:
    play.acting(WRITE)
    due = play.at + 10_000_000
    play.feed(ToolSuspended("1.1.1", due, "child"))
    assert wake_at(play.state) == next_due(play.state) == due
    play.feed(TimePassed())
    assert play.statuses == ["WAITING"]
    play.feed(TimePassed(), after_s=10)
    assert play.records["1.1.1"].seal_reason == "No answer came in time."
    (deliver,) = play.deliveries
    assert (deliver.target, deliver.item_kind) == ("child", "interrupt")
    assert deliver.item_id == "interrupt:uid:1.1.1"
    play.feed(Delivered(deliver.id))
    assert play.deliveries == []


def test_an_interrupt_is_passed_on_to_children(play: Any) -> None:
    play.acting(WRITE, READ)
    play.feed(ToolSuspended("1.1.1", child="child"))
    play.feed(InterruptRequested("stop", "wrong file", "Ann"))
    assert play.state.run is None
    assert [e.kind for e in play.state.effects] == ["Deliver"]
    assert play.texts()[0].startswith("Interrupted by Ann: wrong file. It was handed on")
    assert play.state.status is Status.WORKING, "until the interrupt is delivered"


def test_no_more_children_work_than_there_are_slots(new_play: Any) -> None:
    """A child holds its slot while it works, also when its call only waits for it; other tools go past."""
    play = new_play(max_tool_concurrency=1)
    child = Plan("allow", readonly=True, child=True)
    play.acting(child, child, READ)
    play.feed(ToolSuspended("1.1.1", child="child"))
    assert play.statuses == ["WAITING", "PENDING", "EXECUTING"]
    play.feed(CallResolved("answer", "1.1.1", (TextBlock("done"),)))
    play.feed(play.finished(3))
    assert play.statuses == ["COMPLETED", "EXECUTING", "COMPLETED"]


# ---- approvals


def test_a_question_is_in_the_commit_that_asks_it(new_play: Any) -> None:
    play = new_play(approval_deadline_s=60)
    play.say()
    got = play.reply(ASK, READ)
    asked = next(e for e in got.events if e.type == "permission_required")
    assert asked.data == {"tool": "write", "n": 1, "kind": "permission", "due_at": play.at + 60_000_000}
    assert asked.preview == "It writes."
    assert play.statuses == ["APPROVAL_REQUIRED", "EXECUTING"]
    assert (play.state.status, play.state.breakpoint) == (Status.WORKING, Breakpoint.TOOL_EXECUTING)
    assert got.runs == ()
    got = play.feed(play.finished(2))
    assert (play.state.status, play.state.breakpoint) == (Status.PAUSED, Breakpoint.AWAITING_APPROVAL)
    (record,) = got.runs
    assert (record.status, record.stop_reason, record.pending) == ("paused", "approval", ("1.1.1",))


def test_allowed(play: Any) -> None:
    (call,) = play.acting(ASK)
    got = play.feed(decided(call, by="Ann", note="fine"))
    assert play.statuses == ["EXECUTING"]
    answered = play.call().approvals[0]
    assert (answered.state, answered.by, answered.note, answered.at) == ("approved", "Ann", "fine", play.at)
    assert play.types(got)[0] == "permission_decided"
    assert [a.status for a in play.call().audit] == ["PENDING", "APPROVAL_REQUIRED", "APPROVED", "EXECUTING"]


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ({"by": "Ann"}, ()),
        ({"note": "Once."}, ("Approved by someone: Once.",)),
        ({"by": "Ann", "input": "{}"}, ("Approved by Ann, with other arguments than you gave: {}.",)),
        (
            {"note": "Go", "input": f'{{"n":{"9" * 2_000}}}'},
            (f'Approved by someone, with other arguments than you gave: {{"n":{"9" * 995}…: Go.',),
        ),
    ],
)
def test_what_an_approver_said_stands_behind_the_result(play: Any, said: dict[str, Any], heard: Any) -> None:
    (call,) = play.acting(ASK)
    play.feed(decided(call, plan=WRITE, **said))
    play.feed(ToolFinished(call.id, TEXT))
    (block,) = play.history[-1].blocks
    assert block.content == (*TEXT, *map(TextBlock, heard))
    assert play.records[call.id].approvals[0].by == said.get("by")


def test_an_allowed_call_may_have_to_wait_for_a_slot(play: Any) -> None:
    _, call = play.acting(WRITE, ASK)
    play.feed(decided(call))
    assert play.statuses == ["EXECUTING", "APPROVED"]
    play.feed(InterruptRequested("stop"))
    assert "It was approved but had not been started" in play.texts()[1]


@pytest.mark.parametrize(
    ("by", "note", "text"),
    [(None, None, "Denied by someone."), ("Ann", "too dear.", "Denied by Ann: too dear.")],
)
def test_denied(play: Any, by: str | None, note: str | None, text: str) -> None:
    (call,) = play.acting(ASK)
    play.feed(decided(call, "deny", by=by, note=note))
    assert play.texts() == [text]
    assert play.records["1.1.1"].status is CallStatus.DENIED
    assert play.state.model is not None, "the model hears of it"


def test_a_changed_input_is_planned_again(play: Any) -> None:
    (call,) = play.acting(ASK)
    play.feed(decided(call, input=Json('{"n":5}'), plan=Plan("ask", recovery="retry")))
    assert (play.call().changed_input, play.call().plan.recovery) == ('{"n":5}', "retry")
    assert play.statuses == ["EXECUTING"], "ask counts as answered"


def test_a_plan_that_refuses_the_changed_input_binds(play: Any) -> None:
    first, second = play.acting(ASK, ASK)
    play.feed(
        decided(first, input=Json("{}"), plan=Plan("deny", reason="Never there.")),
        decided(second, input=Json("{}"), plan=Plan("invalid")),
    )
    assert play.texts() == ["Never there.", "The changed input was refused."]
    assert [play.records[id].status for id in ("1.1.1", "1.1.2")] == ["DENIED", "FAILED"]
    assert play.records["1.1.1"].changed_input == "{}"


def test_a_changed_input_without_a_plan_is_illegal(play: Any) -> None:
    (call,) = play.acting(ASK)
    with pytest.raises(IllegalInputError, match=r"call 1\.1\.1 was changed but not planned again"):
        play.feed(decided(call, input=Json("{}")))


def test_an_answer_to_another_question_is_rejected(play: Any) -> None:
    call, other = play.acting(ASK, READ)
    for wrong in (
        ApprovalDecided("d", call.id, 2, "allow"),
        ApprovalDecided("d", other.id, 1, "allow"),
        ApprovalDecided("d", "9.9.9", 1, "allow"),
    ):
        assert play.types(play.feed(wrong)) == ["input_rejected"]
    assert play.statuses[0] == "APPROVAL_REQUIRED"


def test_a_second_decision_is_rejected(play: Any) -> None:
    (call,) = play.acting(ASK)
    got = play.feed(decided(call), decided(call, "deny"))
    assert "input_rejected" in play.types(got)
    assert play.statuses == ["EXECUTING"]


def test_nobody_answered_in_time(new_play: Any) -> None:
    play = new_play(approval_deadline_s=60)
    play.acting(ASK)
    assert wake_at(play.state) == play.at + 60_000_000
    play.feed(TimePassed(), after_s=59)
    assert play.statuses == ["APPROVAL_REQUIRED"]
    got = play.feed(TimePassed())
    assert play.texts() == ["Not run: nobody approved it in time."]
    assert play.records["1.1.1"].approvals[0].state == "expired"
    assert play.types(got)[0] == "permission_decided"


def test_an_interrupt_supersedes_the_question(play: Any) -> None:
    (call,) = play.acting(ASK)
    got = play.feed(InterruptRequested("stop"))
    assert play.records[call.id].approvals[0].state == "superseded"
    assert play.texts() == [
        "Interrupted by a request. It was waiting for approval and had not been started; it had no effect."
    ]
    assert play.types(got)[:2] == ["permission_decided", "tool_sealed"]
    assert play.types(play.feed(decided(call))) == ["input_rejected"]


# ---- seals


def test_a_seal_says_what_is_known(new_play: Any) -> None:
    play = new_play(max_tool_concurrency=1)
    play.acting(WRITE, WRITE)
    play.feed(InterruptRequested("stop"))
    executing, pending = play.texts()
    assert "outcome is unknown" in executing
    assert pending.endswith("It had not been started; it had no effect.")
    assert play.runs[1].stop_reason is StopReason.INTERRUPTED


def test_names() -> None:
    assert call_id(1, 2, 3) == "1.2.3"
    assert not CallStatus.WAITING.final
    assert CallStatus.SEALED.final


def test_a_child_that_may_exist_already_is_interrupted(play: Any) -> None:
    """Until its suspension is committed the call names no child, but its id is known."""
    play.acting(Plan("allow", child=True))
    got = play.feed(InterruptRequested("stop"))
    (deliver,) = [e for e in got.effects if isinstance(e, Deliver)]
    assert (deliver.target, deliver.item_kind) == ("uid/1.1.1", "interrupt")


def test_a_call_that_was_never_started_has_no_child(play: Any) -> None:
    play.say()
    play.reply(Plan("ask", child=True))
    got = play.feed(InterruptRequested("stop"))
    assert not [e for e in got.effects if isinstance(e, Deliver)]
