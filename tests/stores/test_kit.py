"""The kit itself: its clauses are words, its groups do not get in each other's way, its report can be read."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import pytest

from kode.core.store import SqliteStore
from kode.core.store.contract import Scan
from kode.core.testing.conformance.store import GROUPS, Author, StoreCase, StoreConformance, clauses


def test_each_clause_is_a_line_of_words() -> None:
    assert len(clauses()) >= 200
    assert [clause.name for clause in clauses() if not clause.words.endswith(".")] == []
    assert [name for name, times in Counter(clause.words for clause in clauses()).items() if times > 1] == []


def test_the_whole_is_all_of_its_groups() -> None:
    names = {f"test_{clause.name}" for clause in clauses()}
    assert {name for name in dir(StoreConformance) if name.startswith("test_")} == names
    assert len(names) == len(clauses())


def test_no_group_replaces_what_another_defines() -> None:
    # All of them are bases of one class: a helper that two define would be the wrong one in one of them.
    own = Counter(name for group in GROUPS.values() for name in vars(group.contract) if not name.startswith("__"))
    hooks = {name for name in vars(StoreCase) if not name.startswith("__")} - {"group"}
    assert {name for name, times in own.items() if times > 1} == {"group"}
    assert own.keys() & hooks == set()


# ---- the command ---------------------------------------------------------------------------------------------

RUN = "import sys; from kode.core.testing.conformance.store.command import main; sys.exit(main())"
BROKEN = """
from kode.core.store import MemoryStore
async def due(self, now, limit, after=None):
    return []
MemoryStore.due = due
"""


def run(*arguments: Any, before: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", before + RUN, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


@pytest.mark.integration
def test_a_store_that_keeps_the_contract(tmp_path: Path) -> None:
    done = run("memory:", "--group", "due", "--group", "processes", "--json", tmp_path / "r.json", "--backend", "trio")
    assert (done.returncode, done.stderr) == (0, "")
    assert "17 of 17 hold" in done.stdout
    assert "not asked: only this object has its data" in done.stdout
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["store"], report["verdict"], report["counts"]["failed"]) == ("MemoryStore", "partial", 0)
    assert len(report["clauses"]) == len(GROUPS["due"].clauses) + len(GROUPS["processes"].clauses)


@pytest.mark.integration
def test_a_store_that_breaks_it_is_told_which_clause_and_what_was_seen(tmp_path: Path) -> None:
    done = run("memory:", "--group", "due", "--json", tmp_path / "r.json", before=BROKEN)
    assert done.returncode == 1
    assert "An agent is due from `wake_at` on, to the microsecond" in done.stdout
    assert "| AssertionError: assert [[], [], []] == [['c']" in done.stdout
    assert "Verdict: failed" in done.stdout
    report = json.loads((tmp_path / "r.json").read_text())
    seen = {clause["name"]: clause["seen"] for clause in report["clauses"] if clause["result"] == "failed"}
    assert "at due.py:" in seen["from_its_moment_on"]


@pytest.mark.integration
def test_a_store_at_one_place_is_left_empty_and_one_with_agents_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    url = f"sqlite:///{path}?durability=process"
    done = run(url, "--group", "isolation", "--group", "removal")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert path.exists()

    async def birth() -> None:
        async with SqliteStore(path) as store:
            assert await store.list_agents() == []
            assert await store.scan("", Scan("staged", "", limit=9)) == []
            await Author(store).create()

    anyio.run(birth)
    done = run(url)
    assert (done.returncode, done.stdout) == (2, "")
    assert "The store holds agents" in done.stderr


@pytest.mark.integration
@pytest.mark.parametrize(
    ("arguments", "words"), [(("nowhere://u:secret@h",), "No store is known"), ((), "give the URL")]
)
def test_what_cannot_be_run_is_said_in_a_line(arguments: tuple[str, ...], words: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr


@pytest.mark.integration
def test_the_contract_can_be_read_without_a_store() -> None:
    done = run("--list", "--group", "lease")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, len(GROUPS["lease"].clauses))


def test_without_its_extra_the_command_says_what_to_install(tmp_path: Path) -> None:
    """In an environment that has only what kode-core itself needs."""
    hidden = "import sys; sys.modules['pytest'] = None; import importlib.util as u; find = u.find_spec\n"
    hidden += "u.find_spec = lambda name, *more: None if name == 'pytest' else find(name, *more)\n"
    ran = subprocess.run(
        [sys.executable, "-c", hidden + "from kode.core.testing.conformance.start import main; sys.exit(main())"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 2
    assert ran.stderr == (
        "kode-conformance: not installed: pytest; the kit needs an extra: pip install 'kode-core[testing]'\n"
    )
