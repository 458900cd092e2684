"""What a person is shown before they allow a call is what it would do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kode.cli.comparing import changes
from kode.cli.previewing import MAX_BYTES, preview
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


async def test_what_the_model_adds_to_an_edit_is_shown(folder: Path) -> None:
    edits = [{"path": "calc.py", "find": "a - b", "replace": "a + b", "hidden": "x"}]
    assert "hidden: x" in await rows(folder, "fs_multi_edit", edits=edits)
    shown = await rows(folder, "fs_edit", path="calc.py", old_string="a - b", new_string="a + b", extra=1)
    assert shown[-1] == "extra: 1"


async def test_a_file_that_is_too_large_is_not_judged_by_its_beginning(folder: Path) -> None:
    (folder / "big.py").write_text("token = 1\n" + "é\n" * (MAX_BYTES // 3) + "token = 1\nend = 2\n")
    shown = await rows(folder, "fs_edit", path="big.py", old_string="end = 2", new_string="end = 3")
    assert shown == ["big.py: too large to show in its place", "-end = 2", "+end = 3"]
    shown = await rows(folder, "fs_edit", path="big.py", old_string="token", new_string="t", replace_all=True)
    assert shown[1:] == ["wherever it is:", "-token", "+t"]


def test_long_texts_with_few_changes_are_compared(folder: Path) -> None:
    old = "".join("}\n" if n % 2 else f"line {n}\n" for n in range(2_000))
    new = old.replace("line 4\n", "line four\n").replace("line 1990\n", "").replace("line 1000\n}\n", "line 1000\n")
    shown = list(changes(old, new))
    assert [line for sign, line in shown if sign == "-"] == ["line 4", "}", "line 1990"]
    assert [line for sign, line in shown if sign == "+"] == ["line four"]
    frequent = list(changes(*("".join(f"{word} {n}\n}}\n" for n in range(200)) for word in ("old", "new"))))
    assert ("-", "}") not in frequent, "a line that is there very often is compared too"
    assert [line for sign, line in shown if sign == "@"] == [
        "@ -2,7 +2,7 @@",
        "@ -999,7 +999,6 @@",
        "@ -1988,7 +1987,6 @@",
    ]


def test_texts_that_are_too_different_are_not_compared() -> None:
    old = "head\n" + "".join(f"{n % 150}\n" for n in range(20_000)) + "tail\n"
    new = "head\n" + "".join(f"{n * 7 % 150 + 1}\n" for n in range(20_000)) + "tail\n"
    (sign, place), *come = changes(old, new)
    assert (sign, place) == ("@", "@ line 2: replaces 20,000 lines with these 20,000, which are too many to compare")
    assert "".join(f"{line}\n" for _, line in come) == new.removeprefix("head\n").removesuffix("tail\n")
    assert {sign for sign, _ in come} == {"+"}


@given(st.lists(st.sampled_from("abc"), max_size=12), st.lists(st.sampled_from("abc"), max_size=12))
def test_a_difference_says_what_difflib_says(old: list[str], new: list[str]) -> None:
    before, after = ("".join(f"{line}\n" for line in lines) for lines in (old, new))
    shown = list(changes(before, after))
    kept = lambda *signs: [line for sign, line in shown if sign in signs]  # noqa: E731
    assert (shown == []) == (old == new)
    assert is_part(kept("-", " "), old)
    assert is_part(kept("+", " "), new)
    assert len(kept("+")) - len(kept("-")) == len(new) - len(old)


def is_part(some: list[str], lines: list[str]) -> bool:
    """Whether some are there in this order."""
    left = iter(lines)
    return all(one in left for one in some)
