"""One agent's folder: a journal that is appended to, the closed ones before it, and a lock.

    lock              locked while somebody writes, and for a moment by who reads what others wrote; never written to
    journal           lines (``lines``). The first ones name the segments and hold every record that may still change
    3.segment         the third journal, closed; nothing is ever written to it again
    3.7.index         where the records of that segment lie, as it was when journal 7 began
    7.4096.0.body     the body of a record that is too large for a line, or not text

All of it runs in threads: at most one that writes, any number that read.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, TypeVar

from kode.core.clock import RealClock
from kode.core.errors import RecordCorruptError, StoreError, StoreUnavailableError
from kode.core.store.contract import Key, Kind, Record
from kode.core.store.json import names
from kode.core.store.json.acts import Act, View
from kode.core.store.json.disk import Disk, map_errors, open_file
from kode.core.store.json.index import HELD, MUTABLE, Index, Segment
from kode.core.store.json.journal import ROLLED, begin, is_long, roll, tidy
from kode.core.store.json.lines import (
    Address,
    Line,
    Raw,
    Torn,
    body_file,
    body_text,
    corrupt,
    encode,
    parse,
    raw_record,
    unseal,
)
from kode.core.store.json.lock import Lock
from kode.core.store.json.view import FolderView, held, read_at

__all__ = ["Folder", "Summary"]

T = TypeVar("T")
PATIENCE: Final = 0.05
"""Seconds that a list of all agents waits for one of them."""
SETTLED: Final = 600_000_000
"""Microseconds after which every system has written to disk what was written to a file, without being asked."""
_CLOCK: Final = RealClock()
"""Files have the machine's times."""
_Stamp = tuple[int, int, int]
_NOTHING: Final[_Stamp] = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Summary:
    """What lists of all agents need of one."""

    headers: Sequence[Record] = ()
    leases: Sequence[Record] = ()
    marks: Sequence[Record] = ()


