"""The programs of docs/guides/todos-and-timers.md run, and print what it says; its numbers are those of the code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from kode.core.kernel.history import MAX_TIMER_DATA, MAX_TIMERS
from kode.core.template import AgentTemplate
from kode.core.tools.todos import MAX_NOTES, MAX_TITLE, MAX_TODOS

GUIDE = (Path(__file__).resolve().parents[3] / "docs" / "guides" / "todos-and-timers.md").read_text()
PROGRAMS = re.findall(r"^```python\n(.*?)^```\n\nprints\n\n```text\n(.*?)^```$", GUIDE, re.M | re.S)


def test_its_numbers_are_those_of_the_code() -> None:
    assert len(PROGRAMS) == GUIDE.count("```python") == 2
    text = " ".join(GUIDE.split())
    assert f"at most {MAX_TODOS} todos; a title has up to {MAX_TITLE} characters, notes up to {MAX_NOTES}" in text
    assert f"at most {MAX_TIMERS} timers, a text at most {MAX_TIMER_DATA:,} characters" in text
    assert f"After {AgentTemplate('t').remind_todos_every} steps" in text


@pytest.mark.integration
@pytest.mark.parametrize(("program", "printed"), PROGRAMS)
def test_a_program_prints_what_the_guide_says(program: str, printed: str) -> None:
    if ".cron(" in program:
        pytest.importorskip("cronsim")
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert (ran.stderr, ran.returncode) == ("", 0)
    assert [line.rstrip() for line in ran.stdout.splitlines()] == [line.rstrip() for line in printed.splitlines()]
