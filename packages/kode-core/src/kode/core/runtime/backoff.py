"""Waiting longer from failure to failure, so that what is broken is neither tried in circles nor logged in circles."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from kode.core.clock import Clock

__all__ = ["Backoff"]

SHORTEST_S, LONGEST_S = 1.0, 300.0


@dataclass(slots=True)
class _Trouble:
    """What is wrong with one of them."""

    tries: int
    failed_at: float
    """``clock.monotonic()`` of the last failure."""
    again_at: float
    """From when it may be tried again."""
    said: str
    """The failure that was logged last."""


class Backoff:
    """Who failed, how often in a row, and when to try again: 1 s, 2 s, 4 s … 5 minutes."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._troubles: dict[str, _Trouble] = {}

    def __len__(self) -> int:
        return len(self._troubles)

    def __contains__(self, name: str) -> bool:
        return name in self._troubles

    def failed(self, name: str, error: Exception) -> bool:
        """Note a failure; whether it is news: the first in a row, or another one than the last."""
        before = self._troubles.get(name)
        tries = 1 if before is None else before.tries + 1
        said = f"{type(error).__name__} {getattr(error, 'code', '')}"
        now = self._clock.monotonic()
        again_at = now + min(SHORTEST_S * 2.0 ** min(tries - 1, 20), LONGEST_S)
        self._troubles[name] = _Trouble(tries, now, again_at, said)
        return before is None or before.said != said

    def ready(self, name: str) -> bool:
        """Whether it may be tried: it never failed, or its time has come."""
        trouble = self._troubles.get(name)
        return trouble is None or self._clock.monotonic() >= trouble.again_at

    def hasten(self, name: str) -> None:
        """Somebody asks for it: let it be tried soon, yet not more often than once in ``SHORTEST_S``."""
        trouble = self._troubles.get(name)
        if trouble is not None:
            trouble.again_at = min(trouble.again_at, trouble.failed_at + SHORTEST_S)

    def due(self) -> list[str]:
        """Who failed and may be tried again."""
        return [name for name in self._troubles if self.ready(name)]

    def over(self, name: str) -> None:
        """It works again."""
        self._troubles.pop(name, None)

    def keep(self, names: Container[str]) -> None:
        """Forget all others: nobody asks for them any more."""
        self._troubles = {name: trouble for name, trouble in self._troubles.items() if name in names}
