"""Counts the files again, by other code than the agent's, and compares its report with that."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from kode.cli.demo.report import read_tables
from kode.cli.demo.settings import FILES, Settings

__all__ = ["Check", "Truth", "check_report", "count_files"]

_SEARCHED_MAX = 64 * 1024 * 1024
_PROBE = 8_192
_PIECE = 1024 * 1024
_SPACED = bytes(code if chr(code).isascii() and chr(code).isalnum() else ord(" ") for code in range(256))
"""What is no letter or digit, as a space."""


@dataclass(frozen=True, slots=True)
class Check:
    """One verdict."""

    name: str
    ok: bool
    detail: str


@dataclass(slots=True)
class Truth:
    """What an independent walk counts."""

    numbers: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("files", "not readable", "lines", "words", "bytes", "paths listed"), 0)
    )
    sizes: list[tuple[int, str]] = field(default_factory=list)
    hits: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By text: lines, files."""


def count_files(folder: Path, texts: Iterable[str]) -> Truth:
    """Walk and count, knowing nothing of the agent."""
    truth = Truth(hits=dict.fromkeys(texts, (0, 0)))
    top = os.fsencode(folder)
    for where, folders, files in os.walk(top):
        links = [name for name in folders if os.path.islink(os.path.join(where, name))]
        truth.numbers["paths listed"] += len(files) + len(links)
        for name in files:
            path = os.path.join(where, name)
            if stat.S_ISREG(os.lstat(path).st_mode):
                _count_file(path, os.fsdecode(os.path.relpath(path, top)), truth)
    truth.sizes.sort(key=lambda one: -one[0])
    return truth


def _count_file(path: bytes, name: str, truth: Truth) -> None:
    numbers = truth.numbers
    numbers["files"] += 1
    try:
        with open(path, "rb") as file:
            first = file.read(_SEARCHED_MAX)
            size, inside = 0, False
            piece = first
            while piece:
                size += len(piece)
                numbers["lines"] += piece.count(b"\n")
                inside = _count_words(piece, inside, numbers)
                piece = file.read(_PIECE)
    except OSError:
        numbers["not readable"] += 1
        return
    numbers["bytes"] += size
    truth.sizes.append((size, name))
    if size > _SEARCHED_MAX or b"\0" in first[:_PROBE]:
        return
    for text, (lines, files) in truth.hits.items():
        found = _lines_with(text.encode(), first)
        truth.hits[text] = (lines + found, files + (found > 0))


def _count_words(data: bytes, inside: bool, numbers: dict[str, int]) -> bool:
    """Count words that begin in a part of a file; says whether the next part begins inside a word."""
    for start in range(0, len(data), _PIECE):
        piece = data[start : start + _PIECE].translate(_SPACED)
        numbers["words"] += len(piece.split()) - (inside and not piece.startswith(b" "))
        inside = not piece.endswith(b" ")
    return inside


def _lines_with(text: bytes, data: bytes) -> int:
    found, at = 0, data.find(text)
    while at >= 0:
        found += 1
        end = data.find(b"\n", at)
        at = data.find(text, end) if end >= 0 else -1
    return found


def check_report(settings: Settings) -> list[Check]:
    """Compare every number of the report with what is there."""
    try:
        tables = read_tables(settings.report.read_text())
        counts, biggest, hits = ({row[0]: row[1:] for row in table} for table in tables)
    except (OSError, ValueError, IndexError):
        return [Check("report is right", False, "there is no report that can be read")]
    truth = count_files(settings.work / FILES, [text.strip("`") for text in hits])
    checks = [
        _same("report: counts", {name: row[0] for name, row in counts.items()}, truth.numbers),
        _biggest({name: int(row[0]) for name, row in biggest.items()}, truth),
    ]
    said = {f"{what} with {text}": row[at] for text, row in hits.items() for at, what in enumerate(("lines", "files"))}
    real = {
        f"{what} with `{text}`": numbers[at]
        for text, numbers in truth.hits.items()
        for at, what in enumerate(("lines", "files"))
    }
    searched = _same("report: hits", said, real) if hits else Check("report: hits", False, "no search is in it")
    return [*checks, searched]


def _same(name: str, said: dict[str, str], real: dict[str, int]) -> Check:
    """Compare numbers; one that ends with ``+`` is a lower bound."""
    wrong = [
        f"{what}: said {number}, is {real.get(what)}"
        for what, number in said.items()
        if what not in real or (int(number[:-1]) > real[what] if number.endswith("+") else int(number) != real[what])
    ]
    wrong += [f"{what}: not said" for what in real.keys() - said.keys()]
    shown = ", ".join(f"{_grouped(number)} {what}" for what, number in said.items())
    return Check(name, not wrong, "; ".join(wrong) or shown or "none")


def _grouped(number: str) -> str:
    return f"{int(number.removesuffix('+')):,}{'+' if number.endswith('+') else ''}"


def _biggest(said: dict[str, int], truth: Truth) -> Check:
    """Sizes must be the largest; a name as well, unless the shell had to quote it or others are as large."""
    sizes = [size for size, _ in truth.sizes[:3]]
    wrong = "" if sorted(said.values(), reverse=True) == sizes else f"said {list(said.values())}, is {sizes}"
    known = {name: size for size, name in truth.sizes}
    for name, size in said.items():
        if name in known and known[name] != size:
            wrong = f"{name} has {known[name]} bytes, not {size}"
    shown = ", ".join(f"{name} ({size:,})" for name, size in said.items())
    return Check("report: biggest files", not wrong, wrong or shown or "none")
