"""No module imports itself by way of others: not at load time, not for its types, and not within a function.

An import under ``TYPE_CHECKING`` or within a function hides a circle from Python, but not from who reads the code: the
modules of a circle can only be understood together.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ALLOWED = {
    ("kode.core.hook.base", "kode.core.tools.base"): (
        "A tool may bring hooks, and a hook is told of the tool: Tool, Hooks and ToolUse name one another. One module"
        " of them would be too long, and a protocol between them would say one thing twice."
    ),
}
"""Circles that are known, each with its reason. What is mended leaves the list; nothing joins it."""


def module_of(path: Path, src: Path) -> str:
    return ".".join(path.relative_to(src).with_suffix("").parts).removesuffix(".__init__")


def named_by(node: ast.AST, module: str, is_package: bool) -> list[tuple[str, str]]:
    """What an import names: a module, and the module that this would be a name of if it is none itself."""
    if isinstance(node, ast.Import):
        return [(alias.name, "") for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    above = module.split(".")[: (0 if is_package else -1) - (node.level - 1) or None] if node.level else []
    base = ".".join([*above, *([node.module] if node.module else [])])
    return [(f"{base}.{alias.name}", base) for alias in node.names]


def imports(sources: dict[str, Path]) -> dict[str, set[str]]:
    """The modules that each module imports, anywhere in its text."""
    found = {}
    for module, path in sources.items():
        nodes = ast.walk(ast.parse(path.read_text()))
        named = [one for node in nodes for one in named_by(node, module, path.name == "__init__.py")]
        found[module] = {name if name in sources else home for name, home in named} & sources.keys() - {module}
    return found


def trimmed(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Leave out what is in no circle: again and again, those that import nothing or that nothing imports."""
    while True:
        imported = {other for named in graph.values() for other in named}
        kept = {module for module, named in graph.items() if named} & imported
        if len(kept) == len(graph):
            return graph
        graph = {module: graph[module] & kept for module in kept}


def reached(graph: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    ahead = [start]
    while ahead:
        new = graph[ahead.pop()] - found
        found |= new
        ahead += new
    return found


def circles(graph: dict[str, set[str]]) -> set[tuple[str, ...]]:
    """The strongly connected components of more than one module."""
    graph = trimmed(graph)
    ahead = {module: reached(graph, module) for module in graph}
    return {
        tuple(sorted(other for other in ahead[module] if module in ahead[other]))
        for module in graph
        if module in ahead[module]
    }


def test_no_circle_but_those_that_are_known(sources: list[Path]) -> None:
    modules = {module_of(path, next(up for up in path.parents if up.name == "src")): path for path in sources}
    graph = imports(modules)
    assert len(graph) > 100
    assert sum(map(len, graph.values())) > 3 * len(graph), "few imports were seen: every test of them would pass"
    assert circles(graph) == set(ALLOWED)


@pytest.mark.parametrize(
    "text",
    [
        "from a.two import thing",
        "from a import two",
        "import a.two",
        "from .two import thing",
        "from . import two",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from a.two import thing",
        "def f():\n    from a.two import thing",
    ],
)
def test_every_way_to_import_is_seen(tmp_path: Path, text: str) -> None:
    package = tmp_path / "a"
    package.mkdir()
    (package / "__init__.py").write_text("from .three import last")
    (package / "one.py").write_text(text)
    (package / "two.py").write_text("from a.three import last")
    (package / "three.py").write_text("import a.one")
    graph = imports({module_of(path, tmp_path): path for path in sorted(package.glob("*.py"))})
    assert graph["a"] == {"a.three"}
    assert circles(graph) == {("a.one", "a.three", "a.two")}
    (package / "three.py").write_text("import a.four")
    assert circles(imports({module_of(path, tmp_path): path for path in sorted(package.glob("*.py"))})) == set()
