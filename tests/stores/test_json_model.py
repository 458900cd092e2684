"""Memory and JSON give the same answers to the same primitives, through rolls, other stores and new processes."""

from __future__ import annotations

import runpy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kode.core.store import MemoryStore
from kode.core.store.json import JSONStore, folder, journal, lines
from kode.core.store.json.folder import Folder

T = TypeVar("T")
MODEL = runpy.run_path(str(Path(__file__).with_name("test_model.py")))


class OneFolder(JSONStore):
    """Keeps all agents in one folder: the model's writes touch several agents at once."""

    def _use(self, agent_id: str, work: Callable[[Folder], T]) -> T:
        return super()._use("all", work)

    def _lane(self, agent_id: str) -> Any:
        return super()._lane("all")


@pytest.fixture(autouse=True, scope="module")
def rolling() -> Any:
    patch = pytest.MonkeyPatch()
    patch.setattr(folder, "is_long", lambda index: index.end > index.begun + 400)
    patch.setattr(journal, "GONE", 2)
    patch.setattr(journal, "LIVE", 20)
    patch.setattr(lines, "LARGE", 2)  # many bodies lie apart
    yield
    patch.undo()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(st.tuples(MODEL["STEPS"], st.sampled_from("aaabbn")), min_size=3, max_size=25))
def test_memory_and_json_agree(steps: list[tuple[Any, str]]) -> None:
    async def compare() -> None:
        with tempfile.TemporaryDirectory() as root:
            memory = MemoryStore()
            stores = {name: OneFolder(root, durability="process") for name in "ab"}
            opened = list(stores.values())
            for n, (step, who) in enumerate(steps):
                if who == "n":  # as a process that has just started
                    stores["a"] = OneFolder(root, durability="process")
                    opened.append(stores["a"])
                assert await step(memory) == await step(stores.get(who, stores["a"])), n
            for store in opened:
                await store.close()

    anyio.run(compare)
