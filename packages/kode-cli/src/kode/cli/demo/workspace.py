"""The work folder: a copy of the files, so that nothing of the user's is touched and nothing changes under the agent.

What cannot be read is not hidden: it becomes an empty file or folder that cannot be read either.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import kode.core
from kode.cli.demo.settings import FILES, Settings
from kode.core.sandbox.base import IGNORED

__all__ = ["CannotStartError", "Copied", "copy_files", "default_source", "held", "make_work", "remove_files"]

LEFT_OUT = IGNORED | {
    ".hypothesis",
    ".import_linter_cache",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".tox",
    ".venv-tools",
}
"""Names that are not copied: caches and environments, which the agent's search would pass by anyway."""
_PIECE = 1024 * 1024
MAX_BYTES = 2**30
MAX_FILES = 120_000
"""What is more takes longer than anybody watches."""


class CannotStartError(Exception):
    """What a person gave cannot be used; the text says what to do."""


@dataclass(slots=True)
class Copied:
    """What was copied."""

    files: int = 0
    size: int = 0
    left_out: set[str] = field(default_factory=set)
    """Names of folders that were passed by."""
    special: int = 0
    """Sockets, pipes and devices, which are not copied."""
    unreadable: int = 0


def default_source() -> Path:
    """Find the checkout that this program runs from, or else its own installed source."""
    package = Path(kode.core.__file__).resolve().parent
    for folder in package.parents:
        if (folder / ".git").exists() and (folder / "packages" / "kode-core").is_dir():
            return folder
    return package


def make_work(work: Path | None) -> Path:
    """Make the work folder, or take the given one if it is empty.

    Raises:
        CannotStartError: It cannot be used.
    """
    try:
        if work is None:
            return Path(tempfile.mkdtemp(prefix="kode-demo-")).resolve()
        work.mkdir(parents=True, exist_ok=True)
        if any(work.iterdir()):
            raise CannotStartError(f"The work folder {str(work)!r} is not empty and holds no demo; give another one.")
        (work / ".probe").write_text("")
        (work / ".probe").unlink()
    except OSError as error:
        shown = "in the system's temporary folder; give one with --work" if work is None else f"at {str(work)!r}"
        raise CannotStartError(f"The work folder cannot be made {shown}: {_why(error)}.") from None
    return work.resolve()


@contextlib.contextmanager
def held(work: Path) -> Iterator[None]:
    """Keep a work folder to this process: two that look after one agent would take turns at killing it.

    Raises:
        CannotStartError: Another process has it.
    """
    folder = os.open(work, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(folder)
        raise CannotStartError(f"Another `kode demo` is at work in {str(work)!r}; wait until it ended.") from None
    try:
        yield
    finally:
        os.close(folder)


def copy_files(source: Path, settings: Settings) -> Copied:
    """Copy everything below ``source`` into the work folder, or leave nothing behind; links stay links.

    Raises:
        CannotStartError: It is no folder, cannot be read, is too large, or there is no room for it.
    """
    try:
        os.listdir(source)
    except OSError as error:
        raise CannotStartError(f"{str(source)!r} cannot be surveyed: {_why(error)}; give a folder.") from None
    copied = Copied()
    target = settings.work / FILES
    try:
        target.mkdir()
        _copy_folder(os.fsencode(source.resolve()), os.fsencode(target), os.fsencode(settings.work), copied)
    except BaseException as error:
        remove_files(settings)
        with contextlib.suppress(OSError):
            settings.work.rmdir()
        if isinstance(error, OSError):
            raise CannotStartError(f"The files cannot be copied to {str(target)!r}: {_why(error)}.") from None
        raise
    return copied


def remove_files(settings: Settings) -> None:
    """Remove the copy, folders that cannot be read included."""
    target = settings.work / FILES
    for folder, names, _ in os.walk(target):
        for name in names:
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                os.chmod(path, 0o700)
    shutil.rmtree(target, ignore_errors=True)


def _copy_folder(source: bytes, target: bytes, work: bytes, copied: Copied) -> None:
    with os.scandir(source) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        to = os.path.join(target, entry.name)
        if os.fsdecode(entry.name) in LEFT_OUT:
            copied.left_out.add(os.fsdecode(entry.name))
        elif entry.is_symlink():
            os.symlink(os.readlink(entry.path), to)
        elif entry.is_dir():
            if os.path.realpath(entry.path) != work:
                _copy_below(entry.path, to, work, copied)
        elif entry.is_file():
            _copy_file(entry.path, to, copied)
        else:
            copied.special += 1


def _copy_below(source: bytes, target: bytes, work: bytes, copied: Copied) -> None:
    os.mkdir(target)
    try:
        os.listdir(source)
    except PermissionError:
        copied.unreadable += 1
        os.chmod(target, 0)
        return
    _copy_folder(source, target, work, copied)


def _copy_file(source: bytes, target: bytes, copied: Copied) -> None:
    facts = os.lstat(source)
    copied.files += 1
    copied.size += facts.st_size
    if copied.files > MAX_FILES or copied.size > MAX_BYTES:
        raise CannotStartError(
            f"Too much to copy: more than {MAX_FILES:,} files or {MAX_BYTES // 2**30} GB; give a smaller folder."
        )
    try:
        file = os.fdopen(os.open(source, os.O_RDONLY | os.O_NOFOLLOW), "rb", buffering=0)
    except PermissionError:
        copied.unreadable += 1
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT, 0))
        return
    with file, open(target, "xb", buffering=0) as to:
        while piece := file.read(_PIECE):
            to.write(piece)
        os.fchmod(to.fileno(), stat.S_IMODE(facts.st_mode) | 0o400)


def _why(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "the disk is full"
    return (error.strerror or str(error)).lower()
