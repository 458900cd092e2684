"""`kill -9` at any moment of a copy: what shows in the target is whole and equal, and the next copy goes on."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import pytest
from tests.stores.copying.agents import fill

from kode.core.store import JSONStore, open_store
from kode.core.store.contract import Scan
from kode.core.store.copying import copy_store, verify_copy

pytestmark = [pytest.mark.integration, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

AGENTS = 6
# One process that forks, for starting an interpreter per kill would take most of the time. It holds no threads itself.
SCRIPT = """
import os, random, shutil, signal, sys
import anyio
from kode.core.store import open_store
from kode.core.store.copying import copy_store, verify_copy

source, target, path, kills, seed = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])

async def copy(out):
    async with open_store(source) as one, open_store(target) as other:
        await copy_store(one, other, concurrency=3, on_progress=lambda progress: os.write(out, b"."))

async def whole(out):
    async with open_store(source) as one, open_store(target) as other:
        shown = [info.agent_id for info in await other.list_agents()]
        report = await verify_copy(one, other, agents=shown)
        assert report.ok, report.problems

def forked(work):
    out_of, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(out_of)
        try:
            anyio.run(work, into)
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    os.close(into)
    return pid, out_of

chance = random.Random(seed)
killed = 0
for turn in range(kills):
    if turn % 4 == 0 and os.path.exists(path):
        shutil.rmtree(path)
    pid, told = forked(copy)
    for _ in range(chance.randrange(1, 40)):
        if not os.read(told, 1):
            break
    os.kill(pid, signal.SIGKILL)
    killed += os.waitpid(pid, 0)[1] == signal.SIGKILL
    os.close(told)
    if turn % 4 == 3:
        pid, told = forked(whole)
        assert os.waitpid(pid, 0)[1] == 0, "what shows in the target is not what is in the source"
        os.close(told)
print(killed)
"""


@pytest.mark.parametrize(("kind", "kills"), [("sqlite", 20), ("json", 8)])
async def test_killed_copies_go_on(kind: str, kills: int, tmp_path: Path) -> None:
    source = f"json:{tmp_path}/from?durability=process"
    folder = tmp_path / "to"
    folder.mkdir()
    there = f"sqlite:///{folder}/a.db" if kind == "sqlite" else f"json:{folder}"
    target = f"{there}?durability=process"
    async with JSONStore(tmp_path / "from", durability="process") as store:
        for n in range(AGENTS):
            await fill(store, f"team/{n}", messages=30 * n)
            await store.put_blob(f"team/{n}", bytes([n]) * 300_000, "x/y")
    command = [sys.executable, "-c", SCRIPT, source, target, str(folder), str(kills), "5"]
    done = await anyio.run_process(command, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert int(done.stdout) >= kills // 2
    async with open_store(source) as one, open_store(target) as other:
        report = await copy_store(one, other)
        assert report.ok
        assert sum(report.counts.values()) == AGENTS
        assert (await verify_copy(one, other)).counts == {"same": AGENTS}
        assert await other.scan("", Scan("staged", "", limit=9)) == []
