"""Runs a regular expression over files in a helper process that the kernel stops when it takes too long.

As a module it is the owner's side (``Searcher``). As a program, ``python -I -S searcher.py``, it is the
helper: reads one line of JSON (what to look for), then files as ``length of name, length of content`` in
decimal, name, content; and writes its hits as one JSON list. It imports nothing but the standard library,
because it starts with every search.

The limits on processor time and memory are the helper's own (``RLIMIT_CPU``, ``RLIMIT_AS``): they hold also when the
owner is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import IO, Any, Self

PREVIEW = 200
CPU_SECONDS = 10
"""Of processor time for one search."""

MEMORY = 1 << 30
"""Bytes of address space for one search: the largest file that is searched, decoded, and room for what is found."""
BLOCK = 1 << 20

Hit = tuple[str, int, int, str]
"""Path, line, column, preview."""


class Searcher:
    """The owner's side: feeds files, then collects the hits.

    Raises:
        SandboxError: The expression is not valid (``bad_pattern``) or took too long (``search_too_slow``).
    """

    def __init__(self, pattern: str, case_sensitive: bool, limit: int) -> None:
        self.pattern = pattern
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise _error(f"{pattern!r} is no regular expression: {error}.", "bad_pattern") from None
        asked = {
            **{"pattern": pattern, "case": case_sensitive, "limit": limit},
            **{"seconds": CPU_SECONDS, "memory": MEMORY},
        }
        self.head = json.dumps(asked).encode() + b"\n"

    def __enter__(self) -> Self:
        try:
            self.helper = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={},
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise _error(f"The search could not be started: {error}.", "not_started") from error
        return self

    def __exit__(self, *_: object) -> None:
        self.helper.kill()
        for pipe in (self.helper.stdin, self.helper.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self.helper.wait()

    def search(self, contents: Iterator[tuple[str, bytes]]) -> list[Hit]:
        """Feed the files and return the hits.

        The helper writes nothing before the end, so neither side blocks.
        """
        stdin, stdout = self.helper.stdin, self.helper.stdout
        assert stdin is not None
        assert stdout is not None
        # A broken pipe: it has all it was asked for, or it was stopped. What it says tells which.
        with contextlib.suppress(BrokenPipeError):
            stdin.write(self.head)
            for path, content in contents:
                name = path.encode("utf-8", "surrogateescape")
                stdin.write(b"%d %d\n" % (len(name), len(content)) + name)
                stdin.write(content)
            stdin.close()
        answer = stdout.read()
        if self.helper.wait() != 0 or not answer:
            raise _error(
                f"The regular expression {self.pattern!r} took more than {CPU_SECONDS} s or {MEMORY >> 20} MiB. "
                "Give a simpler one, plain text, or a narrower path.",
                "search_too_slow",
            )
        return [(path, line, column, preview) for path, line, column, preview in json.loads(answer)]


def _error(message: str, code: str) -> Exception:
    # Not at the top: the helper runs this file without the package.
    from kode.core.errors import SandboxError

    return SandboxError(message, code=code)


def preview_of(line: str, column: int, size: int) -> str:
    """Cut a line to ``size`` characters around a column (from 0)."""
    if len(line) <= size:
        return line
    start = max(0, min(column - size // 4, len(line) - size))
    end = start + size
    return (
        ("…" if start else "") + line[start + bool(start) : end - (end < len(line))] + ("…" if end < len(line) else "")
    )


def lines(content: bytes) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line, in memory for some of them."""
    start, number = 0, 1
    while start <= len(content):
        end = content.find(b"\n", min(start + BLOCK, len(content)))
        end = len(content) if end < 0 else end
        text = content[start:end].decode("utf-8", "replace")
        ends_in_returns = "\r" in text
        for raw in text.split("\n"):
            yield number, raw.rstrip("\r") if ends_in_returns else raw
            number += 1
        start = end + 1


def hits_in(pattern: re.Pattern[str], path: str, content: bytes) -> Iterator[Hit]:
    """Find every hit of every line; empty ones once per line."""
    for number, line in lines(content):
        if not pattern.search(line):  # most have none, and this is the quickest way to know
            continue
        for index, found in enumerate(pattern.finditer(line)):
            if index and found.start() == found.end():
                continue
            yield path, number, found.start() + 1, preview_of(line, found.start(), PREVIEW)


def read_files(source: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    """Read what the owner feeds."""
    while line := source.readline():
        name_size, size = map(int, line.split())
        name = source.read(name_size).decode("utf-8", "surrogateescape")
        yield name, source.read(size)


def main() -> None:
    """Be the helper."""
    source = sys.stdin.buffer
    asked: dict[str, Any] = json.loads(source.readline())
    resource.setrlimit(resource.RLIMIT_CPU, (asked["seconds"], asked["seconds"]))
    with contextlib.suppress(OSError, ValueError):  # macOS knows no such limit
        resource.setrlimit(resource.RLIMIT_AS, (asked["memory"], asked["memory"]))
    warnings.simplefilter("ignore")
    pattern = re.compile(asked["pattern"], 0 if asked["case"] else re.IGNORECASE)
    hits: list[Hit] = []
    for path, content in read_files(source):
        for hit in hits_in(pattern, path, content):
            hits.append(hit)
            if len(hits) >= asked["limit"]:
                break
        if len(hits) >= asked["limit"]:
            break
    sys.stdout.write(json.dumps(hits))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
