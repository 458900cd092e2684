"""A file fits in one sitting, a function on one screen, and every file says what it is for."""

from __future__ import annotations

import ast
from pathlib import Path

MAX_FILE_LINES = 600  # aim at 400
MAX_FUNCTION_LINES = 80  # aim at 50


def test_files_fit_in_one_sitting(sources: list[Path], root: Path) -> None:
    tests = sorted((root / "tests").rglob("*.py"))
    assert len(tests) > 100
    lengths = {str(path.relative_to(root)): len(path.read_text().splitlines()) for path in [*sources, *tests]}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_FILE_LINES} == {}


def test_functions_fit_on_one_screen(sources: list[Path], root: Path) -> None:
    long = {}
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    long[f"{path.relative_to(root)}:{node.lineno} {node.name}"] = lines
    assert long == {}


def test_every_file_says_what_it_is_for(sources: list[Path], root: Path) -> None:
    silent = [str(path.relative_to(root)) for path in sources if not ast.get_docstring(ast.parse(path.read_text()))]
    assert silent == []
