"""Every row of the table: (input x phase) does what its cell says, and an illegal one changes nothing."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from kode.core.errors import IllegalInputError
from kode.core.kernel import inputs as i
from kode.core.kernel.invariants import check_transition
from kode.core.kernel.machine import Context, advance, transition
from kode.core.kernel.message import Json, TextBlock
from kode.core.kernel.state import RunError, State
from kode.core.kernel.table import ILLEGAL, LATE, POSTPONE, REJECT, TABLE, cell
from kode.core.kernel.toolcall import Plan
from kode.core.kernel.words import Phase, StopReason

KINDS = [kind for kind in get_args(i.Input) if kind is not i.Instructed]
TEXT = (TextBlock("text"),)
# One of each, naming nothing that is open.
SAMPLES: dict[type, i.Input] = {
    type(sample): sample
    for sample in (
        i.MessageReceived("m", TEXT),
        i.ApprovalDecided("d", "9.9.9", 1, "allow"),
        i.CallResolved("r", "9.9.9", TEXT),
        i.InterruptRequested("i"),
        i.ModelReplied("9.9.9", TEXT),
        i.ModelFailed("9.9.9", RunError("x", "y")),
        i.ToolFinished("9.9.9", TEXT),
        i.ToolSuspended("9.9.9"),
        i.HistoryCompacted("9.9.9", "c", TEXT),
        i.CompactionFailed("9.9.9", RunError("x", "y")),
        i.Delivered("9.9.9"),
        i.Resumed(),
        i.Proceed(),
        i.TimePassed(),
        i.DeadlineReached(StopReason.DEADLINE),
        i.TimerSet("t", 5, data="Wake up."),
        i.TimerCancelled("t"),
        i.LimitsChanged(Json('{"max_steps_per_run":9}')),
        i.TodosSet(Json("{}")),
        i.CompactionRequested(0, 1),
        i.SnapshotTaken("s"),
        i.DocumentsChanged(),
        i.SandboxBound("box"),
        i.Noted(()),
        i.Parked(),
    )
}


@pytest.fixture
def states(play: Any) -> dict[Phase, State]:
    """A state in each phase, with one message in its history at least."""
    play.say()
    play.reply()
    idle = play.state
    play.say()
    thinking = play.state
    play.reply(Plan("allow"))
    acting = play.state
    boundary = transition(acting, play.finished(), Context(play.at, 1)).state
    return {s.phase: s for s in (idle, thinking, acting, boundary)}


def sample(kind: type, state: State) -> i.Input:
    return i.Reverted(state.window) if kind is i.Reverted else SAMPLES[kind]


def test_the_table_has_every_row() -> None:
    assert set(TABLE) == {(kind, phase) for kind in KINDS for phase in Phase}


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_row(kind: type, phase: Phase, states: dict[Phase, State]) -> None:
    state = states[phase]
    assert state.phase is phase
    input, context = sample(kind, state), Context(state.updated_at + 1, 2)
    what = cell(input, phase)
    if what == ILLEGAL:
        with pytest.raises(IllegalInputError, match=f"{kind.__name__} is illegal while the agent is {phase}"):
            transition(state, input, context)
        return
    after = transition(state, input, context)
    check_transition(state, after)
    told = [e.type for e in after.events]
    if what == POSTPONE:
        assert after.postponed == (input,)
        assert (told, after.effects, after.messages) == ([], (), ())
    elif what == LATE:
        assert told == ["late_answer"]
    elif what == REJECT:
        assert told == ["input_rejected"]
    else:
        assert callable(what)
        assert after.postponed == ()


@pytest.mark.parametrize(
    ("kind", "phase"),
    [row for row, what in TABLE.items() if what == ILLEGAL],
    ids=lambda x: getattr(x, "__name__", x),
)
def test_an_illegal_input_undoes_its_whole_batch(kind: type, phase: Phase, states: dict[Phase, State]) -> None:
    state, context = states[phase], Context(states[phase].updated_at + 1, 1)
    before = repr(state)
    with pytest.raises(IllegalInputError):
        advance(state, [i.TimerCancelled("x"), sample(kind, state)], context)
    assert repr(state) == before


def test_what_no_row_names_is_illegal() -> None:
    with pytest.raises(IllegalInputError, match="object is illegal while the agent is IDLE"):
        transition(State("a", "u", 0, 0), object(), Context(1))  # type: ignore[arg-type]


def test_late_and_rejected_say_what_they_were_about(states: dict[Phase, State]) -> None:
    context = Context(1)
    late = transition(states[Phase.IDLE], SAMPLES[i.CallResolved], context).events[0]
    assert late.data == {"effect": "9.9.9", "input": "CallResolved"}
    refused = transition(states[Phase.IDLE], SAMPLES[i.InterruptRequested], context).events[0]
    assert refused.data == {"item": "i"}
    assert refused.preview == "There is no run to interrupt."
