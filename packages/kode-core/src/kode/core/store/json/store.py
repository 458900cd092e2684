"""`JSONStore`: agents as folders of JSON lines."""

from __future__ import annotations

import heapq
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache, partial
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, Self, TypeVar
from urllib.parse import SplitResult, unquote
from zlib import crc32

import anyio

from kode.core.clock import Clock, RealClock
from kode.core.errors import StoreError, StoreUnavailableError, UsageError
from kode.core.store.base import Store
from kode.core.store.contract import Appended, Condition, Due, Key, Record, Scan
from kode.core.store.json import acts, names
from kode.core.store.json.acts import Act, View
from kode.core.store.json.disk import Disk, map_errors
from kode.core.store.json.folder import Folder, Summary
from kode.core.store.json.opening import prepare
from kode.core.store.json.view import FolderView
from kode.core.store.lanes import Job, Lanes
from kode.core.store.lookups import Lookup, integer
from kode.core.store.open import check_durability, local_options, redact
from kode.core.store.primitives import Durability

__all__ = ["JSONStore"]

T = TypeVar("T")
WRITERS: Final = 4
"""Threads that write; an agent always has the same one, so that its writes keep their order."""
WRITES: Final = 8
"""Writes that one of these takes along: when many wait, waking the loop for each costs more than the write. All of them
are answered when the last is done, so there are few."""
READERS: Final = 2
MOST: Final = 16
"""Reads that one of these takes along."""
TURN: Final = 0.02
"""Seconds that a read waits for another process's write before the next one that waits has its turn."""
REMEMBERED: Final = 200_000
"""Records whose places are kept in memory; what was not used for longest is read again when it is needed."""
_REAL: Final = RealClock()
"""Other processes do not wait by a virtual clock."""
_by_key = attrgetter("key")
_folder_name = lru_cache(maxsize=4_096)(names.folder_name)


