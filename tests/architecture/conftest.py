"""What the tests of the architecture look at: the source tree, not the running code."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def root() -> Path:
    """The top of the repository."""
    return Path(__file__).parents[2]


@pytest.fixture(scope="session")
def wheels(root: Path) -> list[Path]:
    """The folder of every wheel."""
    return sorted(path.parent for path in root.glob("packages/*/pyproject.toml"))


@pytest.fixture(scope="session")
def sources(wheels: list[Path]) -> list[Path]:
    """Every Python file that is shipped."""
    found = [path for wheel in wheels for path in sorted((wheel / "src").rglob("*.py"))]
    assert found, "an empty list would make every test of it pass"
    return found
