"""One drive: what it works with, and what it did."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from kode.core.config import Dependencies
from kode.core.event.hub import Hub
from kode.core.kernel.limits import Limits, narrower
from kode.core.kernel.message import Message
from kode.core.kernel.state import RunRecord
from kode.core.kernel.toolcall import CallStatus, Wait
from kode.core.runtime.binding import Binding
from kode.core.runtime.mailbox import Mailbox
from kode.core.runtime.resident import Resident
from kode.core.runtime.result import Question, open_of
from kode.core.template import AgentTemplate

__all__ = ["DriveResult", "Work"]


@dataclass(slots=True)
class DriveResult:
    """What one drive did."""

    stop: Literal["idle", "deadline", "stopped", "parked"] = "idle"
    runs: dict[int, RunRecord] = field(default_factory=dict)
    """Records of runs that rested or ended, the last one of each."""
    answers: dict[int, Message] = field(default_factory=dict)
    """Messages that answered them, by sequence number."""
    taken: dict[str, int] = field(default_factory=dict)
    """Which run took which inbox item."""
    unfinished: tuple[str, ...] = ()
    """Calls that had been started and had not answered when it stopped; recovery rules on them."""
    children: dict[str, Wait] = field(default_factory=dict)
    """Which sub-agents are waited for, by call."""
    questions: tuple[Question, ...] = ()
    """What it asks."""
    interrupted: set[str] = field(default_factory=set)
    """Sub-agents that were told to stop."""
    seen: int = 0
    """Inbox position up to which it looked."""
    due: int | None = None
    """When it is to go on by itself, microseconds."""

    def leave(self, resident: Resident) -> None:
        """Write down how it leaves the agent."""
        waiting = (call for call in resident.state.calls if call.status is CallStatus.WAITING)
        self.children = {call.id: call.wait for call in waiting if call.wait is not None and call.wait.child}
        self.questions, _ = open_of(resident.state)
        self.seen, self.due = resident.seen, resident.wake_at_of(resident.state)


class Work:
    """What one drive works with, from its first moment to its last.

    Args:
        agent_id: Which agent.
        uid: Its identity: an agent that was made again under this id is not ours to drive.
        resident: The agent as this process last knew it.
        binding: What its template names.
        deps: This process.
        hub: Where it publishes.
        limits: Its bounds, at the moment.
        within: Bounds of whoever has it driven, which bind as well.
    """

    def __init__(
        self,
        agent_id: str,
        uid: str,
        resident: Resident | None,
        binding: Binding,
        deps: Dependencies,
        hub: Hub,
        limits: Limits,
        within: Limits | None = None,
    ) -> None:
        self.agent_id = agent_id
        self.uid = uid
        self.resident = resident
        self.binding = binding
        self.deps = deps
        self.hub = hub
        self.limits = limits
        self.within = within
        self.result = DriveResult()
        self.box = Mailbox()
        self.box.noted, binding.watched.unsaid = binding.watched.unsaid, []

    def ring(self) -> None:
        """Something new is in the inbox."""
        self.box.ring()

    def stop(self) -> None:
        """Stop at the next moment: nothing new is started, streams are cancelled, tools get the grace."""
        self.box.stop()

    def adopt(self, template: AgentTemplate) -> None:
        """Go on by a recipe whose limits were changed."""
        self.binding.template = template
        self.limits = template.limits if self.within is None else narrower(template.limits, self.within)
