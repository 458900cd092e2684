"""What a person is shown before they allow a call is what it would do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kode.cli.previewing import preview
from kode.core import LocalSandbox
from kode.core.jsontext import dump


async def rows(folder: Path, tool: str, **arguments: Any) -> list[str]:
    sandbox = LocalSandbox(folder)
    return [row.plain.strip() for row in await preview(tool, dump(arguments), sandbox)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "calc.py").write_text("def add(a, b):\n    return a - b\n")
    return tmp_path


async def test_an_edit_is_shown_as_the_lines_it_changes(folder: Path) -> None:
    shown = await rows(folder, "fs_edit", path="calc.py", old_string="a - b", new_string="a + b")
    assert shown == ["calc.py", "@@ -1,2 +1,2 @@", "def add(a, b):", "-    return a - b", "+    return a + b"]
    assert (folder / "calc.py").read_text().endswith("a - b\n"), "it only looks"


async def test_an_edit_that_would_fail_says_so_and_shows_its_texts(folder: Path) -> None:
    shown = await rows(folder, "fs_edit", path="calc.py", old_string="a * b", new_string="a + b")
    assert "as things are this fails" in shown[0]
    assert shown[1:] == ["-a * b", "+a + b"]
    shown = await rows(folder, "fs_edit", path="none.py", old_string="x", new_string="y")
    assert "as things are this fails" in shown[0]


async def test_several_edits_of_a_file_are_one_difference(folder: Path) -> None:
    edits = [
        {"path": "calc.py", "find": "a - b", "replace": "a + b"},
        {"path": "calc.py", "find": "a + b", "replace": "b + a"},
        {"path": "calc.py", "find": "add(", "replace": "plus("},
    ]
    shown = await rows(folder, "fs_multi_edit", edits=edits)
    assert shown[2:] == ["-def add(a, b):", "-    return a - b", "+def plus(a, b):", "+    return b + a"]


async def test_a_write_is_shown_as_the_difference_it_makes(folder: Path) -> None:
    same = (folder / "calc.py").read_text()
    assert await rows(folder, "fs_write", path="calc.py", content=same) == ["calc.py (nothing changes)"]
    assert "-    return a - b" in await rows(folder, "fs_write", path="calc.py", content="def add(a, b):\n")
    assert await rows(folder, "fs_write", path="new.py", content="one\ntwo\n") == [
        "new.py (a new file)",
        "+one",
        "+two",
    ]


async def test_arguments_of_a_wrong_shape_are_shown_as_they_are(folder: Path) -> None:
    assert await rows(folder, "fs_multi_edit", edits=["x"]) == ['edits: ["x"]']
    assert await rows(folder, "other", path="calc.py") == ["path: calc.py"]
    assert await rows(folder, "bash_run", cmd="ls\nrm -r x", timeout_ms=5) == ["$ ls", "rm -r x", "timeout_ms: 5"]
