"""Replacing text in a file's content, and saying well why it cannot be done."""

from __future__ import annotations

import difflib
import re
from itertools import islice

from kode.core.tools.base import ToolError

__all__ = ["decode", "replace_text"]

PROBE = 8_192
"""A file with a zero byte among its first so many is binary."""
NEWLINE = "\n"
MAX_LINES = 10
"""Line numbers named when a text is there more than once."""
MAX_LOOK = 1_000_000
"""Characters of a file in which the nearest text is looked for."""
MAX_WORDS = 500
"""Of a text that is looked for with other blanks."""
NEAR_LINES = 3_000
NEAR_WIDTH = 300
NEAR_ENOUGH = 0.6


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
        ToolError: ``no_change``, ``not_found``, ``not_unique``.
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
    return text.replace(old, new), count


def _not_unique(text: str, old: str) -> ToolError:
    places = [found.start() for found in islice(re.finditer(f"(?={re.escape(old)})", text), MAX_LINES + 1)]
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
    words = old.split()
    if not 0 < len(words) <= MAX_WORDS or len(text) > MAX_LOOK:
        return None
    found = re.search(r"\s+".join(map(re.escape, words)), text)
    if found is None:
        return None
    line = text.count("\n", 0, found.start()) + 1
    start = text.rfind("\n", 0, found.start()) + 1
    return f"Only blanks differ from the text in line {line}, which is {_quoted(text[start : found.end()])}."


def _nearest(text: str, old: str) -> str | None:
    """Show the line that is most like the first line of what was looked for."""
    wanted = next((line.strip() for line in old.splitlines() if line.strip()), "")[:NEAR_WIDTH]
    if not wanted:
        return None
    matcher = difflib.SequenceMatcher(b=wanted, autojunk=False)
    best, place, nearest = NEAR_ENOUGH, 0, ""
    for number, line in enumerate(text[:MAX_LOOK].split("\n")[:NEAR_LINES], 1):
        matcher.set_seq1(line.strip()[:NEAR_WIDTH])
        if matcher.real_quick_ratio() > best and matcher.quick_ratio() > best and matcher.ratio() > best:
            best, place, nearest = matcher.ratio(), number, line
    return f"The nearest is line {place}: {_quoted(nearest)}." if place else None


def _quoted(text: str) -> str:
    return repr(text if len(text) <= NEAR_WIDTH else text[: NEAR_WIDTH - 1] + "…")
