"""Reads Google-style docstrings: the description, and what ``Args:`` says of each argument."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise

__all__ = ["Docstring", "parse_docstring"]

SECTION = re.compile(r"(Args|Arguments|Parameters|Returns?|Yields?|Raises|Examples?|Notes?|Warnings?|See Also):\s*$")
ARGUMENT = re.compile(r"\*{0,2}(?P<name>\w+)\s*(\([^)]*\))?\s*:\s*(?P<text>.*)$")


@dataclass(frozen=True, slots=True)
class Docstring:
    """What a docstring says to a model."""

    description: str
    """All before the first section."""
    arguments: dict[str, str] = field(default_factory=dict)


def parse_docstring(text: str) -> Docstring:
    """Read a docstring as ``inspect.getdoc`` gives it."""
    lines = text.splitlines()
    heads = [number for number, line in enumerate(lines) if SECTION.match(line)] + [len(lines)]
    description = "\n".join(lines[: heads[0]]).strip()
    arguments: dict[str, str] = {}
    for start, end in pairwise(heads):
        if lines[start].startswith(("Args", "Arguments", "Parameters")):
            arguments |= _arguments(lines[start + 1 : end])
    return Docstring(description, arguments)


def _arguments(lines: list[str]) -> dict[str, str]:
    """Read the lines of an ``Args`` section.

    What is indented deeper than the first goes on with the one before.
    """
    found: dict[str, list[str]] = {}
    indent: int | None = None
    current: list[str] | None = None
    for line in lines:
        if not line.strip():
            continue
        depth = len(line) - len(line.lstrip())
        indent = depth if indent is None else indent
        start = ARGUMENT.match(line.strip()) if depth <= indent else None
        if start is not None:
            current = found.setdefault(start["name"], [])
            current.append(start["text"])
        elif current is not None:
            current.append(line.strip())
    return {name: " ".join(part for part in parts if part) for name, parts in found.items()}
