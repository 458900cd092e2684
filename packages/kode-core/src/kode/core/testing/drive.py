"""Drives the pure kernel at random over legal inputs, and holds it to its invariants at every step.

``legal_inputs`` makes a batch that a correct shell might feed to a state: answers to open effects, answers
that come too late, what people send, time that passes, crashes. It takes any ``random.Random``, so a seed
repeats a journey and hypothesis (``strategies.randoms()``) can shrink one.
"""

from __future__ import annotations

import typing
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from kode.core.kernel import inputs as i
from kode.core.kernel.effects import Effect
from kode.core.kernel.events import Event
from kode.core.kernel.invariants import InvariantError, check, check_history, check_transition
from kode.core.kernel.limits import Limits
from kode.core.kernel.machine import Context, Transition, advance, transition, wake_at
from kode.core.kernel.message import Block, Json, Message, ReasoningBlock, TextBlock, ToolUseBlock, Usage
from kode.core.kernel.state import Document, Parent, RunError, RunRecord, State
from kode.core.kernel.table import ILLEGAL, TABLE
from kode.core.kernel.toolcall import Call, Plan, Recovery, Verdict
from kode.core.kernel.words import Phase, StopReason

__all__ = ["Journey", "Rows", "legal_input", "legal_inputs"]

Rows = Counter[tuple[str, Phase]]
"""How often each row of the table was hit: (name of the input, phase); of instructions, ``Instructed TimerSet``."""

_TEXT = (TextBlock("text"),)
_SECOND = 1_000_000


# ---- legal inputs ------------------------------------------------------------------------------------------


def legal_inputs(
    state: State,
    random: Random,
    context: Context,
    *,
    waiting: Sequence[i.Input] = (),
    most: int = 4,
    rows: Rows | None = None,
) -> list[i.Input]:
    """Make a batch that is legal for this state, by looking where each of its inputs leads.

    Args:
        state: Where the agent is.
        random: What chooses.
        context: The one to apply the batch with. ``Resumed`` is legal only under a fence above all others.
        waiting: What had to wait before; they come first in the batch.
        most: Add at most so many inputs to those.
        rows: Counts the rows that the batch hits.
    """
    batch = list(waiting)
    state, late = _look(state, batch, context, rows)
    for _ in range(random.randint(1, most)):
        context = replace(context, used_us=0)
        input = legal_input(state, random, context)
        if isinstance(input, i.CompactionRequested | i.ModelFailed) and any(map(_compacts, batch)):
            continue
        batch.append(input)
        phase = state.phase
        state, again = _look(state, [input], context, rows)
        late += again
        if state.phase is not phase:
            state, late = _look(state, late, context, rows)
    _look(state, [i.Proceed()], context, rows)
    return batch


def _compacts(input: i.Input) -> bool:
    """Whether a compaction may follow: asked for, or because a request was too long."""
    what = input.what if isinstance(input, i.Instructed) else input
    return isinstance(what, i.CompactionRequested | i.ModelFailed)


def _name(input: i.Input) -> str:
    """What a row is called; of an instruction, by what it carries."""
    name = type(input).__name__
    return f"{name} {type(input.what).__name__}" if isinstance(input, i.Instructed) else name


def _look(state: State, inputs: Sequence[i.Input], context: Context, rows: Rows | None) -> tuple[State, list[i.Input]]:
    """Apply one by one, counting and checking; what had to wait is handed back."""
    waiting: list[i.Input] = []
    for input in inputs:
        if rows is not None:
            rows[_name(input), state.phase] += 1
        after = transition(state, input, context)
        check_transition(state, after)
        state = after.state
        waiting += after.postponed
    return state, waiting


def legal_input(state: State, random: Random, context: Context) -> i.Input:
    """Make one input that is legal for this state; answers that fit are likelier than any other."""
    made: i.Input | None
    while True:
        if random.random() < 0.4:
            made = _FITTING[state.phase](state, random)
        else:
            kind, make = random.choice(_MAKERS)
            made = None if TABLE.get((kind, state.phase)) == ILLEGAL else make(state, random, context)
        if made is not None:
            return made


# ---- answers to what is open, or was -----------------------------------------------------------------------


def _some_id(state: State, random: Random, kind: str) -> str:
    """Name an open effect of that kind, or now and then one that is none."""
    open_now = [e.id for e in state.effects if e.kind == kind]
    return (
        random.choice(open_now)
        if open_now and random.random() < 0.85
        else f"{random.randint(0, 3)}.1.{random.randint(0, 3)}"
    )


def _usage(random: Random) -> Usage:
    return Usage(random.randint(0, 50), random.randint(0, 50), cost_nanos=random.randint(0, 10))


