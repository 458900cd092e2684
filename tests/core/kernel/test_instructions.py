"""Instructions: what a driver does, asked for by anybody through the inbox. Judged alike, but never illegal."""

from __future__ import annotations

from random import Random
from typing import Any, get_args

import pytest

from kode.core.errors import IllegalInputError
from kode.core.kernel import inputs as i
from kode.core.kernel.machine import Context, Transition, transition
from kode.core.kernel.message import Json
from kode.core.kernel.state import State
from kode.core.kernel.table import ILLEGAL, LATE, POSTPONE, REJECT, TABLE
from kode.core.kernel.toolcall import Plan
from kode.core.kernel.words import Phase, StopReason
from kode.core.testing.drive import Journey

GOOD: tuple[i.Instruction, ...] = (
    i.LimitsChanged(Json('{"max_steps_per_run":9}')),
    i.TimerSet("t", 5, data="Wake up."),
    i.TimerCancelled("t"),
    i.CompactionRequested(0, 1),
    i.TodosSet(Json("{}")),
)
BAD: tuple[i.Instruction, ...] = (
    i.TimerSet("t", 5),
    i.TimerSet("t", 2**60, "signal"),
    i.TimerSet("t", 5, data="Go.", every_us=0),
    i.CompactionRequested(1, 1),
    i.CompactionRequested(0, 10**6),
)
KINDS = get_args(i.Instruction)


def item(what: i.Instruction) -> i.Instructed:
    return i.Instructed("item-1", what)


@pytest.fixture
def states(play: Any) -> dict[Phase, State]:
    play.say()
    play.reply()
    idle = play.state
    play.say()
    thinking = play.state
    play.reply(Plan("allow"))
    acting = play.state
    boundary = transition(acting, play.finished(), Context(play.at, 1)).state
    return {s.phase: s for s in (idle, thinking, acting, boundary)}


def said(got: Transition) -> list[tuple[str, dict[str, Any]]]:
    return [(e.type, dict(e.data)) for e in got.events]


def test_each_instruction_is_an_input_too() -> None:
    assert {type(one) for one in GOOD} == set(KINDS) <= set(get_args(i.Input))
    assert {TABLE[kind, phase] for kind in KINDS for phase in Phase}.isdisjoint({LATE, REJECT, ILLEGAL})


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("what", GOOD, ids=lambda w: w.type)
def test_an_instruction_does_what_its_input_does(what: i.Instruction, phase: Phase, states: dict[Phase, State]) -> None:
    context = Context(states[phase].updated_at + 1, 2)
    asked, done = transition(states[phase], item(what), context), transition(states[phase], what, context)
    assert (asked.state, asked.effects, asked.events) == (done.state, done.effects, done.events)
    waits = TABLE[type(what), phase] == POSTPONE
    assert (asked.postponed, done.postponed) == (((item(what),), (what,)) if waits else ((), ()))


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("what", BAD, ids=repr)
def test_nonsense_is_used_up_with_an_event_and_stops_nothing(
    what: i.Instruction, phase: Phase, states: dict[Phase, State]
) -> None:
    state, context = states[phase], Context(states[phase].updated_at + 1, 2)
    got = transition(state, item(what), context)
    if TABLE[type(what), phase] == POSTPONE:
        assert got.postponed == (item(what),)
        return
    with pytest.raises(IllegalInputError) as illegal:
        transition(state, what, context)
    assert said(got) == [("input_rejected", {"item": "item-1"})]
    assert illegal.value.message.startswith(str(got.events[0].preview)[:150])
    assert (got.postponed, got.effects, got.state.timers) == ((), (), state.timers)


def test_limits_changed_is_told_to_observers(states: dict[Phase, State]) -> None:
    got = transition(states[Phase.IDLE], item(GOOD[0]), Context(1))
    (event,) = got.events
    assert (event.type, event.preview, event.channel) == ("limits_changed", '{"max_steps_per_run":9}', "monitor")


def test_a_compaction_that_waits_is_done_at_the_end_of_the_step(play: Any) -> None:
    play.acting(Plan("allow"))
    play.feed(item(i.CompactionRequested(0, 1)))
    assert play.inbox == [item(i.CompactionRequested(0, 1))]
    play.feed(play.finished())
    assert play.inbox == []
    assert (play.compaction.start, play.compaction.stop) == (0, 1)


# ---- bounds that a message brings for its run


def brings(play: Any, text: str) -> Transition:
    return play.say(limits=Json(text))  # type: ignore[no-any-return]


def test_a_run_goes_by_the_narrower_of_its_own_and_the_agents(new_play: Any) -> None:
    play = new_play(max_steps_per_run=3)
    for text, steps in (('{"max_steps_per_run":1}', 1), ('{"max_steps_per_run":9}', 3), ("{}", 3)):
        brings(play, text)
        while play.state.run is not None:
            play.reply(Plan("allow"))
            play.feed(play.finished())
        record = play.runs[play.state.next_run - 1]
        assert (record.stop_reason, record.steps) == (StopReason.MAX_STEPS, steps)


def test_what_a_run_brings_is_gone_with_it(play: Any) -> None:
    brings(play, '{"model_timeout_s":7}')
    assert (play.model.timeout_s, play.state.run.limits) == (7, '{"model_timeout_s":7}')
    play.reply()
    play.say()
    assert (play.model.timeout_s, play.state.run.limits) == (600, None)


@pytest.mark.parametrize(
    "text",
    [
        '{"max_steps_per_run":0}',
        '{"max_wishes":3}',
        '{"lease_s":NaN}',
        '{"max_inbox":' + "9" * 900 + "}",
        "[1]",
        "nonsense",
        "[" * 1_000,
        '{"max_inbox":5}' + " " * 1_024,
    ],
    ids=lambda text: text[:24],
)
def test_bounds_that_cannot_be_read_are_not_taken_for_none(play: Any, text: str) -> None:
    got = brings(play, text)
    assert said(got) == [("input_rejected", {"item": "m1"})]
    assert "imits" in str(got.events[0].preview)
    assert (play.state.run, play.history) == (None, [])


def test_random_journeys_bring_every_instruction_in_every_phase() -> None:
    random = Random(11)
    rows = Journey(random).rows
    wanted = {(f"Instructed {kind.__name__}", phase) for kind in KINDS for phase in Phase}
    while not wanted <= set(rows):
        assert rows.total() < 30_000, wanted - set(rows)
        journey = Journey(random, rows)
        journey.begin()
        for _ in range(60):
            journey.go()
        journey.finish()
