"""Every defect is either shown not to be here, or it is said why there is nothing to show; every test named exists."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest
from tests.core.defects.defects import DEFECTS, Defect

ROOT = Path(__file__).parents[3]
NUMBERS = [f"{part}{n}" for part, most in (("A", 19), ("B", 25), ("C", 12), ("F", 10)) for n in range(1, most + 1)]


@cache
def names_in(file: str) -> frozenset[str]:
    """Give ``test`` or ``Class::test`` for each test in a file."""
    found = set()
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{one.name}" for one in node.body if _is_test(one)}  # type: ignore[attr-defined]
        elif _is_test(node):
            found.add(node.name)  # type: ignore[attr-defined]
    return frozenset(found)


def _is_test(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")


def test_every_number_is_there() -> None:
    assert list(DEFECTS) == NUMBERS


@pytest.mark.parametrize(("number", "defect"), DEFECTS.items(), ids=DEFECTS)
def test_each_is_shown_or_said_to_be_absent(number: str, defect: Defect) -> None:
    assert bool(defect.tests) != bool(defect.absent)
    for test in defect.tests:
        file, _, name = test.partition("::")
        assert (ROOT / file).is_file(), test
        assert name in names_in(file), test


def test_each_test_of_this_folder_is_about_one_of_them() -> None:
    """Its docstring begins with the number, and the list names it there."""
    tree = ast.parse((Path(__file__).with_name("test_defects.py")).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            number = (ast.get_docstring(node) or "").partition(":")[0]
            assert f"tests/core/defects/test_defects.py::{node.name}" in DEFECTS[number].tests
