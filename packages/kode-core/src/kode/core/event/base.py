"""Envelopes: an event with its place, so that a reader can come back to exactly there.

A place is written ``cursor`` or, inside a reply that is still being streamed, ``cursor:fence.n.block.offset``. The
cursor counts an agent's durable events; the rest says how much of the running attempt was shown (``offset`` counts
code points of that block). It is the id to use for server-sent events.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from kode.core.errors import UsageError
from kode.core.kernel.events import CHANNEL, Channel, Event

__all__ = ["Envelope", "Position", "wanted_types"]

_POSITION = re.compile(r"(\d{1,18})(?::(\d{1,18})\.(\d{1,18})\.(\d{1,9})\.(\d{1,12}))?\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Position:
    """Where a reader is: after the durable event ``cursor``, and perhaps inside an attempt."""

    cursor: int
    attempt: str | None = None
    """``fence.n``."""
    block: int = 0
    offset: int = 0
    """Code points of the block shown so far."""

    def __str__(self) -> str:
        if self.attempt is None:
            return str(self.cursor)
        return f"{self.cursor}:{self.attempt}.{self.block}.{self.offset}"

    @classmethod
    def parse(cls, text: str | int) -> Position:
        """Read a position back.

        Raises:
            UsageError: ``bad_position``: it is neither a cursor nor an id of ours.
        """
        found = _POSITION.match(str(text))
        if found is None:
            raise UsageError(
                f"{text!r} is no place in an event stream; use a cursor (a whole number) or the id of an envelope.",
                code="bad_position",
                value=str(text),
            )
        cursor, fence, n, block, offset = found.groups()
        if fence is None:
            return cls(int(cursor))
        return cls(int(cursor), f"{fence}.{n}", int(block), int(offset))


@dataclass(slots=True)
class Envelope:
    """One event as a subscriber gets it. Shared by all subscribers: do not change it."""

    agent_id: str
    event: Event
    cursor: int
    """Of the event if it is durable, else of the last durable one before it."""
    attempt: str | None = None
    block: int = 0
    offset: int = 0
    """Where this delta ends in its block."""
    delta: str = ""
    """Text of a ``text_chunk``, ``think_chunk`` or ``tool_progress``."""

    @property
    def type(self) -> str:
        """The event's type."""
        return self.event.type

    @property
    def channel(self) -> Channel:
        """progress, control or monitor."""
        return self.event.channel

    @property
    def position(self) -> Position:
        """Hand this to ``subscribe(since=…)`` to go on behind this event."""
        if self.event.durable:
            return Position(self.cursor)
        return Position(self.cursor, self.attempt, self.block, self.offset)

    @property
    def id(self) -> str:
        """``position`` as text: the SSE id."""
        return str(self.position)


def wanted_types(channels: Collection[Channel] | None, kinds: Collection[str] | None) -> frozenset[str] | None:
    """Return the event types that a reader is handed; None: all.

    Raises:
        UsageError: ``bad_filter``: a channel or type that does not exist would wait for ever.
    """
    for name, given in (("channels", channels), ("kinds", kinds)):
        if isinstance(given, str):
            raise UsageError(f"{name} is the text {given!r}; give a list of names.", code="bad_filter")
    known = set(CHANNEL.values())
    strange = sorted({*(c for c in channels or () if c not in known), *(k for k in kinds or () if k not in CHANNEL)})
    if strange:
        raise UsageError(
            f"No channel or event type {', '.join(map(repr, strange))}; channels are {', '.join(sorted(known))}, "
            f"types are {', '.join(sorted(CHANNEL))}.",
            code="bad_filter",
        )
    if channels is None and kinds is None:
        return None
    return frozenset(
        kind
        for kind, channel in CHANNEL.items()
        if (channels is None or channel in channels) and (kinds is None or kind in kinds)
    )
