"""Benchmarks: run by ``scripts/bench``. Each row prints its figures; nothing here is a test."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import tempfile
from collections.abc import Awaitable, Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import anyio

ROWS = {
    "ten": "turns:ten",
    "agents": "turns:agents",
    "memory": "turns:memory",
    "deltas": "turns:deltas",
    "bytes": "storing:bytes_written",
    "load": "storing:load",
    "append": "storing:append",
    "copy": "storing:copy",
    "import": "starting:import_time",
    "cold": "starting:cold",
    "stateless": "starting:stateless",
    "grep": "searching:grep",
    "first": "asking:first_delta",
    "fold": "asking:fold",
    "postgres": "postgres:postgres",
}


def row(name: str) -> Callable[[str], Awaitable[dict[str, Any]]]:
    """The function that measures a row; what another row imports costs this one nothing."""
    module, _, function = ROWS[name].partition(":")
    found: Callable[[str], Awaitable[dict[str, Any]]] = getattr(import_module(module), function)
    return found


def main() -> None:
    """Run the rows asked for and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    strange = [name for name in options.rows if name not in ROWS]
    if strange:
        parser.error(f"no row {', '.join(strange)}; there are {', '.join(ROWS)}")
    print(f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {os.cpu_count()} cores")
    print(f"load {' '.join(f'{load:.1f}' for load in os.getloadavg())}")
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.rows or ROWS:
            figures[name] = anyio.run(row(name), folder)
            for label, value in figures[name].items():
                shown = " / ".join(f"{figure:.2f}" for figure in value.values()) if isinstance(value, dict) else value
                print(f"{name:9} {label:62} {shown}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
