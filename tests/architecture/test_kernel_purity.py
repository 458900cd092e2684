"""The kernel decides and does nothing else: no I/O, no clock, no chance, nothing asynchronous.

That is what lets the same input be applied again, in another process or two years later, with the same
outcome.
"""

from __future__ import annotations

import ast
import symtable
from collections.abc import Iterator
from pathlib import Path

import pytest

STDLIB = {
    "__future__",
    "collections",
    "collections.abc",
    "dataclasses",
    "enum",
    "fnmatch",
    "functools",
    "itertools",
    "json",
    "math",
    "operator",
    "re",
    "string",
    "types",
    "typing",
}
OURS = {"kode.core.errors", "kode.core.quick"}
BANNED_NAMES = {"open", "print", "input", "breakpoint", "exec", "eval", "compile", "__import__"}
BANNED_NODES = (
    ast.AsyncFunctionDef,
    ast.AsyncFor,
    ast.AsyncWith,
    ast.Await,
    ast.Global,
)


def may_import(module: str) -> bool:
    return module in STDLIB or module in OURS or f"{module}.".startswith("kode.core.kernel.")


def modules_of(node: ast.Import | ast.ImportFrom) -> list[str]:
    """The modules that an import statement names, as absolute names where it can be told."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if node.level:
        # One dot stays within a folder; the kernel has none below it, so two leave the kernel.
        return ["kode.core.kernel" if node.level == 1 else "." * node.level + (node.module or "")]
    if node.module == "kode.core":
        return [f"kode.core.{alias.name}" for alias in node.names]
    return [node.module or ""]


def builtins_used(scope: symtable.SymbolTable, own: frozenset[str] = frozenset()) -> Iterator[tuple[int, str]]:
    """Find the banned builtins that a scope uses; a parameter or a field of the same name is none."""
    names = {symbol.get_name(): symbol for symbol in scope.get_symbols()}
    if scope.get_type() == "module":
        own = frozenset(name for name, symbol in names.items() if symbol.is_assigned() or symbol.is_imported())
    for name in BANNED_NAMES & names.keys() - own:
        symbol = names[name]
        if symbol.is_referenced() and (symbol.is_global() or not symbol.is_local()) and not symbol.is_free():
            yield scope.get_lineno(), f"uses {name} in {scope.get_name()}"
    for inner in scope.get_children():
        yield from builtins_used(inner, own)


def breaches(source: str) -> list[str]:
    """Say what in a module's source is not pure, with line numbers."""
    found = list(builtins_used(symtable.symtable(source, "kernel", "exec")))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [name for name in modules_of(node) if not may_import(name)]
            found.extend((node.lineno, f"imports {name}") for name in names)
        elif isinstance(node, BANNED_NODES):
            found.append((node.lineno, type(node).__name__))
        elif isinstance(node, ast.comprehension) and node.is_async:
            found.append((node.target.lineno, "async comprehension"))
    return [f"{line}: {what}" for line, what in sorted(found)]


def test_the_kernel_is_pure(root: Path) -> None:
    kernel = root / "packages/kode-core/src/kode/core/kernel"
    files = sorted(kernel.rglob("*.py"))
    assert files
    impure = [f"{path.relative_to(kernel)}:{breach}" for path in files for breach in breaches(path.read_text())]
    assert impure == []


@pytest.mark.parametrize(
    "source",
    [
        "import os",
        "import json, time",
        "from datetime import datetime",
        "from pydantic import BaseModel",
        "import kode.core.clock",
        "from kode.core import clock",
        "from kode.core.jsontext import parse",
        "from .. import clock",
        "from ..clock import Clock",
        "async def f(): ...",
        "async def f(): await g()",
        "def f():\n    import logging",
        "def f():\n    global x",
        "print('x')",
        "text = open('x').read()",
        "write = print",
        "def f():\n    return [input() for _ in range(2)]",
        "class C:\n    def f(self): return open('x')",
        "def f(input): ...\ndef g(): return input()",
        "kernel = __import__('os')",
    ],
)
def test_impure_source_is_noticed(source: str) -> None:
    assert breaches(source)


@pytest.mark.parametrize(
    "source",
    [
        "from __future__ import annotations",
        "from collections.abc import Mapping",
        "from kode.core import errors",
        "from kode.core.errors import IllegalInputError",
        "from kode.core.kernel.state import State",
        "from kode.core.kernel import state",
        "from . import state",
        "from .state import State",
        "class Call:\n    input: str\n    def f(self): return self.input",
        "def judge(input):\n    return [input for _ in input]",
    ],
)
def test_pure_source_is_let_through(source: str) -> None:
    assert breaches(source) == []
