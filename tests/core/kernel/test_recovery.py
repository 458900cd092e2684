"""What a new driver does to what the last one left open."""

from __future__ import annotations

from typing import Any

import pytest

from kode.core.errors import IllegalInputError
from kode.core.kernel.inputs import (
    ApprovalDecided,
    CompactionRequested,
    InterruptRequested,
    MessageReceived,
    Resumed,
    TimePassed,
    ToolSuspended,
)
from kode.core.kernel.message import Json, TextBlock
from kode.core.kernel.state import Parent
from kode.core.kernel.toolcall import Plan

RETRY = Plan("allow", readonly=True, recovery="retry")
SEAL = Plan("allow", readonly=True)
ASK = Plan("allow", readonly=True, recovery="ask")


def counts(got: Any) -> dict[str, Any]:
    return dict(next(e for e in got.events if e.type == "agent_resumed").data)


def test_the_model_is_asked_again_as_a_new_attempt(play: Any) -> None:
    play.say()
    play.crash()
    got = play.feed(Resumed(reason="lease lapsed"))
    assert [(e.id, str(e.attempt), e.upto) for e in got.effects] == [("1.1.0", "2.1", 1)]
    assert counts(got) == {"strategy": "continue", "again": 1, "rerun": 0, "sealed": 0, "asked": 0}
    assert got.events[0].preview == "lease lapsed"


def test_each_call_by_its_recovery(play: Any) -> None:
    play.acting(RETRY, SEAL, ASK)
    play.crash()
    got = play.feed(Resumed())
    assert play.statuses == ["EXECUTING", "SEALED", "APPROVAL_REQUIRED"]
    assert [(e.id, str(e.attempt)) for e in got.effects] == [("1.1.1", "2.1")]
    assert play.call(1).attempts == ("1.1", "2.1")
    assert play.call(1).audit[-1].note == "again"
    assert play.call(2).seal_reason == "The process that ran this tool ended before it answered."
    asked = next(e for e in got.events if e.type == "permission_required")
    assert (asked.data["kind"], asked.preview) == (
        "recovery",
        "The process that ran this tool ended before it answered. Run it again?",
    )
    assert counts(got) == {"strategy": "continue", "again": 0, "rerun": 1, "sealed": 1, "asked": 1}


def test_sealing_the_last_call_asks_the_model_in_the_same_commit(play: Any) -> None:
    play.acting(SEAL)
    play.crash()
    assert [e.id for e in play.feed(Resumed()).effects] == ["1.2.0"]


def test_run_again_when_allowed(play: Any) -> None:
    play.acting(ASK)
    play.crash()
    play.feed(Resumed())
    got = play.feed(ApprovalDecided("d", "1.1.1", 1, "allow"))
    assert [(e.id, str(e.attempt)) for e in got.effects] == [("1.1.1", "2.1")], "the same key"
    assert play.call().started_at is not None


def test_sealed_when_denied(play: Any) -> None:
    play.acting(ASK)
    play.crash()
    play.feed(Resumed())
    play.feed(ApprovalDecided("d", "1.1.1", 1, "deny", "Ann", "Look first."))
    (text,) = play.texts()
    assert text.startswith("Not run again, decided by Ann: Look first. It had been started and its outcome is unknown")
    assert play.records["1.1.1"].status == "SEALED"


def test_sealed_when_nobody_decides(new_play: Any) -> None:
    play = new_play(approval_deadline_s=5)
    play.acting(ASK)
    play.crash()
    play.feed(Resumed())
    play.feed(TimePassed(), after_s=5)
    assert play.texts()[0].startswith("Nobody decided in time whether to run it again. It had been started")


def test_sealed_when_interrupted_as_one_that_may_have_run(play: Any) -> None:
    play.acting(ASK)
    play.crash()
    play.feed(Resumed())
    play.feed(InterruptRequested("stop"))
    assert play.texts()[0].startswith("Interrupted by a request. It had been started and its outcome is unknown")


def test_a_second_crash_asks_a_second_question(play: Any) -> None:
    play.acting(ASK)
    for n in (1, 2):
        play.crash()
        play.feed(Resumed())
        assert [a.n for a in play.call().approvals] == list(range(1, n + 1))
        play.feed(ApprovalDecided(f"d{n}", "1.1.1", n, "allow"))
    assert play.call().attempts == ("1.1", "2.1", "3.1")