class JSONStore(Store):
    """Keeps each agent in a folder of its own, as lines of JSON that a person can read.

    For one machine, some thousand agents, and any number of processes that use the folder at once. Writes to one
    agent are done one after the other, to different agents beside each other. Cancelling a caller, by whatever means,
    never disturbs another. Folders and files are made when missing, readable by their owner only. The file system
    must be able to lock files (`flock`): a local disk can, many network file systems cannot.

    `due` and `agents` look at every agent's folder: one or two calls of the system for each.

    Args:
        path: The folder.
        durability: ``power``: what is acknowledged is on the disk. ``process``: it survives the death of the process
            and of others; a loss of power may take the last moments, and damage a journal's end.
        busy_timeout_s: How long to wait for another process's write to an agent before `StoreUnavailableError`
            (``store_locked``).
        clock: What leases expire by; a virtual one for tests.

    Raises:
        UsageError: The path is empty (``bad_path``), or there is no such durability.
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
        if not str(path):
            raise UsageError("'' is no path of a folder; give one, such as ./.kode.", code="bad_path")
        check_durability(durability)
        self.path = str(Path(path))
        self.durability: Durability = durability
        self._disk = Disk(durability == "power")
        self._busy_timeout_s = busy_timeout_s
        self._agents = os.path.join(os.path.abspath(self.path), names.AGENTS)
        self._trash = os.path.join(os.path.abspath(self.path), names.TRASH)
        self._folders: OrderedDict[str, Folder] = OrderedDict()
        """Those used last are the last."""
        self._remembered: dict[str, int] = {}
        self._total = 0
        self._guard = threading.Lock()
        """Guards the three above."""
        self._writers = [Lanes(f"kode-json-{n}", _carry, _nothing, width=1, most=WRITES) for n in range(WRITERS)]
        self._readers = Lanes("kode-json-reader", _carry, _nothing, width=READERS, most=MOST)
        self._waiters = Lanes("kode-json-waiter", _carry, _nothing, width=1, most=1)
        """Reads that another process's write holds up; they hold up each other, and nobody else."""
        self._lanes = (*self._writers, self._waiters, self._readers)
        self._state = "new"
        # Threads would keep alive what nobody uses any more.
        weakref.finalize(self, _stop, self._lanes)

    @classmethod
    def from_url(cls, url: SplitResult, *, clock: Clock | None = None) -> Self:
        """``json:./relative`` or ``json:/absolute``; options `durability`, `busy_timeout_s`.

        Raises:
            UsageError: It names no folder, or an option that is none (``bad_url``).
        """
        options, path = local_options(url), unquote(url.path)
        if url.netloc or not path:
            raise UsageError(
                f"{redact(url.geturl())!r} names no folder; write json:./relative or json:/absolute.", code="bad_url"
            )
        return cls(path, **options, clock=clock)

    async def open(self) -> None:
        """Make the folder, or see that it is one of ours. Any other call does so too, unless the store was closed.

        Raises:
            StoreError: It is no folder, or cannot be used.
            SchemaTooNewError: A newer KODE made it.
        """
        self._readers.open()
        try:
            await self._readers.run(partial(prepare, self.path, self._disk))
        except BaseException:
            if self._state != "open":
                self._readers.stop()
            raise
        for lane in self._lanes:
            lane.open()
        self._state = "open"

    async def close(self) -> None:
        """Finish what was begun, and end the threads."""
        self._state = "closed"
        with anyio.CancelScope(shield=True):
            for lane in self._lanes:
                await lane.close()

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
        return await self._submit(agent_id, lambda view: acts.apply(view, conditions, puts, deletes))

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
        work = acts.apply_and_look
        return await self._submit(agent_id, lambda view: work(view, conditions, puts, deletes, uid, after))

    async def append_inbox(self, agent_id: str, record: Record, *, now: int, bounded: bool) -> Appended:
        """See `Records.append_inbox`."""
        return await self._submit(agent_id, lambda view: acts.append(view, agent_id, record, now, bounded))

    async def drop(self, agent_id: str, uid: str) -> None:
        """See `Records.drop`. The files that held anything of it are written anew without it."""
        if uid:
            await self._run(self._lane(agent_id), lambda: self._use(agent_id, lambda folder: folder.purge(uid)))

    # ---- reading -------------------------------------------------------------------------------------------

    async def look_up(self, agent_id: str, lookup: Lookup[T]) -> T:
        """Run a whole lookup in one thread and at one moment."""
        return await self._read(agent_id, lambda view: view.run(lookup))

    async def get(self, agent_id: str, keys: Sequence[Key]) -> list[Record | None]:
        """See `Records.get`."""
        return await self._read(agent_id, lambda view: view.get(keys))

    async def scan(self, agent_id: str, ask: Scan) -> list[Record]:
        """See `Records.scan`. Of all agents it reads headers and marks of orphans."""
        if agent_id or ask.uid:
            return await self._read(agent_id, lambda view: view.scan(ask))
        return await self._run(self._readers, lambda: self._scan_all(ask))

    async def due(self, now: int, limit: int, after: Due | None = None) -> list[Due]:
        """See `Records.due`. An agent whose folder is damaged is left out; opening it says what is wrong."""
        return await self._run(self._readers, lambda: self._due(now, limit, after))

    async def agents(self, prefix: str, after: str, limit: int, tenant: str | None = None) -> list[Record]:
        """See `Records.agents`. An agent whose folder is damaged is left out; opening it says what is wrong.

        Raises:
            StoreError: There are folders of agents, and not one of them can be read.
        """

        def work() -> list[Record]:
            summaries, errors = self._summaries()
            if errors and not summaries:
                raise errors[0]
            every = [record for summary in summaries for record in summary.headers]
            headers = [record for record in every if record.key > after and record.key.startswith(prefix)]
            if tenant is not None:
                headers = [record for record in headers if record.columns["tenant"] == tenant]
            return heapq.nsmallest(limit, headers, key=_by_key)

        return await self._run(self._readers, work)

    async def find_damage(self, *, thorough: bool = False) -> list[str]:
        """See `HealthSupport.find_damage`: folders that a listing leaves out, and why."""
        return await self._run(self._readers, lambda: [error.message for error in self._summaries()[1]])

    # ---- in the threads ------------------------------------------------------------------------------------

    def _use(self, agent_id: str, work: Callable[[Folder], T]) -> T:
        if not agent_id:
            raise UsageError("An agent's id says where its records lie; it must not be empty.", code="bad_agent_id")
        return self._with(_folder_name(agent_id), work)

    def _with(self, name: str, work: Callable[[Folder], T]) -> T:
        """Use a folder, and give memory back that others use."""
        with self._guard:
            folder = self._folders.get(name)
            if folder is None:
                path = os.path.join(self._agents, name)
                folder = self._folders[name] = Folder(path, self._trash, self._disk, self._busy_timeout_s)
            self._folders.move_to_end(name)
        try:
            return work(folder)
        finally:
            with self._guard:
                self._note_size(name, folder)
                if self._total > REMEMBERED:
                    self._forget(name)

    def _note_size(self, name: str, folder: Folder) -> None:
        """Note how much is known of a folder; one of which nothing is known may be of an agent that never was."""
        if self._folders.get(name) is folder:
            self._total += folder.size - self._remembered.pop(name, 0)
            if folder.blank:
                del self._folders[name]
            else:
                self._remembered[name] = folder.size

    def _forget(self, used: str) -> None:
        for name, folder in [*self._folders.items()]:
            if self._total <= REMEMBERED // 2:
                break
            if name != used and self._remembered.get(name):
                folder.forget()
                self._note_size(name, folder)

    def _summaries(self) -> tuple[list[Summary], list[StoreError]]:
        """Read what lists need of each agent, and why that of some cannot be read."""
        found, errors = [], []
        with map_errors(self._agents), os.scandir(self._agents) as entries:
            folders = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        for name in folders:
            try:
                found.append(self._with(name, Folder.summary))
            except StoreError as error:
                if error.code == "too_many_files":
                    raise  # none of them could be read
                errors.append(error)
        return found, errors

    def _scan_all(self, ask: Scan) -> list[Record]:
        if ask.kind not in ("header", "staged"):
            return []
        rows = [
            record
            for summary in self._summaries()[0]
            for record in (summary.headers if ask.kind == "header" else summary.marks)
            if record.key > ask.after
            and record.key.startswith(ask.prefix)
            and (ask.before is None or record.key < ask.before)
        ]
        choose = heapq.nlargest if ask.reverse else heapq.nsmallest
        return choose(ask.limit, rows, key=_by_key)

    def _due(self, now: int, limit: int, after: Due | None) -> list[Due]:
        found = []
        behind = (-1, "") if after is None else (after.wake_at, after.agent_id)
        for summary in self._summaries()[0]:
            leases = {record.uid: record.columns for record in summary.leases}
            for record in summary.headers:
                wake_at = record.columns["wake_at"]
                if not isinstance(wake_at, int) or wake_at > now or (after and (wake_at, record.key) <= behind):
                    continue
                lease = leases.get(str(record.columns["uid"]))
                if lease is None or lease["holder"] is None or integer(lease["until"]) <= now:
                    found.append(Due(record.key, wake_at))
        return heapq.nsmallest(limit, found, key=lambda due: (due.wake_at, due.agent_id))

    # ---- inside --------------------------------------------------------------------------------------------

    def _lane(self, agent_id: str) -> Lanes:
        return self._writers[crc32(agent_id.encode()) % WRITERS]

    def _submit(self, agent_id: str, work: Callable[[View], Act[T]]) -> Awaitable[T]:
        return self._run(self._lane(agent_id), lambda: self._use(agent_id, lambda folder: folder.write(work)))

    def _read(self, agent_id: str, work: Callable[[FolderView], T]) -> Awaitable[T]:
        return self._run_or_wait(lambda patience_s: self._use(agent_id, lambda folder: folder.read(work, patience_s)))

    async def _run_or_wait(self, work: Callable[[float], T]) -> T:
        """Read at once, or else in turns with others that wait: whoever is held up holds up nobody else."""
        start, lane, patience_s = _REAL.monotonic(), self._readers, 0.0
        while True:
            try:
                return await self._run(lane, partial(work, patience_s))
            except StoreUnavailableError as error:
                left = start + self._busy_timeout_s - _REAL.monotonic()
                if error.code != "store_locked" or left <= 0:
                    raise
                lane, patience_s = self._waiters, min(left, TURN)

    def _run(self, lane: Lanes, work: Callable[[], T]) -> Awaitable[T]:
        return lane.run(work) if self._state == "open" else self._opened(lane, work)

    async def _opened(self, lane: Lanes, work: Callable[[], T]) -> T:
        if self._state == "closed":
            raise StoreError(f"The store in {self.path} is closed; open it again.", code="closed", path=self.path)
        await self.open()
        return await lane.run(work)


def _carry(batch: list[Job[Any]]) -> None:
    for job in batch:
        try:
            job.value = job.work()
        except Exception as error:  # noqa: BLE001 - it is raised in the task that brought the job
            job.error = error


def _nothing() -> None:
    pass


def _stop(lanes: Sequence[Lanes]) -> None:
    for lane in lanes:
        lane.stop()
