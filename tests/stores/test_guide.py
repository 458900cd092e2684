"""docs/guides/write-a-store.md: its table is the contract's, its code runs, its store keeps the contract."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import AsyncIterator, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from kode.core.store import Appended, Condition, MemoryStore, Records, Store, open_store
from kode.core.store.records import COLUMNS
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store import GROUPS
from kode.core.testing.conformance.store.author import Place, head, keep, row

GUIDE = (Path(__file__).parents[2] / "docs/guides/write-a-store.md").read_text()
PYTHON: list[str] = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
PROSE = re.sub(r"^```.*?^```$", "", GUIDE, flags=re.MULTILINE | re.DOTALL)
TOML = re.findall(r"^```toml\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
RECORD, KEYS, TOUR, STORE, TEST, FASTER = PYTHON


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The guide's files in a folder, which is on the path."""
    folder = tmp_path_factory.mktemp("guide")
    (folder / "kode_store_pairs.py").write_text(STORE)
    (folder / "faster_pairs.py").write_text(FASTER)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    for name in ("kode_store_pairs", "faster_pairs"):
        sys.modules.pop(name, None)


# ---- what it says ----------------------------------------------------------------------------------------------


def test_the_table_of_kinds_is_that_of_the_contract() -> None:
    found = dict(re.findall(r"^\| (\w+) \| [^|]+ \| [^|]+ \| (\w+: .*) \|$", GUIDE, re.MULTILINE))
    assert found == {kind: ", ".join(f"{name}: {sort}" for name, sort in names) for kind, names in COLUMNS.items()}


def test_every_primitive_and_every_outcome_is_told_of() -> None:
    headings = "\n".join(re.findall(r"^### .*$", GUIDE, re.MULTILINE))
    missing = [name for name in Records.__abstractmethods__ if not re.search(rf"`{name}\(", headings)]
    assert missing == []
    outcomes = re.findall(r'"(\w+)"', Appended.__annotations__["outcome"])
    assert [outcome for outcome in outcomes if f'Appended("{outcome}"' not in PROSE] == []


def test_its_private_names_are_none_of_the_base(written: Path) -> None:
    own = {name for name in vars(import_module("kode_store_pairs").PairStore) if not name.startswith("__")}
    replaced = {name for name in own & set(dir(Store)) if not name.startswith("_abc")}
    assert replaced == {*Records.__abstractmethods__, "from_url", "same_host"}


@pytest.mark.parametrize("block", [RECORD, KEYS])
def test_a_small_example_is_right(block: str) -> None:
    exec(compile(block, "guide", "exec"), {})


def test_the_entry_point_names_the_class(written: Path) -> None:
    (made,) = TOML
    (name, value) = tomllib.loads(made)["project"]["entry-points"]["kode.store"].popitem()
    module, _, kind = value.partition(":")
    assert (name, getattr(import_module(module), kind).__name__) == ("pairs", "PairStore")


# ---- what it shows ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["memory:", "sqlite:///x.db?durability=process", "pairs"])
async def test_the_tour(url: str, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made: dict[str, Any] = {}
    exec(compile(TOUR, "guide", "exec"), made)
    async with import_module("kode_store_pairs").PairStore("x.db") if url == "pairs" else open_store(url) as store:
        await made["tour"](store)


class _Asyncio:
    @pytest.fixture
    def anyio_backend(self) -> str:
        """Once is enough: the guide's store knows no event loop."""
        return "asyncio"


# What each of its methods does; its whole test, on both event loops, takes half a minute.
CORE = ("lifecycle", "paging", "compare-and-swap", "inbox", "due", "isolation", "listing", "processes")
REST = ("repeat", "lease", "cancellation")


class TestTheStore(_Asyncio, *(GROUPS[name].contract for name in CORE)):  # type: ignore[misc]
    @pytest.fixture
    async def store(self, clock: VirtualClock, tmp_path: Path, written: Path) -> AsyncIterator[Store]:
        kind = import_module("kode_store_pairs").PairStore
        async with kind(tmp_path / "x.db", durability="process", clock=clock) as store:
            yield store

    def place(self, store: Any) -> Place:
        kind: Any = type(store)
        return partial(kind, store.path, durability="process")


class TestTheFasterStore(_Asyncio, *(GROUPS[name].contract for name in REST)):  # type: ignore[misc]
    @pytest.fixture
    async def store(self, clock: VirtualClock, tmp_path: Path, written: Path) -> AsyncIterator[Store]:
        kind = import_module("faster_pairs").FasterPairStore
        async with kind(tmp_path / "x.db", durability="process", clock=clock) as store:
            yield store


async def test_the_faster_store_looks(written: Path, tmp_path: Path) -> None:
    # The kit cannot ask for this: a store that does not look is right, too.
    async with import_module("faster_pairs").FasterPairStore(tmp_path / "x.db") as store:
        items = [row("inbox", f"1{n}", id=f"{n}", kind="message") for n in range(1, 5)]
        await keep(store, [head(), *items])
        gone = [items[0].address]
        assert await store.apply_and_look("a", (), (), gone, uid="u", after="12") == (None, items[2:])
        absent = [Condition("absent", items[3].address)]
        assert await store.apply_and_look("a", absent, (), (), uid="u", after="12") == (0, [])


def test_its_own_test_runs_the_whole_kit(written: Path) -> None:
    made: dict[str, Any] = {}
    exec(compile(TEST, "guide", "exec"), made)
    assert [group.name for group in GROUPS.values() if not issubclass(made["TestPairStore"], group.contract)] == []
    store: Any = import_module("kode_store_pairs").PairStore("x.db")
    place: Any = made["TestPairStore"]().place(store)
    again = place(clock=MemoryStore()._clock)
    assert (type(again), again.path) == (type(store), "x.db")
