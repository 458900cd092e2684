"""Group commit: one connection that writes, and whoever comes first carries what the others bring.

The first caller runs its job in a worker thread as one transaction. Callers that arrive meanwhile queue up;
when it is done, the first of them takes all of the queue along as the next transaction, so that many
concurrent commits share one fsync. No task waits for others than its own batch, and nothing runs in the
background.

Each job is judged by itself: one that finds its condition failed writes nothing and hinders nobody. When one
raises, the transaction is rolled back and every job of it is run again alone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import anyio
from anyio import to_thread

from kode.core.errors import StoreError
from kode.core.store.primitives import Durability
from kode.core.store.sqlite.file import connect, map_errors, must_reopen

__all__ = ["Writer"]

T = TypeVar("T")
MAX_BATCH = 500
"""Jobs in one transaction."""


@dataclass(slots=True, eq=False)
class _Job(Generic[T]):
    work: Callable[[sqlite3.Connection], T]
    alone: bool = False
    """It runs outside a transaction."""
    turn: anyio.Event = field(default_factory=anyio.Event)
    """It is done, or leads the next batch."""
    leads: bool = False
    value: T | None = None
    error: BaseException | None = None

    def result(self) -> T:
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]  # T may be None itself


class Writer:
    """The one writing connection of a `SqliteStore`. Used from one event loop at a time."""

    def __init__(self, path: str, durability: Durability, busy_timeout_s: float) -> None:
        self._path = path
        self._durability = durability
        self._busy_timeout_s = busy_timeout_s
        self._db: sqlite3.Connection | None = None
        self._queue: list[_Job[Any]] = []
        self._busy = False
        self.transactions = 0
        """Number of transactions so far."""

    async def run(self, work: Callable[[sqlite3.Connection], T], *, alone: bool = False) -> T:
        """Run a function inside a transaction and return its value once that is durable.

        With `alone` it runs outside any transaction, while nothing else is written.

        A caller that is cancelled while its batch is under way does not hear whether it landed; one that
        still waits in the queue is taken out of it.
        """
        job = _Job(work, alone)
        self._queue.append(job)
        if self._busy:
            await self._wait(job)
            if not job.leads:
                return job.result()
        self._busy = True
        await self._lead(job)
        return job.result()

    async def close(self) -> None:
        """Finish what is under way, then close the connection."""
        await self.run(lambda db: None)
        db, self._db = self._db, None
        if db is not None:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(db.close)

    async def _wait(self, job: _Job[Any]) -> None:
        try:
            await job.turn.wait()
        except BaseException:  # cancelled
            if job in self._queue:
                self._queue.remove(job)
                if job.leads:
                    self._pass_on()
            raise

    def _pass_on(self) -> None:
        """Let the next in the queue lead."""
        if self._queue:
            self._queue[0].leads = True
            self._queue[0].turn.set()
        else:
            self._busy = False

    async def _lead(self, job: _Job[Any]) -> None:
        size = 1
        if not job.alone:
            for other in self._queue[1:MAX_BATCH]:
                if other.alone:
                    break
                size += 1
        batch, self._queue = self._queue[:size], self._queue[size:]
        try:
            # A thread cannot be cancelled, and the queue must not be left without a leader. A limiter of its
            # own: the tools of a process may occupy every thread of the default one.
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(self._write, batch, limiter=anyio.CapacityLimiter(1))
        finally:
            for other in batch:
                if other is not job:
                    other.turn.set()
            self._pass_on()

    # ---- in the thread -------------------------------------------------------------------------------------

    def _write(self, batch: list[_Job[Any]]) -> None:
        error = self._transaction(batch)
        if error is None:
            return
        if len(batch) == 1:
            batch[0].error = error
            return
        for job in batch:
            job.error = self._transaction([job])

    def _transaction(self, batch: list[_Job[Any]]) -> BaseException | None:
        """Run jobs as one transaction; returns what went wrong, after which nothing of it is written."""
        self.transactions += 1
        try:
            with map_errors(self._path):
                db = self._connection()
                try:
                    if not batch[0].alone:
                        db.execute("BEGIN IMMEDIATE")
                    for job in batch:
                        job.value = job.work(db)
                    if db.in_transaction:
                        db.execute("COMMIT")
                except BaseException as error:
                    self._roll_back(db, error)
                    raise
        except Exception as error:  # noqa: BLE001 - it is raised in the task that brought the job
            return error
        return None

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            self._db = connect(self._path, durability=self._durability, busy_timeout_s=self._busy_timeout_s)
        return self._db

    def _roll_back(self, db: sqlite3.Connection, error: BaseException) -> None:
        try:
            if db.in_transaction:
                db.execute("ROLLBACK")
        except sqlite3.Error as second:
            error = second if not must_reopen(error) else error
        if must_reopen(error):
            self._db = None
            try:
                db.close()
            except sqlite3.Error as third:
                raise StoreError(f"{self._path} cannot be closed: {third}.", path=self._path) from third
