"""Finds files by pattern, below a jail's root.

A glob is matched name by name while walking, as a set of positions in the pattern: a folder in which no
position is left is not entered, and no pattern costs more than its length per name. Folders are walked in
sorted order, so the first ``limit`` files are the same on every machine.

Everything here blocks; call it in a worker thread. ``stop`` ends a walk early.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Container, Generator, Iterable
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache
from threading import Event

from kode.core.errors import SandboxError
from kode.core.sandbox.base import Found, shown
from kode.core.sandbox.jail import FOLDER, MAX_DEPTH, NOT_THERE, TEMPORARY, Jail, Place

__all__ = ["MAGIC", "Pattern", "compiled", "glob", "walk"]

MAX_ALTERNATIVES = 100
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
        self.is_deep = any(part.test is None for parts in self.alternatives for part in parts)
        """Whether a ``**`` reaches any depth."""
        starts = zip(*(_plain_start(parts) for parts in self.alternatives), strict=False)
        self.start_names = tuple(names[0] for names in itertools.takewhile(lambda names: len(set(names)) == 1, starts))
        """Folders on the way to everything that matches."""

    def step(self, at: frozenset[tuple[int, int]], name: str, dot: bool, ignored: bool) -> frozenset[tuple[int, int]]:
        """Return the positions behind ``name``."""
        then = set()
        for number, index in at:
            parts = self.alternatives[number]
            if index < len(parts) and parts[index].takes(name, dot, ignored):
                then.add((number, index if parts[index].test is None else index + 1))
        return self._skip(then)

    def takes(self, names: Iterable[str], dot: bool, ignore: Container[str]) -> bool:
        """Whether a whole path matches."""
        at = self.start
        for name in names:
            at = self.step(at, name, dot, name in ignore)
        return self.done(at)

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


def _plain_start(parts: tuple[_Part, ...]) -> list[str]:
    return [part.text for part in itertools.takewhile(lambda part: not MAGIC.search(part.text), parts[:-1])]


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
    jail: Jail, cwd: str, pattern: Pattern, *, dot: bool, ignore: frozenset[str], stop: Event, regular: bool = False
) -> Generator[Place, None, None]:
    """Yield what matches and is no folder, in order; ``regular`` leaves out links, pipes, sockets and devices."""
    with jail.at(cwd) as place:
        start = os.open(place.name or ".", FOLDER, dir_fd=place.folder)
        yield from _walk(start, place.parts, pattern, pattern.start, dot, ignore, stop, regular)


def _walk(
    folder: int,
    parts: tuple[str, ...],
    pattern: Pattern,
    at: frozenset[tuple[int, int]],
    dot: bool,
    ignore: frozenset[str],
    stop: Event,
    regular: bool,
) -> Generator[Place, None, None]:
    """Walk one open folder and close it."""
    try:
        for name, is_folder, is_regular in _entries(folder):
            if stop.is_set():
                return
            then = pattern.step(at, name, dot, name in ignore)
            if not then:
                continue
            if not is_folder:
                if pattern.done(then) and not name.startswith(TEMPORARY) and (is_regular or not regular):
                    yield Place(folder, name, (*parts, name))
            elif len(parts) < MAX_DEPTH:
                try:
                    inner = os.open(name, FOLDER, dir_fd=folder)
                except OSError as error:
                    if error.errno not in NOT_THERE:
                        raise
                    continue  # the others are still wanted
                yield from _walk(inner, (*parts, name), pattern, then, dot, ignore, stop, regular)
    finally:
        os.close(folder)


def _entries(folder: int) -> list[tuple[str, bool, bool]]:
    with os.scandir(folder) as found:
        return sorted((e.name, e.is_dir(follow_symlinks=False), e.is_file(follow_symlinks=False)) for e in found)


def glob(
    jail: Jail, pattern: str, cwd: str, *, dot: bool, ignore: frozenset[str], limit: int | None, stop: Event
) -> Found:
    """Find files (links to files as well)."""
    files = (place.path for place in walk(jail, cwd, compiled(pattern), dot=dot, ignore=ignore, stop=stop))
    with contextlib.closing(files):
        paths = tuple(itertools.islice(files, limit))
        return Found(paths, limit is not None and next(files, None) is not None)
