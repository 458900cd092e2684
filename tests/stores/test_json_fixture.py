"""A folder of version 1 as it lies on people's disks: what is in it must be found for ever.

``scripts/make-fixtures-json`` writes ``tests/fixtures/v1/json`` with ``make``. Its agents are those of
``test_fixture.py``; one of them has a closed journal, one that begins with several
lines, and a body in a file of its own.
"""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest

from kode.core.store import Key, MemoryStore, Store
from kode.core.store.json import JSONStore, folder, journal
from kode.core.store.records import COLUMNS
from kode.core.testing.clock import VirtualClock

pytestmark = pytest.mark.anyio

SHARED: dict[str, Any] = runpy.run_path(str(Path(__file__).with_name("test_fixture.py")))
PLACE = Path(__file__).parents[1] / "fixtures/v1/json"
FULL = "agents/coder-1"
BINARY = bytes(range(256)) * 8


async def write(store: Store) -> None:
    """Store the agents of the fixture."""
    await SHARED["write"](store)
    await store.put_blob(FULL, BINARY)


async def make(path: Path) -> None:
    """Write the fixture."""
    async with JSONStore(path, clock=SHARED["clock"]()) as store:
        await write(store)
        (header,) = await store.get(FULL, [Key("header", "", FULL)])
        assert header is not None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(folder, "is_long", lambda index: True)
            patch.setattr(journal, "PORTION", 600)
            await store.apply(FULL, (), [header], ())
        # Behind the journal's beginning a line as any other.
        await store.apply(FULL, (), [header], ())


def files(path: Path) -> dict[str, bytes]:
    return {str(one.relative_to(path)): one.read_bytes() for one in path.rglob("*") if one.is_file()}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(PLACE, tmp_path / "kode"))


async def test_all_records_are_read_as_they_were_meant(copy: Path) -> None:
    meant = MemoryStore(SHARED["clock"]())
    await write(meant)
    before = files(copy)
    async with JSONStore(copy, clock=VirtualClock(await meant.now())) as stored:
        found = await SHARED["raw"](stored)
        assert found == await SHARED["raw"](meant)
        assert {record.kind for record in found} == set(COLUMNS)
        assert await stored.list_agents() == await meant.list_agents()
        assert files(copy) == before, "who only reads changes nothing"
        for info in await stored.list_agents():
            id = info.agent_id
            assert await SHARED["everything"](stored, id) == await SHARED["everything"](meant, id)


def test_it_holds_every_kind_of_file(copy: Path) -> None:
    names = {path.name if path.suffix == "" else path.suffix for path in copy.rglob("*") if path.is_file()}
    assert names == {"lock", "journal", ".segment", ".index", ".body", ".json"}
    lines = [json.loads(line) for line in (copy / "agents/agents%2fcoder-1/journal").read_bytes().splitlines()]
    assert sum("file" in line[2] for line in lines) > 1
    assert sum("segments" in line[2] for line in lines) == 1
    assert "file" not in lines[-1][2]


async def test_work_goes_on_where_it_stopped(copy: Path) -> None:
    async with JSONStore(copy, clock=VirtualClock(SHARED["AT"] + 10**15)) as stored:
        assert await stored.sweep() == 1
        assert await stored.load("staged") is not None
        lease = await stored.acquire(FULL, "next", 30)
        assert (lease.fence, lease.takes, lease.version) == (4, 3, 2)
        assert (await stored.enqueue(FULL, SHARED["VALUES"]["item"]("resolve"))).duplicate
        await stored.fork(FULL, "fork", new_uid="u-fork", at="snap-1")
        await stored.delete(FULL, force=True)
        assert [info.agent_id for info in await stored.list_agents()] == ["fork", "paused", "staged"]
