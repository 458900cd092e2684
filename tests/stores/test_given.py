"""What an author gives to the kit must hold something, and what it lacks is said in a sentence before any clause."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kode.core.store import MemoryStore, SqliteStore
from kode.core.store.contract import Scan
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store import StoreConformance
from kode.core.testing.conformance.store.author import AT, head, keep

CLOCK = VirtualClock(AT)


class Right(StoreConformance):
    __test__ = False

    def place(self, store: Any) -> Any:
        return partial(SqliteStore, store.path)


class Elapses(Right):
    async def elapse(self, clock: VirtualClock, seconds: float) -> None:
        raise NotImplementedError


class Alone(Right):
    def place(self, store: Any) -> Any:
        return None


class Local(Right):
    def place(self, store: Any) -> Any:
        return lambda clock: SqliteStore(store.path, clock=clock)


class Clockless(Right):
    def place(self, store: Any) -> Any:
        return partial(str, store.path)


class Elsewhere(Right):
    def place(self, store: Any) -> Any:
        return partial(SqliteStore, f"{store.path}-other")


@pytest.mark.parametrize(
    ("case", "clock", "words"),
    [
        (Right, CLOCK, ""),
        (Right, None, "does not follow the fixture `clock`"),
        (Right, VirtualClock(AT), "does not follow the fixture `clock`"),
        (Elapses, None, ""),
        (Alone, CLOCK, ""),
        (Local, CLOCK, "cannot be sent to another process"),
        (Clockless, CLOCK, "cannot be called with clock=clock"),
        (Elsewhere, CLOCK, "does not see what `store` wrote"),
    ],
)
async def test_what_is_wrong_is_said(case: Any, clock: VirtualClock | None, words: str, tmp_path: Path) -> None:
    async with SqliteStore(tmp_path / "a.db", clock=clock, durability="process") as store:
        said = await case()._wrong(store, CLOCK)
        assert words in said
        assert bool(words) == bool(said)
        assert CLOCK.now() == AT
        assert await store.scan("agent", Scan("message", "fixture-check", limit=1)) == []


async def test_a_store_that_holds_agents_is_refused() -> None:
    store = MemoryStore(CLOCK)
    await keep(store, [head()])
    assert "holds agents" in await Alone()._wrong(store, CLOCK)


@pytest.mark.integration
def test_every_clause_says_it(tmp_path: Path) -> None:
    file = tmp_path / "test_it.py"
    file.write_text(
        "import pytest\n"
        "from kode.core.store import MemoryStore\n"
        "from kode.core.testing.conformance.store import StoreConformance\n"
        "class TestIt(StoreConformance):\n"
        "    @pytest.fixture\n"
        "    async def store(self):\n"
        "        yield MemoryStore()\n"
    )
    # -rN, no short summary: whether that repeats the sentence in full depends on the terminal and on the variable CI.
    command = [sys.executable, "-m", "pytest", "-q", "-rN", "-c", "/dev/null", "-k", "test_absent or test_equals"]
    ran = subprocess.run([*command, str(file)], capture_output=True, text=True, timeout=100, cwd=tmp_path)
    sentence = "TestIt is not ready for the kit: the store's `now` does not follow the fixture `clock`"
    errors = re.search(r"(\d+) errors in", ran.stdout)
    assert errors is not None
    assert int(errors[1]) == ran.stdout.count(sentence + "; make") > 2
    assert "passed" not in ran.stdout
