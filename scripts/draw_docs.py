"""What scripts/draw-docs runs: fill in the tables and diagrams of the documentation that the code decides.

A page holds `<!-- drawn: NAME -->` … `<!-- end -->`; what stands between is made here and compared by a test.
"""

from __future__ import annotations

import inspect
import re
import runpy
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, get_args

from kode.core import errors
from kode.core.kernel import effects
from kode.core.kernel.events import DURABLE, LIVE
from kode.core.kernel.state import STAGES
from kode.core.kernel.words import RESULT_STATUS, Breakpoint, Status
from kode.core.store import COLUMNS

ROOT = Path(__file__).resolve().parents[1]
PIECE = re.compile(r"(<!-- drawn: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
STATES: dict[str, Any] = runpy.run_path(str(ROOT / "scripts/draw_states.py"))


def table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> list[str]:
    """Lay a table out."""
    return [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows)]


def said(thing: Any) -> str:
    """The first sentence that a thing says of itself."""
    paragraph = (inspect.getdoc(thing) or "").partition("\n\n")[0]
    return " ".join(paragraph.split())


def phases() -> list[str]:
    """How an agent moves between phases."""
    arrows = (f"    {start} --> {end}: {why}" for start, why, end in STATES["ARROWS"])
    return ["```mermaid", "stateDiagram-v2", "    [*] --> IDLE", *arrows, "```"]


def calls() -> list[str]:
    """How a call moves between statuses."""
    return ["```mermaid", "stateDiagram-v2", *(f"    {line}" for line in STATES["_CALL_ARROWS"]), "```"]


def breakpoints() -> list[str]:
    """The breakpoint that follows from a state, first match first."""
    rest = (
        ("no call matches; the model is asked", Breakpoint.STREAMING_MODEL),
        ("no call matches; the history is compacted", Breakpoint.PRE_MODEL),
        ("nothing is open", Breakpoint.READY),
    )
    rows = [*((f"a call is `{status}`", stage) for status, stage in STAGES), *rest]
    return table(
        ("", "the first that holds", "breakpoint"),
        ((str(n), what, f"`{stage}`") for n, (what, stage) in enumerate(rows, 1)),
    )


def statuses() -> list[str]:
    """The statuses of an agent."""
    body = inspect.getsource(Status)
    found = dict(re.findall(r'(\w+) = "\w+"\n    """(.*?)"""', body))
    return table(
        ("status", "means"),
        ((f"`{word}`", found.get(word, "Neither: it has nothing to do until something comes.")) for word in Status),
    )


def stop_reasons() -> list[str]:
    """What a caller is told for each reason."""
    by_status: dict[str, list[str]] = {}
    for reason, status in RESULT_STATUS.items():
        by_status.setdefault(status, []).append(f"`{reason.value}`")
    by_status["queued"] = ["none: no run has taken the message yet"]
    return table(
        ("`RunResult.status`", "`stop_reason`"),
        ((f"`{status}`", ", ".join(reasons)) for status, reasons in by_status.items()),
    )


def effect_kinds() -> list[str]:
    """What the kernel can ask for."""
    return table(("effect", "asks to"), ((f"`{one.__name__}`", said(one)) for one in get_args(effects.Effect)))


def event_types() -> list[str]:
    """Every event type in its channel."""
    channels = tuple(dict.fromkeys(DURABLE.values()))

    def of(channel: str, types: dict[str, Any]) -> str:
        return ", ".join(f"`{name}`" for name, where in types.items() if where == channel) or "–"

    return table(
        ("channel", "durable: stored, with a cursor", "live: shown and gone"),
        ((f"`{channel}`", of(channel, DURABLE), of(channel, LIVE)) for channel in channels),
    )


def records() -> list[str]:
    """The kinds of record and their columns."""
    return table(
        ("record", "columns (the rest is a body that no store reads)"),
        ((f"`{kind}`", ", ".join(f"`{name}`" for name, _ in names)) for kind, names in COLUMNS.items()),
    )


def layers() -> list[str]:
    """The layers of kode.core, from the contract that the linter holds."""
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (contract,) = (one for one in lint["contracts"] if one.get("exhaustive"))
    width = max(map(len, contract["layers"])) + 2
    boxes = [f"│{re.sub(r'[()]', '', layer).replace(' : ', '  '):^{width}}│" for layer in contract["layers"]]
    joint = f"├{'─' * width}┤"
    body = [line for box in boxes for line in (joint, box)][1:]
    return ["```text", f"┌{'─' * width}┐", *body, f"└{'─' * width}┘", "  each imports only what is below it", "```"]


def groups() -> list[str]:
    """The entry-point groups and what is built in."""

    def rows() -> Iterator[tuple[str, ...]]:
        core = tomllib.loads((ROOT / "packages/kode-core/pyproject.toml").read_text())["project"]["entry-points"]
        cli = tomllib.loads((ROOT / "packages/kode-cli/pyproject.toml").read_text())["project"]["entry-points"]
        for group, names in {**core, **cli}.items():
            assert set(names) <= {point.name for point in entry_points(group=group)}
            yield f"`{group}`", ", ".join(f"`{name}`" for name in sorted(names))

    return table(("entry-point group", "built in"), rows())


def error_families() -> list[str]:
    """The errors, by who must act."""

    def rows() -> Iterator[tuple[str, ...]]:
        for name in errors.__all__:
            kind = getattr(errors, name)
            if kind.__base__ is errors.KodeError:
                narrower = [f"`{one.__name__}`" for one in kind.__subclasses__() if one.__module__ == errors.__name__]
                yield f"`{name}`", said(kind), ", ".join(narrower) or "–"

    return table(("family", "what to do", "narrower"), rows())


def limits() -> list[str]:
    """The limits and their defaults."""
    from kode.core.kernel.limits import Limits

    def rows() -> Iterator[tuple[str, ...]]:
        for field in fields(Limits):
            value = None if field.default is MISSING else field.default
            yield f"`{field.name}`", "no limit" if value is None else f"{value:,}"

    return table(("limit", "default"), rows())


DRAWN: dict[str, Callable[[], list[str]]] = {
    "breakpoints": breakpoints,
    "calls": calls,
    "effects": effect_kinds,
    "errors": error_families,
    "events": event_types,
    "groups": groups,
    "layers": layers,
    "limits": limits,
    "phases": phases,
    "records": records,
    "statuses": statuses,
    "stop-reasons": stop_reasons,
}


def drawn(text: str) -> str:
    """Draw anew what a page holds."""
    return PIECE.sub(lambda found: "\n".join([found[1], *DRAWN[found[2]](), "", found[3]]), text)


def pages() -> list[Path]:
    """The pages that hold something drawn."""
    return [page for page in sorted((ROOT / "docs").rglob("*.md")) if PIECE.search(page.read_text())]


def main() -> int:
    """Write the pages, or say which are not current."""
    stale = [page for page in pages() if page.read_text() != drawn(page.read_text())]
    if "--check" in sys.argv:
        for page in stale:
            print(f"{page.relative_to(ROOT)} is not current: run scripts/draw-docs")
        return bool(stale)
    for page in stale:
        page.write_text(drawn(page.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
