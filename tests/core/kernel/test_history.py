"""Windows and what is beside the run: compaction, snapshots, reverts, documents, timers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kode.core.errors import IllegalInputError
from kode.core.kernel.history import MAX_TIMERS, TODO_TIMER
from kode.core.kernel.inputs import (
    CompactionFailed,
    CompactionRequested,
    DocumentsChanged,
    HistoryCompacted,
    InterruptRequested,
    MessageReceived,
    Reverted,
    SandboxBound,
    SnapshotTaken,
    TimePassed,
    TimerCancelled,
    TimerSet,
)
from kode.core.kernel.machine import next_due, wake_at
from kode.core.kernel.message import TextBlock, Usage
from kode.core.kernel.state import Document, RunError
from kode.core.kernel.toolcall import Plan
from kode.core.kernel.window import Range, Window
from kode.core.kernel.words import Breakpoint, Phase, Status

SUMMARY = (TextBlock("They spoke."),)
WRITE = Plan("allow")
READ = Plan("allow", readonly=True)


@pytest.fixture
def long(play: Any) -> Any:
    """Ten messages, idle."""
    for _ in range(5):
        play.say()
        play.reply()
    return play


def compacted(play: Any, id: str, **more: Any) -> Any:
    return play.feed(HistoryCompacted(play.compaction.id, id, SUMMARY, **more))


# ---- compaction


def test_a_compaction_is_a_record_and_moves_the_window(long: Any) -> None:
    got = long.feed(CompactionRequested(0, 6))
    assert long.state.status is Status.WORKING
    assert long.state.breakpoint is Breakpoint.PRE_MODEL
    assert (long.compaction.timeout_s, got.events[0].data) == (
        600.0,
        {"phase": "start", "start": 0, "stop": 6},
    )
    got = compacted(long, "c1", usage=Usage(9, 1), pinned=(2,), tokens_before=90, tokens_after=12, model="m")
    assert long.state.window == Window("c1", (2,), (Range(6),))
    assert list(long.state.window.seqs(long.state.next_seq)) == [2, 6, 7, 8, 9]
    (record,) = got.compactions
    assert (record.start, record.stop, record.window_before, record.summary) == (0, 6, Window(), SUMMARY)
    assert (record.usage, record.tokens_before, record.tokens_after) == (Usage(9, 1), 90, 12)
    assert (long.state.tokens, long.state.usage_total.tokens, len(long.history)) == (12, 85, 10)


def test_a_second_compaction_covers_the_first(long: Any) -> None:
    long.feed(CompactionRequested(0, 4))
    compacted(long, "c1", pinned=(3, 1))
    long.feed(CompactionRequested(4, 8))
    (record,) = compacted(long, "c2", pinned=(4,)).compactions
    assert record.window_before.compaction == "c1"
    assert long.state.window == Window("c2", (1, 3, 4), (Range(8),))
    assert list(long.state.window.seqs(10)) == [1, 3, 4, 8, 9]


def test_what_lies_before_the_range_stays(long: Any) -> None:
    long.feed(CompactionRequested(2, 4))
    compacted(long, "c1")
    long.feed(CompactionRequested(6, 8))
    compacted(long, "c2")
    assert long.state.window.ranges == (Range(0, 2), Range(4, 6), Range(8))
    assert list(long.state.window.seqs(10)) == [0, 1, 4, 5, 8, 9]


def test_appends_meanwhile_do_no_harm(long: Any) -> None:
    long.feed(CompactionRequested(0, 6))
    long.say("Meanwhile")
    assert (long.state.phase, long.state.model) == (Phase.BOUNDARY, None), "the run waits for the window"
    compacted(long, "c1")
    assert long.model.upto == 11
    assert list(long.state.window.seqs(11)) == [6, 7, 8, 9, 10]


def test_a_failed_compaction_leaves_the_window(long: Any) -> None:
    long.feed(CompactionRequested(0, 6))
    long.say()
    effect = long.compaction.id
    got = long.feed(CompactionFailed(effect, RunError("provider", "No.")))
    assert (got.events[0].type, got.events[0].preview) == ("error", "No.")
    assert (long.state.window, long.state.model.upto) == (Window(), 11)
    for late in (CompactionFailed(effect, RunError("x", "y")), HistoryCompacted(effect, "c", SUMMARY)):
        assert long.types(long.feed(late)) == ["late_answer"]


def test_a_compaction_waits_for_the_end_of_the_step(play: Any) -> None:
    play.acting(WRITE)
    got = play.feed(CompactionRequested(0, 1))
    assert got.postponed == (CompactionRequested(0, 1),)
    play.feed(play.finished())
    assert [e.kind for e in play.state.effects] == ["CompactHistory"]
    assert play.compaction.id == "1.1.2", "numbered after the step's calls"


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (3, 2), (0, 11), (-1, 4)])
def test_a_range_that_is_none(long: Any, start: int, stop: int) -> None:
    with pytest.raises(IllegalInputError, match=f"Cannot compact messages {start} to {stop}"):
        long.feed(CompactionRequested(start, stop))


def test_only_one_compaction_at_a_time(long: Any) -> None:
    long.feed(CompactionRequested(0, 6))
    with pytest.raises(IllegalInputError, match="open already"):
        long.feed(CompactionRequested(0, 4))


def test_an_interrupt_cancels_the_compaction_its_run_waits_for(long: Any) -> None:
    long.feed(CompactionRequested(0, 6))
    long.say()
    got = long.feed(InterruptRequested("stop"))
    cancelled = next(e for e in got.events if e.type == "context_compression")
    assert cancelled.data == {"phase": "cancelled", "start": 0, "stop": 6}
    assert (long.state.effects, long.state.window) == ((), Window())


# ---- snapshots, reverts, documents


def test_a_snapshot_names_a_safe_point(long: Any) -> None:
    document = Document("todos", "all", "abc")
    long.feed(DocumentsChanged((document,)))
    got = long.feed(SnapshotTaken("s1", ("before",), "s0"))
    (snapshot,) = got.snapshots
    assert (snapshot.seq, snapshot.window, snapshot.documents) == (10, Window(), (("todos", "all", "abc"),))
    assert (snapshot.tags, snapshot.parent, snapshot.tokens) == (("before",), "s0", 15)
    assert got.events[0].data == {"id": "s1", "seq": 10}


def test_a_revert_takes_only_window_and_documents(long: Any) -> None:
    long.feed(DocumentsChanged((Document("todos", "all", "new"),)))
    before = long.state
    old = (Document("todos", "all", "old"),)
    got = long.feed(Reverted(Window(ranges=(Range(0, 4), Range(10))), old, "s1", tokens=33))
    after = long.state
    assert (after.documents, after.tokens, got.events[0].data) == (old, 33, {"to": "s1"})
    assert (after.next_seq, after.next_run, after.step) == (before.next_seq, before.next_run, before.step)
    long.say()
    assert list(long.state.window.seqs(long.model.upto)) == [0, 1, 2, 3, 10]


def test_a_revert_takes_the_reminder_of_another_list_of_todos_with_it(long: Any) -> None:
    due = {"due_step": 99, "every_steps": 9}
    long.feed(TimerSet(TODO_TIMER, None, "reminder", "a", **due), TimerSet("mine", None, "reminder", "b", **due))
    long.feed(Reverted(Window()))
    assert [t.id for t in long.state.timers] == ["mine"]


def test_a_revert_cancels_a_compaction_of_the_window_it_leaves(long: Any) -> None:
    long.feed(CompactionRequested(0, 6))
    effect = long.compaction.id
    reverted = Window(ranges=(Range(0, 4), Range(10)))
    long.feed(Reverted(reverted))
    assert long.types(long.feed(HistoryCompacted(effect, "c1", SUMMARY))) == ["late_answer"]
    assert long.state.window == reverted


@pytest.mark.parametrize(
    "window",
    [
        Window(ranges=()),
        Window(ranges=(Range(0, 4),)),
        Window(ranges=(Range(0), Range(4))),
        Window(ranges=(Range(0, 4), Range(2))),
        Window(ranges=(Range(4, 2), Range(5))),
        Window(ranges=(Range(11),)),
        Window(ranges=(Range(-1),)),
        Window(pinned=(3, 1)),
        Window(pinned=(1, 1)),
        Window(pinned=(10,)),
        Window(pinned=(-1,)),
    ],
)
def test_a_window_that_no_history_has(long: Any, window: Window) -> None:
    with pytest.raises(IllegalInputError):
        long.feed(Reverted(window))


@pytest.mark.parametrize(
    "window", [Window(), Window(ranges=(Range(3, 6), Range(8))), Window(ranges=(Range(8),), pinned=(3,))]
)
def test_a_revert_to_what_was_pruned_is_refused(long: Any, window: Window) -> None:
    long.state = replace(long.state, first_seq=4, window=Window(ranges=(Range(4),)))
    with pytest.raises(IllegalInputError, match="4 to 9"):
        long.feed(Reverted(window))
    long.feed(Reverted(Window(ranges=(Range(4, 6), Range(8)), pinned=(7,))))


def test_documents_are_named_and_forgotten(play: Any) -> None:
    a, b, changed = Document("todos", "a", "1"), Document("todos", "b", "2"), Document("todos", "a", "3")
    play.feed(DocumentsChanged((a, b)))
    got = play.feed(DocumentsChanged((changed,), (("todos", "b"), ("todos", "none"))))
    assert play.state.documents == (changed,)
    assert got.events[0].data == {"count": 1, "removed": 2}


def test_the_sandbox_is_remembered(play: Any) -> None:
    assert play.feed(SandboxBound("pid:7")).events == ()
    assert play.state.sandbox_ref == "pid:7"
    play.feed(SandboxBound(None))
    assert play.state.sandbox_ref is None


# ---- timers


def test_a_timer_speaks_when_it_is_due(play: Any) -> None:
    due = 10_000_000
    play.feed(TimerSet("t", due, data="Wake up."))
    assert wake_at(play.state) == due
    play.feed(TimePassed())
    assert play.state.timers
    got = play.feed(TimePassed(), after_s=8)
    assert (play.state.timers, play.state.run.number, play.history[0].origin) == ((), 1, "timer:t")
    assert "scheduler_triggered" in play.types(got)
    assert play.state.model is not None
    play.say("Later")
    play.reply(WRITE)
    play.feed(play.finished())
    assert (play.state.run.item, play.state.run.taken) == (None, 1), "no message started it"


def test_a_reminder_and_a_signal_start_nothing(play: Any) -> None:
    play.feed(TimerSet("r", 1, "reminder", "Look."), TimerSet("s", 1, "signal"))
    got = play.feed(TimePassed())
    assert [(e.data["id"], e.ref is None) for e in got.events] == [("r", False), ("s", True)]
    assert (play.state.run, len(play.history)) == (None, 1)


def test_a_timer_that_speaks_waits_for_the_step(play: Any) -> None:
    play.acting(WRITE)
    play.feed(TimerSet("m", 1, data="Hm."), TimerSet("s", 1, "signal"), TimePassed())
    assert [t.id for t in play.state.timers] == ["m"]
    assert next_due(play.state) is None
    play.feed(play.finished(), TimePassed())
    assert [m.origin for m in play.history[-2:]] == ["tools", "timer:m"]
    assert play.state.run.number == 1


def test_a_timer_that_repeats_is_armed_in_the_commit_it_fires_in(play: Any) -> None:
    play.feed(TimerSet("t", 10_000_000, "signal", "Tick.", every_us=10_000_000))
    play.feed(TimePassed(), after_s=9)
    assert [t.due_at for t in play.state.timers] == [20_000_000]
    got = play.feed(TimePassed(), after_s=35)
    assert [t.due_at for t in play.state.timers] == [50_000_000], "20, 30 and 40 were slept through: one reminder"
    (told,) = [e for e in got.events if e.type == "scheduler_triggered"]
    assert (told.data["due_at"], told.data["next_at"], told.data["missed"]) == (20_000_000, 50_000_000, 2)


@pytest.mark.parametrize("more", [{"every_us": 10_000_000}, {"schedule": "x"}])
def test_a_reminder_that_comes_again_waits_for_a_run(play: Any, more: dict[str, Any]) -> None:
    """While nobody is shown it, it does not pile up, and wakes nobody."""
    play.feed(TimerSet("t", 10_000_000, "reminder", "Tick.", **more))
    for _ in range(5):
        play.feed(TimePassed((("t", 70_000_000),)), after_s=10)
    assert (len(play.history), next_due(play.state)) == (0, None)
    play.feed(MessageReceived("m", (TextBlock("go"),)), TimePassed((("t", 70_000_000),)))
    assert [m.origin for m in play.history] == ["inbox:m", "timer:t"]
    assert [t.due_at for t in play.state.timers] == [70_000_000] if "schedule" in more else [60_000_000]


def test_the_runtimes_own_timer_takes_no_place_from_the_others(play: Any) -> None:
    play.feed(*(TimerSet(str(n), 5, data="x") for n in range(MAX_TIMERS)))
    play.feed(TimerSet(TODO_TIMER, 5, data="x"))
    play.feed(TimerSet("3", 5, data="y"))
    with pytest.raises(IllegalInputError, match="at most 32"):
        play.feed(TimerSet("one more", 5, data="x"))


def test_a_timer_is_replaced_and_cancelled(play: Any) -> None:
    play.feed(TimerSet("t", 5, data="x"), TimerSet("t", 9, data="y"), TimerSet("u", 7, data="z"))
    assert [(t.id, t.due_at) for t in play.state.timers] == [("t", 9), ("u", 7)]
    play.feed(TimerCancelled("t"), TimerCancelled("none"))
    assert [t.id for t in play.state.timers] == ["u"]


@pytest.mark.parametrize(
    ("timer", "match"),
    [(TimerSet("t", 5), "has no text"), (TimerSet("t", 5, "signal", every_us=0), "at least 1")],
)
def test_a_timer_that_makes_no_sense(play: Any, timer: TimerSet, match: str) -> None:
    with pytest.raises(IllegalInputError, match=match):
        play.feed(timer)


def test_a_timer_counts_steps(play: Any) -> None:
    play.feed(TimerSet("n", None, "reminder", "Mind your list.", due_step=2, every_steps=2))
    assert next_due(play.state) is None
    play.acting(READ)
    play.feed(play.finished(), TimePassed())
    assert "timer:n" not in [m.origin for m in play.history], "one step is not two"
    play.reply(READ)
    assert next_due(play.state) is None, "it speaks between steps, not in one"
    play.feed(play.finished(), TimePassed())
    assert [m.origin for m in play.history[-2:]] == ["tools", "timer:n"]
    assert [t.due_step for t in play.state.timers] == [4]
    play.feed(play.replied())
    play.feed(TimerSet("s", None, "signal", due_step=1))
    assert next_due(play.state) == 0


def test_a_timer_by_schedule_fires_only_together_with_its_next_time(play: Any) -> None:
    """So there is no moment at which it is armed no more and not armed yet."""
    play.feed(TimerSet("c", 5, "signal", "Daily.", schedule="0 9 * * *"), TimePassed())
    assert next_due(play.state) == 5, "it stays due for who can read its schedule"
    later = play.at + 10**9
    got = play.feed(TimePassed((("c", later), ("other", 7))))
    assert [(t.due_at, t.schedule) for t in play.state.timers] == [(later, "0 9 * * *")]
    assert [(e.data["due_at"], e.data["next_at"]) for e in got.events] == [(5, later)]
    got = play.feed(TimePassed((("c", 9),)))
    assert (len(got.events), next_due(play.state)) == (0, later), "it is not due"
    got = play.feed(TimePassed((("c", None),)), after_s=2_000)
    assert (len(got.events), play.state.timers) == (1, ()), "it fires no more"


@pytest.mark.parametrize(
    "wrong",
    [
        TimerSet("t", None, "signal", every_steps=0),
        TimerSet("t", 5, data="x" * 1_001),
        TimerSet("t", 2**70, "signal"),
        TimerSet("t", None, "signal", schedule="0 9 * * *"),
        TimerSet("t", 5, "signal", schedule="*" * 257),
        TimerSet("t" * 257, 5, "signal"),
    ],
)
def test_a_timer_is_bounded(play: Any, wrong: TimerSet) -> None:
    with pytest.raises(IllegalInputError):
        play.feed(wrong)


def test_the_header_is_bounded(play: Any) -> None:
    play.feed(*(TimerSet(f"t{n}", 10**12, "signal") for n in range(32)))
    with pytest.raises(IllegalInputError, match="at most 32 timers"):
        play.feed(TimerSet("one more", 5, "signal"))
    play.feed(TimerSet("t3", 10**13, "signal"))
    assert len(play.state.timers) == 32, "to change one is not one more"
    with pytest.raises(IllegalInputError, match="at most 64 documents"):
        play.feed(DocumentsChanged(tuple(Document("k", str(n), "d") for n in range(65))))
