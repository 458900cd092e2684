"""The programs of docs/guides/sub-agents.md run, and print what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

GUIDE = (Path(__file__).resolve().parents[3] / "docs" / "guides" / "sub-agents.md").read_text()
PROGRAMS = re.findall(r"^```python\n(.*?)^```\n\nprints\n\n```text\n(.*?)^```$", GUIDE, re.M | re.S)


def test_every_program_is_found() -> None:
    assert len(PROGRAMS) == GUIDE.count("```python") == 3


@pytest.mark.integration
@pytest.mark.parametrize(("program", "printed"), PROGRAMS)
def test_a_program_prints_what_the_guide_says(program: str, printed: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False, timeout=25
    )
    assert (ran.stderr, ran.returncode, ran.stdout) == ("", 0, printed)
