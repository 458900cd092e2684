"""Inputs: what happened. The only way to change a state is to feed it one.

Two kinds reach the kernel: items that any process may put into an agent's inbox (they carry ``item``, their
id), and facts that the agent's own driver found. Answers to effects name the effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from kode.core.kernel.events import Event
from kode.core.kernel.message import Block, Json, ResultContent, Usage
from kode.core.kernel.state import Document, RunError
from kode.core.kernel.toolcall import Plan
from kode.core.kernel.window import Window
from kode.core.kernel.words import ResumeStrategy, StopReason
from kode.core.quick import quick

__all__ = [
    "ApprovalDecided",
    "CallResolved",
    "CompactionFailed",
    "CompactionRequested",
    "DeadlineReached",
    "Delivered",
    "DocumentsChanged",
    "HistoryCompacted",
    "InboxInput",
    "Input",
    "Instructed",
    "Instruction",
    "InterruptRequested",
    "LimitsChanged",
    "MessageReceived",
    "ModelFailed",
    "ModelReplied",
    "Noted",
    "Parked",
    "PlannedCall",
    "Proceed",
    "Resumed",
    "Reverted",
    "SandboxBound",
    "SnapshotTaken",
    "TimePassed",
    "TimerCancelled",
    "TimerSet",
    "TodosSet",
    "ToolFinished",
    "ToolSuspended",
]


# ---- from the inbox ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """Someone speaks to the agent. A ``reminder`` is shown with the next model call but starts none."""

    item: str
    blocks: tuple[Block, ...]
    kind: Literal["user", "reminder"] = "user"
    sender: str | None = None
    metadata: Json | None = None
    context: Json | None = None
    limits: Json | None = None
    """Narrower bounds for the run that this message starts, as a JSON object of ``Limits`` fields."""


@dataclass(frozen=True, slots=True)
class ApprovalDecided:
    """A person answered question ``n`` of a call. The shell planned a changed ``input`` again (``plan``)."""

    item: str
    call: str
    n: int
    decision: Literal["allow", "deny"]
    by: str | None = None
    note: str | None = None
    input: Json | None = None
    plan: Plan | None = None


@dataclass(frozen=True, slots=True)
class CallResolved:
    """Something outside answers an executing or suspended call."""

    item: str
    call: str
    result: tuple[ResultContent, ...]
    is_error: bool = False
    usage: Usage | None = None
    """What a sub-agent used; counted in this run, or if it comes too late for that, by the agent alone."""


@dataclass(frozen=True, slots=True)
class InterruptRequested:
    """Stop the run: what answered within the grace was fed before this; the rest is sealed."""

    item: str
    note: str | None = None
    by: str | None = None


# ---- answers to effects ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """One ``ToolUseBlock`` of a reply with what the shell planned for it."""

    block: int
    plan: Plan
    input: Json | None = None
    """Arguments as a hook changed them."""
    answer: tuple[ResultContent, ...] | None = None
    """The result, when the plan answers without running the tool."""


@quick
@dataclass(frozen=True, slots=True)
class ModelReplied:
    """The model's whole reply, with the plan of each call in it."""

    effect: str
    blocks: tuple[Block, ...]
    stop: StopReason = StopReason.END_TURN
    usage: Usage = Usage()
    calls: tuple[PlannedCall, ...] = ()
    provider: str | None = None
    model: str | None = None
    attempt: str | None = None
    output: Json | None = None
    """Structured output, checked by the shell."""
    tokens: int = 0
    """Size of the window with this reply, as the shell knows it; 0: what ``usage`` says."""


@dataclass(frozen=True, slots=True)
class ModelFailed:
    """The provider gave up for good; the run ends with ``stop``."""

    effect: str
    error: RunError
    stop: StopReason = StopReason.PROVIDER_ERROR
    usage: Usage = Usage()


@dataclass(frozen=True, slots=True)
class ToolFinished:
    """A tool answered, well or badly. ``sealed`` names the reason when the outcome is not known."""

    effect: str
    result: tuple[ResultContent, ...]
    is_error: bool = False
    cut_bytes: int = 0
    usage: Usage | None = None
    sealed: str | None = None
    denied: bool = False
    """It was not run: a hook denied it when its turn came."""


@dataclass(frozen=True, slots=True)
class ToolSuspended:
    """A tool handed its call to someone outside, who will send ``CallResolved``."""

    effect: str
    due_at: int | None = None
    child: str | None = None
    child_uid: str | None = None


@dataclass(frozen=True, slots=True)
class HistoryCompacted:
    """The summary for a ``CompactHistory``."""

    effect: str
    id: str
    summary: tuple[Block, ...]
    method: str = "model"
    model: str | None = None
    usage: Usage | None = None
    pinned: tuple[int, ...] = ()
    tokens_before: int = 0
    tokens_after: int = 0


