"""Finds files by pattern and lines by text, below a jail's root.

A glob is matched name by name while walking, as a set of positions in the pattern: a folder in which no
position is left is not entered, and no pattern costs more than its length per name. Folders are walked in
sorted order, so the first ``limit`` files are the same on every machine.

Regular expressions come from models. Python's cannot be stopped once they run and hold the interpreter's
lock, so they run in a helper process with a limit on processor time (``searcher.py``).

Everything here blocks; call it in a worker thread. ``stop`` ends a walk early.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import stat
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache
from threading import Event

from kode.core.errors import SandboxError
from kode.core.sandbox.base import Found, Match, Matches, shown
from kode.core.sandbox.jail import FOLDER, TEMPORARY, Jail
from kode.core.sandbox.searcher import PREVIEW, Searcher, preview_of

__all__ = ["glob", "grep"]

MAX_ALTERNATIVES = 100
MAX_DEPTH = 200
"""Folders inside each other; each holds a descriptor while it is walked."""
MAX_FILE = 64 * 1024 * 1024
"""Bytes; larger files are skipped and counted."""
MAGIC = re.compile(r"[*?\[{]")


@dataclass(frozen=True, slots=True)
class _Part:
    """One name of a pattern."""

    text: str
    test: re.Pattern[str] | None
    """None: ``**``."""

    def takes(self, name: str, dot: bool, ignored: bool) -> bool:
        if self.text == name:  # spelled out: wins over dots and ignored names
            return True
        if ignored or (name.startswith(".") and not dot and not self.text.startswith(".")):
            return False
        return self.test is None or self.test.match(name) is not None


class Pattern:
    """A glob, its braces expanded. A *position* is ``(alternative, index of the next part)``."""

    def __init__(self, text: str) -> None:
        self.alternatives = [
            tuple(_Part(part, None if part == "**" else re.compile(translate(part), re.DOTALL)) for part in parts)
            for parts in (_split(one) for one in _braces(text))
        ]
        self.start = self._skip({(number, 0) for number in range(len(self.alternatives))})

    def step(self, at: frozenset[tuple[int, int]], name: str, dot: bool, ignored: bool) -> frozenset[tuple[int, int]]:
        """Return the positions behind ``name``."""
        then = set()
        for number, index in at:
            parts = self.alternatives[number]
            if index < len(parts) and parts[index].takes(name, dot, ignored):
                then.add((number, index if parts[index].test is None else index + 1))
        return self._skip(then)

    def done(self, at: frozenset[tuple[int, int]]) -> bool:
        """Whether a path that leads to these positions matches."""
        return any(index == len(self.alternatives[number]) for number, index in at)

    def _skip(self, at: set[tuple[int, int]]) -> frozenset[tuple[int, int]]:
        """Add the positions behind ``**``, which may stand for no folder at all."""
        todo = list(at)
        while todo:
            number, index = todo.pop()
            parts = self.alternatives[number]
            if index < len(parts) and parts[index].test is None and (number, index + 1) not in at:
                at.add((number, index + 1))
                todo.append((number, index + 1))
        return frozenset(at)


@lru_cache(maxsize=64)
def compiled(text: str) -> Pattern:
    """Compile a glob. Raises ``SandboxError`` (``bad_pattern``)."""
    return Pattern(text)


def _split(text: str) -> list[str]:
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or text.startswith("/"):
        raise SandboxError(
            f"The pattern {shown(text)!r} is not allowed: it must be relative, not empty, and without '..'.",
            code="bad_pattern",
        )
    return parts


def _braces(text: str) -> list[str]:
    """Expand ``{a,b}``, nested ones too; a brace without a partner or a comma is plain text."""
    done: list[str] = []
    todo = [text]
    while todo:
        if len(done) + len(todo) > MAX_ALTERNATIVES:
            raise SandboxError(
                f"The pattern {shown(text)!r} has more than {MAX_ALTERNATIVES} alternatives.",
                code="bad_pattern",
            )
        one = todo.pop(0)
        found = re.search(r"\{([^{}]*,[^{}]*)\}", one)
        if found is None:
            done.append(one)
        else:
            todo.extend(one[: found.start()] + choice + one[found.end() :] for choice in found[1].split(","))
    return done


def walk(
    jail: Jail, cwd: str, pattern: Pattern, *, dot: bool, ignore: frozenset[str], stop: Event
) -> Generator[tuple[int, str, str], None, None]:
    """Yield ``(open folder, name, path relative to the root)`` of each file that matches, in order."""
    with jail.at(cwd) as place:
        start = os.open(place.name or ".", FOLDER, dir_fd=place.folder)
        yield from _walk(start, place.parts, pattern, pattern.start, dot, ignore, stop)


def _walk(
    folder: int,
    parts: tuple[str, ...],
    pattern: Pattern,
    at: frozenset[tuple[int, int]],
    dot: bool,
    ignore: frozenset[str],
    stop: Event,
) -> Generator[tuple[int, str, str], None, None]:
    """Walk one open folder and close it."""
    try:
        for name, is_folder in _entries(folder):
            if stop.is_set():
                return
            then = pattern.step(at, name, dot, name in ignore)
            if not then:
                continue
            if not is_folder:
                if pattern.done(then) and not name.startswith(TEMPORARY):
                    yield folder, name, "/".join((*parts, name))
            elif len(parts) < MAX_DEPTH:
                with contextlib.suppress(OSError):  # no permission, or gone: the others are still wanted
                    inner = os.open(name, FOLDER, dir_fd=folder)
                    yield from _walk(inner, (*parts, name), pattern, then, dot, ignore, stop)
    finally:
        os.close(folder)


def _entries(folder: int) -> list[tuple[str, bool]]:
    with os.scandir(folder) as found:
        entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
    return sorted(entries)


def glob(
    jail: Jail, pattern: str, cwd: str, *, dot: bool, ignore: frozenset[str], limit: int | None, stop: Event
) -> Found:
    """Find files (links to files as well)."""
    files = (path for _, _, path in walk(jail, cwd, compiled(pattern), dot=dot, ignore=ignore, stop=stop))
    with contextlib.closing(files):
        paths = tuple(itertools.islice(files, limit))
        return Found(paths, limit is not None and next(files, None) is not None)


@dataclass(slots=True)
class _Counts:
    files: int = 0
    skipped: int = 0


def grep(
    jail: Jail,
    pattern: str,
    path: str,
    *,
    regex: bool,
    case_sensitive: bool,
    ignore: frozenset[str],
    limit: int,
    stop: Event,
) -> Matches:
    """Search files line by line.

    One more hit than ``limit`` is looked for, to know whether there are more.
    """
    if not pattern:
        raise SandboxError("The pattern is empty. Give the text to look for.", code="bad_pattern")
    counts = _Counts()
    with contextlib.closing(_contents(jail, path, ignore, stop, counts)) as contents:
        if regex:
            with Searcher(pattern, case_sensitive, limit + 1) as searcher:
                hits = searcher.search(contents)
        else:
            hits = list(itertools.islice(_plain(contents, pattern, case_sensitive), limit + 1))
    matches = tuple(Match(*hit) for hit in hits[:limit])
    return Matches(matches, len(hits) > limit, counts.files, counts.skipped)


def _contents(
    jail: Jail, path: str, ignore: frozenset[str], stop: Event, counts: _Counts
) -> Generator[tuple[str, bytes], None, None]:
    """Yield path and content of each text file that ``path`` names."""
    if MAGIC.search(path) and not _exists(jail, path):
        found = walk(jail, ".", compiled(path), dot=True, ignore=ignore, stop=stop)
    elif jail.stat(path).kind == "directory":
        found = walk(jail, path, compiled("**/*"), dot=True, ignore=ignore, stop=stop)
    else:
        found = _one(jail, path)
    with contextlib.closing(found):
        for folder, name, where in found:
            content = _text_of(folder, name)
            if content is None:
                counts.skipped += 1
            else:
                counts.files += 1
                yield where, content


def _one(jail: Jail, path: str) -> Generator[tuple[int, str, str], None, None]:
    with jail.at(path) as place:
        if place.name is not None:
            yield place.folder, place.name, place.path


def _exists(jail: Jail, path: str) -> bool:
    try:
        jail.stat(path)
    except SandboxError:
        return False
    return True


def _text_of(folder: int, name: str) -> bytes | None:
    """Read a file; None if it is no regular one, a link, too large, binary, or not readable."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return None
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > MAX_FILE:
            return None
        with os.fdopen(descriptor, "rb", buffering=0, closefd=False) as file:
            start = file.read(8_192)
            return None if b"\0" in start else start + file.read(MAX_FILE)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _plain(
    contents: Iterator[tuple[str, bytes]], text: str, case_sensitive: bool
) -> Iterator[tuple[str, int, int, str]]:
    """Find the first hit of each line. Files without any are told apart before they are cut into lines."""
    wanted = text.encode("utf-8", "surrogateescape")
    # Only ASCII folds byte by byte; anything else goes through a pattern, which for plain text runs in linear
    # time.
    test = None if case_sensitive else re.compile(re.escape(text), re.IGNORECASE)
    for path, content in contents:
        if test is None and wanted not in content:
            continue
        for number, raw in enumerate(content.split(b"\n"), 1):
            if test is None and wanted not in raw:
                continue
            line = raw.decode("utf-8", "replace").rstrip("\r")
            column = line.find(text) if test is None else _where(test, line)
            if column >= 0:
                yield path, number, column + 1, preview_of(line, column, PREVIEW)


def _where(test: re.Pattern[str], line: str) -> int:
    found = test.search(line)
    return -1 if found is None else found.start()
