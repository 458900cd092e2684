"""Group commit: one connection that writes, in one thread that lives as long as the store is open.

All that waits when it takes a batch (see `lanes`) is one transaction, so that many concurrent commits share one
fsync, and inside it works that touch different agents share their statements (see `sets`).

Each job is judged by itself: one that finds its condition failed writes nothing and hinders nobody. When one
raises, the transaction is rolled back and every job of it is run again alone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from kode.core.errors import StoreError
from kode.core.store.lanes import Job, Lanes
from kode.core.store.primitives import Durability
from kode.core.store.sqlite import sets
from kode.core.store.sqlite.file import Place, connect, map_errors, must_reopen

__all__ = ["Writer"]

T = TypeVar("T")
MAX_BATCH = 1_000
"""Jobs in one transaction."""


class Writer:
    """The one writing connection of a `SqliteStore`. Used from one event loop at a time."""

    def __init__(self, place: Place, durability: Durability, busy_timeout_s: float) -> None:
        self._place, self._path = place, place.path
        self._durability: Durability = durability
        self._busy_timeout_s = busy_timeout_s
        self._db: sqlite3.Connection | None = None
        self._lane = Lanes("kode-writer", self._write, self._leave, width=1, most=MAX_BATCH)
        self.transactions = 0
        """Number of transactions so far."""

    def run(self, work: Callable[[sqlite3.Connection], T], *, alone: bool = False) -> Awaitable[T]:
        """Run a function inside a transaction and return its value once that is durable.

        A `sets.Apply` or `sets.Append` shares its statements with others of its batch. With `alone` the
        function runs outside any transaction, while nothing else is written.

        A caller that is cancelled while its batch is under way does not hear whether it landed; one that
        still waits in the queue is taken out of it.
        """
        return self._lane.run(work, alone=alone)

    def open(self) -> None:
        """Start the thread; the file is opened with the first that is written."""
        self._lane.open()

    async def close(self) -> None:
        """Finish what waits, then close the connection and end the thread."""
        await self._lane.close()

    def stop(self) -> None:
        """Do as `close`, but without waiting for it."""
        self._lane.stop()

    # ---- in the thread -------------------------------------------------------------------------------------

    def _leave(self) -> None:
        db, self._db = self._db, None
        self._place.file = None
        if db is not None:
            with suppress(sqlite3.Error):  # all that was acknowledged is in the file
                db.close()

    def _write(self, batch: list[Job[Any]]) -> None:
        error = self._transaction(batch)
        if error is None:
            return
        if len(batch) == 1:
            batch[0].error = error
            return
        for job in batch:
            job.error = self._transaction([job])

    def _transaction(self, batch: list[Job[Any]]) -> BaseException | None:
        """Run jobs as one transaction; returns what went wrong, after which nothing of it is written."""
        self.transactions += 1
        try:
            with map_errors(self._path):
                db = self._connection()
                try:
                    self._run(db, batch)
                except BaseException as error:
                    self._roll_back(db, error)
                    raise
        except Exception as error:  # noqa: BLE001 - it is raised in the task that brought the job
            return error
        return None

    def _run(self, db: sqlite3.Connection, batch: list[Job[Any]]) -> None:
        if batch[0].alone:
            batch[0].value = batch[0].work(db)
            return
        db.execute("BEGIN IMMEDIATE")
        if len(batch) == 1:
            batch[0].value = batch[0].work(db)
        else:
            for job, value in zip(batch, sets.run(db, [job.work for job in batch]), strict=True):
                job.value = value
        if db.in_transaction:
            db.execute("COMMIT")

    def _connection(self) -> sqlite3.Connection:
        if self._db is not None:
            self._place.check()
            return self._db
        # Later on a file that is missing must not become an empty one.
        db = connect(
            self._path,
            durability=self._durability,
            busy_timeout_s=self._busy_timeout_s,
            create=self._place.file is None,
        )
        try:
            self._place.check()
        except BaseException:
            db.close()
            raise
        self._db = db
        return db

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
