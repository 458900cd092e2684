"""The report: what the planner writes, and how the check reads it back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kode.cli.demo.count import Counted

__all__ = ["Hits", "Survey", "read_tables", "write_report"]


@dataclass(frozen=True, slots=True)
class Hits:
    """What one search found."""

    text: str
    lines: int
    files: int
    truncated: bool


@dataclass(frozen=True, slots=True)
class Survey:
    """All that the report says, from results of tools."""

    counted: Counted
    paths: int
    paths_truncated: bool
    hits: tuple[Hits, ...]
    read: Mapping[str, str]
    """By path: what it begins with, or why it could not be read."""
    cut_off: int
    """Counts whose outcome nobody knows."""
    tries: int


def write_report(survey: Survey) -> str:
    """Write it as Markdown."""
    counted = survey.counted
    lines = ["# Report", "", "| what | count |", "|---|---:|"]
    rows = {
        "files": counted.files,
        "not readable": counted.unreadable,
        "lines": counted.lines,
        "words": counted.words,
        "bytes": counted.size,
    }
    lines += [f"| {name} | {number} |" for name, number in rows.items()]
    lines += [f"| paths listed | {survey.paths}{'+' if survey.paths_truncated else ''} |", ""]
    lines += ["A line ends with a line feed; a word is a run of ASCII letters and digits.", ""]
    lines += ["## Biggest files", "", "| file | bytes |", "|---|---:|"]
    lines += [f"| {_cell(name)} | {size} |" for size, name in counted.biggest]
    lines += ["", "## Lines that hold a text", "", "| text | lines | files |", "|---|---:|---:|"]
    for hit in survey.hits:
        more = "+" if hit.truncated else ""
        lines.append(f"| `{_cell(hit.text)}` | {hit.lines}{more} | {hit.files}{more} |")
    lines += ["", "## Read", ""]
    lines += [f"* {_cell(path)}: {_cell(text)}" for path, text in survey.read.items()] or ["Nothing could be read."]
    lines += ["", "## How it was counted", "", _story(survey), ""]
    return "\n".join(lines)


def read_tables(text: str) -> list[list[list[str]]]:
    """Read the tables of a report: rows of cells, without the head."""
    tables: list[list[list[str]]] = []
    inside = False
    for line in text.splitlines():
        if not line.startswith("|"):
            inside = False
        elif line.startswith("|---"):
            tables.append([])
            inside = True
        elif inside:
            cells = line.replace("\\|", "\0")[2:-2].split(" | ")
            tables[-1].append([cell.replace("\0", "|") for cell in cells])
    return tables


def _cell(text: str) -> str:
    """Keep a text on one line and in its column."""
    shown = "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)
    return shown.replace("|", "\\|")


def _story(survey: Survey) -> str:
    if not survey.cut_off:
        return "In one go."
    times = "once" if survey.cut_off == 1 else f"{survey.cut_off} times"
    if survey.cut_off == survey.tries:
        return f"The count was cut off {times}; its file was whole, so it did not have to run again."
    return (
        f"The count was cut off {times}, looked at, and run again into a new file; try {survey.tries} came to its end."
    )
