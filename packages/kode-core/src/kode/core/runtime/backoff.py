"""Waiting longer from failure to failure, so that what is broken is neither tried in circles nor logged in circles."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from kode.core.clock import Clock

__all__ = ["Backoff"]

LONGEST_S = 300.0


@dataclass(slots=True)
class _Trouble:
    """What is wrong with one of them."""

    tries: int
    again_at: float
    """``clock.monotonic()`` from which it may be tried again."""
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
        again_at = self._clock.monotonic() + min(2.0 ** min(tries - 1, 20), LONGEST_S)
        self._troubles[name] = _Trouble(tries, again_at, said)
        return before is None or before.said != said

    def ready(self, name: str) -> bool:
        """Whether it may be tried: it never failed, or its time has come."""
        trouble = self._troubles.get(name)
        return trouble is None or self._clock.monotonic() >= trouble.again_at

    def over(self, name: str) -> None:
        """It works again."""
        self._troubles.pop(name, None)

    def keep(self, names: Container[str]) -> None:
        """Forget all others: nobody asks for them any more."""
        self._troubles = {name: trouble for name, trouble in self._troubles.items() if name in names}
