"""The vocabulary in one place: statuses, breakpoints, stop reasons and what a caller is told of them."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

__all__ = ["RESULT_STATUS", "Breakpoint", "Phase", "ResultStatus", "ResumeStrategy", "Status", "StopReason"]


class Status(StrEnum):
    """Of an agent; derived."""

    WORKING = "WORKING"
    """An effect is open, or a call waits for a slot."""
    PAUSED = "PAUSED"
    """No effect is open and a call waits for a decision or an answer from outside."""
    READY = "READY"


class Phase(StrEnum):
    """Column of the transition table: what kind of input an agent can use; derived."""

    IDLE = "IDLE"
    """No run."""
    THINKING = "THINKING"
    """The model was asked."""
    ACTING = "ACTING"
    """The step's calls are not all answered."""
    BOUNDARY = "BOUNDARY"
    """A run, between two steps; lives inside a batch, or while the history is compacted."""


class Breakpoint(StrEnum):
    """The stages a person sees; derived from the state, and names of crash and hook points."""

    READY = "READY"
    PRE_MODEL = "PRE_MODEL"
    STREAMING_MODEL = "STREAMING_MODEL"
    TOOL_PENDING = "TOOL_PENDING"
    AWAITING_APPROVAL = "AWAITING_APPROVAL"
    PRE_TOOL = "PRE_TOOL"
    TOOL_EXECUTING = "TOOL_EXECUTING"
    POST_TOOL = "POST_TOOL"


class StopReason(StrEnum):
    """Why a run rests or ended."""

    END_TURN = "end_turn"
    LENGTH = "length"
    REFUSAL = "refusal"
    CONTENT_FILTER = "content_filter"
    CONTEXT_TOO_LONG = "context_too_long"
    APPROVAL = "approval"
    SUSPENDED = "suspended"
    DEADLINE = "deadline"
    PROCESSING_TIMEOUT = "processing_timeout"
    MAX_STEPS = "max_steps"
    MAX_TOOL_CALLS = "max_tool_calls"
    MAX_TOKENS = "max_tokens"
    MAX_COST = "max_cost"
    INTERRUPTED = "interrupted"
    PROVIDER_ERROR = "provider_error"
    CRASH_LOOP = "crash_loop"


ResultStatus = Literal["ok", "paused", "limit", "deadline", "interrupted", "queued", "error"]
"""What ``RunResult.status`` says. ``queued``: the message waits; no run has taken it yet."""

RESULT_STATUS: dict[StopReason, ResultStatus] = {
    StopReason.END_TURN: "ok",
    StopReason.LENGTH: "limit",
    StopReason.REFUSAL: "error",
    StopReason.CONTENT_FILTER: "error",
    StopReason.CONTEXT_TOO_LONG: "error",
    StopReason.APPROVAL: "paused",
    StopReason.SUSPENDED: "paused",
    StopReason.DEADLINE: "deadline",
    StopReason.PROCESSING_TIMEOUT: "limit",
    StopReason.MAX_STEPS: "limit",
    StopReason.MAX_TOOL_CALLS: "limit",
    StopReason.MAX_TOKENS: "limit",
    StopReason.MAX_COST: "limit",
    StopReason.INTERRUPTED: "interrupted",
    StopReason.PROVIDER_ERROR: "error",
    StopReason.CRASH_LOOP: "error",
}

ResumeStrategy = Literal["continue", "crash", "manual"]
"""``continue``: go on, each call by its recovery. ``crash``: seal all, end the run. ``manual``: look."""
