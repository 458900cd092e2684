"""What a server's clock shows, counted on from what it said last. For stores over a network."""

from __future__ import annotations

from typing import Final

from kode.core.clock import Clock

__all__ = ["ServerTime"]

FRESH_S: Final = 1.0
"""How long it is counted on from one answer."""
SET_BACK_US: Final = 1_000_000
"""An answer this much behind is taken for that of a clock which somebody has set."""


class ServerTime:
    """Counts by `clock`, which need not show the same time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told = 0
        self._at: float | None = None

    @property
    def fresh(self) -> bool:
        """Whether the server has said it not long ago."""
        return self._at is not None and self._clock.monotonic() - self._at <= FRESH_S

    def hear(self, told: int) -> None:
        """Take in what the server said. Time does not run back for an answer that took longer than another."""
        counted = told if self._at is None else self.now()
        self._told = told if counted - told >= SET_BACK_US else max(told, counted)
        self._at = self._clock.monotonic()

    def now(self) -> int:
        """Microseconds since 1970; nothing heard yet: since the clock of this process began."""
        return self._told + int((self._clock.monotonic() - (self._at or 0.0)) * 1_000_000)
