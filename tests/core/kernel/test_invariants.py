"""The invariants notice what they are for: each is broken by hand and must be named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from kode.core.kernel.effects import Attempt, CallModel, CompactHistory, RunTool
from kode.core.kernel.events import Event
from kode.core.kernel.invariants import InvariantError, check, check_history, check_transition
from kode.core.kernel.machine import Transition
from kode.core.kernel.message import Json, Message, TextBlock, ToolResultBlock, ToolUseBlock
from kode.core.kernel.state import Document, State, Timer
from kode.core.kernel.toolcall import Approval, CallStatus, Plan
from kode.core.kernel.window import Range, Window
from kode.core.kernel.words import StopReason

WRITE = Plan("allow")
READ = Plan("allow", readonly=True)
TEXT = (TextBlock("x"),)
ONE = Attempt(1)


@pytest.fixture
def acting(play: Any) -> State:
    """A writer and a reader EXECUTING, a question open."""
    play.acting(WRITE, READ, Plan("ask"))
    state: State = play.state
    return state


def with_call(n: int, **changes: Any) -> Callable[[State], State]:
    return lambda s: replace(s, calls=tuple(replace(c, **changes) if c.n == n else c for c in s.calls))


def with_state(**changes: Any) -> Callable[[State], State]:
    return lambda s: replace(s, **changes)


def with_run(**changes: Any) -> Callable[[State], State]:
    return lambda s: replace(s, run=replace(s.run, **changes))  # type: ignore[type-var]


def with_effect(*effects: Any) -> Callable[[State], State]:
    return lambda s: replace(s, effects=(*s.effects, *effects))


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        (with_state(next_seq=-1), "counters"),
        (with_state(next_cursor=0), "counters"),
        (with_state(updated_at=-1), "before it was created"),
        (with_state(timers=(Timer("t", 1, "signal"), Timer("t", 2, "signal"))), "timers have ids"),
        (with_state(documents=(Document("a", "b", "1"), Document("a", "b", "2"))), "documents have names"),
        (with_state(effects=()), "RunTool is open for each EXECUTING"),
        (with_effect(RunTool("1.1.3", ONE)), "RunTool is open for each EXECUTING"),
        (with_effect(RunTool("1.1.1", ONE)), "effects have ids"),
        (with_effect(CallModel("a", ONE, 2), CallModel("b", ONE, 2)), "one model call"),
        (with_effect(CompactHistory("a", ONE, 0, 1), CompactHistory("b", ONE, 0, 1)), "one compaction"),
        (with_effect(CallModel("a", ONE, 2)), "beside calls"),
        (with_effect(CompactHistory("a", ONE, 0, 9)), "lies in the history"),
        (with_state(run=None), "without a run"),
        (lambda s: replace(s, run=None, effects=(), calls=s.calls[2:]), "calls belong to a run"),
        (with_state(step=2), "calls belong to the open step"),
        (lambda s: replace(s, calls=s.calls[::-1]), "order of the reply"),
        (with_state(next_n=3), "below the next effect"),
        (with_call(3, seq=0), "by one message"),
        (with_call(2, plan=WRITE), "one writer"),
        (with_call(3, approvals=()), "exactly while it needs one"),
        (with_call(3, approvals=(Approval(1), Approval(2))), "last question"),
        (with_call(3, approvals=(Approval(2),)), "counted from 1"),
        (with_call(3, result=TEXT), "a result exactly when"),
        (with_call(3, finished_at=1), "when it ended"),
        (with_call(3, seal_reason="x"), "a sealed call says why"),
        (with_call(3, attempts=("1.1",)), "as often as it has attempts"),
        (with_call(1, attempts=(), started_at=None), "was started"),
        (with_call(3, audit=()), "trail"),
        (with_run(number=7), "the number given last"),
        (with_run(steps=0), "counts its steps"),
        (with_run(started_at=10**15), "began in the past"),
        (with_run(first_seq=9), "first message"),
        (with_run(resting=StopReason.APPROVAL), "only while paused"),
        (with_state(window=Window(ranges=(Range(9),))), "the window is in order"),
    ],
)  # fmt: skip
def test_a_broken_state(acting: State, broken: Callable[[State], State], rule: str) -> None:
    check(acting)
    state = broken(acting)
    if rule == "counts its steps":
        state = replace(state, step=1, run=replace(state.run, steps=5))  # type: ignore[type-var]
    with pytest.raises(InvariantError, match=rule):
        check(state)


def test_broken_states_of_other_phases(play: Any) -> None:
    play.say()
    thinking = play.state
    for broken, rule in (
        (replace(thinking, effects=(replace(play.model, upto=0),)), "the whole history"),
        (replace(thinking, effects=(*thinking.effects, CompactHistory("c", ONE, 0, 1))), "beside the other"),
        (replace(thinking, effects=()), "only a compaction holds a run up"),
    ):
        with pytest.raises(InvariantError, match=rule):
            check(broken)
    play.reply(Plan("ask"))
    with pytest.raises(InvariantError, match="rests for what it waits for"):
        check(replace(play.state, run=replace(play.state.run, resting=None)))
    (call,) = play.state.calls
    closed = replace(call, status=CallStatus.DENIED, result=TEXT, finished_at=1, approvals=(), audit=())
    with pytest.raises(InvariantError, match="is closed"):
        check(replace(play.state, calls=(closed,)))
    waiting = replace(call, status=CallStatus.WAITING, approvals=())
    with pytest.raises(InvariantError, match="for what it waits"):
        check(replace(play.state, calls=(waiting,)))


@pytest.fixture
def last(play: Any) -> tuple[State, Transition]:
    """The transition that answers the second of two calls."""
    play.acting(READ, READ)
    play.feed(play.finished(1))
    before = play.state
    return before, play.feed(play.finished(2))


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        (lambda t: replace(t, state=replace(t.state, next_cursor=1)), "next_cursor does not go back"),
        (lambda t: replace(t, state=replace(t.state, updated_at=0)), "updated_at does not go back"),
        (lambda t: replace(t, state=replace(t.state, step=0)), "effect numbers"),
        (lambda t: replace(t, state=replace(t.state, uid="other")), "stays who it is"),
        (lambda t: replace(t, messages=()), "messages are numbered"),
        (lambda t: replace(t, events=t.events[1:]), "events are numbered"),
        (lambda t: replace(t, events=(replace(t.events[0], type="text_chunk"), *t.events[1:])), "durable"),
        (lambda t: replace(t, effects=(CallModel("9.9.9", ONE, 1),)), "started effect is open"),
        (lambda t: replace(t, effects=t.effects * 2), "started once"),
        (lambda t: replace(t, effects=()), "was not open is started"),
        (lambda t: replace(t, calls=()), "leaves the step is recorded"),
        (
            lambda t: replace(t, calls=tuple(replace(c, input=Json("1")) for c in t.calls)),
            "lets go of its texts",
        ),
        (
            lambda t: replace(t, calls=tuple(replace(c, result_seq=None) for c in t.calls)),
            "where its result is",
        ),
        (lambda t: replace(t, state=replace(t.state, run=None)), "final record"),
    ],
)
def test_a_broken_transition(last: Any, broken: Callable[[Transition], Transition], rule: str) -> None:
    before, after = last
    check_transition(before, after)
    with pytest.raises(InvariantError, match=rule):
        check_transition(before, broken(after))


def test_a_changed_call_that_was_not_recorded(play: Any) -> None:
    play.acting(READ, READ)
    before = play.state
    after = play.feed(play.finished(1))
    with pytest.raises(InvariantError, match="changed call is recorded"):
        check_transition(before, replace(after, calls=()))


USE = ToolUseBlock("t1", "look", Json("{}"))
RESULT = ToolResultBlock("t1", TEXT, call="1.1.1")


def said(seq: int, role: Any, *blocks: Any) -> Message:
    return Message(seq, role, blocks, 0)


@pytest.mark.parametrize(
    ("messages", "rule"),
    [
        ([said(0, "user", *TEXT), said(2, "user", *TEXT)], "without gaps"),
        ([said(0, "assistant", USE)], "one result"),
        ([said(0, "assistant", USE), said(1, "user", *TEXT)], "one result"),
        ([said(0, "user", RESULT)], "one result"),
        ([said(0, "assistant", USE), said(1, "user", RESULT, RESULT)], "one result"),
        ([said(0, "assistant", USE), said(1, "user", replace(RESULT, call=""))], "names its call"),
        ([said(0, "assistant", USE), said(1, "assistant", RESULT)], "in a user's message"),
        ([said(0, "user", USE), said(1, "user", RESULT)], "in a model's message"),
        ([said(0, "assistant", USE, USE), said(1, "user", RESULT, RESULT)], "ids of their own"),
        ([said(0, "user")], "not empty"),
    ],
)
def test_a_broken_history(messages: list[Message], rule: str) -> None:
    with pytest.raises(InvariantError, match=rule):
        check_history(messages)


def test_a_history_and_its_open_calls(play: Any) -> None:
    calls = play.acting(READ, READ)
    check_history([])
    check_history(play.history, calls)
    check_history(play.history[1:], calls)
    for history, open_calls, rule in (
        (play.history, calls[:1], "all its calls or none"),
        (play.history, (), "one result"),
        ([*play.history, said(2, "user", *TEXT)], calls, "while calls are open"),
        (play.history[:1], calls, "was asked for"),
    ):
        with pytest.raises(InvariantError, match=rule):
            check_history(history, open_calls)


def test_events_default_to_nothing() -> None:
    assert Event("done").data == {}
