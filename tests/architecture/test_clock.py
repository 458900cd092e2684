"""Stores may start worker threads, but real time, chance and anyio's own time-outs are banned there too.

Ruff's TID251 holds its whole list in a file or none of it, so it is off for the stores (`per-file-ignores`),
and this test holds the rest of the list there.
"""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ALLOWED = {"anyio.to_thread"}


@pytest.fixture(scope="module")
def banned(root: Path) -> set[str]:
    """The list that ruff holds elsewhere, less what stores may use."""
    lint = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    return set(lint["flake8-tidy-imports"]["banned-api"]) - ALLOWED


def uses(source: str, banned: set[str]) -> list[str]:
    """Name the banned things that a module's source uses, with line numbers."""
    tree = ast.parse(source)
    names: dict[str, str] = {}  # what a local name stands for
    seen: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                seen.append((node.lineno, alias.name))
                names[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                seen.append((node.lineno, f"{node.module}.{alias.name}"))
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            root, _, rest = ast.unparse(node).partition(".")
            if root in names:
                seen.append((node.lineno, f"{names[root]}.{rest}"))
    hit = {(line, ban) for line, name in seen for ban in banned if f"{name}.".startswith(f"{ban}.")}
    return [f"{line}: {ban}" for line, ban in sorted(hit)]


def test_stores_take_their_clock(root: Path, banned: set[str]) -> None:
    store = root / "packages/kode-core/src/kode/core/store"
    files = sorted(store.rglob("*.py"))
    assert [f"{path.relative_to(store)}:{use}" for path in files for use in uses(path.read_text(), banned)] == []


@pytest.mark.parametrize(
    ("source", "use"),
    [
        ("import time", "time"),
        ("import time as t", "time"),
        ("from time import monotonic", "time"),
        ("import anyio\nasync def f(): await anyio.sleep(1)", "anyio.sleep"),
        ("from anyio import fail_after as limit", "anyio.fail_after"),
        ("from datetime import datetime\nnow = datetime.now()", "datetime.datetime.now"),
        ("import datetime as dt\nnow = dt.datetime.now()", "datetime.datetime.now"),
    ],
)
def test_a_banned_use_is_noticed(source: str, use: str, banned: set[str]) -> None:
    assert [found.partition(": ")[2] for found in uses(source, banned)] == [use]


@pytest.mark.parametrize(
    "source",
    [
        "from anyio import to_thread",
        "import anyio.to_thread",
        "import anyio\nasync def f(): await anyio.to_thread.run_sync(g)",
        "from datetime import datetime, UTC\nat = datetime.fromtimestamp(0, UTC)",
        "import timeit",
    ],
)
def test_an_allowed_use_is_let_through(source: str, banned: set[str]) -> None:
    assert uses(source, banned) == []
