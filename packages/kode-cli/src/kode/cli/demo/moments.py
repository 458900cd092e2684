"""When to kill: stages of an agent's life, and how its events tell that one begins."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from kode.cli.demo.settings import Settings
from kode.core.kernel.events import Event

__all__ = ["STAGES", "Moment", "Stages"]

STAGES = ("start", "model", "read", "command", "approval", "decision", "write")
"""In their order. ``approval``: a question is open; ``decision``: it was answered, and nobody has acted on it yet."""
_TOOLS = {"fs_grep": "read", "bash_run": "command", "fs_write": "write"}


@dataclass(frozen=True, slots=True)
class Moment:
    """When to kill: a stage, and how far into it, from 0 to 1; or seconds after the process began."""

    stage: str
    part: float
    model_call: int = 1
    """Which model call of the process, for stage ``model``."""

    @classmethod
    def choose(cls, text: str, dice: random.Random, *, middle: bool = False) -> Moment:
        """Read what a person wrote; ``random`` is any stage. Raises ``ValueError``.

        Args:
            text: A stage, ``random``, or seconds.
            dice: What chance is taken from.
            middle: Take the middle of a stage instead of a random place in it.
        """
        stage = dice.choice(STAGES) if text == "random" else text
        if stage in STAGES:
            return cls(stage, 0.5 if middle else dice.random(), dice.randint(1, 2))
        try:
            seconds = float(text)
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds <= 3_600:
            raise ValueError(text)
        return cls("seconds", seconds)

    def delay(self, settings: Settings) -> float:
        """Seconds from what opens the stage to the kill."""
        spans = {
            "seconds": 1.0,
            "start": 0.25,
            "model": 25 * settings.gap_s,
            "read": 0.05,
            "command": 0.8 * settings.count_s,
            "approval": 0.02,
            "decision": 0.5,
            "write": settings.write_s,
        }
        return self.part * spans[self.stage]


@dataclass(slots=True)
class Stages:
    """Follows the agent's events and says which stages begin."""

    waiting: str = ""
    """``approval`` or ``decision``: how far the open question has come."""
    _models: int = 0
    """Model calls of this process."""
    _tools: dict[str, str] = field(default_factory=dict)

    def start(self) -> set[str]:
        """A process starts: the stages that it is in from the beginning."""
        self._models = 0
        return {"start", "seconds", self.waiting}

    def begun(self, events: Sequence[Event], moment: Moment | None) -> bool:
        """Whether the moment's stage begins with one of these events, which are those of whole commits."""
        asked = {event.call for event in events if event.type == "permission_required"}
        stages = {self._stage(event, asked) for event in events}
        return (
            moment is not None
            and moment.stage in stages
            and (moment.stage != "model" or self._models >= moment.model_call)
        )

    def _stage(self, event: Event, asked: set[str | None]) -> str:
        """The stage that an event begins. A call that is asked about begins when it is allowed."""
        match event.type:
            case "tool_start":
                stage = self._tools[str(event.call)] = _TOOLS.get(str(event.data.get("tool")), "")
                return "" if event.call in asked else stage
            case "permission_required":
                self.waiting = "approval"
                return "approval"
            case "permission_decided":
                self.waiting = ""
                allowed = event.data.get("decision") == "approved"
                return self._tools.get(str(event.call), "") if allowed else ""
            case "breakpoint_changed" if event.data.get("current") == "STREAMING_MODEL":
                self._models += 1
                return "model"
            case "agent_resumed" if event.data.get("again"):
                self._models += 1
                return "model"
        return ""
