"""docs/guides/stateless.md: its programs run and print what it says, and its table knows every status."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from kode.core.kernel.words import ResultStatus

GUIDE = (Path(__file__).resolve().parents[3] / "docs/guides/stateless.md").read_text()
PROGRAMS = re.findall(r"^```python\n(.*?)^```\n\nprints\n\n```text\n(.*?)^```$", GUIDE, re.M | re.S)


def test_every_program_is_found() -> None:
    assert len(PROGRAMS) == GUIDE.count("```python") == 3


def test_the_table_names_every_status() -> None:
    rows = "".join(re.findall(r"^\| (`.*?) \| ", GUIDE, re.M))
    assert set(re.findall(r"`(\w+)`", rows)) - {"status"} == set(get_args(ResultStatus))


@pytest.mark.integration
def test_the_programs_print_what_the_guide_says(tmp_path: Path) -> None:
    """One after the other in one process: starting Python is dearer than any of them."""
    programs = [f"exec(compile({program!r}, 'program {n}', 'exec'), {{}})" for n, (program, _) in enumerate(PROGRAMS)]
    command = [sys.executable, "-W", "error", "-c", "\nprint('----')\n".join(programs)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert (ran.stderr, ran.returncode) == ("", 0)
    assert ran.stdout.split("----\n") == [printed for _, printed in PROGRAMS]
