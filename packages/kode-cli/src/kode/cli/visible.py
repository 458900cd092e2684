"""Text from models, files and tools made fit for a terminal: what could steer it is shown instead of done.

An escape sequence in a file name or a reply could move the cursor, rewrite what stands above, or hide half of a command
that a person is asked to allow. So every character that is not printable, the marks that turn the direction of writing
and those without width included, is written as its code. Where it counts what exactly stands there (`exact`, `inline`),
so is every other character that cannot be seen or looks like a plain blank; in prose (`block`, `prose`) these may stay.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

__all__ = ["block", "brief", "cut", "exact", "first_value", "inline", "prose"]

_MAIN = ("cmd", "path")
"""Arguments that say what a call is about: shown first and without their names."""
_USUAL = [("ok", True), ("cwd", "."), ("offset", 1), ("background", False)]
VALUE_CHARS = 60
"""Of one value in a line."""


def block(text: str) -> str:
    """Make text of several lines safe; line breaks and tabs stay, what moves the cursor back is dropped."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_loosely(letter, "\n\t") for letter in text if letter != "\r")


def prose(text: str) -> str:
    """Make what somebody said safe and one line."""
    return text if text.isascii() and text.isprintable() else "".join(_loosely(letter, "") for letter in text)


def exact(line: str) -> str:
    """Make one line of code safe without hiding anything: a tab stays, everything else is shown as its code."""
    return line if line.isascii() and line.isprintable() else "".join(_shown(letter, "\t") for letter in line)


def inline(text: str) -> str:
    """Make text safe and one line; a line break is shown as its code."""
    return text if text.isascii() and text.isprintable() else "".join(_shown(letter, "") for letter in text)


def cut(text: str, size: int) -> str:
    """Cut a line to so many characters."""
    return text if len(text) <= size else text[: max(size - 1, 0)] + "…"


def brief(text: str, known: str = "") -> str:
    """Say a tool's arguments or result in one line. The JSON of an event's preview may be cut off anywhere.

    Args:
        text: JSON, or plain text.
        known: JSON whose values are known to the reader, such as the arguments that a result repeats.
    """
    if not text.startswith("{"):
        return cut(inline(text.strip()), 2 * VALUE_CHARS)
    told = list(_pairs(known)) if known.startswith("{") else []
    pairs = [pair for pair in _pairs(text) if pair not in told and pair not in _USUAL]
    main = [_value(value) for name, value in pairs if name in _MAIN]
    rest = [f"{inline(name)}={_value(value)}" for name, value in pairs if name not in _MAIN and not _quiet(value)]
    return " ".join(main + rest)


def _quiet(value: Any) -> bool:
    """Whether a value says nothing that is worth the room; a number always does."""
    return value is None or value is False or value in ("", [], {})


def first_value(text: str) -> str:
    """What a call is about: its main argument, or its first."""
    pairs = list(_pairs(text)) if text.startswith("{") else []
    pairs.sort(key=lambda pair: pair[0] not in _MAIN)
    return _value(pairs[0][1]) if pairs else ""


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return cut(inline(text), VALUE_CHARS)


def _pairs(text: str) -> Iterator[tuple[str, Any]]:
    """Give the members of a JSON object, as far as it goes; a value that is cut off as the text that is there."""
    decoder = json.JSONDecoder()
    at = 1
    while True:
        try:
            name, at = decoder.raw_decode(text, at)
            at = text.index(":", at) + 1
        except ValueError:
            return
        try:
            value, at = decoder.raw_decode(text, at)
        except ValueError:
            rest = text[at:]
            if rest:
                yield str(name), _cut_off(rest)
            return
        yield str(name), value
        at += 1  # the comma, or the end


def _cut_off(rest: str) -> str:
    """Read the beginning of a value."""
    if not rest.startswith('"'):
        return rest
    body = rest[1:].removesuffix("…")
    for end in range(len(body), max(len(body) - 7, -1), -1):  # an escape may be cut too; the longest has six characters
        try:
            return str(json.loads(f'"{body[:end]}"')) + "…"
        except ValueError:
            continue
    return body + "…"


def _shown(letter: str, kept: str) -> str:
    if letter in kept or (letter.isprintable() and not _UNSEEN.match(letter)):
        return letter
    code = ord(letter)
    if letter in _CODES:
        return _CODES[letter]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _loosely(letter: str, kept: str) -> str:
    if letter in _JOINERS or letter in kept:
        return letter
    if letter.isspace() and letter not in "\n\r\t\v\f\x1c\x1d\x1e\x1f\x85\u2028\u2029":
        return " "
    return _shown(letter, "")


_CODES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\x1b": "\\e"}
_JOINERS = "\u200d\ufe0e\ufe0f"
"""Make one picture of several, or choose its look; they move nothing."""
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff]"
)
"""Printable for Python, and yet not to be seen: Unicode's Default_Ignorable_Code_Point, and the empty braille sign."""
