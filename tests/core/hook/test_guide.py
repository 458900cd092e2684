"""The programs of the guide on hooks run, and print what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[3] / "docs"
GUIDE = DOCS / "guides" / "hooks.md"
PROGRAMS = re.findall(r"^```python\n(.*?)^```\n\nprints\n\n```text\n(.*?)^```$", GUIDE.read_text(), re.M | re.S)


def test_every_program_is_found() -> None:
    assert len(PROGRAMS) == GUIDE.read_text().count("```python") == 3


@pytest.mark.integration
def test_the_programs_print_what_the_guide_says(tmp_path: Path) -> None:
    """One after the other in one process: starting Python is dearer than any of them."""
    programs = [f"exec(compile({program!r}, 'program {n}', 'exec'), {{}})" for n, (program, _) in enumerate(PROGRAMS)]
    command = [sys.executable, "-W", "error", "-c", "\nprint('----')\n".join(programs)]
    where = {**os.environ, "PYTHONPATH": str(DOCS / "examples")}
    ran = subprocess.run(command, cwd=tmp_path, env=where, capture_output=True, text=True, check=False, timeout=60)
    assert (ran.stderr, ran.returncode) == ("", 0)
    assert ran.stdout.split("----\n") == [printed for _, printed in PROGRAMS]
