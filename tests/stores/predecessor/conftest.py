"""A folder for each test."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.stores.predecessor.folders import Old


@pytest.fixture
def old(tmp_path: Path) -> Old:
    return Old(tmp_path / "old")
