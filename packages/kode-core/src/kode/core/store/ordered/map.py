"""What an engine must be for `OrderedStore`: an ordered map of bytes, read and written in transactions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

__all__ = ["OrderedMap", "Transaction"]

T = TypeVar("T")


class Transaction(Protocol):
    """A view of the whole map at one moment, which sees its own writes. Used by one thread, within `transact`.

    Keys are never empty; their order is that of bytes. A value may be empty, and have any length.
    """

    def get(self, key: bytes, /) -> bytes | None:
        """Read a value; None if there is none."""
        ...

    def put(self, key: bytes, value: bytes, /) -> object:
        """Write a value, in the place of one that is there."""
        ...

    def delete(self, key: bytes, /) -> object:
        """Remove a key and its value; does nothing where there is none."""
        ...

    def range(self, low: bytes, high: bytes, reverse: bool, /) -> Iterable[tuple[bytes, bytes]]:
        """Read keys and values with low <= key < high in rising order, or falling with `reverse`.

        It is not read further than it is asked for, others may be read meanwhile, and nothing is written meanwhile.
        """
        ...


class OrderedMap(ABC):
    """An engine. All of it is called in threads and may block, but not for ever.

    Errors of its driver stop here: raise those of `kode.core.errors`, `StoreUnavailableError` above all.
    """

    longest_key: int | None = None
    """Most bytes a key may have, at least 100; None: 900 at least. Longer keys are then cut, see `shortkeys`."""

    @abstractmethod
    def open(self) -> None:
        """Open or make it. Not called while it is open; after `close` it may be called again."""

    @abstractmethod
    def close(self) -> None:
        """Give everything back. No transaction is under way."""

    @abstractmethod
    def transact(self, write: bool, work: Callable[[Transaction], T]) -> T:
        """Run `work` in a transaction, commit, and return its value once that is durable.

        Transactions that write are serialisable: of two at once, by any processes, one comes wholly before the other.
        What `work` raises is raised, and nothing is written. One thread of this store writes at a time, others read
        beside it. With `write` the work may be run again from its beginning where the engine rolled it back;
        without, it is run once and writes nothing.
        """
