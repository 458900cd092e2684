"""Reading beside the writer: two connections, each with a thread that takes along all who wait."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from kode.core.store.lanes import Job, Lanes
from kode.core.store.primitives import Durability
from kode.core.store.sqlite import reads
from kode.core.store.sqlite.file import Place, connect, map_errors

__all__ = ["Readers"]

T = TypeVar("T")
LANES = 2
"""Threads that read at once: while one is at a long list the other answers the rest."""
MOST = 500
"""Reads that one of them takes along."""


class Readers:
    """The reading connections of a `SqliteStore`. Used from one event loop at a time."""

    def __init__(self, place: Place, durability: Durability, busy_timeout_s: float) -> None:
        self._place, self._path = place, place.path
        self._durability: Durability = durability
        self._busy_timeout_s = busy_timeout_s
        self._lanes = Lanes("kode-reader", self._read, self._leave, width=LANES, most=MOST)
        self._idle: list[sqlite3.Connection] = []

    def run(self, work: Callable[[sqlite3.Connection], T]) -> Awaitable[T]:
        """Run a function that reads; it sees all that was committed before it was asked for.

        A `reads.Reading` shares its statements with others of its batch. What one raises hinders no other.
        """
        return self._lanes.run(work)

    def open(self) -> None:
        """Start the threads."""
        self._lanes.open()

    async def close(self) -> None:
        """Answer what waits, then close the connections and end the threads."""
        await self._lanes.close()

    def stop(self) -> None:
        """Do as `close`, but without waiting for it."""
        self._lanes.stop()

    # ---- in the thread -------------------------------------------------------------------------------------

    def _read(self, batch: list[Job[Any]]) -> None:
        db = None
        try:
            with map_errors(self._path):
                self._place.check()
                db = self._take()
                if len(batch) > 1:
                    # One snapshot for all. It is taken after the last of them was asked.
                    db.execute("BEGIN")
        except Exception as error:  # noqa: BLE001 - it is raised in the tasks that asked
            for job in batch:
                job.error = error
            if db is not None:
                db.close()
            return
        self._answer(db, batch)
        broken = any(isinstance(job.error, sqlite3.Error) for job in batch)
        for job in batch:
            job.error = self._mapped(job.error)
        self._give_back(db, broken)

    def _answer(self, db: sqlite3.Connection, batch: list[Job[Any]]) -> None:
        together = {n: job.work.lookup for n, job in enumerate(batch) if isinstance(job.work, reads.Reading)}
        if len(together) > 1:
            for n, (value, error) in reads.run(db, together).items():
                batch[n].value, batch[n].error = value, error
        else:
            together = {}
        for n, job in enumerate(batch):
            if n not in together:
                try:
                    job.value = job.work(db)
                except Exception as raised:  # noqa: BLE001 - it is raised in the task that asked
                    job.error = raised

    def _mapped(self, error: BaseException | None) -> BaseException | None:
        if error is None:
            return None
        try:
            with map_errors(self._path):
                raise error
        except Exception as mapped:  # noqa: BLE001 - as above
            return mapped

    def _take(self) -> sqlite3.Connection:
        # Lists are safe to share between threads for this much.
        try:
            return self._idle.pop()
        except IndexError:
            return connect(self._path, durability=self._durability, busy_timeout_s=self._busy_timeout_s, reader=True)

    def _give_back(self, db: sqlite3.Connection, broken: bool) -> None:
        if not broken and db.in_transaction:
            db.execute("COMMIT")
        if broken:
            db.close()
        else:
            self._idle.append(db)

    def _leave(self) -> None:
        idle, self._idle = self._idle, []
        for db in idle:
            with suppress(sqlite3.Error):
                db.close()
