"""Finds lines by text, in the files below a jail's root.

A walk looks into the first files itself, because most searches that hit at all hit soon and have a limit. When
there are many more and ripgrep is installed, it is asked which of them can hold a hit (``literals.py``), and
these are looked into. What is found is the same either way.

Regular expressions come from models. Python's cannot be stopped once they run and hold the interpreter's
lock, so they run in a helper process with a limit on processor time (``searcher.py``).

Everything here blocks; call it in a worker thread. ``stop`` ends a walk early.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Callable, Generator, Iterator
from functools import partial
from threading import Event

from kode.core.errors import SandboxError
from kode.core.sandbox.base import MAX_READ, Match, Matches
from kode.core.sandbox.glob import MAGIC, Pattern, compiled, walk
from kode.core.sandbox.jail import MAX_DEPTH, NOT_THERE, TEMPORARY, Jail, Place, open_file
from kode.core.sandbox.literals import required
from kode.core.sandbox.ripgrep import files_with
from kode.core.sandbox.searcher import PREVIEW, Searcher, lines, preview_of

__all__ = ["grep"]

FIRST = 2_000
"""Files, or so many times ``FIRST_SIZE`` bytes, that are looked into before anybody else is asked."""
FIRST_SIZE = 16_384

PASSED_BY = frozenset({"file_not_found", "not_a_directory", "not_a_file", "no_permission", "bad_path", "outside_root"})

Others = Callable[[Jail, str, Pattern], "list[tuple[str, ...]] | None"]
"""Names the files that are worth a look, relative to the root and in order; None: all are."""


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
    searcher = Searcher(pattern, case_sensitive, limit + 1) if regex else None
    wanted = required(pattern, regex=regex, case_sensitive=case_sensitive)
    others = partial(_worth_a_look, wanted=wanted, ignore=ignore, stop=stop)
    with contextlib.closing(_contents(jail, path, ignore, stop, others)) as contents:
        if searcher is not None:
            with searcher:
                hits = searcher.search(contents)
        else:
            hits = list(itertools.islice(_plain(contents, pattern, case_sensitive), limit + 1))
    return Matches(tuple(Match(*hit) for hit in hits[:limit]), len(hits) > limit)


def _contents(
    jail: Jail, path: str, ignore: frozenset[str], stop: Event, others: Others
) -> Generator[tuple[str, bytes], None, None]:
    """Yield path and content of each text file that ``path`` names."""
    if MAGIC.search(path) and not _exists(jail, path):
        cwd, pattern = ".", compiled(path)
    elif jail.stat(path).kind == "directory":
        cwd, pattern = path, compiled("**/*")
    else:
        with jail.at(path) as place:
            if (content := _text_of(place)) is not None:
                yield place.path, content
        return
    looked, rest = 0, None
    with contextlib.closing(walk(jail, cwd, pattern, dot=True, ignore=ignore, stop=stop, regular=True)) as found:
        for place in found:
            with jail.errors(place.path):
                content = _text_of(place)
            if content is not None:
                yield place.path, content
            before, looked = looked, looked + 1 + len(content or b"") // FIRST_SIZE
            if before < FIRST <= looked and (rest := others(jail, cwd, pattern)) is not None:
                break
    for names in rest or ():
        if stop.is_set():
            return
        if names > place.parts and (content := _text_at(jail, names)) is not None:
            yield "/".join(names), content


def _worth_a_look(
    jail: Jail, cwd: str, pattern: Pattern, *, wanted: list[str], ignore: frozenset[str], stop: Event
) -> list[tuple[str, ...]] | None:
    if not wanted or not pattern.is_deep:
        return None
    start = pattern.start_names
    spelled = {part.text for parts in pattern.alternatives for part in parts}
    above = jail.folder(cwd)
    folder = os.path.join(jail.root, *above, *start)
    found = files_with(wanted, folder, ignore=ignore - spelled, max_size=MAX_READ, stop=stop)
    if found is None:
        return None
    return [
        (*above, *start, *names)
        for names in found
        if len(above) + len(start) + len(names) <= MAX_DEPTH + 1
        and not names[-1].startswith(TEMPORARY)
        and pattern.takes((*start, *names), dot=True, ignore=ignore)
    ]


def _exists(jail: Jail, path: str) -> bool:
    try:
        jail.stat(path)
    except SandboxError as error:
        if error.code not in PASSED_BY:
            raise
        return False
    return True


def _text_at(jail: Jail, names: tuple[str, ...]) -> bytes | None:
    """Read a file that was named; None if it is gone or has become something else."""
    try:
        with jail.at("/".join(names), follow=False) as place:
            return _text_of(place)
    except SandboxError as error:
        if error.code not in PASSED_BY:
            raise
        return None


def _text_of(place: Place) -> bytes | None:
    """Read a file; None if it is no regular one, a link, too large, binary, or not readable."""
    try:
        descriptor = open_file(place)
    except OSError as error:
        if error.errno not in NOT_THERE:
            raise
        return None
    try:
        if os.fstat(descriptor).st_size > MAX_READ:
            return None
        with os.fdopen(descriptor, "rb", buffering=0, closefd=False) as file:
            start = file.read(8_192)
            return None if b"\0" in start else start + file.read(MAX_READ)
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
        for number, line in lines(content) if test is not None else lines_with(wanted, content):
            column = line.find(text) if test is None else _where(test, line)
            if column >= 0:
                yield path, number, column + 1, preview_of(line, column, PREVIEW)


def lines_with(wanted: bytes, content: bytes) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line that holds some bytes, which hold no line's end."""
    number, counted = 1, 0
    at = content.find(wanted)
    while at >= 0:
        start, end = content.rfind(b"\n", 0, at) + 1, content.find(b"\n", at)
        number, counted = number + content.count(b"\n", counted, start), start
        end = len(content) if end < 0 else end
        yield number, content[start:end].decode("utf-8", "replace").rstrip("\r")
        at = content.find(wanted, end + 1)


def _where(test: re.Pattern[str], line: str) -> int:
    found = test.search(line)
    return -1 if found is None else found.start()
