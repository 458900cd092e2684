"""The programs in README.md and docs/ are what they say: they run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def programs(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def run(program: str, folder: Path) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.integration
def test_the_example_of_the_readme_runs_and_runs_once(tmp_path: Path) -> None:
    (program,) = programs("README.md")
    assert run(program, tmp_path) == "Four words.\n"
    size = len(program.splitlines())
    assert size <= 30, f"{size} lines: it should be short"
    # Started again it finds its answer in the store; a model that is asked would have run out of script.
    assert run(program, tmp_path) == "Four words.\n"


@pytest.mark.integration
def test_an_agent_can_be_watched_as_the_guide_says(tmp_path: Path) -> None:
    (example,) = programs("README.md")
    (watch,) = programs("docs/getting-started.md")
    run(example, tmp_path)
    setting_up = example.partition("async def main")[0]
    program = f"""
{setting_up}
{watch}
async def main():
    async with SqliteStore("agents.db") as store:
        bound = Dependencies(store, tools=[word_count], providers={{"scripted": ScriptedProvider()}})
        told, scope = print, anyio.CancelScope()
        def show(cursor, type, preview):  # what comes last ends it
            told(cursor, type, preview)
            if type == "done":
                scope.cancel()
        globals()["print"] = show
        with scope:
            await watch("my-agent", bound)

anyio.run(main)
"""
    types = [line.split()[1] for line in run(program, tmp_path).splitlines()]
    assert types[0] == "agent_created"
    assert {"message_received", "tool_end", "done"} <= set(types)
