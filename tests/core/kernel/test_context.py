"""What the kernel does about a window that is full, and about a request that was too long."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kode.core.errors import UsageError
from kode.core.kernel import inputs as i
from kode.core.kernel.context import ContextPolicy
from kode.core.kernel.invariants import check, check_transition
from kode.core.kernel.limits import Limits
from kode.core.kernel.machine import Context, advance
from kode.core.kernel.message import TextBlock, Usage
from kode.core.kernel.state import RunError
from kode.core.kernel.toolcall import Plan
from kode.core.kernel.window import Range, Window
from kode.core.kernel.words import Phase, StopReason

WRITE = Plan("allow")
SUMMARY = (TextBlock("They spoke."),)
CUT = i.CompactionRequested(0, 2)


def feed(play: Any, *inputs: i.Input, cut: i.CompactionRequested | None = CUT, full: bool = True, **more: Any) -> Any:
    """As ``play.feed``, by a shell that says where the history may be cut."""
    play.at += 1
    context = Context(play.at, play.fence, more.get("limits", play.limits), cut=cut, full=full)
    before = play.state
    got = advance(before, (*play.inbox, *inputs), context)
    play.state, play.inbox = got.state, list(got.postponed)
    play.history += got.messages
    check(got.state)
    check_transition(before, got)
    return got


def test_a_full_window_is_cut_before_the_model_is_asked(play: Any) -> None:
    play.acting(WRITE)
    got = feed(play, play.finished())
    assert [e.kind for e in got.effects] == ["CompactHistory"]
    assert (play.compaction.start, play.compaction.stop, play.compaction.id) == (0, 2, "1.1.2")
    play.feed(i.HistoryCompacted(play.compaction.id, "c1", SUMMARY))
    assert (play.model.id, play.state.window) == ("1.2.0", Window("c1", (), (Range(2),)))


@pytest.mark.parametrize(("cut", "full"), [(None, True), (CUT, False)])
def test_else_the_model_is_asked(play: Any, cut: Any, full: bool) -> None:
    play.acting(WRITE)
    feed(play, play.finished(), cut=cut, full=full)
    assert play.model.id == "1.2.0"


def test_what_ends_the_run_comes_before_it(play: Any) -> None:
    play.acting(WRITE)
    got = feed(play, play.finished(), limits=Limits(max_steps_per_run=1))
    assert (play.state.run, got.runs[-1].stop_reason) == (None, StopReason.MAX_STEPS)
    play.acting(WRITE)
    feed(play, play.finished(), i.InterruptRequested("x"))
    assert play.state.effects == ()


def test_no_range_means_the_cut_of_the_shell(play: Any) -> None:
    play.say()
    play.reply()
    feed(play, i.Instructed("x", i.CompactionRequested(0, 0)), full=False)
    assert (play.compaction.start, play.compaction.stop) == (0, 2)
    play.feed(i.HistoryCompacted(play.compaction.id, "c1", SUMMARY))
    got = feed(play, i.Instructed("y", i.CompactionRequested(0, 0)), cut=None, full=False)
    assert play.types(got) == ["input_rejected"]


def too_long(play: Any) -> i.ModelFailed:
    return i.ModelFailed(
        play.model.id, RunError("context_too_long", "Too long."), StopReason.CONTEXT_TOO_LONG, Usage(3)
    )


def test_a_request_that_was_too_long_is_made_again_once(play: Any) -> None:
    play.acting(WRITE)
    play.feed(play.finished())
    got = feed(play, too_long(play), full=False)
    assert [e.type for e in got.events][:1] == ["error"]
    assert (play.compaction.id, play.state.phase) == ("1.2.1", Phase.BOUNDARY)
    play.feed(i.HistoryCompacted(play.compaction.id, "c1", SUMMARY))
    assert play.model.id == "1.2.2", "the same step"
    assert play.state.usage_total == Usage(13, 5)
    got = feed(play, too_long(play))
    assert (play.state.run, got.runs[-1].stop_reason) == (None, StopReason.CONTEXT_TOO_LONG)
    play.say()
    assert play.model.id == "2.1.0"


def test_a_step_that_was_asked_twice_goes_on_as_any(play: Any) -> None:
    play.say()
    feed(play, too_long(play), cut=i.CompactionRequested(0, 1))
    play.feed(i.HistoryCompacted(play.compaction.id, "c1", SUMMARY))
    play.reply(WRITE)
    assert [c.id for c in play.state.calls] == ["1.1.3"]
    play.feed(i.ToolFinished("1.1.3", SUMMARY))
    assert (play.model.id, play.state.step, play.state.run.steps) == ("1.2.0", 2, 1)


def test_without_a_cut_it_ends_the_run(play: Any) -> None:
    play.say()
    got = feed(play, too_long(play), cut=None)
    assert got.runs[-1].stop_reason is StopReason.CONTEXT_TOO_LONG


def test_another_failure_ends_the_run(play: Any) -> None:
    play.say()
    got = feed(play, replace(too_long(play), stop=StopReason.PROVIDER_ERROR))
    assert got.runs[-1].stop_reason is StopReason.PROVIDER_ERROR


def test_an_interrupt_between_runs_stops_a_compaction(play: Any) -> None:
    play.say()
    play.reply()
    play.feed(CUT)
    got = play.feed(i.InterruptRequested("x"))
    assert (play.state.effects, got.events[0].data["phase"]) == ((), "cancelled")
    assert play.types(play.feed(i.InterruptRequested("y"))) == ["input_rejected"]


def test_the_shell_may_know_the_size_better(play: Any) -> None:
    play.say()
    play.reply(tokens=77)
    assert play.state.tokens == 77
    play.say()
    play.reply()
    assert play.state.tokens == 15
    play.say()
    play.reply(usage=Usage())
    assert play.state.tokens == 15, "nobody knows"


@pytest.mark.parametrize(
    ("window", "start", "stop", "pinned", "after"),
    [
        (Window(), 0, 6, (), Window("c", (), (Range(6),))),
        (Window(), 2, 6, (3,), Window("c", (3,), (Range(0, 2), Range(6)))),
        (Window("b", (1, 7), (Range(5),)), 0, 9, (7,), Window("c", (7,), (Range(9),))),
        (Window("b", (1,), (Range(5),)), 5, 9, (), Window("c", (1,), (Range(9),))),
        (Window("b", (), (Range(0, 2), Range(4, 8), Range(9))), 0, 9, (), Window("c", (), (Range(9),))),
        (
            Window("b", (), (Range(0, 2), Range(4, 8), Range(9))),
            5,
            7,
            (),
            Window("c", (), (Range(0, 2), Range(4, 5), Range(7, 8), Range(9))),
        ),
        (
            Window("b", (), (Range(0, 2), Range(4, 8), Range(9))), 1, 5, (),
            Window("c", (), (Range(0, 1), Range(5, 8), Range(9))),
        ),
    ],
)  # fmt: skip
def test_a_window_without_a_range(window: Window, start: int, stop: int, pinned: Any, after: Window) -> None:
    assert window.without(start, stop, "c", pinned) == after
    left = {*window.seqs(12)} - {*range(start, stop)} | {*pinned}
    assert [*after.seqs(12)] == sorted(left)


# ---- policies --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"max_tokens": 5}, "max_tokens is 5"),
        ({"max_tokens": True}, "max_tokens is True"),
        ({"max_tokens": 1_000, "target_tokens": 1_000}, "target_tokens is 1000"),
        ({"method": "magic"}, "method is 'magic'"),
        ({"keep_media": None}, "keep_media is None"),
        ({"keep_media": -1}, "keep_media is -1"),
        ({"prompt": " "}, "prompt is ' '"),
        ({"max_message_tokens": 1.5}, "max_message_tokens is 1.5"),
    ],
)
def test_a_wrong_policy_is_refused(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        ContextPolicy(**wrong)


def test_a_policy_says_what_it_is_told() -> None:
    policy = ContextPolicy(1_000, 999, "off", "m", "Be brief.", 0, 50)
    assert (policy.target_tokens, policy.keep_media) == (999, 0)
    assert ContextPolicy() == ContextPolicy(method="model", keep_media=3)
