"""Runs the kit over a store without pytest's part: all clauses of many stores in one event loop, in a few seconds."""

from __future__ import annotations

import inspect
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from types import CodeType, FrameType
from typing import Any

import anyio
import pytest

from kode.core.store import MemoryStore, Store
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store import Clause, StoreConformance
from kode.core.testing.conformance.store.author import AT

__all__ = ["changed", "failing", "reached"]

PATIENCE_S = 2.0
"""After which a clause has failed, of this process's own time. Nothing in memory takes a tenth of it."""


async def failing(
    make: Callable[[VirtualClock], Store], clauses: Iterable[Clause], kit: type[StoreConformance] = StoreConformance
) -> dict[str, str]:
    """Run clauses, each on a store of its own; of those that fail, what was seen."""
    seen: dict[str, str] = {}
    for clause in clauses:
        try:
            with _bounded(), anyio.fail_after(30):
                await _run(make, clause, kit())
        except pytest.skip.Exception:
            pass
        except (Exception, pytest.fail.Exception, BaseExceptionGroup) as error:  # noqa: BLE001 - whatever it is, it failed
            seen[clause.name] = f"{type(error).__name__}: {error}"
    return seen


async def _run(make: Callable[[VirtualClock], Store], clause: Clause, kit: StoreConformance) -> None:
    check = getattr(kit, f"test_{clause.name}")
    clock = VirtualClock(AT)
    async with make(clock) as store:
        given = {"store": store, "clock": clock}
        await check(**{name: given[name] for name in _asked(check.__func__)})


@cache
def _asked(check: Callable[..., Any]) -> tuple[str, ...]:
    """Name what a clause asks for, but for itself."""
    return tuple(inspect.signature(check).parameters)[1:]


@contextmanager
def _bounded() -> Iterator[None]:
    """End what turns round and round: a wrong store need not let anybody else have their turn."""

    def end(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"it took more than {PATIENCE_S} s")

    before = signal.signal(signal.SIGVTALRM, end)
    signal.setitimer(signal.ITIMER_VIRTUAL, PATIENCE_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


# ---- what a change can be seen by --------------------------------------------------------------------------

_METHODS: dict[CodeType, str] = {
    method.__code__: name
    for layer in MemoryStore.__mro__
    for name, method in vars(layer).items()
    if hasattr(method, "__code__")
}


_reached: dict[Clause, set[str]] = {}


async def reached(clause: Clause) -> set[str]:
    """Name all methods of a right store that run for a clause; it is run once."""
    if clause in _reached:
        return _reached[clause]
    found = _reached[clause] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code in _METHODS:
            found.add(_METHODS[frame.f_code])

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        await failing(MemoryStore, [clause])
    finally:
        sys.setprofile(before)
    return found


def changed(make: type[Store]) -> set[str]:
    """Name the methods of a right store in whose place a wrong one has its own."""
    layers = make.__mro__[: make.__mro__.index(MemoryStore)]
    own = {name for layer in layers for name in vars(layer)} | vars(make(VirtualClock(AT))).keys()
    return own & set(_METHODS.values()) - {"__init__"}
