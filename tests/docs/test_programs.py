"""Every Python block of every page runs: here, or where this file says.

A block that is followed by `prints` and a block of text is a program and prints just that; one that is not must print
nothing. A page whose blocks are something else (pieces of a file, a class that a test needs) names the test that runs
them in `ELSEWHERE`, and is read there as it stands.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```$(?:\n\nprints\n\n```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
OPENED = re.compile(r"^ *```+ *(?:python|py|pycon)\b", re.MULTILINE)

ELSEWHERE = {
    "README.md": "tests/cli/test_readme.py",
    "docs/getting-started.md": "tests/cli/test_readme.py",
    "docs/guides/conformance.md": "tests/docs/test_kits.py",
    "docs/guides/models.md": "tests/core/provider/test_openai_guide.py",
    "docs/guides/move-stores.md": "tests/stores/predecessor/test_import.py",
    "docs/guides/sandbox.md": "tests/docs/test_kits.py",
    "docs/guides/serverless.md": "tests/examples/test_serverless_guide.py",
    "docs/guides/stores.md": "tests/core/store/test_guide.py",
    "docs/guides/write-a-store.md": "tests/stores/test_guide.py",
    "docs/internals/json-store.md": "tests/stores/test_json_page.py",
    "packages/kode-store-postgres/README.md": "tests/stores/postgres/test_readme.py",
}
# Pages whose blocks speak to a service that no test can reach: their imports run and the rest is only compiled. The
# same calls run in tests/stores/supabase, against a stand-in.
OUT_OF_REACH = ["docs/guides/supabase.md", "packages/kode-store-supabase/README.md"]

PAGES = {
    page.relative_to(ROOT).as_posix(): page.read_text()
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("packages/*/*.md")]
}
HERE = sorted(name for name, text in PAGES.items() if BLOCK.search(text) and name not in {*ELSEWHERE, *OUT_OF_REACH})


def ran(programs: list[str], folder: Path) -> list[str]:
    """Run them in one process, for starting Python is dearer than any of them; give what each printed."""
    each = (f"exec(compile({one!r}, 'block {n}', 'exec'), {{}})" for n, one in enumerate(programs))
    joined = "\nprint('----')\n".join(each)
    path = [str(ROOT / "docs/examples"), *filter(None, [os.environ.get("PYTHONPATH")])]
    where = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    command = [sys.executable, "-W", "error", "-c", joined]
    process = subprocess.run(command, cwd=folder, env=where, capture_output=True, text=True, check=False, timeout=60)
    assert (process.stderr, process.returncode) == ("", 0)
    return process.stdout.split("----\n")


def lines(text: str) -> list[str]:
    """Its lines, without the blanks at their ends that no page keeps."""
    return [line.rstrip() for line in text.splitlines()]


@pytest.mark.parametrize("name", sorted(PAGES))
def test_no_block_is_missed(name: str) -> None:
    text = PAGES[name]
    assert len(OPENED.findall(text)) == len(BLOCK.findall(text)), (
        "open a block with ```python at the beginning of a line"
    )


@pytest.mark.parametrize(("name", "test"), sorted(ELSEWHERE.items()))
def test_a_page_that_runs_elsewhere_is_read_there(name: str, test: str) -> None:
    assert BLOCK.search(PAGES[name]), "it has no block; take it off the list"
    assert name.removeprefix("docs/").rpartition("/")[2] in (ROOT / test).read_text()


@pytest.mark.integration
@pytest.mark.parametrize("name", HERE)
def test_the_programs_print_what_the_page_says(name: str, tmp_path: Path) -> None:
    blocks = BLOCK.findall(PAGES[name])
    printed = ran([program for program, _ in blocks], tmp_path)
    assert list(map(lines, printed)) == [lines(said) for _, said in blocks]


@pytest.mark.parametrize("name", OUT_OF_REACH)
def test_what_is_out_of_reach_is_python_and_imports_what_there_is(name: str) -> None:
    for program, printed in BLOCK.findall(PAGES[name]):
        assert printed == ""
        compile(program, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        imports = [node for node in ast.parse(program).body if isinstance(node, ast.Import | ast.ImportFrom)]
        exec(compile(ast.Module(imports, []), name, "exec"), {})


def test_a_program_that_fails_or_says_something_else_is_seen(tmp_path: Path) -> None:
    assert ran(["print(1)", "pass"], tmp_path) == ["1\n", ""]
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        ran(["1 / 0"], tmp_path)