def test_a_recovered_call_gives_its_slot_away(play: Any) -> None:
    play.acting(Plan("allow", recovery="ask"), Plan("allow"))
    play.crash()
    play.feed(Resumed())
    assert play.statuses == ["APPROVAL_REQUIRED", "EXECUTING"]


def test_slots_may_be_fewer_after_a_crash(play: Any) -> None:
    play.acting(RETRY, RETRY, RETRY, RETRY)
    play.crash(narrower={"max_tool_concurrency": 1})
    play.feed(Resumed())
    assert play.statuses == ["EXECUTING", "EXECUTING", "EXECUTING", "PENDING"]


def test_what_waits_or_was_not_started_is_left_alone(play: Any) -> None:
    play.acting(Plan("allow"), Plan("ask"), Plan("allow"))
    play.feed(ToolSuspended("1.1.1", child="child"), hold=True)
    assert play.statuses == ["WAITING", "APPROVAL_REQUIRED", "PENDING"]
    play.crash()
    got = play.feed(Resumed())
    assert play.statuses == ["WAITING", "APPROVAL_REQUIRED", "EXECUTING"]
    assert counts(got) == {"strategy": "continue", "again": 0, "rerun": 0, "sealed": 0, "asked": 0}


def test_a_delivery_and_a_compaction_are_done_again(new_play: Any) -> None:
    play = new_play(parent=Parent("parent", "puid", "7.1.2"))
    play.say()
    play.reply()
    play.feed(CompactionRequested(0, 1))
    play.crash()
    got = play.feed(Resumed())
    assert [(e.kind, str(e.attempt)) for e in got.effects] == [("Deliver", "2.1"), ("CompactHistory", "2.1")]
    assert counts(got)["again"] == 2


def test_strategy_crash_seals_all_and_ends_the_run(new_play: Any) -> None:
    play = new_play(parent=Parent("parent", "puid", "7.1.2"))
    play.acting(RETRY, Plan("ask"), SEAL)
    play.feed(ToolSuspended("1.1.3", child="child"))
    play.crash()
    got = play.feed(Resumed("crash"))
    assert [(r.stop_reason, r.status) for r in got.runs] == [("interrupted", "interrupted")]
    assert [e.kind for e in got.effects] == ["Deliver", "Deliver"], "to the child and to the parent, and no model"
    assert counts(got) == {"strategy": "crash", "again": 0, "rerun": 0, "sealed": 3, "asked": 0}
    assert len(play.texts()) == 3


def test_strategy_crash_still_delivers(new_play: Any) -> None:
    play = new_play(parent=Parent("parent", "puid", "7.1.2"))
    play.say()
    play.reply()
    play.crash()
    got = play.feed(Resumed("crash"))
    assert counts(got)["again"] == 1
    play.say()
    play.crash()
    got = play.feed(Resumed("crash"), MessageReceived("m9", (TextBlock("Go on"),)))
    assert counts(got)["again"] == 1
    assert (play.state.run.number, play.state.run.item) == (3, "m9")


def test_resumed_needs_a_fence_above_all_others(play: Any) -> None:
    play.say()
    with pytest.raises(IllegalInputError, match="under fence 1, but an effect was asked under fence 1"):
        play.feed(Resumed())
    play.crash()
    play.feed(Resumed())
    with pytest.raises(IllegalInputError, match="acquire the lease again first"):
        play.feed(Resumed())


def test_manual_applies_nothing(play: Any) -> None:
    with pytest.raises(IllegalInputError, match="takes no lease"):
        play.feed(Resumed("manual"))


def test_a_changed_input_survives_a_crash(play: Any) -> None:
    (call,) = play.acting(Plan("ask", recovery="retry"))
    play.feed(ApprovalDecided("d", call.id, 1, "allow", input=Json("[1]"), plan=Plan("allow", recovery="retry")))
    play.crash()
    play.feed(Resumed())
    assert (play.call().changed_input, play.statuses) == ("[1]", ["EXECUTING"])
