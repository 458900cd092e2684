"""`kode demo` on more than a model's window holds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.integration
def test_a_planner_that_found_much_forgets_nothing(tmp_path: Path) -> None:
    """A summary in place of its history would make it list the files again, and report no hits."""
    source, work = tmp_path / "long", tmp_path / "w"
    source.mkdir()
    (source / "a.txt").write_text(f"TODO: the one and other {'x' * 200}\n" * 3_000)
    command = [
        sys.executable,
        "-m",
        "kode.cli",
        "demo",
        str(source),
        "--work",
        str(work),
        "--kill-at",
        "never",
        "--speed",
        "30",
    ]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count("First, what is there?") == 1
    assert "| `TODO` | 3000 | 1 |" in (work / "REPORT.md").read_text()