def _plan(random: Random) -> Plan:
    verdict: Verdict = random.choice(
        ("allow", "allow", "allow", "allow", "ask", "ask", "deny", "answer", "unknown", "invalid")
    )
    recovery: Recovery = random.choice(("retry", "seal", "ask"))
    return Plan(verdict, readonly=random.random() < 0.5, recovery=recovery, reason=random.choice((None, "because")))


def _replied(state: State, random: Random, context: Context | None = None) -> i.ModelReplied:
    blocks: list[Block] = [TextBlock("I think")] if random.random() < 0.7 else []
    if random.random() < 0.2:
        blocks.insert(0, ReasoningBlock("hm"))
    calls = []
    for n in range(random.choice((0, 1, 1, 2, 3, 5))):
        input = Json("{}") if random.random() < 0.1 else None
        answer = _TEXT if random.random() < 0.5 else None
        calls.append(i.PlannedCall(len(blocks), _plan(random), input, answer))
        blocks.append(ToolUseBlock(f"call_{n}", random.choice(("look", "write")), Json('{"a":1}')))
    stop = random.choice((StopReason.END_TURN, StopReason.END_TURN, StopReason.LENGTH, StopReason.REFUSAL))
    effect = _some_id(state, random, "CallModel")
    return i.ModelReplied(effect, tuple(blocks), stop, _usage(random), tuple(calls), output=Json("1"))


def _failed(state: State, random: Random, context: Context | None = None) -> i.ModelFailed:
    stop = random.choice((StopReason.PROVIDER_ERROR, StopReason.CONTEXT_TOO_LONG))
    return i.ModelFailed(_some_id(state, random, "CallModel"), RunError("overloaded", "no"), stop, _usage(random))


def _finished(state: State, random: Random, context: Context | None = None) -> i.ToolFinished:
    sealed = "It was killed." if random.random() < 0.1 else None
    usage = _usage(random) if random.random() < 0.1 else None
    effect = _some_id(state, random, "RunTool")
    return i.ToolFinished(effect, _TEXT, random.random() < 0.2, random.choice((0, 9)), usage, sealed)


def _suspended(state: State, random: Random, context: Context | None = None) -> i.ToolSuspended:
    due = None if random.random() < 0.5 else state.updated_at + random.randint(0, 20) * _SECOND
    return i.ToolSuspended(_some_id(state, random, "RunTool"), due, random.choice((None, "child")))


def _resolved(state: State, random: Random, context: Context | None = None) -> i.CallResolved:
    call = random.choice(state.calls).id if state.calls else "0.0.0"
    return i.CallResolved(_item(random), call, _TEXT, random.random() < 0.2, _usage(random))


def _decided(state: State, random: Random, context: Context | None = None) -> i.ApprovalDecided:
    asked = [c for c in state.calls if c.approval is not None]
    call = random.choice(asked or state.calls) if state.calls else None
    n = 1 if call is None else len(call.approvals) + (random.random() < 0.1)
    changed = random.random() < 0.2
    return i.ApprovalDecided(
        _item(random), "0.0.0" if call is None else call.id, n, random.choice(("allow", "allow", "deny")),
        random.choice((None, "Ann")), random.choice((None, "why not.")), Json("{}") if changed else None,
        _plan(random) if changed else None,
    )  # fmt: skip


def _compacted(state: State, random: Random, context: Context | None = None) -> i.HistoryCompacted:
    pinned = tuple(sorted(random.sample(range(state.next_seq), min(state.next_seq, random.randint(0, 2)))))
    effect = _some_id(state, random, "CompactHistory")
    return i.HistoryCompacted(effect, _item(random), _TEXT, usage=_usage(random), pinned=pinned, tokens_after=3)


# ---- what people, drivers and time do ----------------------------------------------------------------------


def _item(random: Random) -> str:
    return f"item-{random.getrandbits(40):x}"


def _message(state: State, random: Random, context: Context | None = None) -> i.MessageReceived:
    blocks = _TEXT if random.random() < 0.95 else ()
    limits = random.choice((None, None, None, None, '{"max_steps_per_run":2}', '{"max_tokens_per_run":90}', '{"no":1}'))
    return i.MessageReceived(
        _item(random), blocks, random.choice(("user", "user", "reminder")), random.choice((None, "Ann")),
        limits=None if limits is None else Json(limits),
    )  # fmt: skip


def _boundary(state: State, random: Random) -> i.Input:
    return _compacted(state, random) if state.effects else _message(state, random)


def _acting(state: State, random: Random) -> i.Input:
    make: Callable[[State, Random], i.Input] = random.choice(
        (_finished, _finished, _finished, _decided, _resolved, _suspended)
    )
    return make(state, random)


_FITTING: dict[Phase, Callable[[State, Random], i.Input]] = {
    Phase.IDLE: _message,
    Phase.THINKING: _replied,
    Phase.ACTING: _acting,
    Phase.BOUNDARY: _boundary,
}


