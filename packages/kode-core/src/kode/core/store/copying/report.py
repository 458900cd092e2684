"""What became of each agent of a copy, and of all together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

__all__ = ["Copied", "Outcome", "Progress", "Verified", "What"]

What: TypeAlias = Literal["copied", "replaced", "same", "conflict", "missing", "differs", "changing", "failed"]
"""Of one agent: written · written in place of another · there already, equal · another is there, nothing was written ·
not in the target · not equal to it · at work all the time, so that no state of it could be caught · an error."""

GOOD: Final = ("copied", "replaced", "same")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one agent."""

    agent_id: str
    what: What
    why: str = ""
    """For a person; empty when all is well."""
    uid: str = ""
    records: int = 0
    """Records written or compared."""
    messages: int = 0
    """Of these, messages."""
    size: int = 0
    """Bytes of them."""
    digest: str = ""
    """SHA-256 (hex) of the agent, the same in both stores; empty if it was not read."""

    @property
    def ok(self) -> bool:
        """Whether source and target hold the same of it."""
        return self.what in GOOD


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is."""

    agents: int
    """Agents that are done with."""
    records: int
    """Records read so far, those of unfinished agents too."""
    size: int
    """Bytes of them."""
    outcome: Outcome | None = None
    """Set when this tells of an agent's end."""


@dataclass(slots=True)
class Verified:
    """What came of it."""

    counts: dict[What, int] = field(default_factory=dict)
    """Agents by what became of them."""
    records: int = 0
    """Records written or compared, of agents that are done."""
    messages: int = 0
    size: int = 0
    """Bytes of them."""
    problems: list[Outcome] = field(default_factory=list)
    """Agents that are not the same in both stores now."""

    @property
    def ok(self) -> bool:
        """Whether every agent is the same in both stores (or, of a dry run, could be)."""
        return not self.problems

    def add(self, outcome: Outcome) -> None:
        """Count an agent."""
        self.counts[outcome.what] = self.counts.get(outcome.what, 0) + 1
        self.records += outcome.records
        self.messages += outcome.messages
        self.size += outcome.size
        if not outcome.ok:
            self.problems.append(outcome)


@dataclass(slots=True)
class Copied(Verified):
    """What `copy_store` did, or would do."""

    dry_run: bool = False
    """Nothing was written; ``copied`` and ``replaced`` say what would be."""
