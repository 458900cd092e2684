"""Runs and steps: messages, limits, interrupts, deadlines, rests, the parent's answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kode.core.errors import IllegalInputError
from kode.core.kernel.events import Event
from kode.core.kernel.inputs import (
    ApprovalDecided,
    DeadlineReached,
    Delivered,
    InterruptRequested,
    MessageReceived,
    ModelFailed,
    Noted,
    Parked,
    Resumed,
    ToolSuspended,
)
from kode.core.kernel.machine import Context, advance, wake_at
from kode.core.kernel.message import (
    Json,
    MediaBlock,
    ReasoningBlock,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
    Usage,
)
from kode.core.kernel.state import Parent, RunError
from kode.core.kernel.toolcall import Plan
from kode.core.kernel.words import Breakpoint, Phase, Status, StopReason

WRITE = Plan("allow")
READ = Plan("allow", readonly=True)
ASK = Plan("ask")


# ---- messages


def test_a_message_starts_a_run(play: Any) -> None:
    got = play.say("Hi", sender="Ann", metadata=Json('{"a":1}'), context=Json('{"traceparent":"x"}'))
    assert play.types(got) == ["run_started", "message_received", "breakpoint_changed", "state_changed"]
    assert [e.kind for e in got.effects] == ["CallModel"]
    assert (play.model.id, play.model.upto, play.model.timeout_s) == ("1.1.0", 1, 600.0)
    run = play.state.run
    assert (run.number, run.item, run.context) == (1, "m1", '{"traceparent":"x"}')
    message = play.history[0]
    assert (message.origin, message.sender, message.metadata, message.run) == (
        "inbox:m1",
        "Ann",
        '{"a":1}',
        1,
    )


def test_a_message_without_text_has_an_empty_preview(play: Any) -> None:
    got = play.feed(MessageReceived("m", (MediaBlock("image", url="https://example.org/x.png"),)))
    assert got.events[1].preview == ""


def test_a_long_preview_is_cut(play: Any) -> None:
    got = play.say("x" * 121)
    assert got.events[1].preview == "x" * 119 + "…"


@pytest.mark.parametrize(
    "blocks",
    [(), (ToolUseBlock("t", "x", Json("{}")),), (ToolResultBlock("t", ()),), (ReasoningBlock("hm"),)],
)
def test_a_message_that_would_break_the_history_is_rejected(play: Any, blocks: Any) -> None:
    got = play.feed(MessageReceived("m", blocks))
    assert play.types(got) == ["input_rejected"]
    assert (play.history, play.state.run) == ([], None)


def test_a_reminder_starts_nothing(play: Any) -> None:
    got = play.say("Remember.", kind="reminder")
    assert play.types(got) == ["reminder_sent"]
    assert (play.state.run, play.history[0].origin, play.history[0].run) == (None, "reminder:m1", 0)
    play.say()
    assert play.model.upto == 2


def test_messages_wait_for_the_end_of_the_step(play: Any) -> None:
    play.acting(WRITE)
    got = play.say("More")
    assert (len(got.postponed), got.events, got.messages) == (1, (), ())
    play.feed(play.finished())
    assert [m.origin for m in play.history] == ["inbox:m1", None, "tools", "inbox:m2"]
    assert (play.state.run.number, play.state.run.taken, play.model.upto) == (1, 2, 4)


def test_messages_that_wait_for_the_end_of_a_run_start_the_next_in_that_commit(play: Any) -> None:
    play.say("One")
    play.say("Two")
    got = play.reply()
    assert [r.status for r in got.runs] == ["ok"]
    assert play.state.run.number == 2
    assert "state_changed" not in play.types(got), "never READY in between"
    assert [e.data.get("passed") for e in got.events if e.type == "breakpoint_changed"] == ["PRE_MODEL"]


def test_messages_keep_their_order(play: Any) -> None:
    play.say("One")
    play.say("Two")
    play.feed(play.replied(), MessageReceived("m3", (TextBlock("Three"),)))
    assert [m.origin for m in play.history[2:]] == ["inbox:m2", "inbox:m3"]


def test_what_arrives_with_the_last_result_is_seen_by_the_next_model_call(play: Any) -> None:
    play.acting(WRITE)
    play.feed(play.finished(), MessageReceived("m2", (TextBlock("Also"),)))
    assert play.model.upto == 4


# ---- replies


def test_the_answer_is_in_the_run_s_record(play: Any) -> None:
    play.say()
    got = play.reply(output=Json("42"), usage=Usage(7, 3, cost_nanos=5))
    (record,) = got.runs
    assert (record.status, record.stop_reason, record.answer_seq, record.output) == (
        "ok",
        "end_turn",
        1,
        "42",
    )
    assert (record.ended_at, record.steps, record.usage) == (play.at, 1, Usage(7, 3, cost_nanos=5))
    assert (record.first_seq, record.last_seq, record.item, record.taken) == (0, 1, "m1", 1)
    assert (play.state.status, play.state.tokens, play.state.usage_total.tokens) == (Status.READY, 10, 10)
    message = play.history[1]
    assert (message.role, message.attempt, message.stop_reason) == ("assistant", "1.1", "end_turn")


@pytest.mark.parametrize(
    ("stop", "status"),
    [(StopReason.LENGTH, "limit"), (StopReason.REFUSAL, "error"), (StopReason.CONTENT_FILTER, "error")],
)
def test_why_the_model_stopped_is_what_the_run_says(play: Any, stop: StopReason, status: str) -> None:
    play.say()
    assert [(r.stop_reason, r.status) for r in play.reply(stop=stop).runs] == [(stop, status)]


def test_a_reply_of_nothing_ends_the_run(play: Any) -> None:
    play.say()
    got = play.feed(replace(play.replied(), blocks=(), usage=Usage()))
    assert [(r.status, r.answer_seq) for r in got.runs] == [("ok", None)]
    assert "token_usage" not in play.types(got)
    assert len(play.history) == 1


def test_every_block_is_told_of(play: Any) -> None:
    play.say()
    image = MediaBlock("image", data="aGk=")
    got = play.feed(replace(play.replied(), blocks=(ReasoningBlock("hm"), TextBlock("yes"), image)))
    assert play.types(got)[:3] == ["token_usage", "think_chunk_end", "text_chunk_end"]
    assert got.events[1].preview is None, "reasoning is shown only to who may see it"


def test_a_provider_s_failure_ends_the_run(play: Any) -> None:
    play.say()
    error = RunError("overloaded", "Try later.", retryable=True)
    got = play.feed(ModelFailed("1.1.0", error, usage=Usage(3, 0)))
    (record,) = got.runs
    assert (record.status, record.stop_reason, record.error, record.answer_seq) == (
        "error",
        "provider_error",
        error,
        None,
    )
    done = next(e for e in got.events if e.type == "done")
    assert (done.preview, done.ref) == ("Try later.", None)
    assert play.state.usage_total == Usage(3, 0)


def test_replies_to_another_call_are_late(play: Any) -> None:
    play.say()
    late = replace(play.replied(), effect="0.9.0")
    assert play.types(play.feed(late)) == ["late_answer"]
    assert play.types(play.feed(ModelFailed("0.9.0", RunError("x", "y")))) == ["late_answer"]


# ---- limits


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_steps_per_run": 1}, "max_steps"),
        ({"max_tokens_per_run": 15}, "max_tokens"),
        ({"max_tokens_per_agent": 15}, "max_tokens"),
        ({"max_cost_per_run": 1e-9}, "max_cost"),
        ({"max_cost_per_agent": 1e-9}, "max_cost"),
    ],
)
def test_a_limit_ends_the_run_at_the_boundary(new_play: Any, limits: dict[str, Any], reason: str) -> None:
    play = new_play(**limits)
    play.say()
    play.reply(WRITE, usage=Usage(10, 5, cost_nanos=1))
    got = play.feed(play.finished())
    assert [(r.stop_reason, r.status) for r in got.runs] == [(reason, "limit")]
    assert (got.effects, play.state.status) == ((), Status.READY)


def test_limits_that_are_not_reached_end_nothing(new_play: Any) -> None:
    play = new_play(max_steps_per_run=2, max_tokens_per_run=16, max_cost_per_run=1.0)
    play.acting(WRITE)
    play.feed(play.finished())
    assert play.state.model is not None


def test_calls_beyond_the_limit_are_answered_and_end_the_run(new_play: Any) -> None:
    play = new_play(max_tool_calls_per_run=2)
    play.say()
    play.reply(READ, READ, READ)
    assert play.statuses == ["EXECUTING", "EXECUTING", "FAILED"]
    assert play.call(3).plan.verdict == "limit"
    got = play.feed(play.finished(1), play.finished(2))
    assert play.texts()[2] == "Not run: this run may make 2 tool calls and has made them."
    (record,) = got.runs
    assert (record.stop_reason, record.calls) == ("max_tool_calls", 3)


def test_an_agent_over_its_limit_takes_messages_and_ends_their_runs(new_play: Any) -> None:
    play = new_play(max_tokens_per_agent=1)
    play.say()
    play.reply()
    got = play.say("Again")
    assert [(r.number, r.stop_reason, r.steps) for r in got.runs] == [(2, "max_tokens", 0)]
    assert len(play.history) == 3


# ---- interrupts


def test_an_interrupt_stops_listening_to_the_model(play: Any) -> None:
    play.say()
    reply = play.replied()
    got = play.feed(InterruptRequested("stop", "wrong", "Ann"))
    (record,) = got.runs
    assert (record.status, record.error) == (
        "interrupted",
        RunError("interrupted", "Interrupted by Ann: wrong."),
    )
    assert next(e for e in got.events if e.type == "done").preview == "Interrupted by Ann: wrong."
    assert play.types(play.feed(reply)) == ["late_answer"]
    assert play.say().effects, "the next message is not poisoned"


def test_what_answered_within_the_grace_keeps_its_result(play: Any) -> None:
    play.acting(READ, READ)
    play.feed(play.finished(1), InterruptRequested("stop"))
    kept, sealed = play.texts()
    assert kept == "done"
    assert sealed.startswith("Interrupted by a request. It had been started")


def test_a_message_may_be_interrupted_before_the_model_is_asked(play: Any) -> None:
    got = play.feed(MessageReceived("m", (TextBlock("x"),)), InterruptRequested("stop"))
    assert [(r.stop_reason, r.steps) for r in got.runs] == [("interrupted", 0)]
    assert got.effects == ()


def test_nothing_to_interrupt(play: Any) -> None:
    assert play.types(play.feed(InterruptRequested("stop"))) == ["input_rejected"]


def test_a_message_sent_before_the_interrupt_starts_the_next_run(play: Any) -> None:
    play.say()
    play.say("Two")
    play.feed(InterruptRequested("stop"))
    assert play.state.run.number == 2


# ---- deadlines and rests


def test_a_deadline_rests_the_run_and_leaves_its_effects_open(play: Any) -> None:
    play.say()
    got = play.feed(DeadlineReached(StopReason.DEADLINE), hold=True, used_us=250)
    (record,) = got.runs
    assert (record.status, record.ended_at, record.used_us) == ("deadline", None, 250)
    assert play.state.run.resting is StopReason.DEADLINE
    assert wake_at(play.state) == play.at
    again = play.feed(DeadlineReached(StopReason.DEADLINE), hold=True)
    assert again.runs == (), "already written down"
    play.crash()
    play.feed(Resumed())
    assert (play.state.run.number, play.state.run.resting) == (1, None)


def test_a_deadline_at_a_boundary_leaves_a_model_call_behind(play: Any) -> None:
    play.acting(WRITE)
    play.feed(play.finished(), DeadlineReached(StopReason.DEADLINE), hold=True)
    assert (play.state.model.id, play.state.run.resting) == ("1.2.0", "deadline")


def test_the_processing_timeout_seals_and_ends(play: Any) -> None:
    play.acting(WRITE)
    got = play.feed(DeadlineReached(StopReason.PROCESSING_TIMEOUT), used_us=9)
    assert [(r.stop_reason, r.status, r.used_us) for r in got.runs] == [("processing_timeout", "limit", 9)]
    assert play.texts()[0].startswith("The run's processing time was used up. It had been started")


def test_other_reasons_are_no_deadline(play: Any) -> None:
    play.say()
    with pytest.raises(IllegalInputError, match="not end_turn"):
        play.feed(DeadlineReached(StopReason.END_TURN))


def test_a_deadline_of_nothing_is_late(play: Any) -> None:
    assert play.types(play.feed(DeadlineReached(StopReason.DEADLINE))) == ["late_answer"]


def test_a_pause_is_written_down_even_by_a_driver_that_stops(play: Any) -> None:
    play.acting(WRITE)
    got = play.feed(ToolSuspended("1.1.1"), hold=True)
    assert [r.stop_reason for r in got.runs] == ["suspended"]
    (call,) = play.state.calls
    assert call.wait.due_at is None


def test_a_pause_that_ends_under_hold_is_over(play: Any) -> None:
    (call,) = play.acting(ASK)
    play.feed(ApprovalDecided("d", call.id, 1, "allow"), hold=True)
    assert (play.statuses, play.state.run.resting) == (["APPROVED"], None)
    assert play.state.breakpoint is Breakpoint.PRE_TOOL


# ---- parked


def test_a_parked_agent_does_nothing_until_resumed_by_hand(play: Any) -> None:
    play.acting(WRITE)
    got = play.feed(Parked())
    assert [(r.status, r.stop_reason) for r in got.runs] == [("error", "crash_loop")]
    assert play.types(got) == ["agent_parked"]
    assert wake_at(play.state) is None
    assert play.feed(play.finished()).effects == (), "not even between two steps"
    assert play.state.phase is Phase.BOUNDARY
    play.crash()
    with pytest.raises(IllegalInputError, match="parked"):
        play.feed(Resumed())
    play.feed(Resumed(by_hand=True))
    assert (play.state.parked, play.state.run.resting) == (None, None)
    assert play.state.model is not None


def test_an_idle_agent_may_be_parked_too(new_play: Any) -> None:
    play = new_play(parent=Parent("parent", "puid", "7.1.2"))
    play.say()
    play.reply()
    play.feed(Parked())
    assert (play.state.parked, wake_at(play.state)) == ("crash_loop", None)
    assert play.deliveries, "its answer waits as well"


# ---- parent


def test_the_parent_is_answered_once(new_play: Any) -> None:
    play = new_play(parent=Parent("parent", "puid", "7.1.2"))
    play.say()
    play.reply()
    (deliver,) = play.deliveries
    assert (deliver.target, deliver.uid, deliver.call, deliver.run) == ("parent", "puid", "7.1.2", 1)
    assert (deliver.item_id, deliver.item_kind) == ("answer:uid", "resolve")
    assert (play.state.status, play.state.phase) == (Status.WORKING, Phase.IDLE)
    got = play.feed(Delivered(deliver.id))
    assert play.types(got) == ["state_changed"]
    play.say()
    play.reply()
    assert play.deliveries == []


@pytest.mark.parametrize(
    ("outcome", "error", "text"), [("gone", None, None), ("error", RunError("full", "No room."), "No room.")]
)
def test_a_parent_that_is_gone_is_an_event(new_play: Any, outcome: Any, error: Any, text: str | None) -> None:
    play = new_play(parent=Parent("parent", "puid", "7.1.2"))
    play.say()
    play.feed(InterruptRequested("stop"))
    (deliver,) = play.deliveries
    got = play.feed(Delivered(deliver.id, outcome, error))
    assert (got.events[0].type, got.events[0].preview) == ("delivery_failed", text)
    assert play.types(play.feed(Delivered(deliver.id))) == ["late_answer"]


# ---- the batch


def test_time_does_not_go_back(play: Any) -> None:
    play.say()
    got = play.feed(play.replied(), after_s=-30)
    assert play.state.updated_at == 1_000_000
    assert {e.at for e in got.events} == {1_000_000}


def test_used_time_counts_only_within_runs(play: Any) -> None:
    play.feed(used_us=50)
    play.say()
    play.feed(used_us=50)
    assert play.state.run.used_us == 50


def test_the_shell_s_events_ride_along(play: Any) -> None:
    got = play.feed(Noted((Event("file_changed", data={"path": "a"}), Event("todo_changed", at=7))))
    assert [(e.type, e.cursor, e.at) for e in got.events] == [
        ("file_changed", 1, 1_000_000),
        ("todo_changed", 2, 7),
    ]
    assert [e.channel for e in got.events] == ["monitor", "monitor"]
    with pytest.raises(IllegalInputError, match="'text_chunk' is a live event"):
        play.feed(Noted((Event("text_chunk"),)))


def test_an_empty_batch_changes_nothing_but_the_time(play: Any) -> None:
    play.acting(WRITE)
    before = play.state
    got = advance(before, [], Context(before.updated_at, 1))
    assert (got.state, got.events, got.effects) == (before, (), ())


def test_wake_at(play: Any) -> None:
    assert wake_at(play.state) is None
    play.say()
    assert wake_at(play.state) == play.at
