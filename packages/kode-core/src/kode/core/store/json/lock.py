"""The lock of a folder, between processes and between stores of one process."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from kode.core.errors import StoreUnavailableError
from kode.core.store.json import names
from kode.core.store.json.disk import Disk

__all__ = ["Lock"]

_FIRST: Final = 0.000_05
_LONGEST: Final = 0.005
_NEVER: Final = threading.Event()


class Lock:
    """Locks a folder by the file `lock` in it.

    That file is never renamed and never written to. It goes only with its folder, and who holds the lock by then sees
    that its file is no longer the one at that place.
    """

    def __init__(self, folder: str, disk: Disk, busy_timeout_s: float) -> None:
        self._folder = folder
        self._path = os.path.join(folder, names.LOCK)
        self._disk = disk
        self._busy_timeout_s = busy_timeout_s

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep everybody else out; makes the folder if it is not there.

        Raises:
            StoreUnavailableError: ``store_locked``: somebody else has had it all the time.
        """
        waited = 0.0
        while True:
            try:
                fd = self.take(shared=False)
            except FileNotFoundError:
                self._disk.make_folder(self._folder)
                continue
            if fd is not None:
                break
            waited = self.wait(waited)
        try:
            yield
        finally:
            os.close(fd)

    def take(self, *, shared: bool) -> int | None:
        """Lock, if that can be done at once, until what this returns is closed.

        Raises:
            FileNotFoundError: There is no folder; or for `shared` no lock, and none can be made.
        """
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if not shared or isinstance(error, FileNotFoundError):
                raise
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)  # what cannot be written can be read
        taken = False
        try:
            taken = self._disk.try_lock(fd, shared=shared) and os.fstat(fd).st_ino == os.stat(self._path).st_ino
        except FileNotFoundError:
            pass  # the folder has just been removed
        finally:
            if not taken:
                os.close(fd)
        return fd if taken else None

    def wait(self, waited: float, at_most: float | None = None) -> float:
        """Wait a little, longer each time; give the sum.

        Raises:
            StoreUnavailableError: ``store_locked``: the sum is too large.
        """
        if waited >= (self._busy_timeout_s if at_most is None else at_most):
            raise StoreUnavailableError(
                f"{self._folder}: another process has been writing for {waited:.1f} s; try again.",
                code="store_locked",
                path=self._folder,
            )
        pause = min(max(waited, _FIRST), _LONGEST)
        _NEVER.wait(pause)
        return waited + pause
