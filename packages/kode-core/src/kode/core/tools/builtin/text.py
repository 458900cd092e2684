"""Replacing text in a file's content, and saying well why it cannot be done."""

from __future__ import annotations

import re

from kode.core.tools.base import ToolError

__all__ = ["MAX_FILE", "PROBE", "decode", "replace_text"]

MAX_FILE = 10_485_760
"""Bytes of a file that can be edited, before and afterwards: it is held in memory."""

PROBE = 8_192
"""A file with a zero byte among its first so many is binary."""
NEWLINE = "\n"
MAX_LINES = 10
"""Line numbers named when a text is there more than once."""
MAX_LOOK = 1_000_000
"""Characters of a file in which a text that is not found is looked for again, less exactly."""
NEAR_LINES = 3_000
NEAR_WIDTH = 300
NEAR_ENOUGH = 0.5


def decode(data: bytes, name: str) -> str:
    """Read a file's content as text that ``encode()`` turns back into the same bytes.

    Raises:
        ToolError: ``binary_file``, ``not_utf8``.
    """
    if b"\0" in data[:PROBE]:
        raise ToolError(
            f"{name!r} is a binary file; it was left as it is.",
            code="binary_file",
            hints=("Use bash_run with a program that knows the format.",),
        )
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ToolError(
            f"{name!r} is not UTF-8 (byte {error.start} is 0x{data[error.start]:02x}); it was left as it is.",
            code="not_utf8",
            hints=("Use bash_run, for instance with `sed` under LC_ALL=C, or convert it with `iconv` first.",),
        ) from None


def replace_text(text: str, old: str, new: str, *, everywhere: bool) -> tuple[str, int]:
    """Replace a text that is there once, or ``everywhere``; nothing in ``new`` has a special meaning.

    In a file whose every line ends with CRLF, a bare LF in ``old`` and ``new`` stands for CRLF, so that the file
    stays of one kind.

    Returns:
        The new text, and how many were replaced.

    Raises:
        ToolError: ``no_change``, ``not_found``, ``not_unique``, ``file_too_large``.
    """
    crlf = text.count("\r\n")
    if crlf and crlf == text.count("\n"):
        old, new = (re.sub(r"\r?\n", "\r\n", part) for part in (old, new))
    if old == new:
        raise ToolError("The old and the new text are the same; there is nothing to change.", code="no_change")
    count = text.count(old)
    if not count:
        raise _not_found(text, old)
    first = text.find(old)
    if not everywhere and (count > 1 or text.find(old, first + 1) >= 0):
        raise _not_unique(text, old)
    size = len(text.encode()) + count * (len(new.encode()) - len(old.encode()))
    if size > MAX_FILE:  # judged before it is made: a short text put for each letter could fill the memory
        raise ToolError(
            f"With {count:,} replacements the file would have {size:,} bytes, more than the {MAX_FILE:,} that can be "
            "edited; nothing was changed.",
            code="file_too_large",
            hints=("Replace less, or use bash_run, for instance with `sed -i`.",),
        )
    return text.replace(old, new), count


def _not_unique(text: str, old: str) -> ToolError:
    places = [text.find(old)]
    while len(places) <= MAX_LINES and (place := text.find(old, places[-1] + 1)) >= 0:
        places.append(place)
    lines = [text.count("\n", 0, place) + 1 for place in places]
    count = max(text.count(old), len(places))
    told = ", ".join(map(str, lines[:MAX_LINES])) + (", …" if len(lines) > MAX_LINES else "")
    return ToolError(
        f"The old text is there {count} times, in lines {told}; nothing was changed.",
        code="not_unique",
        hints=("Give more of the text around the one you mean, or replace_all=true for all of them.",),
        count=count,
        lines=told,
    )


def _not_found(text: str, old: str) -> ToolError:
    hint = _line_ends(text, old) or _blanks(text, old) or _nearest(text, old)
    return ToolError(
        "The old text is not in the file; nothing was changed.",
        code="not_found",
        hints=(hint or "Read the file again and copy the text exactly, blanks and line ends included.",),
    )


def _line_ends(text: str, old: str) -> str | None:
    """Say if only the line ends differ (a file with both kinds, or old text with CRLF for a file without)."""
    lines = text.replace("\r\n", "\n")
    place = lines.find(old.replace("\r\n", "\n"))
    if place < 0:
        return None
    crlf = text.count("\r\n")
    return (
        f"The text in line {lines.count(NEWLINE, 0, place) + 1} differs only in its line ends: of those in the file, "
        f"{crlf} are CRLF and {lines.count(NEWLINE) - crlf} are LF."
    )


def _blanks(text: str, old: str) -> str | None:
    """Say if only blanks differ, and what is really there."""
    if len(text) > MAX_LOOK:
        return None
    wanted = " ".join(old.split())
    squeezed = " ".join(text.split())
    place = squeezed.find(wanted) if wanted else -1
    if place < 0:
        return None
    tail = text.split(None, squeezed.count(" ", 0, place))[-1].lstrip()  # from the word on in which it begins
    rest = tail.split(None, wanted.count(" ") + 1)[wanted.count(" ") + 1 :]
    start = len(text) - len(tail)
    end = len(text) - len("".join(rest))
    line_start = text.rfind("\n", 0, start) + 1
    found = text[line_start:end].rstrip()
    return f"Only blanks differ from the text in line {text.count(NEWLINE, 0, start) + 1}, which is {_quoted(found)}."


def _nearest(text: str, old: str) -> str | None:
    """Show the line that is most like the first line of what was looked for.

    Alike are lines of which many groups of three letters are the same (Dice's coefficient): each is looked at once, so
    the cost grows with the text alone, whatever the text is.
    """
    wanted = _threes(next((line for line in old.splitlines() if line.strip()), ""))
    best, place, nearest = NEAR_ENOUGH, 0, ""
    for number, line in enumerate(text[:MAX_LOOK].split("\n")[:NEAR_LINES], 1):
        threes = _threes(line)
        alike = 2 * len(wanted & threes) / (len(wanted) + len(threes) or 1)
        if alike > best:
            best, place, nearest = alike, number, line
    return f"The nearest is line {place}: {_quoted(nearest)}." if place else None


def _threes(line: str) -> set[str]:
    """Groups of three letters, of a line with a blank on both sides."""
    line = line.strip()[:NEAR_WIDTH]
    line = f" {line} " if line else ""
    return {line[at : at + 3] for at in range(len(line) - 2)}


def _quoted(text: str) -> str:
    return repr(text if len(text) <= NEAR_WIDTH else text[: NEAR_WIDTH - 1] + "…")
