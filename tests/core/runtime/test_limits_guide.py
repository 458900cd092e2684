"""The programs of the guide on limits run and print what it says; its table has a row for each limit, as it is."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from kode.core.kernel.limits import Limits
from kode.core.kernel.words import RESULT_STATUS, StopReason

GUIDE = (Path(__file__).resolve().parents[3] / "docs" / "guides" / "limits.md").read_text()
PROGRAMS = re.findall(r"^```python\n(.*?)^```\n\nprints\n\n```text\n(.*?)^```$", GUIDE, re.M | re.S)
ROWS = re.findall(r"^\| `(\w+)` \| ([\d,.]+|None) \| (.+) \| (.+) \|$", GUIDE, re.M)


def test_each_limit_has_its_row() -> None:
    told = {name: None if default == "None" else float(default.replace(",", "")) for name, default, _, _ in ROWS}
    assert told == {field.name: getattr(Limits(), field.name) for field in fields(Limits)}
    assert [name for name, *_ in ROWS] == [field.name for field in fields(Limits)]


def test_each_stop_reason_is_the_one_it_names() -> None:
    said = re.findall(r"`(\w+)` → `(\w+)`", GUIDE)
    assert len(said) == 9
    for reason, status in said:
        assert RESULT_STATUS[StopReason(reason)] == status


@pytest.mark.integration
def test_the_programs_print_what_the_guide_says(tmp_path: Path) -> None:
    assert len(PROGRAMS) == GUIDE.count("```python") == 2
    programs = [f"exec(compile({program!r}, 'program {n}', 'exec'), {{}})" for n, (program, _) in enumerate(PROGRAMS)]
    command = [sys.executable, "-W", "error", "-c", "\nprint('----')\n".join(programs)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert (ran.stderr, ran.returncode) == ("", 0)
    assert ran.stdout.split("----\n") == [printed for _, printed in PROGRAMS]
