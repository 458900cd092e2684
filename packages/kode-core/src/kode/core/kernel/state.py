"""The state of an agent as a value. It holds no messages: a transition appends those.

All of it is stored in the header (what changes rarely lies in documents, named here by digest). Times are
integer microseconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from kode.core.kernel.effects import CallModel, Effect
from kode.core.kernel.message import Json, Usage
from kode.core.kernel.toolcall import Call, CallStatus
from kode.core.kernel.window import Window
from kode.core.kernel.words import Breakpoint, Phase, Status, StopReason
from kode.core.quick import quick

__all__ = [
    "STAGES",
    "Ancestor",
    "Document",
    "Parent",
    "Run",
    "RunError",
    "RunRecord",
    "State",
    "Timer",
    "breakpoint_of",
    "model_of",
    "phase_of",
    "status_of",
]


@dataclass(frozen=True, slots=True)
class Timer:
    """Wakes the agent at ``due_at``, in whatever process. Kind ``message`` starts a run with ``data``."""

    id: str
    due_at: int | None
    """None: not by time."""
    kind: Literal["message", "reminder", "signal"]
    data: str = ""
    every_us: int | None = None
    """Fires again after each such interval; missed ones are skipped."""
    schedule: str | None = None
    """Cron text; the shell reads it and says the next ``due_at`` with the ``TimePassed`` that it fires in."""
    due_step: int | None = None
    """Fires at the boundary at which the agent has made so many steps in all."""
    every_steps: int | None = None
    """Fires again after each so many steps."""


@dataclass(frozen=True, slots=True)
class Parent:
    """The call of another agent that waits for this one's answer."""

    agent_id: str
    uid: str
    """Another agent may be created under the same id; the answer is not for that one."""
    call: str
    depth: int = 1
    answered: bool = False
    """The answer was delivered, or is on its way."""


@dataclass(frozen=True, slots=True)
class Ancestor:
    """Where a fork came from: that agent, that identity, up to that message."""

    agent_id: str
    uid: str
    seq: int


@dataclass(frozen=True, slots=True)
class Document:
    """Names a stored document; what is not named does not exist."""

    kind: str
    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class RunError:
    """Why a run failed, for people and programs."""

    code: str
    text: str
    retryable: bool = False


@quick
@dataclass(frozen=True, slots=True)
class Run:
    """The run in progress."""

    number: int
    started_at: int
    first_seq: int
    first_cursor: int
    item: str | None = None
    """Inbox id of the message that started it."""
    taken: int = 0
    """Inbox messages it took in all; the ``consumed`` records name them."""
    steps: int = 0
    calls: int = 0
    usage: Usage = Usage()
    used_us: int = 0
    """Processing time so far, microseconds."""
    resting: StopReason | None = None
    """Why it rests, if it does; the next transition under a driver clears it."""
    over: StopReason | None = None
    """A limit was met: it ends at the next boundary for this reason."""
    context: Json | None = None
    """Trace context of the message that started it."""
    limits: Json | None = None
    """Narrower bounds for this run alone, as a JSON object of ``Limits`` fields."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What became of a run; replaced while it rests, final once ``ended_at`` is set."""

    number: int
    status: str
    """``RunResult.status``: ok, paused, limit, deadline, interrupted, queued, error."""
    stop_reason: StopReason
    started_at: int
    ended_at: int | None
    item: str | None
    taken: int
    first_seq: int
    last_seq: int
    first_cursor: int
    last_cursor: int
    steps: int
    calls: int
    usage: Usage
    used_us: int
    pending: tuple[str, ...] = ()
    """Calls that wait for a decision."""
    waiting: tuple[str, ...] = ()
    """Suspended calls that wait for an answer from outside."""
    answer_seq: int | None = None
    """Message that holds the answer."""
    output: Json | None = None
    """Structured output."""
    error: RunError | None = None
    context: Json | None = None


