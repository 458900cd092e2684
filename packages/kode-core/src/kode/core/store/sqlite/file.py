"""Opening the file: what is created and how, which files are refused, and what SQLite's errors mean.

All functions here run in a thread.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

from kode.core.errors import KodeError, SchemaTooNewError, StoreError, StoreUnavailableError, UsageError
from kode.core.store.primitives import Durability
from kode.core.store.sqlite.rows import SCHEMA

__all__ = ["Place", "connect", "map_errors", "must_reopen"]

APPLICATION_ID: Final = 0x4B4F4445  # "KODE": how `file` and we tell our files from others
SCHEMA_VERSION: Final = 1
# A commit writes whole pages, and a page holds whole messages: 4 KiB is the least written per commit, and
# three messages of 1 KB fill it well.
PAGE_SIZE: Final = 4_096
STATEMENTS: Final = 512
"""Compiled statements kept by each connection."""
FILES: Final = 4
"""Descriptors of a connection: the file, its log, their index, and for a moment the folder."""
TRIES: Final = 5
"""To have a new file keep a log, while others open it too."""
WAL_KEPT: Final = 16 * 1_048_576
"""Bytes that the write-ahead log keeps after a checkpoint."""


class Place:
    """Where the file of an open store lies, and which one it is.

    Args:
        path: The file.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)  # whatever folder the process goes to later
        self.file: tuple[int, int] | None = None
        """Device and number of the file; no other has the same while it is open. None: not seen yet."""

    def check(self) -> None:
        """See that the file is still at its place: what is written to one that was removed would be lost with it.

        Raises:
            StoreUnavailableError: ``file_gone``: it was moved or removed, or another lies there.
        """
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            pass
        else:
            if self.file is None:
                self.file = found.st_dev, found.st_ino
            if self.file == (found.st_dev, found.st_ino):
                return
        raise StoreUnavailableError(
            f"{self.path} was moved, removed or replaced while it was open; nothing was written. Put the file back "
            "that was there, or open the store anew, in every program that uses it.",
            code="file_gone",
            path=self.path,
        )


def connect(
    path: str, *, durability: Durability, busy_timeout_s: float, reader: bool = False, create: bool = True
) -> sqlite3.Connection:
    """Open the file; unless it is for reading, or not to `create`, make it (readable by its owner only).

    Raises:
        StoreError: It is no database of ours, or cannot be opened.
        SchemaTooNewError: A newer KODE made it.
    """
    with map_errors(path):
        if create and not reader:
            _create(path)
        db = sqlite3.connect(
            f"file:{quote(path)}?mode=rw",
            uri=True,
            timeout=busy_timeout_s,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=STATEMENTS,
        )
        try:
            if reader:
                db.execute("PRAGMA query_only = ON")
            else:
                _prepare(db, path, durability)
        except BaseException:
            db.close()
            raise
        return db


