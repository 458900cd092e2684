"""`JSONStore`: agents as folders of JSON lines."""

from __future__ import annotations

import heapq
import json
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, Self, TypeVar
from urllib.parse import SplitResult, unquote
from zlib import crc32

import anyio

from kode.core.clock import Clock, RealClock
from kode.core.errors import SchemaTooNewError, StoreError, StoreUnavailableError, UsageError
from kode.core.store.base import Store
from kode.core.store.contract import Appended, Condition, Due, Key, Kind, Record
from kode.core.store.json import acts, lines, names
from kode.core.store.json.acts import Act, View
from kode.core.store.json.disk import Disk, map_errors
from kode.core.store.json.folder import Folder, Summary
from kode.core.store.json.view import FolderView
from kode.core.store.lanes import Job, Lanes
from kode.core.store.open import query, redact
from kode.core.store.plans import Plan, Scan, integer
from kode.core.store.primitives import Durability

__all__ = ["JSONStore"]

T = TypeVar("T")
WRITERS: Final = 4
"""Threads that write; an agent always has the same one, so that its writes keep their order."""
READERS: Final = 2
MOST: Final = 16
"""Reads that one of these takes along."""
REMEMBERED: Final = 200_000
"""Records whose places are kept in memory; what was not used for longest is read again when it is needed."""
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
        super().__init__()
        if not str(path):
            raise UsageError("'' is no path of a folder; give one, such as ./.kode.", code="bad_path")
        if durability not in ("power", "process"):
            raise UsageError(f"durability is {durability!r}; give 'power' or 'process'.", code="bad_durability")
        self.path = str(Path(path))
        self.durability: Durability = durability
        self._clock = RealClock() if clock is None else clock
        self._disk = Disk(durability == "power")
        self._busy_timeout_s = busy_timeout_s
        self._agents = os.path.join(os.path.abspath(self.path), "agents")
        self._trash = os.path.join(os.path.abspath(self.path), "trash")
        self._folders: OrderedDict[str, Folder] = OrderedDict()
        """Those used last are the last."""
        self._remembered: dict[str, int] = {}
        self._total = 0
        self._guard = threading.Lock()
        """Guards the three above."""
        self._writers = [Lanes(f"kode-json-{n}", _carry, _nothing, width=1, most=1) for n in range(WRITERS)]
        self._readers = Lanes("kode-json-reader", _carry, _nothing, width=READERS, most=MOST)
        self._state = "new"
        # Threads would keep alive what nobody uses any more.
        weakref.finalize(self, _stop, [*self._writers, self._readers])

    @classmethod
    def from_url(cls, url: SplitResult, *, clock: Clock | None = None) -> Self:
        """``json:./relative`` or ``json:/absolute``; options `durability`, `busy_timeout_s`."""
        given = query(url, "durability", "busy_timeout_s")
        path, durability = unquote(url.path), given.get("durability", "power")
        if url.netloc or not path:
            raise UsageError(
                f"{redact(url.geturl())!r} names no folder; write json:./relative or json:/absolute.", code="bad_url"
            )
        if durability not in ("power", "process"):
            raise UsageError(f"durability is {durability!r}; give 'power' or 'process'.", code="bad_url")
        try:
            timeout = float(given.get("busy_timeout_s", "10"))
        except ValueError:
            raise UsageError(
                f"busy_timeout_s is {given['busy_timeout_s']!r}; give a number of seconds.", code="bad_url"
            ) from None
        kept: Durability = "power" if durability == "power" else "process"
        return cls(path, durability=kept, busy_timeout_s=timeout, clock=clock)

    async def open(self) -> None:
        """Make the folder, or see that it is one of ours. Any other call does so too, unless the store was closed.

        Raises:
            StoreError: It is no folder, or cannot be used.
            SchemaTooNewError: A newer KODE made it.
        """
        self._readers.open()
        try:
            await self._readers.run(self._prepare)
        except BaseException:
            if self._state != "open":
                self._readers.stop()
            raise
        for lane in self._writers:
            lane.open()
        self._state = "open"

    async def close(self) -> None:
        """Finish what was begun, and end the threads."""
        self._state = "closed"
        with anyio.CancelScope(shield=True):
            for lane in (*self._writers, self._readers):
                await lane.close()

    async def now(self) -> int:
        """Tell the time by the clock that was given."""
        return self._clock.now()

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

    async def read_plan(self, agent_id: str, plan: Plan[T]) -> T:
        """Run a whole plan in one thread and at one moment."""
        return await self._read(agent_id, lambda view: view.run(plan))

    async def get(self, agent_id: str, keys: Sequence[Key]) -> list[Record | None]:
        """See `Records.get`."""
        return await self._read(agent_id, lambda view: view.get(keys))

    async def scan(
        self,
        agent_id: str,
        kind: Kind,
        uid: str,
        *,
        prefix: str = "",
        after: str = "",
        before: str | None = None,
        limit: int,
        reverse: bool = False,
    ) -> list[Record]:
        """See `Records.scan`. Of all agents it reads headers and marks of orphans."""
        ask = Scan(kind, uid, prefix, after, before, limit, reverse)
        if agent_id or uid:
            return await self._read(agent_id, lambda view: view.scan(ask))
        return await self._run(self._readers, lambda: self._scan_all(ask))

    async def due(self, now: int, limit: int, after: Due | None = None) -> list[Due]:
        """See `Records.due`. An agent whose folder is damaged is left out; opening it says what is wrong."""
        return await self._run(self._readers, lambda: self._due(now, limit, after))

    async def agents(self, prefix: str, after: str, limit: int, tenant: str | None = None) -> list[Record]:
        """See `Records.agents`. An agent whose folder is damaged is left out; opening it says what is wrong."""

        def work() -> list[Record]:
            headers = [record for record in self._all_headers() if record.key > after and record.key.startswith(prefix)]
            if tenant is not None:
                headers = [record for record in headers if record.columns["tenant"] == tenant]
            return heapq.nsmallest(limit, headers, key=_by_key)

        return await self._run(self._readers, work)

    # ---- in the threads ------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        with suppress(OSError):  # what a process was removing when it ended
            for name in os.listdir(self._trash):
                self._disk.remove_folder(os.path.join(self._trash, name))
        with map_errors(self.path):
            os.makedirs(self.path, 0o700, exist_ok=True)
            mark = os.path.join(self.path, "kode.json")
            try:
                with open(mark, "rb") as file:
                    said: Any = json.load(file)
            except FileNotFoundError:
                self._disk.create(mark, b'{"store":"kode","version":%d}\n' % lines.VERSION)
                self._disk.sync_folder(self.path)
                self._disk.make_folder(self._agents)
                return
            except ValueError:
                said = None
        if not isinstance(said, dict) or said.get("store") != "kode" or type(said.get("version")) is not int:
            raise StoreError(
                f"{mark} is something else's; give another folder. Nothing was changed.",
                code="foreign_folder",
                path=self.path,
            )
        if said["version"] > lines.VERSION:
            raise SchemaTooNewError(
                f"{self.path} has version {said['version']}; this process knows up to {lines.VERSION}. Upgrade KODE; "
                "nothing was changed.",
                path=self.path,
                found=said["version"],
                known=lines.VERSION,
            )

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
                self._total += folder.size - self._remembered.get(name, 0)
                self._remembered[name] = folder.size
                if self._total > REMEMBERED:
                    self._forget()

    def _forget(self) -> None:
        for name, folder in self._folders.items():
            if self._total <= REMEMBERED // 2:
                break
            if self._remembered.get(name):
                folder.forget()
                self._total += folder.size - self._remembered[name]
                self._remembered[name] = folder.size

    def _summaries(self) -> list[Summary]:
        found = []
        with map_errors(self._agents):
            names = os.listdir(self._agents)
        for name in names:
            try:
                found.append(self._with(name, Folder.summary))
            except StoreUnavailableError:
                raise
            except StoreError:
                pass  # it says so to whoever asks for this agent
        return found

    def _all_headers(self) -> list[Record]:
        return [record for summary in self._summaries() for record in summary.headers]

    def _scan_all(self, ask: Scan) -> list[Record]:
        if ask.kind not in ("header", "staged"):
            return []
        rows = [
            record
            for summary in self._summaries()
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
        for summary in self._summaries():
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
        return self._run(self._readers, lambda: self._use(agent_id, lambda folder: folder.read(work)))

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


def _stop(lanes: list[Lanes]) -> None:
    for lane in lanes:
        lane.stop()
