"""What is true of every state, every transition and every history, for tests and whoever doubts a record.

Nothing here is needed to run an agent, and nothing else in the kernel calls it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kode.core.errors import IllegalInputError, KodeError
from kode.core.kernel.machine import Transition
from kode.core.kernel.message import Message, ToolResultBlock, ToolUseBlock
from kode.core.kernel.state import State
from kode.core.kernel.toolcall import Call, CallStatus
from kode.core.kernel.window import check_window
from kode.core.kernel.words import Phase, Status, StopReason

__all__ = ["InvariantError", "check", "check_history", "check_transition"]


class InvariantError(KodeError):
    """A state, a transition or a history is not what it must be: a bug, or a damaged record."""

    code = "invariant"


def _hold(what: str, true: bool) -> None:
    if not true:
        raise InvariantError(f"Broken: {what}.", invariant=what)


# ---- a state -----------------------------------------------------------------------------------------------


def check(state: State) -> None:
    """Check one state, as ``advance`` leaves it and a store holds it.

    Raises:
        InvariantError: It says which rule is broken.
    """
    _check_counters(state)
    _check_effects(state)
    _check_calls(state)
    _check_run(state)
    try:
        check_window(state.window, state.next_seq, state.first_seq)
    except IllegalInputError as error:
        raise InvariantError(f"Broken: the window is in order. {error}", invariant="window") from None


def _check_counters(state: State) -> None:
    counters = (state.next_seq, state.next_run - 1, state.step, state.next_n, state.steps_total, state.tokens)
    _hold("counters do not fall below their first value", min(counters) >= 0 and state.next_cursor >= 1)
    _hold("an agent is not changed before it was created", state.created_at <= state.updated_at)
    _hold("timers have ids of their own", _distinct(t.id for t in state.timers))
    _hold("documents have names of their own", _distinct(f"{d.kind}\0{d.name}" for d in state.documents))


def _check_effects(state: State) -> None:
    kinds = [e.kind for e in state.effects]
    asked = {e.id for e in state.effects if e.kind == "RunTool"}
    executing = {c.id for c in state.calls if c.status is CallStatus.EXECUTING}
    _hold("effects have ids of their own", _distinct(e.id for e in state.effects))
    _hold("a RunTool is open for each EXECUTING call and for no other", asked == executing)
    _hold("one model call is open at most", kinds.count("CallModel") <= 1)
    _hold("one compaction is open at most", kinds.count("CompactHistory") <= 1)
    _hold("no model call is open beside calls", not (state.calls and "CallModel" in kinds))
    _hold(
        "no model call or compaction is open beside the other",
        not {"CallModel", "CompactHistory"} <= set(kinds),
    )
    if state.run is None:
        _hold(
            "without a run, only compactions and deliveries are open",
            not {"CallModel", "RunTool"} & set(kinds),
        )
    for effect in state.effects:
        if effect.kind == "CallModel":
            _hold("the model is shown the whole history", effect.upto == state.next_seq)
        elif effect.kind == "CompactHistory":
            inside = state.first_seq <= effect.start < effect.stop <= state.next_seq
            _hold("a compaction lies in the history", inside)


def _check_calls(state: State) -> None:
    calls = state.calls
    if not calls:
        return
    _hold("calls belong to a run", state.run is not None)
    _hold(
        "calls belong to the open step",
        {(c.run, c.step) for c in calls} == {(state.next_run - 1, state.step)},
    )
    _hold("calls are counted in the order of the reply", [c.n for c in calls] == sorted({c.n for c in calls}))
    _hold("calls are numbered below the next effect", calls[-1].n < state.next_n)
    _hold(
        "calls were asked for by one message of the history",
        _same(c.seq for c in calls) and calls[0].seq < state.next_seq,
    )
    _hold("a step with all calls answered is closed", not all(c.status.final for c in calls))
    writers = [c for c in calls if c.status is CallStatus.EXECUTING and not c.plan.readonly]
    _hold("one writer executes at most", len(writers) <= 1 or any(len(c.attempts) > 1 for c in writers))
    for call in calls:
        _check_call(call)


def _check_call(call: Call) -> None:
    asks, waits = call.status is CallStatus.APPROVAL_REQUIRED, call.status is CallStatus.WAITING
    _hold("a call asks for approval exactly while it needs one", (call.approval is not None) == asks)
    _hold("only a call's last question may be open", all(a.state != "pending" for a in call.approvals[:-1]))
    _hold(
        "questions are counted from 1",
        [a.n for a in call.approvals] == list(range(1, len(call.approvals) + 1)),
    )
    _hold("a suspended call says for what it waits", call.wait is not None or not waits)
    _hold("a call has a result exactly when it is final", (call.result is not None) == call.status.final)
    _hold("a final call says when it ended", (call.finished_at is not None) == call.status.final)
    _hold(
        "a sealed call says why, and only a sealed one",
        (call.seal_reason is not None) == (call.status is CallStatus.SEALED),
    )
    _hold("a call is started as often as it has attempts", (call.started_at is not None) == bool(call.attempts))
    _hold("an executing or suspended call was started", bool(call.attempts) or call.status not in _STARTED)
    _hold("the trail ends with the status", bool(call.audit) and call.audit[-1].status is call.status)


_STARTED = (CallStatus.EXECUTING, CallStatus.WAITING)


def _check_run(state: State) -> None:
    run = state.run
    if run is None:
        return
    _hold("the run has the number given last", run.number == state.next_run - 1)
    _hold(
        "the run counts its steps",
        0 <= run.steps <= state.steps_total and run.steps <= state.step <= run.steps + 1,
    )
    _hold("the run began in the past", run.started_at <= state.updated_at)
    _hold(
        "the run's first message and event are counted",
        run.first_seq <= state.next_seq and run.first_cursor <= state.next_cursor,
    )
    asked = any(c.status is CallStatus.APPROVAL_REQUIRED for c in state.calls)
    if state.parked is None and state.status is Status.PAUSED:
        why = StopReason.APPROVAL if asked else StopReason.SUSPENDED
        _hold("a paused agent's run rests for what it waits for", run.resting is why)
    else:
        _hold(
            "a run rests for others only while paused",
            run.resting not in (StopReason.APPROVAL, StopReason.SUSPENDED),
        )
    if state.phase is Phase.BOUNDARY:
        _hold(
            "between two steps, only a compaction holds a run up",
            bool(state.effects) or state.parked is not None,
        )


# ---- a transition ------------------------------------------------------------------------------------------


def check_transition(before: State, after: Transition) -> None:
    """Check what one transition or batch did.

    Raises:
        InvariantError: It says which rule is broken.
    """
    state = after.state
    for name in ("next_seq", "next_cursor", "next_run", "steps_total", "updated_at"):
        _hold(f"{name} does not go back", getattr(state, name) >= getattr(before, name))
    _hold("effect numbers do not go back", _count(state) >= _count(before))
    _hold(
        "an agent stays who it is",
        (state.agent_id, state.uid, state.created_at) == (before.agent_id, before.uid, before.created_at),
    )
    _hold(
        "messages are numbered without gaps",
        [m.seq for m in after.messages] == list(range(before.next_seq, state.next_seq)),
    )
    _hold(
        "events are numbered without gaps",
        [e.cursor for e in after.events] == list(range(before.next_cursor, state.next_cursor)),
    )
    _hold("events of a commit are durable", all(e.durable for e in after.events))
    _hold("each started effect is open", all(e in state.effects for e in after.effects))
    _hold("each effect is started once", _distinct(e.id for e in after.effects))
    new = [e for e in state.effects if e not in before.effects]
    _hold("each effect that was not open is started", all(e in after.effects for e in new))
    _check_records(before, after)


def _check_records(before: State, after: Transition) -> None:
    state, former = after.state, {c.id: c for c in before.calls}
    records = {c.id: c for c in after.calls}
    _hold(
        "each changed call is recorded",
        all(c == former.get(c.id) or records.get(c.id) == c for c in state.calls),
    )
    gone = [id for id in former if state.call(id) is None]
    _hold(
        "each call that leaves the step is recorded as final",
        all(id in records and records[id].status.final for id in gone),
    )
    closed = [c for c in after.calls if state.call(c.id) is None]
    _hold(
        "a closed call's record lets go of its texts",
        all(c.input is None and c.result is None for c in closed),
    )
    _hold("a closed call's record says where its result is", all(c.result_seq is not None for c in closed))
    ended = before.run is not None and (state.run is None or state.run.number != before.run.number)
    if before.run is not None and ended:
        record = next((r for r in after.runs if r.number == before.run.number), None)
        _hold("a run that is over has its final record", record is not None and record.ended_at is not None)


def _count(state: State) -> tuple[int, int, int]:
    return (state.next_run, state.step, state.next_n)


# ---- a history ---------------------------------------------------------------------------------------------


def check_history(messages: Sequence[Message], open_calls: Iterable[Call] = ()) -> None:
    """Check that every provider accepts this history, from its first message on.

    Args:
        messages: The whole history, or its part from a safe point on.
        open_calls: The calls of the open step; their tool uses have no result yet.

    Raises:
        InvariantError: It says which rule is broken.
    """
    first = messages[0].seq if messages else 0
    _hold(
        "messages are numbered without gaps",
        [m.seq for m in messages] == list(range(first, first + len(messages))),
    )
    waiting = {(c.seq, c.block) for c in open_calls}
    asked: list[str] = []
    for message in messages:
        results = [b for b in message.blocks if isinstance(b, ToolResultBlock)]
        _hold(
            "every tool use has one result, in the next message, in order",
            [r.tool_use_id for r in results] == asked,
        )
        _hold("a result names its call", all(r.call for r in results))
        _hold("a result is in a user's message", not results or message.role == "user")
        uses = [(i, b) for i, b in enumerate(message.blocks) if isinstance(b, ToolUseBlock)]
        _hold("a tool use is in a model's message", not uses or message.role == "assistant")
        _hold("tool uses of one message have ids of their own", _distinct(use.id for _, use in uses))
        _hold("a message is not empty", bool(message.blocks))
        in_step = {(message.seq, i) for i, _ in uses} & waiting
        _hold("a step is open with all its calls or none", len(in_step) in (0, len(uses)))
        asked = [] if in_step else [use.id for _, use in uses]
        waiting -= in_step
        _hold("nothing is said while calls are open", not in_step or message is messages[-1])
    _hold("every tool use has one result, in the next message, in order", not asked)
    _hold("every open call was asked for", not waiting)


def _distinct(ids: Iterable[str]) -> bool:
    all_of_them = list(ids)
    return len(all_of_them) == len(set(all_of_them))


def _same(numbers: Iterable[int]) -> bool:
    return len(set(numbers)) == 1