def _create(path: str) -> None:
    """Make the file, and the last folder of its path, if they are not there."""
    where = Path(path)
    if where.is_dir():
        raise StoreError(f"{path} is a folder; give the path of a file in it.", code="is_a_directory", path=path)
    where.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        return
    # Without this a loss of power could take the file's name, and with it what was acknowledged.
    folder = os.open(where.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _prepare(db: sqlite3.Connection, path: str, durability: Durability) -> None:
    """Check whose file it is before anything in it is changed, then set it up."""
    # In one snapshot: another process may be making the file at this moment.
    db.execute("BEGIN")
    fresh = _is_fresh(db, path)
    db.execute("COMMIT")
    if fresh:
        db.execute(f"PRAGMA page_size = {PAGE_SIZE}")
    _keep_log(db)
    db.execute(f"PRAGMA synchronous = {'FULL' if durability == 'power' else 'NORMAL'}")
    db.execute(f"PRAGMA journal_size_limit = {WAL_KEPT}")
    if sys.platform == "darwin" and durability == "power":
        # There an fsync only reaches the drive's cache.
        db.execute("PRAGMA fullfsync = ON")
        db.execute("PRAGMA checkpoint_fullfsync = ON")
    if not fresh:
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        if _is_fresh(db, path):  # else another process was faster
            for statement in SCHEMA:
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise


def _keep_log(db: sqlite3.Connection) -> None:
    """Have the file keep a write-ahead log. The change itself waits for nobody, so who is busy there is waited for."""
    for left in range(TRIES, 0, -1):
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or left == 1:
                raise
        else:
            return
        db.execute("BEGIN EXCLUSIVE")  # this waits, as long as any transaction would
        db.execute("COMMIT")


def _is_fresh(db: sqlite3.Connection, path: str) -> bool:
    (owner,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if owner == APPLICATION_ID:
        if version > SCHEMA_VERSION:
            raise SchemaTooNewError(
                f"{path} has schema {version}; this process knows up to {SCHEMA_VERSION}. Upgrade KODE; "
                "nothing was changed.",
                path=path,
                found=version,
                known=SCHEMA_VERSION,
            )
        return False
    if owner or version or tables:
        raise StoreError(
            f"{path} is an SQLite file of something else; give another path. Nothing was changed.",
            code="foreign_file",
            path=path,
        )
    return True


# ---- errors ------------------------------------------------------------------------------------------------

# SQLite's primary result codes: class, code, what happened, what to do.
_MEANINGS: Final[dict[int, tuple[type[StoreError], str, str]]] = {
    sqlite3.SQLITE_BUSY: (
        StoreUnavailableError,
        "store_locked",
        "another process holds its write lock; try again",
    ),
    sqlite3.SQLITE_LOCKED: (StoreUnavailableError, "store_locked", "it is locked; try again"),
    sqlite3.SQLITE_FULL: (
        StoreUnavailableError,
        "disk_full",
        "the disk is full; free some space and try again",
    ),
    sqlite3.SQLITE_READONLY: (
        StoreUnavailableError,
        "read_only",
        "it cannot be written to; check the rights of the file and its folder, and how the disk is mounted",
    ),
    sqlite3.SQLITE_IOERR: (StoreUnavailableError, "io_error", "the disk failed; look at the system's log"),
    sqlite3.SQLITE_NOMEM: (StoreUnavailableError, "no_memory", "no memory is left"),
    sqlite3.SQLITE_CANTOPEN: (
        StoreError,
        "cannot_open",
        "it cannot be opened; check the path and its rights",
    ),
    sqlite3.SQLITE_PERM: (
        StoreError,
        "permission_denied",
        "access is denied; check the rights of file and folder",
    ),
    sqlite3.SQLITE_AUTH: (
        StoreError,
        "permission_denied",
        "access is denied; check the rights of file and folder",
    ),
    sqlite3.SQLITE_NOTADB: (StoreError, "not_a_database", "it is no SQLite file; give another path"),
    sqlite3.SQLITE_CORRUPT: (
        StoreError,
        "store_corrupt",
        "it is damaged; it was left as it is, restore it from a backup",
    ),
}
_GIVE_UP: Final = frozenset(
    {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CANTOPEN}
)


@contextmanager
def map_errors(path: str) -> Iterator[None]:
    """Raise KODE's errors for those of SQLite and the operating system; nothing of them crosses this edge."""
    try:
        yield
    except sqlite3.Error as error:
        raise _meaning(path, error) from error
    except PermissionError as error:
        raise StoreError(
            f"Access to {path} is denied; check the rights of the file and its folder.",
            code="permission_denied",
            path=path,
        ) from error
    except OSError as error:
        raise StoreUnavailableError(
            f"{path} cannot be used: {error.strerror or error}.", code="io_error", path=path
        ) from error
    except (OverflowError, UnicodeEncodeError) as error:
        raise UsageError(f"A value cannot be stored in {path}: {error}.", code="bad_value", path=path) from error


def must_reopen(error: BaseException) -> bool:
    """Tell whether a connection cannot be trusted after this: it may believe what is not on the disk."""
    return isinstance(error, sqlite3.Error) and _primary(error) in _GIVE_UP


def _primary(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _meaning(path: str, error: sqlite3.Error) -> KodeError:
    code = _primary(error)
    if code == sqlite3.SQLITE_TOOBIG or isinstance(error, sqlite3.InterfaceError | sqlite3.DataError):
        return UsageError(f"A value cannot be stored in {path}: {error}.", code="bad_value", path=path)
    kind, name, what = _MEANINGS.get(code, (StoreError, "sqlite", "SQLite refused"))
    if code == sqlite3.SQLITE_CANTOPEN and _no_descriptor():
        kind, name, what = StoreUnavailableError, "too_many_files", "too many files are open; raise the limit"
    detail = getattr(error, "sqlite_errorname", type(error).__name__)
    return kind(f"{path}: {what} ({detail}: {error}).", code=name, path=path, sqlite=detail)


def _no_descriptor() -> bool:
    """Tell whether this process may not open as many files as a connection needs. SQLite does not say it."""
    opened: list[int] = []
    try:
        while len(opened) < FILES:
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return False
