"""The lock of a folder, between processes and between stores of one process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from kode.core.clock import RealClock
from kode.core.errors import StoreUnavailableError
from kode.core.store.json import names
from kode.core.store.json.disk import Disk, open_file

__all__ = ["Lock"]

_FIRST: Final = 0.000_05
_LONGEST: Final = 0.005
_NEVER: Final = threading.Event()
_CLOCK: Final = RealClock()
"""Another process does not wait by anybody's virtual clock."""


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
        wait = self.waiting(self._busy_timeout_s)
        while True:
            try:
                fd = self.take(shared=False)
            except FileNotFoundError:
                self._disk.make_folder(self._folder)
                continue
            if fd is not None:
                break
            wait()
        try:
            yield
        finally:
            self.give_back(fd)

    def take(self, *, shared: bool) -> int | None:
        """Lock, if that can be done at once, until what this returns is given back.

        Raises:
            FileNotFoundError: There is no folder; or for `shared` no lock, and none can be made.
        """
        try:
            fd = open_file(self._path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            if not shared or isinstance(error, FileNotFoundError):
                raise
            fd = open_file(self._path)  # what cannot be written can be read
        taken = False
        try:
            taken = self._disk.try_lock(fd, shared=shared) and os.fstat(fd).st_ino == os.lstat(self._path).st_ino
        except FileNotFoundError:
            pass  # the folder has just been removed
        finally:
            if not taken:
                self.give_back(fd)
        return fd if taken else None

    def give_back(self, fd: int) -> None:
        """Unlock."""
        self._disk.unlock(fd)

    def waiting(self, at_most: float) -> Callable[[], None]:
        """Give what waits a little, longer each time it is called.

        It raises `StoreUnavailableError` (``store_locked``) when that has taken too long.
        """
        start = _CLOCK.monotonic()

        def wait() -> None:
            waited = _CLOCK.monotonic() - start
            if waited >= at_most:
                raise StoreUnavailableError(
                    f"{self._folder}: another process has been writing all the time (busy_timeout_s is "
                    f"{self._busy_timeout_s:g}); try again.",
                    code="store_locked",
                    path=self._folder,
                )
            _NEVER.wait(min(max(waited, _FIRST), _LONGEST, at_most - waited))

        return wait
