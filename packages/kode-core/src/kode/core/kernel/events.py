"""Events: what observers are told. The channel and the durability belong to the type.

A *durable* event is stored in the commit of its cause and has a cursor. A *live* one is shown to whoever
listens and is gone. Events hold references and previews, never copies of messages or results.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from kode.core.quick import quick

__all__ = ["CHANNEL", "DURABLE", "LIVE", "Channel", "Event", "Ref", "Scalar", "preview"]

Channel = Literal["progress", "control", "monitor"]
Scalar: TypeAlias = str | int | float | bool | None

DURABLE: dict[str, Channel] = {
    # progress: what the agent says and does
    "text_chunk_end": "progress",
    "think_chunk_end": "progress",
    "tool_start": "progress",
    "tool_end": "progress",
    "tool_error": "progress",
    "done": "progress",
    # control: what waits for a person
    "permission_required": "control",
    "permission_decided": "control",
    # monitor: what operators watch
    "agent_created": "monitor",
    "agent_forked": "monitor",
    "agent_resumed": "monitor",
    "agent_parked": "monitor",
    "agent_reverted": "monitor",
    "message_received": "monitor",
    "run_started": "monitor",
    "state_changed": "monitor",
    "breakpoint_changed": "monitor",
    "step_complete": "monitor",
    "token_usage": "monitor",
    "tool_executed": "monitor",
    "tool_suspended": "monitor",
    "tool_sealed": "monitor",
    "tool_custom_event": "monitor",
    "late_answer": "monitor",
    "input_rejected": "monitor",
    "delivery_failed": "monitor",
    "error": "monitor",
    "hook_failed": "monitor",
    "context_compression": "monitor",
    "snapshot_created": "monitor",
    "documents_changed": "monitor",
    "scheduler_triggered": "monitor",
    "todo_changed": "monitor",
    "todo_reminder": "monitor",
    "reminder_sent": "monitor",
    "file_changed": "monitor",
}
LIVE: dict[str, Channel] = {
    "text_chunk_start": "progress",
    "text_chunk": "progress",
    "think_chunk_start": "progress",
    "think_chunk": "progress",
    "tool_progress": "progress",
    "attempt_started": "monitor",
    "storage_failure": "monitor",
}
CHANNEL: dict[str, Channel] = {**DURABLE, **LIVE}

PREVIEW_CHARS = 120


def preview(text: str) -> str:
    """Cut a text to what an event carries of it: 120 characters."""
    return text if len(text) <= PREVIEW_CHARS else text[: PREVIEW_CHARS - 1] + "…"


@dataclass(frozen=True, slots=True)
class Ref:
    """Where the whole thing lies: a block of a message."""

    seq: int
    block: int = 0


@quick
@dataclass(frozen=True, slots=True)
class Event:
    """One event. ``cursor`` is 0 until its commit numbers it, and stays 0 for a live one."""

    type: str
    at: int = 0
    cursor: int = 0
    run: int = 0
    step: int = 0
    call: str | None = None
    ref: Ref | None = None
    preview: str | None = None
    data: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def channel(self) -> Channel:
        """progress, control or monitor."""
        return CHANNEL.get(self.type, "monitor")

    @property
    def durable(self) -> bool:
        """Whether it is stored."""
        # A type of a later version is only ever read from a store, so it is durable.
        return self.type not in LIVE