@quick
@dataclass(frozen=True, slots=True)
class State:
    """Everything an agent is, except what it said. Frozen; a transition makes the next one."""

    agent_id: str
    uid: str
    """Random at birth, part of every idempotency key; a fork and an agent created again get another."""
    created_at: int
    updated_at: int
    first_seq: int = 0
    """Messages below it were pruned."""
    first_cursor: int = 1
    """Events below it were pruned."""
    next_seq: int = 0
    next_cursor: int = 1
    """Cursor 0 is before the first event."""
    next_run: int = 1
    step: int = 0
    """Step of the run in progress, or of the last one."""
    next_n: int = 0
    """Next effect number in that step."""
    steps_total: int = 0
    """Steps of all runs; what `every_steps` counts."""
    usage_total: Usage = Usage()
    window: Window = Window()
    run: Run | None = None
    effects: tuple[Effect, ...] = ()
    calls: tuple[Call, ...] = ()
    """All calls of the open step, finished ones too, in the order of the reply."""
    timers: tuple[Timer, ...] = ()
    documents: tuple[Document, ...] = ()
    sandbox_ref: str | None = None
    """Finds the sandbox's processes again after a crash."""
    template: str = ""
    """``name@version`` of the template; its text is a document."""
    tenant: str | None = None
    parent: Parent | None = None
    lineage: tuple[Ancestor, ...] = ()
    parked: StopReason | None = None
    """Set: not due until someone resumes it by hand."""
    tokens: int = 0
    """Size of the window in tokens, as the provider last counted it."""
    expires_at: int | None = None
    """After it retention may erase the agent."""

    @property
    def model(self) -> CallModel | None:
        """The open model call."""
        return model_of(self.effects)

    @property
    def phase(self) -> Phase:
        """Column of the transition table."""
        return phase_of(self.run, self.effects, self.calls)

    @property
    def status(self) -> Status:
        """WORKING, PAUSED or READY."""
        return status_of(self.effects, self.calls)

    @property
    def breakpoint(self) -> Breakpoint:
        """What the agent is at."""
        return breakpoint_of(self.effects, self.calls)

    def effect(self, id: str) -> Effect | None:
        """The open effect of that id."""
        return next((e for e in self.effects if e.id == id), None)

    def call(self, id: str) -> Call | None:
        """The call of the open step with that id."""
        return next((c for c in self.calls if c.id == id), None)


# ---- derived, never stored ---------------------------------------------------------------------------------


def model_of(effects: Sequence[Effect]) -> CallModel | None:
    """The open model call."""
    for effect in effects:
        if effect.kind == "CallModel":
            return effect
    return None


def phase_of(run: Run | None, effects: Sequence[Effect], calls: Sequence[Call]) -> Phase:
    """What kind of input the agent can use."""
    if calls:
        return Phase.ACTING
    if model_of(effects) is not None:
        return Phase.THINKING
    return Phase.BOUNDARY if run is not None else Phase.IDLE


def status_of(effects: Sequence[Effect], calls: Sequence[Call]) -> Status:
    """WORKING while an effect is open or a call waits for a slot; PAUSED while calls wait for the outside.

    A sub-agent that has a slot is outside, and so is whoever waits for that slot.
    """
    if effects:
        return Status.WORKING
    statuses = {c.status for c in calls}
    held = any(c.status is CallStatus.WAITING and c.plan.child for c in calls)
    if any(c.status in _WAIT_FOR_SLOT and not (held and c.plan.child) for c in calls):
        return Status.WORKING
    return Status.PAUSED if statuses & _WAIT_FOR_OTHERS else Status.READY


def breakpoint_of(effects: Sequence[Effect], calls: Sequence[Call]) -> Breakpoint:
    """First match: what the calls are at, else the model, else the compaction, else READY."""
    statuses = {c.status for c in calls}
    for status, stage in STAGES:
        if status in statuses:
            return stage
    if model_of(effects) is not None:
        return Breakpoint.STREAMING_MODEL
    compacting = any(e.kind == "CompactHistory" for e in effects)
    return Breakpoint.PRE_MODEL if compacting else Breakpoint.READY


_WAIT_FOR_SLOT = {CallStatus.PENDING, CallStatus.APPROVED}
_WAIT_FOR_OTHERS = {CallStatus.APPROVAL_REQUIRED, CallStatus.WAITING}
STAGES = (
    (CallStatus.EXECUTING, Breakpoint.TOOL_EXECUTING),
    (CallStatus.APPROVAL_REQUIRED, Breakpoint.AWAITING_APPROVAL),
    (CallStatus.APPROVED, Breakpoint.PRE_TOOL),
    (CallStatus.PENDING, Breakpoint.TOOL_PENDING),
    (CallStatus.WAITING, Breakpoint.TOOL_EXECUTING),
)
