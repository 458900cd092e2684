"""`SqliteStore`: the embedded default."""

from __future__ import annotations

import os
import sqlite3
import weakref
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Self, TypeVar
from urllib.parse import SplitResult

import anyio

from kode.core.clock import Clock
from kode.core.errors import StoreError, UsageError
from kode.core.store import lookups
from kode.core.store.base import Store
from kode.core.store.contract import Appended, Condition, Due, Key, Record, Scan
from kode.core.store.lookups import Lookup
from kode.core.store.open import check_durability, local_options, local_path
from kode.core.store.primitives import Durability
from kode.core.store.sqlite import damage, reads, rows
from kode.core.store.sqlite.file import Place
from kode.core.store.sqlite.readers import Readers
from kode.core.store.sqlite.select import look, select
from kode.core.store.sqlite.sets import Append, Apply
from kode.core.store.sqlite.writer import Writer
from kode.core.store.support.questions import Question

__all__ = ["SqliteStore"]

T = TypeVar("T")


class SqliteStore(Store):
    """Keeps agents in one SQLite file, which any number of processes of one machine may use at once.

    Writes of one process share transactions (see `writer`), done by one thread; reads run beside them and see the
    last commit; two threads share them, each takes along all who wait. Cancelling a caller, by whatever means, never
    disturbs another. File and folder are made when missing, readable by their owner only. In a process that was
    forked off make a store of its own.

    Args:
        path: The file. ":memory:" is refused: use `MemoryStore`.
        durability: ``power``: what is acknowledged is on the disk. ``process``: it survives the death of the
            process and of others, a loss of power may take the last moments; the file stays sound.
        busy_timeout_s: How long to wait for another process's transaction before `StoreUnavailableError`
            (``store_locked``).
        clock: What leases expire by; a virtual one for tests.

    Raises:
        UsageError: The path is no file's (``bad_path``), or there is no such durability.
    """

    same_host = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: Durability = "power",
        busy_timeout_s: float = 10.0,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(clock)
        self.path = str(Path(path))
        if self.path in (":memory:", "", "."):
            raise UsageError(
                f"{str(path)!r} is no path of a file; for a store in memory take MemoryStore.",
                code="bad_path",
            )
        check_durability(durability)
        self.durability: Durability = durability
        self._busy_timeout_s = busy_timeout_s
        place = Place(self.path)
        self._writer = Writer(place, durability, busy_timeout_s)
        self._readers = Readers(place, durability, busy_timeout_s)
        self._state = "new"
        # Threads would keep alive what nobody uses any more.
        weakref.finalize(self, _stop, self._writer, self._readers)

    @classmethod
    def from_url(cls, url: SplitResult, *, clock: Clock | None = None) -> Self:
        """``sqlite:///relative`` or ``sqlite:////absolute``; options `durability`, `busy_timeout_s`."""
        return cls(local_path(url), **local_options(url), clock=clock)

    async def open(self) -> None:
        """Open or create the file. Any other call does so too, unless the store was closed.

        Raises:
            StoreError: It is no file of ours, or cannot be opened.
            SchemaTooNewError: A newer KODE made it.
        """
        self._writer.open()
        try:
            await self._writer.run(lambda db: None)
        except BaseException:
            if self._state != "open":
                self._writer.stop()
            raise
        self._readers.open()
        self._state = "open"

    async def close(self) -> None:
        """Finish what was begun, close the file, end the threads."""
        self._state = "closed"
        with anyio.CancelScope(shield=True):
            await self._readers.close()
            # The last connection: it brings what the log holds to its place.
            await self._writer.close()

    async def now(self) -> int:
        """Tell the time by the clock that was given."""
        return self.clock.now()

    # ---- writing -------------------------------------------------------------------------------------------

    async def apply(
        self,
        agent_id: str,
        conditions: Sequence[Condition],
        puts: Sequence[Record],
        deletes: Sequence[Key],
    ) -> int | None:
        """See `Records.apply`."""
        failed, _ = await self._submit(Apply(agent_id, conditions, puts, deletes))
        return failed

    async def apply_and_look(
        self,
        agent_id: str,
        conditions: Sequence[Condition],
        puts: Sequence[Record],
        deletes: Sequence[Key],
        *,
        uid: str,
        after: str,
    ) -> tuple[int | None, list[Record]]:
        """See `Records.apply_and_look`; it looks."""
        return await self._submit(Apply(agent_id, conditions, puts, deletes, look=(uid, after)))

    async def append_inbox(self, agent_id: str, record: Record, *, now: int, bounded: bool) -> Appended:
        """See `Records.append_inbox`."""
        return await self._submit(Append(agent_id, record, now, bounded))

    async def drop(self, agent_id: str, uid: str) -> None:
        """See `Records.drop`. What is removed is overwritten in the file."""

        def wipe(db: sqlite3.Connection) -> bool:
            db.execute("PRAGMA secure_delete = ON")
            try:
                return rows.drop(db, uid)
            finally:
                db.execute("PRAGMA secure_delete = OFF")

        while uid and not await self._submit(wipe):
            pass

    async def erase(
        self,
        agent_id: str,
        *,
        uid: str | None = None,
        holder: str | None = None,
        force: bool = False,
        expired_by: int | None = None,
    ) -> str:
        """See `Store.erase`. The write-ahead log is emptied too, unless another process reads from it."""
        gone = await super().erase(agent_id, uid=uid, holder=holder, force=force, expired_by=expired_by)
        await self._writer.run(_empty_log, alone=True)
        return gone

    # ---- reading -------------------------------------------------------------------------------------------

    async def look_up(self, agent_id: str, lookup: Lookup[T]) -> T:
        """Run a whole lookup in one thread and one snapshot."""
        return await self._read(reads.Reading(lookup))

    async def get(self, agent_id: str, keys: Sequence[Key]) -> list[Record | None]:
        """See `Records.get`."""
        return await self._read(reads.Reading(lookups.get(*keys), short=True))

    async def scan(self, agent_id: str, ask: Scan) -> list[Record]:
        """See `Records.scan`."""
        return await self._read(lambda db: rows.scan(db, ask))

    async def due(self, now: int, limit: int, after: Due | None = None) -> list[Due]:
        """See `Records.due`."""
        return await self._read(lambda db: rows.due(db, now, limit, after))

    async def agents(self, prefix: str, after: str, limit: int, tenant: str | None = None) -> list[Record]:
        """See `Records.agents`."""
        return await self._read(lambda db: rows.agents(db, prefix, after, limit, tenant))

    async def select(self, question: Question) -> list[tuple[str, Record]]:
        """See `QuerySupport.select`; one statement."""
        return await self._read(lambda db: select(db, question))

    async def look(self, agent_id: str | None) -> object:
        """See `WatchSupport.look`; for all agents SQLite's own count of changes tells."""
        if agent_id is not None:
            return await super().look(agent_id)
        run = self._writer.run
        return await (run(look, alone=True) if self._state == "open" else self._opened(run, look))

    async def find_damage(self, *, thorough: bool = False) -> list[str]:
        """See `HealthSupport.find_damage`: SQLite's own check of the agents' table, or of the whole file.

        The first reads as much as a listing of all agents, whatever they have said.
        """
        found = await self._read(lambda db: damage.find(db, thorough=thorough))
        return [f"{self.path} is damaged ({what}); restore it from a backup." for what in found]

    # ---- inside --------------------------------------------------------------------------------------------

    # No coroutine of its own for each of these: under load thousands wait at once, and each one more object
    # that waits brings the garbage collector's next round nearer.

    def _submit(self, work: Callable[[sqlite3.Connection], T]) -> Awaitable[T]:
        return self._writer.run(work) if self._state == "open" else self._opened(self._writer.run, work)

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> Awaitable[T]:
        return self._readers.run(work) if self._state == "open" else self._opened(self._readers.run, work)

    async def _opened(
        self, run: Callable[[Callable[[sqlite3.Connection], T]], Awaitable[T]], work: Callable[[sqlite3.Connection], T]
    ) -> T:
        if self._state == "closed":
            raise StoreError(f"The store of {self.path} is closed; open it again.", code="closed", path=self.path)
        await self.open()
        return await run(work)


def _stop(*parts: Writer | Readers) -> None:
    for part in parts:
        part.stop()


def _empty_log(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
