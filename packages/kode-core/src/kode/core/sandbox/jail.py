"""Opens paths below a root, whatever the names, the links and the other processes do.

A path is walked name by name with directory descriptors. No name is opened through a link: links are read
and walked here, ``..`` goes back to a descriptor that was held before, so the kernel never resolves more
than one plain name. Swapping a folder for a link meanwhile makes the walk fail; it cannot lead it out of
the root. Links that stay inside are followed. Hard links cannot be told from files, and what another
process moves out of the root while it is open stays open.

Everything here blocks; call it in a worker thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from kode.core.errors import SandboxError
from kode.core.sandbox.base import MAX_READ, FileInfo, FileKind, shown

__all__ = ["FOLDER", "MAX_DEPTH", "NOT_THERE", "TEMPORARY", "Jail", "Place", "describe", "open_file"]

MAX_LINKS = 40
MAX_DEPTH = 200
"""Folders within each other, of which a walk holds each open; so a path cannot take all descriptors."""
MAX_PATH = 4_095
"""Characters of a path; more no program is given by Linux."""
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
PIECE = 1 << 20
TEMPORARY = ".kode-tmp-"
"""Prefix of files that are being written; one that is left over belongs to a writer that was killed."""
CODES = {
    errno.ENOENT: ("file_not_found", "there is nothing at this path"),
    errno.ENOTDIR: ("not_a_directory", "a part of the path that must be a folder is none"),
    errno.EISDIR: ("not_a_file", "it is a folder"),
    errno.ENXIO: ("not_a_file", "it is no regular file"),
    errno.EACCES: ("no_permission", "this user may not do that"),
    errno.EPERM: ("no_permission", "this user may not do that"),
    errno.EROFS: ("no_permission", "the file system is read-only"),
    errno.ENOSPC: ("no_space", "the disk is full"),
    errno.EDQUOT: ("no_space", "the user's share of the disk is full"),
    errno.EFBIG: ("no_space", "the file would be larger than allowed"),
    errno.ENOTEMPTY: ("not_empty", "the folder is not empty; remove it recursively if that is meant"),
    errno.ENAMETOOLONG: ("bad_path", "a name in it is too long"),
    errno.ELOOP: ("bad_path", "it was changed into a link meanwhile, or its links go in a circle"),
}
NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENXIO, errno.EISDIR})
"""Reasons for which a search passes a name by: it is gone, became something else, or is not for this user. Any other
(no descriptors, a broken disk) must not look like "nothing found"."""


@dataclass(frozen=True, slots=True)
class Place:
    """A name in an open folder. ``name`` is None for the folder itself."""

    folder: int
    name: str | None
    parts: tuple[str, ...]
    """Of the whole path, links resolved, relative to the root."""

    @property
    def path(self) -> str:
        """Relative to the root."""
        return "/".join(self.parts) or "."


class Jail:
    """A folder that paths cannot leave. Holds no descriptor between calls.

    Args:
        root: An existing folder.

    Raises:
        SandboxError: ``root`` is no folder that can be opened.
    """

    def __init__(self, root: str) -> None:
        self._given = os.path.abspath(root)
        self.root = os.path.realpath(root)
        with self.errors(root):
            os.close(os.open(self.root, FOLDER))

    @contextlib.contextmanager
    def at(self, path: str, *, follow: bool = True, make: bool = False) -> Iterator[Place]:
        """Walk to a path and hold its folder open.

        Args:
            path: Relative to the root, or absolute below it.
            follow: Walk on if the last name is a link; the place's name is then none at this moment.
            make: Make missing folders on the way.
        """
        with self.errors(path):
            walk = _Walk(self, path)
            try:
                name = walk.run(follow, make)
                yield Place(walk.folders[-1], name, (*walk.names, *([name] if name is not None else [])))
            finally:
                walk.close()

    def split(self, path: str) -> list[str]:
        """Split a path into names; ``..`` is left in.

        Raises ``SandboxError`` if it is absolute and not below the root.
        """
        if not path or "\0" in path:
            raise SandboxError(f"The path {path!r} is not allowed: it is empty or holds a zero byte.", code="bad_path")
        if len(path) > MAX_PATH:
            raise SandboxError(
                f"A path of {len(path):,} characters is not allowed; it has at most {MAX_PATH:,}.", code="bad_path"
            )
        if path.startswith("/"):
            for base in (self._given, self.root):
                if path == base or path.startswith(base.rstrip("/") + "/"):
                    path = path[len(base) :]
                    break
            else:
                raise outside(path)
        return [part for part in path.split("/") if part not in ("", ".")]

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[int]:
        """Open a regular file for reading."""
        with self.at(path) as place:
            descriptor = open_file(place)
            try:
                yield descriptor
            finally:
                os.close(descriptor)

    def folder(self, path: str) -> tuple[str, ...]:
        """Return the names on the way from the root to an existing folder, links resolved."""
        with self.at(path) as place:
            if place.name is not None:
                os.close(os.open(place.name, FOLDER, dir_fd=place.folder))
            return place.parts

    def read(self, path: str, offset: int = 0, size: int | None = None) -> bytes:
        """Read a file or a part of it."""
        left = MAX_READ + 1 if size is None else size
        pieces = []
        with self.open(path) as descriptor, os.fdopen(descriptor, "rb", buffering=0, closefd=False) as file:
            try:
                file.seek(max(0, offset))
            except (OSError, OverflowError):  # beyond the largest file there can be
                return b""
            while left > 0 and (piece := file.read(min(left, PIECE))):
                pieces.append(piece)
                left -= len(piece)
        if size is None and left <= 0:
            raise SandboxError(
                f"{shown(path)!r} has more than {MAX_READ:,} bytes. Read it in parts, or search it.",
                code="too_large",
                path=shown(path),
            )
        return b"".join(pieces)

    def write(self, path: str, data: bytes) -> None:
        """Replace a file: written beside it, synced, then renamed over it. Its mode is kept."""
        with self.at(path, make=True) as place:
            if place.name is None:
                raise IsADirectoryError(errno.EISDIR, "", path)
            mode = _mode(place)
            temporary, descriptor = _beside(place)
            try:
                with os.fdopen(descriptor, "wb", buffering=0) as file:
                    view = memoryview(data)
                    while view:
                        view = view[file.write(view) :]
                    if mode is not None:
                        os.fchmod(descriptor, mode)
                    os.fsync(descriptor)
                os.rename(temporary, place.name, src_dir_fd=place.folder, dst_dir_fd=place.folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=place.folder)
                raise
            os.fsync(place.folder)

    def stat(self, path: str) -> FileInfo:
        """Describe what is at a path."""
        with self.at(path) as place:
            if place.name is None:
                return describe(place.path, os.fstat(place.folder))
            return describe(place.path, os.stat(place.name, dir_fd=place.folder, follow_symlinks=False))

    def list_dir(self, path: str) -> tuple[FileInfo, ...]:
        """Describe what is in a folder."""
        with self.at(path) as place:
            descriptor = os.open(place.name or ".", FOLDER, dir_fd=place.folder)
            found = []
            try:
                for name in sorted(os.listdir(descriptor)):
                    with contextlib.suppress(FileNotFoundError):  # gone since it was listed
                        facts = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                        found.append(describe("/".join((*place.parts, name)), facts))
            finally:
                os.close(descriptor)
            return tuple(found)

    def mkdir(self, path: str) -> None:
        """Make a folder and those above."""
        with self.at(path, make=True) as place:
            if place.name is not None:
                try:
                    os.mkdir(place.name, dir_fd=place.folder)
                except FileExistsError:
                    os.close(os.open(place.name, FOLDER, dir_fd=place.folder))

    def remove(self, path: str, recursive: bool) -> None:
        """Remove a file, a link, or a folder."""
        with self.at(path, follow=False) as place:
            if place.name is None:
                raise SandboxError(
                    f"{shown(path)!r} cannot be removed: it is the root or ends in '..'.", code="bad_path"
                )
            facts = os.stat(place.name, dir_fd=place.folder, follow_symlinks=False)
            if not stat.S_ISDIR(facts.st_mode):
                os.unlink(place.name, dir_fd=place.folder)
            elif recursive:
                self._remove_tree(path, place.name, place.folder)
            else:
                os.rmdir(place.name, dir_fd=place.folder)

    def _remove_tree(self, path: str, name: str, folder: int) -> None:
        try:
            shutil.rmtree(name, dir_fd=folder)  # by descriptors: follows no link
        except RecursionError:
            raise SandboxError(
                f"{shown(path)!r} holds too many folders within each other; remove it by a command (rm -r).",
                code="sandbox",
                path=shown(path),
            ) from None
        except OSError as error:
            if error.errno is None:  # rmtree's own words for a folder that has become a link
                raise OSError(errno.ELOOP, "") from error
            raise

    @contextlib.contextmanager
    def errors(self, path: str) -> Iterator[None]:
        """Tell the system's errors as what they mean for a path."""
        try:
            yield
        except OSError as error:
            code, why = CODES.get(error.errno or 0, ("sandbox", error.strerror or "the system refused"))
            raise SandboxError(f"{shown(path)!r}: {why}.", code=code, path=shown(path)) from error
        except UnicodeEncodeError:
            raise SandboxError(f"The path {path!a} cannot be a file's name.", code="bad_path") from None