@dataclass(frozen=True, slots=True)
class CompactionFailed:
    """No summary could be made; the window stays."""

    effect: str
    error: RunError


@dataclass(frozen=True, slots=True)
class Delivered:
    """An item is in the other inbox, or its receiver is ``gone``, or it refused the item (``error``)."""

    effect: str
    outcome: Literal["ok", "gone", "error"] = "ok"
    error: RunError | None = None


# ---- facts of the driver -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Resumed:
    """A new driver took over. Legal only under a fence above that of every open effect.

    ``by_hand`` clears a parked agent.
    """

    strategy: ResumeStrategy = "continue"
    by_hand: bool = False
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Proceed:
    """All that has arrived was offered: decide what to start. ``hold``: a model call at most, and no tool."""

    hold: bool = False


@dataclass(frozen=True, slots=True)
class TimePassed:
    """Look at what is due: approvals, waits, timers."""

    next: tuple[tuple[str, int | None], ...] = ()
    """The next times of timers by schedule that are due, by id: the shell reads cron. None: it fires no more."""


@dataclass(frozen=True, slots=True)
class DeadlineReached:
    """``deadline``: the request's time is over, the run rests. ``processing_timeout``: the run ends."""

    reason: StopReason


@dataclass(frozen=True, slots=True)
class TimerSet:
    """Set or replace a timer."""

    id: str
    due_at: int | None
    kind: Literal["message", "reminder", "signal"] = "message"
    data: str = ""
    every_us: int | None = None
    """Repeat after each such interval, microseconds, at least 1."""
    schedule: str | None = None
    """Cron text that the next times are read from; ``due_at`` is the first."""
    due_step: int | None = None
    every_steps: int | None = None
    type: Literal["timer"] = "timer"


@dataclass(frozen=True, slots=True)
class TimerCancelled:
    """Take a timer away; unknown ids are fine."""

    id: str
    type: Literal["cancel_timer"] = "cancel_timer"


@dataclass(frozen=True, slots=True)
class CompactionRequested:
    """Summarise what is shown of messages ``start`` to ``stop``; 0 to 0: as the shell finds best (``Context.cut``)."""

    start: int
    stop: int
    method: str = "model"
    type: Literal["compact"] = "compact"


@dataclass(frozen=True, slots=True)
class SnapshotTaken:
    """Name this safe point."""

    id: str
    tags: tuple[str, ...] = ()
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class Reverted:
    """Go back to a window and documents of before; numbers go on rising."""

    window: Window
    documents: tuple[Document, ...] = ()
    to: str | None = None
    tokens: int = 0
    """Size of that window."""


@dataclass(frozen=True, slots=True)
class DocumentsChanged:
    """Documents were written in this commit; ``removed`` ones are named no more."""

    documents: tuple[Document, ...] = ()
    removed: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class SandboxBound:
    """How to find the sandbox's processes again; None: there is none."""

    ref: str | None


@dataclass(frozen=True, slots=True)
class Noted:
    """Durable events that the shell found; they ride in this commit."""

    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Parked:
    """Taken over too often without progress: not due until someone resumes it by hand."""

    reason: StopReason = StopReason.CRASH_LOOP


@dataclass(frozen=True, slots=True)
class LimitsChanged:
    """Other bounds from now on. The shell keeps them in the stored recipe; the kernel tells observers."""

    limits: Json
    """As a JSON object of the ``Limits`` fields that change."""
    type: Literal["limits"] = "limits"


@dataclass(frozen=True, slots=True)
class TodosSet:
    """Another list of todos, whole. It is a document, which the shell writes if the present one is as expected."""

    todos: Json
    expects: str | None = None
    """Digest of the list that it replaces; None: there is none."""
    type: Literal["todos"] = "todos"


Instruction: TypeAlias = LimitsChanged | TimerSet | TimerCancelled | CompactionRequested | TodosSet
"""Facts of a driver that any process may also ask for."""


@dataclass(frozen=True, slots=True)
class Instructed:
    """Somebody asks for a thing that only a driver does: it is judged like that input, but refused, never illegal."""

    item: str
    what: Instruction


InboxInput: TypeAlias = MessageReceived | ApprovalDecided | CallResolved | InterruptRequested | Instructed
Input: TypeAlias = (
    MessageReceived
    | ApprovalDecided
    | CallResolved
    | InterruptRequested
    | Instructed
    | ModelReplied
    | ModelFailed
    | ToolFinished
    | ToolSuspended
    | HistoryCompacted
    | CompactionFailed
    | Delivered
    | Resumed
    | Proceed
    | TimePassed
    | DeadlineReached
    | TimerSet
    | TimerCancelled
    | LimitsChanged
    | TodosSet
    | CompactionRequested
    | SnapshotTaken
    | Reverted
    | DocumentsChanged
    | SandboxBound
    | Noted
    | Parked
)
