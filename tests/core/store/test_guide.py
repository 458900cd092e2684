"""The examples of docs/guides/stores.md run as they stand."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

import anyio
import pytest

from kode.core.store import MemoryStore, Store
from kode.core.testing.conformance.store.author import Author

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "stores.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


def examples() -> dict[str, Callable[[Store], Awaitable[None]]]:
    found: dict[str, Any] = {}
    for block in BLOCKS[1:]:
        exec(compile(block, str(GUIDE), "exec"), found)
    return {name: value for name, value in found.items() if iscoroutinefunction(value)}


def test_the_first_example_is_a_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[0], str(GUIDE), "exec"), {})
    assert capsys.readouterr().out == "[]\n"
    assert (tmp_path / "agents.db").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("histories", "0 user\n1 assistant\n{'likes': ['tea']}\n"),
        ("questions", "0 0 0 {}\n"),
        ("housekeeping", "0 0\n() ()\n"),
        ("checks", "True True True"),
        ("follow", "READY\nREADY\nREADY\n"),
        ("checkpoints", "['draft-1', 'draft-2']\n"),
    ],
)
async def test_an_example_runs(name: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    async with MemoryStore() as store:
        author = Author(store, "assistant-1")
        await author.create(state={"tenant": "acme"})
        async with anyio.create_task_group() as tasks:
            if name == "follow":

                async def change() -> None:
                    for n in range(3):
                        await anyio.wait_all_tasks_blocked()
                        await store.append_message("assistant-1", "user", str(n))

                tasks.start_soon(change)
            await examples()[name](store)
        assert capsys.readouterr().out.startswith(said)


def test_every_example_is_run() -> None:
    assert set(examples()) == {"histories", "questions", "housekeeping", "checks", "follow", "checkpoints"}