def _interrupt(state: State, random: Random, context: Context) -> i.InterruptRequested:
    return i.InterruptRequested(_item(random), random.choice((None, "enough")))


def _resumed(state: State, random: Random, context: Context) -> i.Input | None:
    if context.fence <= max((e.attempt.fence for e in state.effects), default=0):
        return None
    by_hand = state.parked is not None or random.random() < 0.2
    return i.Resumed(random.choice(("continue", "continue", "continue", "crash")), by_hand, "crashed")


def _deadline(state: State, random: Random, context: Context) -> i.Input | None:
    return i.DeadlineReached(random.choice((StopReason.DEADLINE, StopReason.DEADLINE, StopReason.PROCESSING_TIMEOUT)))


def _timer(state: State, random: Random, context: Context) -> i.TimerSet:
    due = state.updated_at + random.randint(-1, 5) * _SECOND
    return i.TimerSet(
        f"timer-{random.randint(1, 4)}", due, random.choice(("message", "reminder", "signal")), "Wake up."
    )


def _compaction(state: State, random: Random, context: Context) -> i.CompactionRequested | None:
    start = state.window.start
    if start >= state.next_seq or any(e.kind == "CompactHistory" for e in state.effects):
        return None
    start = start if random.random() < 0.7 else random.randrange(start, state.next_seq)
    return i.CompactionRequested(start, random.randint(start + 1, state.next_seq))


_WRONG: tuple[i.Instruction, ...] = (i.CompactionRequested(0, 0), i.TimerSet("t", 5), i.TimerSet("t", 2**60, "signal"))


def _limits(state: State, random: Random, context: Context) -> i.LimitsChanged:
    return i.LimitsChanged(Json(f'{{"max_steps_per_run":{random.randint(1, 99)}}}'))


def _instructed(state: State, random: Random, context: Context) -> i.Instructed:
    """Something a driver does, asked for by a person: it may as well be nonsense."""
    kind = random.choice((i.LimitsChanged, i.TimerSet, i.TimerCancelled, i.CompactionRequested, i.TodosSet))
    made = None if random.random() < 0.2 else _OTHERS[kind](state, random, context)
    return i.Instructed(_item(random), random.choice(_WRONG) if made is None else typing.cast(i.Instruction, made))


def _documents(state: State, random: Random, context: Context) -> i.DocumentsChanged:
    return i.DocumentsChanged(
        (Document("todos", random.choice("ab"), _item(random)),), (("todos", random.choice("ab")),)
    )


_OTHERS: dict[type, Callable[[State, Random, Context], i.Input | None]] = {
    i.MessageReceived: _message,
    i.ApprovalDecided: _decided,
    i.CallResolved: _resolved,
    i.InterruptRequested: _interrupt,
    i.Instructed: _instructed,
    i.ModelReplied: _replied,
    i.ModelFailed: _failed,
    i.ToolFinished: _finished,
    i.ToolSuspended: _suspended,
    i.CompactionRequested: _compaction,
    i.HistoryCompacted: _compacted,
    i.CompactionFailed: lambda s, r, c: i.CompactionFailed(_some_id(s, r, "CompactHistory"), RunError("x", "no")),
    i.Delivered: lambda s, r, c: i.Delivered(_some_id(s, r, "Deliver"), r.choice(("ok", "gone", "error"))),
    i.Resumed: _resumed,
    i.Proceed: lambda s, r, c: i.Proceed(r.random() < 0.3),
    i.TimePassed: lambda s, r, c: i.TimePassed(),
    i.DeadlineReached: _deadline,
    i.TimerSet: _timer,
    i.LimitsChanged: _limits,
    i.TodosSet: lambda s, r, c: i.TodosSet(Json("{}")),
    i.TimerCancelled: lambda s, r, c: i.TimerCancelled(f"timer-{r.randint(1, 4)}"),
    i.SnapshotTaken: lambda s, r, c: i.SnapshotTaken(_item(r)),
    i.Reverted: lambda s, r, c: i.Reverted(s.window, s.documents[:1], "snapshot"),
    i.DocumentsChanged: _documents,
    i.SandboxBound: lambda s, r, c: i.SandboxBound(r.choice((None, "box"))),
    i.Noted: lambda s, r, c: i.Noted((Event("file_changed"), Event("todo_changed", at=5))),
    i.Parked: lambda s, r, c: i.Parked(),
}
_MAKERS = tuple(_OTHERS.items())