class _Walk:
    """One walk from the root: the open folders, their names, and the names still to go."""

    def __init__(self, jail: Jail, path: str) -> None:
        self.jail = jail
        self.path = path
        self.todo = deque(jail.split(path))
        self.names: list[str] = []
        self.links = 0
        self.folders = [os.open(jail.root, FOLDER)]

    def run(self, follow: bool, make: bool) -> str | None:
        """Walk to the last name and return it; None if the path ends in a folder that is open already."""
        while self.todo:
            name = self.todo.popleft()
            if name == "..":
                if not self.names:
                    raise outside(self.path)
                self.names.pop()
                os.close(self.folders.pop())
            elif not self.todo and not follow:
                return name
            elif (target := _link(name, self.folders[-1])) is not None:
                self._follow(target)
            elif not self.todo:
                return name
            else:
                self.folders.append(self._enter(name, make))
                self.names.append(name)
        return None

    def _follow(self, target: str) -> None:
        self.links += 1
        if self.links > MAX_LINKS:
            raise OSError(errno.ELOOP, "")
        try:
            parts = self.jail.split(target)
        except SandboxError:
            raise outside(self.path) from None
        if target.startswith("/"):
            self.names.clear()
            while len(self.folders) > 1:
                os.close(self.folders.pop())
        self.todo.extendleft(reversed(parts))

    def _enter(self, name: str, make: bool) -> int:
        if len(self.names) >= MAX_DEPTH:
            raise SandboxError(
                f"{shown(self.path)!r} lies too deep, below more than {MAX_DEPTH} folders.",
                code="bad_path",
                path=shown(self.path),
            )
        enter = partial(os.open, name, FOLDER, dir_fd=self.folders[-1])
        try:
            return enter()
        except FileNotFoundError:
            if not make:
                raise
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, dir_fd=self.folders[-1])
        return enter()

    def close(self) -> None:
        for descriptor in self.folders:
            os.close(descriptor)


