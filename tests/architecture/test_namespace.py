"""`kode` is a namespace that wheels share: each brings one leaf package and owns no folder above it.

An `__init__.py` above a leaf would hide every other wheel's part of the namespace (PEP 420).
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

# Besides `kode` itself: folders that hold one leaf per wheel, as in kode.store.postgres.
SHARED = ("store", "sandbox")


def leaves(source: Path) -> list[Path]:
    """The packages that a source folder brings, by the rule for where a leaf may lie."""
    folders = [path for path in (source / "kode").iterdir() if path.is_dir() and path.name != "__pycache__"]
    found: list[Path] = []
    for folder in folders:
        found.extend(
            [path for path in folder.iterdir() if path.is_dir() and path.name != "__pycache__"]
            if folder.name in SHARED
            else [folder]
        )
    return sorted(found)


def test_no_wheel_owns_the_namespace(wheels: list[Path], root: Path) -> None:
    above = ["src", "src/kode", *(f"src/kode/{name}" for name in SHARED)]
    owned = [path for wheel in wheels for folder in above for path in (wheel / folder).glob("*.py*") if path.is_file()]
    assert [str(path.relative_to(root)) for path in owned] == []


def test_one_wheel_is_one_typed_leaf_package(wheels: list[Path]) -> None:
    for wheel in wheels:
        brought = leaves(wheel / "src")
        assert len(brought) == 1, f"{wheel.name} brings {brought}"
        assert (brought[0] / "__init__.py").is_file(), f"{brought[0]} is no package"
        assert (brought[0] / "py.typed").is_file(), f"type checkers would ignore the annotations of {wheel.name}"


def test_a_wheel_ships_its_leaf_and_nothing_else(wheels: list[Path]) -> None:
    for wheel in wheels:
        build = tomllib.loads((wheel / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
        assert build["only-include"] == [str(leaf.relative_to(wheel)) for leaf in leaves(wheel / "src")], wheel.name
        assert build["sources"] == ["src"], wheel.name


def test_wheel_is_named_after_its_leaf(wheels: list[Path]) -> None:
    for wheel in wheels:
        name = tomllib.loads((wheel / "pyproject.toml").read_text())["project"]["name"]
        (leaf,) = leaves(wheel / "src")
        assert name == wheel.name == "-".join(leaf.relative_to(wheel / "src").parts)


def test_every_folder_of_a_leaf_is_a_package(wheels: list[Path], root: Path) -> None:
    """A folder without `__init__.py` can be imported, but import-linter does not look into it."""
    folders = {path.parent for wheel in wheels for leaf in leaves(wheel / "src") for path in leaf.rglob("*.py")}
    assert folders
    assert [str(path.relative_to(root)) for path in sorted(folders) if not (path / "__init__.py").is_file()] == []


@pytest.mark.parametrize("kind", ["LICENSE", "README.md", "CHANGELOG.md", "changes"])
def test_every_wheel_stands_alone(wheels: list[Path], kind: str) -> None:
    assert [wheel.name for wheel in wheels if not (wheel / kind).exists()] == []


def test_every_wheel_carries_the_same_licence(wheels: list[Path], root: Path) -> None:
    licence = (root / "LICENSE").read_text()
    assert [wheel.name for wheel in wheels if (wheel / "LICENSE").read_text() != licence] == []
