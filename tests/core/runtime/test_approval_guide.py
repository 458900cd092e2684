"""The programs of docs/guides/approvals.md run, and print what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from kode.core.kernel.permission import MAX_SEARCHED, MODES
from kode.core.kernel.toolcall import ApprovalState

GUIDE = (Path(__file__).resolve().parents[3] / "docs" / "guides" / "approvals.md").read_text()
PROGRAMS = re.findall(r"^```python\n(.*?)^```\n\nprints\n\n```text\n(.*?)^```$", GUIDE, re.M | re.S)


def test_it_names_every_mode_and_every_end() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", GUIDE, re.M)) == {*get_args(ApprovalState)} - {"pending"}
    assert all(f"`{mode}`" in GUIDE for mode in MODES)
    assert f"more than {MAX_SEARCHED:,} characters" in GUIDE


@pytest.mark.integration
def test_the_programs_print_what_the_guide_says(tmp_path: Path) -> None:
    assert len(PROGRAMS) == GUIDE.count("```python") == 2
    programs = [f"exec(compile({program!r}, 'program {n}', 'exec'), {{}})" for n, (program, _) in enumerate(PROGRAMS)]
    command = [sys.executable, "-W", "error", "-c", "\nprint('----')\n".join(programs)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert (ran.stderr, ran.returncode) == ("", 0)
    assert ran.stdout.split("----\n") == [printed for _, printed in PROGRAMS]
