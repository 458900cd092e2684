"""docs/guides/write-a-store.md: its table is the contract's, its code is that of files that are tested, and runs."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import AsyncIterator, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from kode.core.store import Appended, Records, Store, sqlite
from kode.core.store.records import COLUMNS
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store import GROUPS

DOCS = Path(__file__).parents[2] / "docs"
GUIDE = (DOCS / "guides/write-a-store.md").read_text()
EXAMPLE = (DOCS / "examples/lmdb_store.py").read_text()
PYTHON: list[str] = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
PROSE = re.sub(r"^```.*?^```$", "", GUIDE, flags=re.MULTILINE | re.DOTALL)
TOML = re.findall(r"^```toml\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
SQL = (Path(sqlite.__file__).parent / "rows.py").read_text()
PIECES = [block for block in PYTHON if block in EXAMPLE]
RECORD, KEYS, *STATEMENTS, TEST = [block for block in PYTHON if block not in EXAMPLE]
MODULES = ("kode_store_lmdb", "test_lmdb")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The guide's wheel in a folder, which is on the path."""
    folder = tmp_path_factory.mktemp("guide")
    for name, text in zip(MODULES, (EXAMPLE, TEST), strict=True):
        (folder / f"{name}.py").write_text(text)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    for name in MODULES:
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


def test_the_pieces_are_the_example_in_its_order() -> None:
    at = [EXAMPLE.find(piece) for piece in PIECES]
    assert at == sorted(at)
    # Only imports and names of the module are left to the file.
    left = EXAMPLE
    for piece in PIECES:
        left = left.replace(piece, "")
    assert re.findall(r"def (\w+)|class (\w+)", left) == []


def test_the_statements_are_those_of_sqlite() -> None:
    assert len(STATEMENTS) == 2
    assert [block for block in STATEMENTS if block not in SQL] == []


def test_the_example_is_as_long_as_the_guide_says() -> None:
    (said,) = re.findall(r"a store of (\d+) lines", GUIDE)
    code = re.sub(r'"""[^"]*"""', "", EXAMPLE)
    assert abs(sum(1 for line in code.splitlines() if line.strip()) - int(said)) < 10


def test_its_private_names_are_none_of_the_base(written: Path) -> None:
    own = {name for name in vars(import_module("kode_store_lmdb").LmdbStore) if not name.startswith("__")}
    replaced = {name for name in own & set(dir(Store)) if not name.startswith("_abc")}
    assert replaced == {"durability", "from_url", "same_host"}


@pytest.mark.parametrize("block", [RECORD, KEYS])
def test_a_small_example_is_right(block: str) -> None:
    exec(compile(block, "guide", "exec"), {})


def test_the_entry_point_names_the_class(written: Path) -> None:
    (made,) = TOML
    (name, value) = tomllib.loads(made)["project"]["entry-points"]["kode.store"].popitem()
    module, _, kind = value.partition(":")
    assert (name, getattr(import_module(module), kind).__name__) == ("lmdb", "LmdbStore")


# ---- what it shows; the store itself is held to the whole contract in test_example.py -----------------------------


def test_its_own_test_runs_the_whole_kit(written: Path, tmp_path: Path) -> None:
    case: Any = import_module("test_lmdb").TestLmdbStore
    assert {group.contract for group in GROUPS.values()} <= set(case.__mro__)
    clock = VirtualClock()
    kind: Any = import_module("kode_store_lmdb").LmdbStore
    store = kind(tmp_path / "x.mdb")
    again = case().place(store)(clock=clock)
    assert (type(again), again.path, again.clock) == (kind, store.path, clock)


class _Asyncio:
    @pytest.fixture
    def anyio_backend(self) -> str:
        """Once is enough: the guide's store knows no event loop."""
        return "asyncio"


class TestSpoiling(_Asyncio, GROUPS["corruption"].contract):  # type: ignore[misc, name-defined]
    @pytest.fixture
    async def store(self, clock: VirtualClock, tmp_path: Path, written: Path) -> AsyncIterator[Store]:
        async with import_module("kode_store_lmdb").LmdbStore(tmp_path / "x.mdb", clock=clock) as store:
            yield store

    async def spoil(self, store: Any, key: Any) -> bool:
        return await import_module("test_lmdb").TestLmdbStore.spoil(self, store, key)

    async def make_newer(self, store: Any) -> bool:
        return await import_module("test_lmdb").TestLmdbStore.make_newer(self, store)
