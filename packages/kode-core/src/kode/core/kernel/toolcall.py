"""Tool calls: what the model asked for, what was planned, and the trail of what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from kode.core.kernel.message import Json, ResultContent, Usage
from kode.core.quick import quick

__all__ = [
    "Approval",
    "ApprovalState",
    "Audit",
    "Call",
    "CallStatus",
    "Plan",
    "Recovery",
    "Verdict",
    "Wait",
    "call_id",
]


class CallStatus(StrEnum):
    """Of one call. The last four are final."""

    PENDING = "PENDING"
    """Waits for a slot."""
    APPROVAL_REQUIRED = "APPROVAL_REQUIRED"
    APPROVED = "APPROVED"
    """Allowed by someone; waits for a slot."""
    EXECUTING = "EXECUTING"
    """Asked to start; whether it did is known only once it answers."""
    WAITING = "WAITING"
    """Suspended: something outside will answer."""
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    DENIED = "DENIED"
    SEALED = "SEALED"
    """Closed by us, with a result that says what is known."""

    @property
    def final(self) -> bool:
        """Whether the call has its result."""
        return self in _FINAL


_FINAL = frozenset({CallStatus.COMPLETED, CallStatus.FAILED, CallStatus.DENIED, CallStatus.SEALED})

Recovery = Literal["retry", "seal", "ask"]
"""What a crash does to a call that may have started: run it again, seal it, or ask a person."""

Verdict = Literal["allow", "ask", "deny", "answer", "unknown", "invalid", "limit"]
"""What planning found: run it, ask first, refuse it, answer at once, no such tool, bad input, a limit."""

ApprovalState = Literal["pending", "approved", "refused", "expired", "superseded"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What the shell found out about a call before the kernel was told of it."""

    verdict: Verdict
    tool_digest: str | None = None
    """Beginning of the digest of the tool's definition at planning time: for who asks later what was planned. Nothing
    compares it; a call is run by the tool of its name that is there then, if that takes its input."""
    readonly: bool = False
    recovery: Recovery = "seal"
    timeout_s: float | None = None
    reason: str | None = None
    """Why it was denied, asked about or refused; shown to the model or the approver."""
    child: bool = False
    """The tool works through a sub-agent, whose id is ``<uid>/<call id>``; it is interrupted if the call is sealed."""


@dataclass(frozen=True, slots=True)
class Approval:
    """One question to a person about a call. ``n`` counts the questions of that call from 1."""

    n: int
    kind: Literal["permission", "recovery"] = "permission"
    state: ApprovalState = "pending"
    due_at: int | None = None
    """Microseconds; after it the approval expires and the call is denied."""
    reason: str | None = None
    by: str | None = None
    at: int | None = None
    note: str | None = None
    input: Json | None = None
    """Arguments as the approver changed them."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Why a call is suspended, and until when at most."""

    due_at: int | None = None
    child: str | None = None
    """Agent id of the sub-agent that will answer."""
    child_uid: str | None = None
    """Its identity."""


@quick
@dataclass(frozen=True, slots=True)
class Audit:
    """One line of a call's trail."""

    at: int
    status: CallStatus
    note: str | None = None


def call_id(run: int, step: int, n: int) -> str:
    """Name a call or effect: ``run.step.n``, unique in an agent for ever."""
    return f"{run}.{step}.{n}"


@quick
@dataclass(frozen=True, slots=True)
class Call:
    """One call of one step. Once the step is closed, ``input`` and ``result`` are in the history only."""

    run: int
    step: int
    n: int
    provider_id: str
    tool: str
    seq: int
    """Message that asked."""
    block: int
    """Index of the ``ToolUseBlock`` in that message."""
    status: CallStatus
    plan: Plan
    asked_at: int
    input: Json | None = None
    """As the model gave it; None once the step is closed (read it at ``seq``/``block``)."""
    changed_input: Json | None = None
    """As a hook or an approver changed it; this one is run."""
    started_at: int | None = None
    finished_at: int | None = None
    attempts: tuple[str, ...] = ()
    """``fence.n`` of each start."""
    approvals: tuple[Approval, ...] = ()
    wait: Wait | None = None
    """Set when it was suspended, and kept, so that the record names the child."""
    result: tuple[ResultContent, ...] | None = None
    result_seq: int | None = None
    """Message that carries the result, once the step is closed."""
    is_error: bool = False
    cut_bytes: int = 0
    """Bytes of output that were cut away by ``max_tool_result_bytes``."""
    seal_reason: str | None = None
    usage: Usage | None = None
    """Tokens and cost of the call itself (a sub-agent, a model behind the tool)."""
    audit: tuple[Audit, ...] = ()

    @property
    def id(self) -> str:
        """``run.step.n``."""
        return f"{self.run}.{self.step}.{self.n}"

    @property
    def approval(self) -> Approval | None:
        """The question that waits for an answer, if there is one."""
        last = self.approvals[-1] if self.approvals else None
        return last if last is not None and last.state == "pending" else None

    @property
    def wait_due_at(self) -> int | None:
        """Until when a suspended call waits; None: for ever, or it does not wait."""
        return self.wait.due_at if self.wait is not None and self.status is CallStatus.WAITING else None
