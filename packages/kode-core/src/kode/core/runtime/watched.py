"""How far the observers of one handle have come."""

from __future__ import annotations

from dataclasses import dataclass, field

from kode.core.kernel.events import Event

__all__ = ["Place", "Watched"]


@dataclass(slots=True)
class Place:
    """How far one observer has come with an agent."""

    cursor: int
    """Last event it was shown, or that is none of its."""
    seq: int
    """First message it was not told of."""


@dataclass(slots=True)
class Watched:
    """What the observers of one handle have seen, from drive to drive."""

    places: dict[str, Place] = field(default_factory=dict)
    end: Place | None = None
    """Where the last drive left the agent."""
    strange: list[tuple[range, range]] = field(default_factory=list)
    """Events and messages between drives, which are somebody else's to observe."""
    unsaid: list[Event] = field(default_factory=list)
    """Failures that no commit has followed."""

    def begin(self, here: Place) -> None:
        """Note what was written since the last drive."""
        end = self.end or here
        if end.cursor < here.cursor:
            self.strange.append((range(end.cursor + 1, here.cursor + 1), range(end.seq, here.seq)))
        behind = min((place.cursor for place in self.places.values()), default=here.cursor)
        self.strange = [pair for pair in self.strange if pair[0].stop > behind + 1]
        self.end = here

    @property
    def behind(self) -> bool:
        """Whether somebody has not seen everything."""
        return self.end is not None and any(place.cursor < self.end.cursor for place in self.places.values())
