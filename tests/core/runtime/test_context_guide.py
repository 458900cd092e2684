"""The program of the guide on context runs and prints what it says; its tables are those of the code."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from kode.core.kernel.context import ContextPolicy
from kode.core.runtime.context.cut import MAX_PINNED
from kode.core.runtime.context.estimate import MEDIA_TOKENS
from kode.core.runtime.context.window import MAX_SUMMARY

GUIDE = (Path(__file__).resolve().parents[3] / "docs" / "guides" / "context.md").read_text()
PROGRAMS = re.findall(r"^```python\n(.*?)^```\n\nprints\n\n```text\n(.*?)^```$", GUIDE, re.M | re.S)
ROWS = re.findall(r"^\| `(\w+)` \| (\S+) \| .+ \|$", GUIDE, re.M)


def test_each_field_has_its_row() -> None:
    told = {name: default.strip("`").strip('"') for name, default in ROWS}
    assert told == {field.name: str(getattr(ContextPolicy(), field.name)) for field in fields(ContextPolicy)}


def test_the_numbers_are_those_of_the_code() -> None:
    for said in (f"the newest {MAX_PINNED}", f"is {MEDIA_TOKENS:,} tokens", f"bounded: {MAX_SUMMARY:,} tokens"):
        assert said in GUIDE


@pytest.mark.integration
def test_the_program_prints_what_the_guide_says(tmp_path: Path) -> None:
    ((program, printed),) = PROGRAMS
    command = [sys.executable, "-W", "error", "-c", program]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert (ran.stderr, ran.returncode, ran.stdout) == ("", 0, printed)
