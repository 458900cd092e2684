"""A store that fails when it is told to: refuses, loses its acknowledgement, is slow, or never answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

import anyio

from kode.core.clock import Clock
from kode.core.errors import StoreUnavailableError
from kode.core.store.base import Store
from kode.core.testing.wrapped import WrappedStore

__all__ = ["Fault", "FaultyStore"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to some calls of one method.

    ``fail``: refused, nothing is written. ``drop``: done, but the answer is lost. ``delay``: done ``seconds``
    later. ``hang``: never answered; the caller must give up.
    """

    method: str
    """A primitive (``apply``, ``get``, ``append_inbox``, …) or an operation (``create``, ``commit``,
    ``enqueue``, ``deliver``, ``acquire``, ``renew``, ``release``, ``fork``, ``delete``)."""
    act: Literal["fail", "drop", "delay", "hang"] = "fail"
    nth: int = 1
    """The first call that it strikes, counted from 1 since the store was made."""
    times: int | None = 1
    """How many calls in a row; None: all from there on."""
    seconds: float = 0.0

    def strikes(self, n: int) -> bool:
        """Whether the n-th call is struck."""
        return n >= self.nth and (self.times is None or n < self.nth + self.times)


class FaultyStore(WrappedStore):
    """Any store, with faults.

        store = FaultyStore(MemoryStore(clock), Fault("commit", "drop", nth=3), clock=clock)
        store.down = True    # from here on every call is refused, until it is False again

    Args:
        inner: What really stores.
        faults: Any number; the first that strikes a call decides.
        clock: What delays wait on.
    """

    def __init__(self, inner: Store, *faults: Fault, clock: Clock | None = None) -> None:
        super().__init__(inner)
        self.faults = list(faults)
        self.calls: Counter[str] = Counter()
        """How often each method was called."""
        self.struck: list[Fault] = []
        """Faults in the order in which they struck."""
        self.down = False
        """Whether every call is refused."""
        if clock is not None:
            self.clock = clock

    async def around(self, method: str, call: Callable[[], Awaitable[T]]) -> T:
        """Do a primitive, unless something strikes it."""
        if self.down and method not in ("open", "close"):
            raise _refusal(method)
        return await self._strike(method, call)

    async def operate(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        """Do an operation, unless something strikes it."""
        outer = super().operate
        return await self._strike(name, lambda: outer(name, call))

    async def _strike(self, method: str, call: Callable[[], Awaitable[T]]) -> T:
        self.calls[method] += 1
        count = self.calls[method]
        fault = next((f for f in self.faults if f.method == method and f.strikes(count)), None)
        if fault is None:
            return await call()
        self.struck.append(fault)
        if fault.act == "fail":
            raise _refusal(method)
        if fault.act == "hang":
            await anyio.sleep_forever()
        if fault.act == "delay":
            await self.clock.sleep(fault.seconds)
        value = await call()
        if fault.act == "drop":
            raise _refusal(method, "was done, but its answer was lost")
        return value


def _refusal(method: str, what: str = "was refused") -> StoreUnavailableError:
    return StoreUnavailableError(f"{method} {what}, as the test wants.", code="fault", method=method)
