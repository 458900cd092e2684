"""What one demo is run with, kept beside its database, so that any process can go on with it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["AGENT_ID", "FILES", "LEDGER", "REPORT", "Settings"]

AGENT_ID = "surveyor"
FILES = "files"
"""The copy that the agent works on."""
REPORT = "REPORT.md"
LEDGER = "ledger.txt"
"""Every command adds a line when it starts, so that its runs can be counted without asking the agent."""
_NAME = "demo.json"
_COUNT_S = 6.0
_TICKS = 20


@dataclass(frozen=True, slots=True)
class Settings:
    """Of one demo; plain data."""

    work: Path
    """Root of the agent's sandbox."""
    source: str
    """Where the files were copied from, for people."""
    speed: float = 1.0
    """How many times faster than usual the slow parts are."""
    model: str = ""
    """``provider:model``; empty: the offline planner."""
    base_url: str | None = None
    """Where that provider's server is, if not at its usual place."""

    @property
    def asks(self) -> tuple[str, ...]:
        """Tools that a person is asked about. What a planner of ours runs is known; what a model runs is not."""
        return ("fs_write", "bash_run") if self.model else ("fs_write",)

    @property
    def database(self) -> Path:
        """The agent's store."""
        return self.work / "agents.db"

    @property
    def report(self) -> Path:
        """What the agent writes."""
        return self.work / REPORT

    @property
    def count_s(self) -> float:
        """Seconds that the slow command takes at least."""
        return _COUNT_S / self.speed

    @property
    def tick_s(self) -> float:
        """Seconds between two signs of life of the slow command."""
        return self.count_s / _TICKS

    @property
    def gap_s(self) -> float:
        """Seconds between two pieces of a model's reply."""
        return 0.02 / self.speed

    @property
    def write_s(self) -> float:
        """Seconds that writing a file is held up, half before and half after."""
        return 0.8 / self.speed

    def save(self) -> None:
        """Write it into the work folder."""
        text = json.dumps({**asdict(self), "work": None})
        (self.work / _NAME).write_text(text)

    @classmethod
    def load(cls, work: Path) -> Settings | None:
        """Read it from a work folder; None if none is there."""
        try:
            stored = json.loads((work / _NAME).read_text())
            return cls(**{**stored, "work": work})
        except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
            return None