class Folder:
    """Reads and writes one folder."""

    def __init__(self, path: str, trash: str, disk: Disk, busy_timeout_s: float) -> None:
        self.path = path
        self._trash = trash
        self._disk = disk
        self._busy_timeout_s = busy_timeout_s
        self._lock = Lock(path, disk, busy_timeout_s)
        self._journal = os.path.join(path, names.JOURNAL)
        self._mutex = threading.Lock()
        """Guards what follows. Nobody holds it while waiting for a lock or a sync of our own writer."""
        self._index: Index | None = None
        self._stamp: _Stamp = _NOTHING
        """Inode, size and time of the journal as the index knows it."""
        self._synced = True
        """What the index says will last."""
        self._writing = False
        """Our writer has the lock: until it is done nobody else can change anything, and the index is right."""
        self._summary: tuple[_Stamp, Summary] | None = None
        self._not_before = 0
        """Bytes of the journal below which closing it is not tried again, for it has just failed."""

    # ---- reading -------------------------------------------------------------------------------------------

    def read(self, work: Callable[[FolderView], T], patience_s: float | None = None) -> T:
        """Run a function on what is there now; it must not write.

        Raises:
            StoreUnavailableError: ``store_locked``: another process has been writing for so long, else for
                `busy_timeout_s`.
        """
        with map_errors(self.path), self._mutex, self._view(self._fresh(patience_s)) as view:
            self._sync()
            return work(view)

    def summary(self) -> Summary:
        """Give what lists of all agents need; as it was, if another process has been writing for some time."""
        with map_errors(self.path), self._mutex:
            known = self._summary
            if known is None or known[0] != self._look():
                try:
                    index = self._fresh(PATIENCE)
                except StoreUnavailableError as error:
                    if error.code != "store_locked":
                        raise
                    return self._peek() if known is None else known[1]
                with self._view(index) as view:
                    self._sync_recent()
                    known = self._summary = self._stamp, _summary(view)
            return known[1]

    def _peek(self) -> Summary:
        """Look without the lock, which somebody keeps. It may be that the last line is taken off again."""
        if self._writing and self._index is not None:
            with self._view(self._index) as view:
                return _summary(view)
        try:
            with self._view(self._load()) as view:
                self._sync_recent()
                return _summary(view)
        finally:
            self._index, self._stamp = None, _NOTHING

    @property
    def size(self) -> int:
        """How many records are known in memory."""
        index = self._index
        return 0 if index is None else index.count

    @property
    def blank(self) -> bool:
        """Nothing is known in memory that took any effort."""
        return not self.size and self._summary is None

    def forget(self) -> None:
        """Give the memory back, unless it is in use."""
        if self._mutex.acquire(blocking=False):
            if not self._writing:
                self._index = None
            self._mutex.release()

    # ---- writing -------------------------------------------------------------------------------------------

    def write(self, work: Callable[[View], Act[T]]) -> T:
        """Let a function decide on what is there, and write what it says; it is durable when this returns."""
        index = self._index
        if (index is None or not index.file) and not os.path.exists(self._journal):
            act = self.read(work)
            if not act.puts:
                return act.answer
        with map_errors(self.path), self._lock.exclusive():
            with self._mutex:
                index = self._load()
                self._sync()
                with self._still(index) as view:
                    act = work(view)
                if not act.puts and not act.deletes:
                    return act.answer
                self._writing = True
            with self._own(index):
                self._put(index, act)
                self._tend(index)
            return act.answer

    def purge(self, uid: str) -> None:
        """Remove all records of a uid, and the bytes they were made of."""
        if not os.path.exists(self._journal):
            return
        with map_errors(self.path), self._lock.exclusive():
            with self._mutex:
                index = self._load()
                self._sync()
                if not index.file:
                    return
                self._writing = True
            with self._own(index):
                self._roll(index, forget=uid)
                self._tend(index)

    # ---- writing, inside -----------------------------------------------------------------------------------

    @contextmanager
    def _own(self, index: Index) -> Iterator[None]:
        """Write, and afterwards believe what is in memory only if nothing went wrong."""
        good = False
        try:
            yield
            good = True
        finally:
            with self._mutex:
                self._writing = False
                if not good:
                    self._index = None

    def _put(self, index: Index, act: Act[T]) -> None:
        rows = self._rows(index, act.puts)
        deletes: list[Address] = [(key.kind, key.uid, key.key) for key in act.deletes]
        addresses = [*deletes, *(row.address for row in rows)]
        left = {place.apart for address in addresses if (place := index.find(address)) is not None and place.apart}
        if index.file:
            data, line = encode(rows, deletes, file=index.file, at=index.end)
            stamp = self._append(index, data)
            with self._mutex:
                index.take(line)
                index.end += len(data)
                self._note(index, line, act.puts, stamp)
        else:
            begun = begin(self._disk, self.path, 1, {}, (), [rows])
            with self._mutex:
                begun.enter(index)
                self._note(index, begun.lines[0], act.puts, self._look())
        for name in left:
            with suppress(OSError):
                self._disk.remove(os.path.join(self.path, name))

    def _note(self, index: Index, line: Line, puts: Sequence[Record], stamp: _Stamp) -> None:
        self._stamp = stamp
        for record, (address, place) in zip(puts, line.puts, strict=True):
            if record.kind in MUTABLE and place.size <= HELD:
                index.held[address] = held(record)

    def _rows(self, index: Index, records: Sequence[Record]) -> list[Raw]:
        """Write records down; bodies that lie apart are durable before the line that names them."""
        rows = []
        for n, record in enumerate(records):
            body, apart = body_text(record), ""
            if body is None:
                apart = f"{index.file}.{index.end}.{n}.body"
                self._disk.create(os.path.join(self.path, apart), record.body)
                body = body_file(apart, record.body)
            rows.append(raw_record(record, body, apart))
        if any(row.apart for row in rows):
            self._disk.sync_folder(self.path)
        return rows

    def _append(self, index: Index, data: bytes) -> _Stamp:
        """Append a line. When that fails it is taken off again, so that nobody builds on what may not last."""
        fd = open_file(self._journal, os.O_RDWR)
        try:
            if os.fstat(fd).st_size > index.end:
                self._disk.cut(fd, self._journal, index.end)
            try:
                self._disk.write(fd, self._journal, data, index.end)
                self._disk.sync(fd, self._journal)
            except OSError:
                with suppress(OSError):
                    self._disk.cut(fd, self._journal, index.end)
                    self._disk.sync(fd, self._journal)
                raise
            return _stamp(os.fstat(fd))
        finally:
            os.close(fd)

    def _tend(self, index: Index) -> None:
        """Do what the folder needs after a write. The write stands, also when this fails."""
        try:
            if not index.count:
                self._vanish()
            elif is_long(index) and index.end >= self._not_before:
                self._not_before = index.end + ROLLED  # if it fails; what it has written then is not little
                self._roll(index)
                self._not_before = 0
        except (OSError, StoreError):
            with self._mutex:
                self._index = None

    def _roll(self, index: Index, forget: str | None = None) -> None:
        with self._still(index) as view:
            begun = roll(self._disk, self.path, view, forget)
        with self._mutex:
            begun.enter(index)
            self._stamp = self._look()
        tidy(self._disk, self.path, index)

    def _vanish(self) -> None:
        """Remove the folder, in which nothing is left. Who waits for its lock finds that it is another's by then."""
        trash = os.path.join(self._trash, f"{os.stat(self.path).st_ino}.gone")
        self._disk.make_folder(self._trash)
        self._disk.rename(self.path, trash)
        with self._mutex:
            self._index, self._stamp, self._summary = Index(), _NOTHING, None
        self._disk.sync_folder(os.path.dirname(self.path))
        self._disk.remove_folder(trash, names.IN_FOLDER)

    # ---- what is on disk -----------------------------------------------------------------------------------

    def _look(self) -> _Stamp:
        try:
            return _stamp(os.lstat(self._journal))
        except FileNotFoundError:
            os.lstat(os.path.dirname(self.path))  # no agent is not the same as no store
            return _NOTHING

    def _fresh(self, patience_s: float | None = None) -> Index:
        """Give the index as of now. What others wrote is read under the lock, when it is durable."""
        wait = self._lock.waiting(self._busy_timeout_s if patience_s is None else patience_s)
        while True:
            index = self._index
            if index is not None and (self._writing or self._stamp == self._look()):
                return index
            try:
                fd = self._lock.take(shared=True)
            except FileNotFoundError:
                return self._load()  # no folder; or a copy that cannot be written to, and has no lock
            if fd is not None:
                try:
                    return self._load()
                finally:
                    self._lock.give_back(fd)
            self._mutex.release()  # our own writer may be the one that has the lock
            try:
                wait()
            finally:
                self._mutex.acquire()

    def _again(self) -> tuple[Index, int]:
        self._index = None
        return self._fresh(), self._stamp[0]

    def _view(self, index: Index) -> FolderView:
        return FolderView(self.path, index, self._stamp[0], self._again)

    def _still(self, index: Index) -> FolderView:
        """View what nobody can change, for the lock is ours: what is missing is lost."""
        inode = self._stamp[0]
        return FolderView(self.path, index, inode, lambda: (index, inode))

    def _load(self) -> Index:
        """Read what is new on disk."""
        index, stamp = self._index, self._look()
        if index is not None and stamp == self._stamp:
            return index
        self._index = None
        if stamp == _NOTHING:
            index = self._nothing()
        else:
            with open(open_file(self._journal), "rb") as file:
                index, stamp = self._read_journal(file.fileno(), index), _stamp(os.fstat(file.fileno()))
        self._index, self._stamp = index, stamp
        with self._still(index) as view:
            view.hold()
        return index

    def _nothing(self) -> Index:
        with suppress(FileNotFoundError):
            lost = [name for name in os.listdir(self.path) if name.endswith(".segment")]
            if lost:
                raise RecordCorruptError(
                    f"{self._journal} is missing, but {sorted(lost)[0]} is there. Nothing was changed; restore the "
                    "folder from a backup.",
                    where=self._journal,
                    raw=b"",
                )
        return Index()

    def _read_journal(self, fd: int, known: Index | None) -> Index:
        self._synced = False
        size = os.fstat(fd).st_size
        if known is not None and known.mark and self._stamp[0] == os.fstat(fd).st_ino and size > known.end:
            if read_at(fd, len(known.mark), known.begun - len(known.mark)) == known.mark:
                self._replay(known, read_at(fd, size - known.end, known.end))
                return known
        index = Index()
        self._replay(index, read_at(fd, size, 0))
        if not index.file:
            raise RecordCorruptError(
                f"{self._journal} has no beginning. It was left as it is; restore the folder from a backup.",
                where=self._journal,
                raw=read_at(fd, 65_536, 0),
            )
        return index

    def _sync(self) -> None:
        """Make what others wrote last before anybody is shown it or builds on it: who wrote it may have been killed."""
        if not self._synced:
            with suppress(FileNotFoundError), open(open_file(self._journal), "rb") as file:
                self._disk.sync(file.fileno(), self._journal)
                self._disk.sync_folder(self.path)
            self._synced = True

    def _sync_recent(self) -> None:
        """The same for lists of all agents, which have no time to sync thousands of files that long are on the disk."""
        if _CLOCK.now() - self._stamp[2] // 1_000 < SETTLED:
            self._sync()

    def _replay(self, index: Index, data: bytes) -> None:
        start, base = 0, index.end
        while start < len(data):
            end = data.find(b"\n", start) + 1 or len(data)
            text = data[start:end]
            try:
                line = parse(text, index.file, base + start, self._journal)
            except Torn:
                if end == len(data):
                    return
                raise RecordCorruptError(
                    f"{self._journal} at byte {base + start}: the line is damaged. It was left as it is; restore the "
                    "folder from a backup.",
                    where=self._journal,
                    raw=text[:65_536],
                ) from None
            if not index.file:
                self._open(index, line, text)
            index.take(line)
            start = end
            index.end = base + start
            if "file" in line.head:
                index.begun, index.mark = index.end, text[-12:]

    def _open(self, index: Index, line: Line, text: bytes) -> None:
        """Read a journal's first line, and the lists of the segments it names."""
        index.file = int(line.head["file"])
        for file, revision, size in line.head["segments"]:
            if not type(file) is type(revision) is int:
                raise corrupt(f"{self._journal}: {file!r} is no number of a segment", self._journal, text)
            index.segments[file] = Segment(revision, size)
            path = os.path.join(self.path, names.index_name(file, revision))
            try:
                with open(open_file(path), "rb") as listed:
                    said, _ = unseal(listed.read(), path)
            except (Torn, FileNotFoundError) as error:
                what = "damaged" if isinstance(error, Torn) else "missing"
                raise RecordCorruptError(
                    f"{path} is {what}. The rest was left as it is; restore the folder from a backup.",
                    where=path,
                    raw=b"",
                ) from None
            index.take_list(file, said["records"])
            if not all(map(names.BODY.fullmatch, index.apart)):
                raise corrupt(f"{path} names a body as none can be called", path, b"")


def _stamp(found: os.stat_result) -> _Stamp:
    return found.st_ino, found.st_size, found.st_mtime_ns


def _summary(view: FolderView) -> Summary:
    found: dict[Kind, list[Record]] = {"header": [], "lease": [], "staged": []}
    keys = [Key(kind, uid, key) for kind, uid, key in view.index.mutable() if kind in found]
    for record in view.get(keys):
        if record is not None and (record.uid == "" or record.kind == "lease"):
            found[record.kind].append(record)
    return Summary(found["header"], found["lease"], found["staged"])
