"""Text that a file must hold if a search is to hit in it.

Another program can look for plain text much faster than this one can search, but what it makes of a regular
expression differs. So it is asked only for what every hit holds: it says where to look, never what is found.
"""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Iterable
from typing import Any

__all__ = ["required"]

MIN_REGEX = 3
"""Characters; a shorter part of an expression is in most files."""
MAX_LENGTH = 200
MAX_CHOICES = 64
MORE_CASES = {"i": "\u0130\u0131", "k": "\u212a", "s": "\u017f"}
"""What is no ASCII and yet a case of an ASCII letter, in the eyes of Python's ``re.IGNORECASE``."""
REPEATS = ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT")


def required(pattern: str, *, regex: bool, case_sensitive: bool) -> list[str]:
    """Return expressions of which each hit matches one; none if that is not known.

    They consist of single characters, of their codes, and of classes of these, which mean the same everywhere.
    """
    if regex:
        choices, case_sensitive = _of_expression(pattern, case_sensitive)
        if any(len(choice) < MIN_REGEX for choice in choices) or len(choices) > MAX_CHOICES:
            return []
    else:
        parts = "".join(char if _certain(char, case_sensitive) else "\0" for char in pattern).split("\0")
        choices = [part for part in (max(parts, key=len),) if part]
    return ["".join(_written(char, case_sensitive) for char in choice[:MAX_LENGTH]) for choice in choices]


def _certain(char: str, case_sensitive: bool) -> bool:
    """Whether a file that is hit holds this very character: it was not replaced in reading, nor ends a line."""
    return char not in "\0\r\n\ufffd" and not "\ud800" <= char <= "\udfff" and (case_sensitive or char.isascii())


def _written(char: str, case_sensitive: bool) -> str:
    if char.isascii() and char.isalpha() and not case_sensitive:
        cases = char.lower() + char.upper() + MORE_CASES.get(char.lower(), "")
        return "[" + "".join(_written(case, True) for case in cases) + "]"
    return char if char.isascii() and char.isalnum() else f"\\x{{{ord(char):x}}}"


def _of_expression(pattern: str, case_sensitive: bool) -> tuple[list[str], bool]:
    """Ask Python's own parser, which is not public; where it is another, nothing is known."""
    try:
        parser: Any = importlib.import_module("re._parser")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parsed = parser.parse(pattern, 0 if case_sensitive else re.IGNORECASE)
        case_sensitive = not parsed.state.flags & re.IGNORECASE
        return _of_parts(parsed, case_sensitive), case_sensitive
    except (ImportError, AttributeError, TypeError, ValueError, re.error, RecursionError, OverflowError):
        return [], case_sensitive


def _of_parts(parts: Iterable[tuple[Any, Any]], case_sensitive: bool) -> list[str]:
    """Of parts in a row: the choices whose shortest is longest."""
    best: list[str] = []
    run = ""
    for name, value in ((str(name), value) for name, value in parts):
        if name == "LITERAL" and _certain(chr(value), case_sensitive):
            run += chr(value)
            continue
        best, run = _better(best, [run] if run else []), ""
        best = _better(best, _of_part(name, value, case_sensitive))
    return _better(best, [run] if run else [])


def _of_part(name: str, value: Any, case_sensitive: bool) -> list[str]:
    if name == "SUBPATTERN" and not value[1] & re.IGNORECASE:
        return _of_parts(value[3], case_sensitive)
    if name in REPEATS and value[0] > 0:
        return _of_parts(value[2], case_sensitive)
    if name == "ATOMIC_GROUP":
        return _of_parts(value, case_sensitive)
    if name == "BRANCH":
        branches = [_of_parts(branch, case_sensitive) for branch in value[1]]
        return [choice for branch in branches for choice in branch] if all(branches) else []
    return []


def _better(one: list[str], other: list[str]) -> list[str]:
    return max(one, other, key=lambda choices: min(map(len, choices), default=0))