def outside(path: str) -> SandboxError:
    """Say that a path leaves the root."""
    return SandboxError(
        f"{shown(path)!r} lies outside the sandbox. Give a path below its root.",
        code="outside_root",
        path=shown(path),
    )


def open_file(place: Place) -> int:
    """Open the regular file at a place for reading.

    Never waits for a pipe's other end, never follows a link.
    """
    if place.name is None:
        raise IsADirectoryError(errno.EISDIR, "")
    # Looked at before, because opening alone has effects: who waits to write to a pipe would take us for its reader.
    _must_be_regular(os.stat(place.name, dir_fd=place.folder, follow_symlinks=False).st_mode)
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(place.name, flags, dir_fd=place.folder)
    try:
        _must_be_regular(os.fstat(descriptor).st_mode)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _beside(place: Place) -> tuple[str, int]:
    """Make a file of another name in the same folder, open for writing.

    By chance, not by process id: ids come again, in a container with every start.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        name = TEMPORARY + secrets.token_hex(8)
        with contextlib.suppress(FileExistsError):
            return name, os.open(name, flags, 0o666, dir_fd=place.folder)


def _must_be_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise OSError({stat.S_IFDIR: errno.EISDIR, stat.S_IFLNK: errno.ELOOP}.get(stat.S_IFMT(mode), errno.ENXIO), "")


def describe(path: str, facts: os.stat_result) -> FileInfo:
    """Make a ``FileInfo`` of what the system says."""
    mode = facts.st_mode
    kind: FileKind = "other"
    if stat.S_ISREG(mode):
        kind = "file"
    elif stat.S_ISDIR(mode):
        kind = "directory"
    elif stat.S_ISLNK(mode):
        kind = "symlink"
    return FileInfo(path, kind, facts.st_size, facts.st_mtime_ns)


def _link(name: str, folder: int) -> str | None:
    """Return where a link leads; None for what is none or not there."""
    try:
        return os.readlink(name, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):
            return None
        raise


def _mode(place: Place) -> int | None:
    """Permissions of the file that is about to be replaced; None if there is none."""
    try:
        facts = os.stat(place.name or ".", dir_fd=place.folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    _must_be_regular(facts.st_mode)
    return stat.S_IMODE(facts.st_mode) & 0o777