# ---- a journey ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Journey:
    """One agent, driven at random and checked after every batch; it keeps what a store would keep."""

    random: Random
    rows: Rows = field(default_factory=Counter)
    state: State = field(default_factory=lambda: State("agent", "uid", 1, 1))
    fence: int = 1
    at: int = 1
    limits: Limits = field(default_factory=Limits)
    messages: list[Message] = field(default_factory=list)
    calls: dict[str, Call] = field(default_factory=dict)
    runs: dict[int, RunRecord] = field(default_factory=dict)
    inbox: list[i.Input] = field(default_factory=list)
    """What people sent that had to wait."""
    starts: Counter[str] = field(default_factory=Counter)
    """How often each effect was started."""

    @property
    def transitions(self) -> int:
        """How many inputs were applied, the looks ahead included."""
        return sum(self.rows.values())

    def begin(self) -> None:
        """Give the agent limits, and now and then a parent."""
        draw = self.random
        self.limits = Limits(
            max_tool_concurrency=draw.randint(1, 3),
            max_steps_per_run=draw.choice((None, 3, 10)),
            max_tool_calls_per_run=draw.choice((None, 4, 20)),
            max_tokens_per_run=draw.choice((None, None, 500)),
            max_cost_per_agent=draw.choice((None, None, 1e-6)),
            approval_deadline_s=draw.choice((None, 3)),
        )
        if draw.random() < 0.3:
            self.state = replace(self.state, parent=Parent("parent", "parent-uid", "1.1.1"))

    def go(self) -> None:
        """Let something happen: usually a batch of whatever is legal, at times a crash before it."""
        draw = self.random
        self.at += draw.choice((-5, 1, 1000, _SECOND, 4 * _SECOND))
        crashed = draw.random() < (0.15 if self.state.parked is None else 0.7)
        self.fence += crashed
        context = Context(self.at, self.fence, self.limits, draw.choice((0, 1000)))
        context = replace(context, cut=_compaction(self.state, draw, context), full=draw.random() < 0.1)
        if crashed and draw.random() < 0.8 and (resumed := _resumed(self.state, draw, context)) is not None:
            batch = [resumed, *self.inbox]
            self.rows["Resumed", self.state.phase] += 1
        else:
            batch = legal_inputs(self.state, draw, context, waiting=self.inbox, rows=self.rows)
        self.feed(batch, context, hold=draw.random() < 0.1)

    def feed(self, batch: list[i.Input], context: Context, *, hold: bool = False) -> Transition:
        """Apply a batch as a driver would, and check what came of it."""
        before = self.state
        after = advance(before, batch, context, hold=hold)
        self.state = after.state
        self.inbox = [input for input in after.postponed if isinstance(input, i.MessageReceived | i.Instructed)]
        self.messages += after.messages
        self.calls.update({c.id: c for c in (*after.calls, *after.state.calls)})
        self.runs.update({r.number: r for r in after.runs})
        check(after.state)
        check_transition(before, after)
        check_history(self.messages, after.state.calls)
        for effect in after.effects:
            self._start(effect)
        return after

    def _start(self, effect: Effect) -> None:
        self.starts[effect.id] += 1
        if effect.kind != "RunTool" or self.starts[effect.id] == 1:
            return
        call = self.calls[effect.id]
        allowed = sum(a.kind == "recovery" and a.state == "approved" for a in call.approvals)
        if call.plan.recovery != "retry" and self.starts[effect.id] > 1 + allowed:
            raise InvariantError(f"Broken: call {call.id} was started twice, and nobody said that it may be.")

    def finish(self) -> None:
        """Answer all that is open until nothing is; every run must have ended then."""
        for _ in range(200):
            context = Context(self.at, self.fence, self.limits)
            batch = [self._answer(e) for e in self.state.effects]
            for call in self.state.calls:
                if call.approval is not None:
                    batch.append(i.ApprovalDecided(_item(self.random), call.id, call.approval.n, "allow"))
                elif call.wait_due_at is None and call.wait is not None:
                    batch.append(i.CallResolved(_item(self.random), call.id, _TEXT))
            if self.state.parked is not None:
                self.fence += 1
                context, batch = replace(context, fence=self.fence), [i.Resumed(by_hand=True)]
            elif not batch and wake_at(self.state) is None and not self.inbox:
                break
            self.at += 30 * _SECOND
            self.feed([*batch, *self.inbox, i.TimePassed()], context)
        if self.state.run is not None or any(r.ended_at is None for r in self.runs.values()):
            raise InvariantError("Broken: a run whose every question was answered did not end.")

    def _answer(self, effect: Effect) -> i.Input:
        if effect.kind == "CallModel":
            return i.ModelReplied(effect.id, _TEXT)
        if effect.kind == "RunTool":
            return i.ToolFinished(effect.id, _TEXT)
        if effect.kind == "CompactHistory":
            return i.CompactionFailed(effect.id, RunError("x", "no"))
        return i.Delivered(effect.id)
