"""The notebook of one batch: handlers write in it, ``finish`` makes a new ``State`` of it.

It lives only inside ``transition``/``advance``; outside, states are values. It exists so that a batch of
inputs builds one state, not one per line changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter
from typing import Any, TypeVar

from kode.core.kernel.effects import Attempt, Effect
from kode.core.kernel.events import Event, Ref, Scalar, preview
from kode.core.kernel.inputs import CompactionRequested
from kode.core.kernel.limits import Limits, narrowed
from kode.core.kernel.message import Block, Message, Role, TextBlock, Usage
from kode.core.kernel.state import (
    Document,
    Parent,
    Run,
    RunRecord,
    State,
    Timer,
    breakpoint_of,
    model_of,
    phase_of,
    status_of,
)
from kode.core.kernel.toolcall import Audit, Call
from kode.core.kernel.window import Compaction, Snapshot, Window
from kode.core.kernel.words import Breakpoint, Phase, Status, StopReason
from kode.core.quick import quick

__all__ = ["Context", "Draft", "change_call", "first_text"]

_T = TypeVar("_T")


@quick
@dataclass(frozen=True, slots=True)
class Context:
    """What the shell knows and the kernel needs: the time, the right to drive, the bounds."""

    at: int
    """Microseconds, UTC; the kernel clamps it so that it never goes back."""
    fence: int = 0
    limits: Limits = field(default_factory=Limits)
    used_us: int = 0
    """Processing time since the last batch."""
    cut: CompactionRequested | None = None
    """What may be summed up now, if the shell was asked or the window is full."""
    full: bool = False
    """The window is larger than it may be: make that ``cut`` before the model is asked again."""


def _changer(kind: type[_T]) -> Callable[..., _T]:
    """Make a ``dataclasses.replace`` for one class, four times as fast: every batch makes a dozen copies."""
    names = tuple(f.name for f in fields(kind))  # type: ignore[arg-type]  # mypy: not every type is a dataclass
    place = {name: i for i, name in enumerate(names)}
    read = attrgetter(*names)

    def change(value: _T, **changes: Any) -> _T:
        values = list(read(value))
        for name, new in changes.items():
            values[place[name]] = new
        return kind(*values)

    return change


change_call = _changer(Call)
_change_run = _changer(Run)
_FIELDS = tuple(f.name for f in fields(State))
_read = attrgetter(*_FIELDS)


class Draft:
    """A state being changed, and what the change appends."""

    __slots__ = (
        *_FIELDS,
        "call_records",
        "compactions",
        "context",
        "events",
        "messages",
        "passed",
        "runs",
        "snapshots",
        "started",
    )

    agent_id: str
    uid: str
    updated_at: int
    first_seq: int
    next_seq: int
    next_cursor: int
    next_run: int
    step: int
    next_n: int
    steps_total: int
    usage_total: Usage
    window: Window
    run: Run | None
    effects: tuple[Effect, ...]
    calls: tuple[Call, ...]
    timers: tuple[Timer, ...]
    documents: tuple[Document, ...]
    sandbox_ref: str | None
    template: str
    parent: Parent | None
    parked: StopReason | None
    tokens: int

    def __init__(self, state: State, context: Context) -> None:
        for name, value in zip(_FIELDS, _read(state), strict=True):
            setattr(self, name, value)
        self.updated_at = max(context.at, state.updated_at)
        self.context = context
        self.messages: list[Message] = []
        self.call_records: dict[str, Call] = {}
        self.runs: dict[int, RunRecord] = {}
        self.compactions: list[Compaction] = []
        self.snapshots: list[Snapshot] = []
        self.events: list[Event] = []
        self.started: list[Effect] = []
        self.passed: list[Breakpoint] = []
        if context.used_us and self.run is not None:
            self.change_run(used_us=self.run.used_us + context.used_us)

    # ---- reading

    @property
    def at(self) -> int:
        """The time of this batch, never before the last one's."""
        return self.updated_at

    @property
    def the_run(self) -> Run:
        """The run in progress, where the table says that there is one."""
        assert self.run is not None
        return self.run

    @property
    def limits(self) -> Limits:
        """The bounds of this batch, within those of the run."""
        run, limits = self.run, self.context.limits
        return limits if run is None or run.limits is None else narrowed(limits, run.limits)

    @property
    def phase(self) -> Phase:
        """Column of the transition table."""
        return phase_of(self.run, self.effects, self.calls)

    @property
    def status(self) -> Status:
        """Of the agent, as it stands now."""
        return status_of(self.effects, self.calls)

    @property
    def breakpoint(self) -> Breakpoint:
        """Of the agent, as it stands now."""
        return breakpoint_of(self.effects, self.calls)

    @property
    def model(self) -> Effect | None:
        """The open model call."""
        return model_of(self.effects)

    def effect(self, id: str) -> Effect | None:
        """The open effect of that id."""
        for effect in self.effects:
            if effect.id == id:
                return effect
        return None

    def call(self, id: str) -> Call | None:
        """The call of the open step with that id."""
        for call in self.calls:
            if call.id == id:
                return call
        return None

    # ---- writing

    def note(
        self,
        kind: str,
        /,
        *,
        call: str | None = None,
        ref: Ref | None = None,
        preview_of: str | None = None,
        **data: Scalar,
    ) -> Event:
        """Add a durable event and give it the next cursor."""
        run, step = (0, 0) if self.run is None else (self.run.number, self.step)
        text = None if preview_of is None else preview(preview_of)
        event = Event(kind, self.updated_at, self.next_cursor, run, step, call, ref, text, data)
        self.next_cursor += 1
        self.events.append(event)
        return event

    def adopt(self, event: Event) -> None:
        """Number an event that the shell found."""
        self.events.append(replace(event, at=event.at or self.updated_at, cursor=self.next_cursor))
        self.next_cursor += 1

    def late(self, effect: str, what: str) -> None:
        """Drop an answer nobody waits for any more, and say so."""
        self.note("late_answer", effect=effect, input=what)

    def reject(self, item: str, reason: str) -> None:
        """Use up an inbox item that cannot be applied, and say why."""
        self.note("input_rejected", preview_of=reason, item=item)

    def append(self, role: Role, blocks: tuple[Block, ...], **fields: Any) -> int:
        """Append a message to the history and say its number."""
        seq = self.next_seq
        run, step = (0, 0) if self.run is None else (self.run.number, self.step)
        self.messages.append(Message(seq, role, blocks, self.updated_at, run, step, **fields))
        self.next_seq = seq + 1
        return seq

    def change_run(self, **changes: Any) -> None:
        """Change the run in progress."""
        self.run = _change_run(self.the_run, **changes)

    def put_call(self, call: Call, note: str | None = None, **changes: Any) -> Call:
        """Put a call of the open step, changed, in the place of its former self, with a line in its trail."""
        line = Audit(self.updated_at, changes.get("status", call.status), note)
        call = change_call(call, audit=(*call.audit, line), **changes)
        self.calls = tuple([call if c.n == call.n else c for c in self.calls])
        self.call_records[call.id] = call
        return call

    def next_id(self) -> str:
        """Count an effect: ``run.step.n``."""
        run = self.run.number if self.run is not None else self.next_run - 1
        id = f"{run}.{self.step}.{self.next_n}"
        self.next_n += 1
        return id

    def attempt(self) -> Attempt:
        """The first attempt under the present fence."""
        return Attempt(self.context.fence)

    def start(self, effect: Effect) -> None:
        """Open an effect, or put its next attempt in the place of the last one."""
        self.effects = (*[e for e in self.effects if e.id != effect.id], effect)
        self.started.append(effect)

    def close(self, id: str) -> None:
        """Close an effect: it was answered, or its answer is not wanted any more."""
        self.effects = tuple([e for e in self.effects if e.id != id])
        if self.started:
            self.started = [e for e in self.started if e.id != id]

    def finish(self) -> State:
        """The next state."""
        return State(*_read(self))


def first_text(blocks: tuple[Block, ...]) -> str:
    """The first text in a message, for previews."""
    for block in blocks:
        if isinstance(block, TextBlock):
            return block.text
    return ""
