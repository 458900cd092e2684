"""How often a store was asked what, how long it took, and what went wrong.

Nothing is measured, and nothing costs anything, before `MetricsSupport.measure` is called: it gives this one object a
subclass of its own class whose methods take the time. They are made once per class.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, wraps
from typing import Any, Final

from kode.core.clock import Clock
from kode.core.errors import KodeError, UsageError
from kode.core.store.layers.watch import WatchSupport

__all__ = ["EDGES", "Gauge", "Metrics", "MetricsSupport"]

KEPT: Final = 1_000
"""Samples of a method that wait to be counted."""
EDGES: Final = tuple(round(1e-6 * mantissa * 10**power, 6) for power in range(1, 8) for mantissa in (1, 2, 5))
"""Upper edges of a histogram's buckets, seconds: 10 µs, 20 µs, 50 µs, … 50 s; one more bucket is for what is above."""

MEASURED: Final = (
    # primitives
    *("apply", "apply_and_look", "get", "scan", "append_inbox", "due", "agents", "drop", "look_up", "select"),
    # what is built on them
    *("commit", "enqueue", "load", "acquire", "renew", "release", "delete", "erase", "fork", "batch_fork", "prune"),
    *("read_state", "read_messages", "read_calls", "read_events", "read_runs", "save_messages", "append_message"),
)
"""Methods that are measured; one that calls another is measured beside it."""


@dataclass(slots=True)
class Gauge:
    """What was measured of one method."""

    calls: int = 0
    """Also those that failed."""
    errors: Counter[str] = field(default_factory=Counter)
    """By `KodeError.code`, ``cancelled`` or the name of the class. A refusal is one too (``conflict``, ``held``, …)."""
    seconds: float = 0.0
    """All of them together."""
    longest: float = 0.0
    """Seconds that the longest took."""
    buckets: list[int] = field(default_factory=lambda: [0] * (len(EDGES) + 1))
    """How many calls took longer than the edge before, and no longer than the edge of that index in `EDGES`."""

    def quantile(self, q: float) -> float:
        """Give the edge, in seconds, that so large a part of the calls did not exceed; 0.0 if there were none."""
        rank, seen = q * self.calls, 0
        for i, count in enumerate(self.buckets):
            seen += count
            if count and seen >= rank:
                return EDGES[i] if i < len(EDGES) else self.longest
        return 0.0


@dataclass(frozen=True, slots=True)
class Metrics:
    """All gauges at one moment, by the name of the method; only of those that were called."""

    since: int
    """When measuring began, microseconds since the epoch."""
    gauges: Mapping[str, Gauge]


class MetricsSupport(WatchSupport):
    """Measuring."""

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self._gauges: dict[str, Gauge] = {}
        self._samples: dict[str, list[float]] = {}
        """Seconds that calls took and that are still to be counted; empty while nothing is measured."""
        self._tell = self.clock.monotonic
        self._measured_since = 0

    def measure(self) -> None:
        """Begin to measure; does nothing when it has begun. Calls cost about a microsecond more from then on."""
        if not self._samples:
            self._samples = {name: [] for name in MEASURED}
            self._tell = self.clock.monotonic
            self._measured_since = self.clock.now()
            self.__class__ = _measured(type(self))

    def metrics(self) -> Metrics:
        """Tell what was measured.

        Raises:
            UsageError: ``not_measured``: call `measure` first, best before the store is used.
        """
        if not self._samples:
            raise UsageError("Nothing is measured yet; call measure() on this store first.", code="not_measured")
        for name, samples in self._samples.items():
            if samples:
                self._count(name, samples)
        copies = {
            name: Gauge(g.calls, Counter(g.errors), g.seconds, g.longest, list(g.buckets))
            for name, g in self._gauges.items()
        }
        return Metrics(self._measured_since, copies)

    def _count(self, name: str, samples: list[float]) -> None:
        gauge = self._gauges.setdefault(name, Gauge())
        gauge.calls += len(samples)
        gauge.seconds += sum(samples)
        gauge.longest = max(gauge.longest, *samples)
        for took in samples:
            gauge.buckets[bisect_left(EDGES, took)] += 1
        samples.clear()

    def _failed(self, name: str, error: BaseException) -> None:
        self._gauges.setdefault(name, Gauge()).errors[_code(error)] += 1


@cache
def _measured(kind: type[Any]) -> type[Any]:
    methods = {name: _timed(name, getattr(kind, name)) for name in MEASURED}
    return type(kind.__name__, (kind,), {"__module__": kind.__module__, "__doc__": kind.__doc__, **methods})


def _timed(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    async def timed(self: Any, *args: Any, **named: Any) -> Any:
        tell, samples = self._tell, self._samples[name]
        began = tell()
        try:
            value = await method(self, *args, **named)
        except BaseException as error:
            samples.append(tell() - began)
            self._failed(name, error)
            raise
        # Counted in bulk: an append is all that a call pays beside two looks at the clock.
        samples.append(tell() - began)
        if len(samples) > KEPT:
            self._count(name, samples)
        return value

    return timed


def _code(error: BaseException) -> str:
    if isinstance(error, KodeError):
        return error.code
    return "cancelled" if not isinstance(error, Exception) else type(error).__name__
