"""An ordered map and the threads that use it: one that writes, and some that read beside it.

All that waits when the writing thread takes a batch is one transaction. When one job of it raises, nothing of the batch
is written and each is done again alone; but not when it is unknown whether the transaction landed: then all are told.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import anyio

from kode.core.errors import SchemaTooNewError, StoreError, StoreUnavailableError
from kode.core.store.lanes import Job, Lanes
from kode.core.store.ordered.map import OrderedMap, Transaction
from kode.core.store.ordered.rows import Rows, place
from kode.core.store.ordered.shortkeys import ShortKeys

__all__ = ["Engine"]

T = TypeVar("T")
FORMAT: Final = 1
FORMAT_AT: Final = place("format", "")
MAX_BATCH: Final = 100
"""Jobs in one transaction."""
READERS: Final = 2


class Engine:
    """Runs work on records in the threads of one store."""

    def __init__(self, ordered_map: OrderedMap) -> None:
        self._map = ordered_map
        self._guard = threading.Lock()
        """Guards opening and closing the map."""
        self._ready = False
        self._writer = Lanes("kode-writer", self._write, self._leave, width=1, most=MAX_BATCH)
        self._readers = Lanes("kode-reader", self._read, _nothing, width=READERS, most=1)
        self._openers = 0
        self._open = False

    async def open(self) -> None:
        """Start the threads and open the map. Does nothing when that is done."""
        self._openers += 1
        try:
            self._writer.open()
            await self.write(_nothing)
            self._readers.open()
            self._open = True
        finally:
            self._openers -= 1
            if not self._open and not self._openers:
                self._writer.stop()

    async def close(self) -> None:
        """Finish what waits, close the map, end the threads."""
        self._open = False
        with anyio.CancelScope(shield=True):
            await self._readers.close()
            await self._writer.close()

    def stop(self) -> None:
        """Do as `close`, but without waiting for it."""
        self._readers.stop()
        self._writer.stop()

    def write(self, work: Callable[[Rows], T]) -> Awaitable[T]:
        """Run a function in a transaction, and return its value once that is durable. It may be run again."""
        return self._writer.run(work)

    def read(self, work: Callable[[Rows], T]) -> Awaitable[T]:
        """Run a function that writes nothing."""
        return self._readers.run(work)

    # ---- in the threads ------------------------------------------------------------------------------------

    def _read(self, batch: list[Job[Any]]) -> None:
        (job,) = batch
        job.value = self._transact(False, job.work)

    def _write(self, batch: list[Job[Any]]) -> None:
        self._make_ready()
        try:
            values = self._transact(True, lambda rows: [job.work(rows) for job in batch])
        except StoreUnavailableError:
            raise
        except Exception:
            if len(batch) == 1:
                raise
            for job in batch:
                self._write_alone(job)
            return
        for job, value in zip(batch, values, strict=True):
            job.value = value

    def _write_alone(self, job: Job[Any]) -> None:
        try:
            job.value = self._transact(True, job.work)
        except Exception as error:  # noqa: BLE001 - it is raised in the task that brought the job
            job.error = error

    def _transact(self, write: bool, work: Callable[[Rows], T]) -> T:
        return self._map.transact(write, lambda txn: work(Rows(self._whole(txn))))

    def _whole(self, txn: Transaction) -> Transaction:
        most = self._map.longest_key
        return txn if most is None else ShortKeys(txn, most)

    def _make_ready(self) -> None:
        with self._guard:
            if self._ready:
                return
            self._map.open()
            try:
                self._map.transact(True, _check_format)
            except BaseException:
                self._map.close()
                raise
            self._ready = True

    def _leave(self) -> None:
        with self._guard:
            if self._ready:
                self._ready = False
                self._map.close()


def _check_format(txn: Transaction) -> None:
    found = txn.get(FORMAT_AT)
    if found is None:
        txn.put(FORMAT_AT, b"%d" % FORMAT)
    elif not found.isdigit():
        raise StoreError(f"The map's format is {found[:40]!r}, which no KODE wrote; give another map or restore this.")
    elif int(found) > FORMAT:
        raise SchemaTooNewError(
            f"The map has format {int(found)}, and this KODE knows {FORMAT}; upgrade kode-core. Nothing was changed."
        )


def _nothing(*rows: Rows) -> None:
    pass
