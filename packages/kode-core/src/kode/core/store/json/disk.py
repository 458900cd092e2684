"""The file system as this store uses it, step by step, and what its errors mean.

Whatever changes something on disk is a method of `Disk`, so that tests can fail or stop at each of them. All of it
runs in threads.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from kode.core.errors import StoreError, StoreUnavailableError, UsageError

__all__ = ["Disk", "map_errors", "open_file"]


def open_file(path: str, flags: int = os.O_RDONLY) -> int:
    """Open a regular file at just this place: no link is followed, and no pipe is waited for."""
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.ENXIO, "it is no regular file", path)
    return fd


class Disk:
    """Steps on disk.

    Args:
        power: Whether what is synced shall survive a loss of power.
    """

    def __init__(self, power: bool) -> None:
        self._power = power

    def step(self, what: str, path: str) -> None:
        """Called before each step; for tests."""

    def make_folder(self, path: str) -> None:
        """Make a folder, readable by its owner only, and its name durable; fine if it is there."""
        self.step("mkdir", path)
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            return
        self.sync_folder(os.path.dirname(path))

    def create(self, path: str, data: bytes) -> None:
        """Write a whole file and make its content durable; its name needs `sync_folder`."""
        self.step("create", path)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            self.write(fd, path, data, 0)
            self.sync(fd, path)
        finally:
            os.close(fd)

    def write(self, fd: int, path: str, data: bytes, at: int) -> None:
        """Write all of it at an offset."""
        self.step("write", path)
        rest = memoryview(data)
        while rest:
            done = os.pwrite(fd, rest, at)
            rest, at = rest[done:], at + done

    def sync(self, fd: int, path: str) -> None:
        """Make durable what a file holds, and its size."""
        self.step("sync", path)
        if not self._power:
            return
        if sys.platform == "darwin":
            # There an fsync only reaches the drive's cache.
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
        else:
            os.fdatasync(fd)

    def sync_folder(self, path: str) -> None:
        """Make the names in a folder durable."""
        self.step("sync_folder", path)
        if not self._power:
            return
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def cut(self, fd: int, path: str, size: int) -> None:
        """Take off what lies behind an offset."""
        self.step("cut", path)
        os.ftruncate(fd, size)

    def rename(self, old: str, new: str) -> None:
        """Rename a file or folder; a file that has the new name is replaced."""
        self.step("rename", new)
        os.rename(old, new)

    def link(self, old: str, new: str) -> None:
        """Give a file a second name, or where the file system has no such thing copy it."""
        self.step("link", new)
        with suppress(FileNotFoundError):
            os.unlink(new)
        try:
            os.link(old, new)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS):
                raise
            with open(old, "rb") as source:
                self.create(new, source.read())

    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""
        self.step("remove", path)
        with suppress(FileNotFoundError):
            os.unlink(path)

    def remove_folder(self, path: str, ours: re.Pattern[str]) -> None:
        """Remove the files in a folder that have such names, and the folder if nothing else is in it.

        A link to a folder is none.
        """
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return
        try:
            for name in filter(ours.fullmatch, os.listdir(fd)):
                self.step("remove", os.path.join(path, name))
                with suppress(FileNotFoundError, IsADirectoryError):
                    os.unlink(name, dir_fd=fd)
        finally:
            os.close(fd)
        self.step("rmdir", path)
        with suppress(OSError):
            os.rmdir(path)

    def try_lock(self, fd: int, *, shared: bool) -> bool:
        """Lock a file against other processes and other stores of this one, if that can be done at once."""
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(self, fd: int) -> None:
        """Give a lock back and close its file. Closing alone does not do: a forked process may have the file too."""
        try:
            fcntl.flock(fd, fcntl.LOCK_UN)
        finally:
            os.close(fd)


# ---- errors ------------------------------------------------------------------------------------------------

_FULL: Final = (StoreUnavailableError, "disk_full", "the disk is full; free some space and try again")
_DENIED: Final = (StoreError, "permission_denied", "access is denied; check the rights of files and folders there")
_GONE: Final = (StoreUnavailableError, "file_gone", "a file of it is missing; was it moved or removed while in use?")
_FILES: Final = (StoreUnavailableError, "too_many_files", "too many files are open; try again or raise the limit")
_LOCKS: Final = (
    StoreError,
    "no_locks",
    "its file system cannot lock files, without which nobody is safe from another process; keep the store on a "
    "local disk",
)
_NO_FILE: Final = (StoreError, "not_a_file", "it is a link or no regular file; this store has none such, remove it")
_NO_FOLDER: Final = (StoreError, "not_a_folder", "it, or a part of it, is no folder; give the path of a folder")
_MEANINGS: Final[dict[int, tuple[type[StoreError], str, str]]] = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: _FULL,
    errno.EROFS: (StoreUnavailableError, "read_only", "the disk is mounted read-only"),
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.ENOENT: _GONE,
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
    errno.ENOLCK: _LOCKS,
    errno.ENOTSUP: _LOCKS,
    errno.EOPNOTSUPP: _LOCKS,
    errno.ENOSYS: _LOCKS,
    errno.ELOOP: _NO_FILE,
    errno.ENXIO: _NO_FILE,
    errno.EISDIR: _NO_FILE,
    errno.ENOTDIR: _NO_FOLDER,
    errno.EEXIST: _NO_FOLDER,
}


@contextmanager
def map_errors(path: str) -> Iterator[None]:
    """Raise KODE's errors for those of the operating system; nothing of them crosses this edge."""
    try:
        yield
    except OSError as error:
        kind, code, what = _MEANINGS.get(
            error.errno or 0, (StoreUnavailableError, "io_error", "the disk failed; look at the system's log")
        )
        detail = errno.errorcode.get(error.errno or 0, type(error).__name__)
        raise kind(f"{path}: {what} ({detail}: {error.strerror}).", code=code, path=path) from error
    except UnicodeEncodeError as error:
        raise UsageError(f"A value cannot be stored in {path}: {error}.", code="bad_value", path=path) from error
