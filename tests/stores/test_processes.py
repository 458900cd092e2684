"""One SQLite file, several real processes: none loses what was acknowledged, also when one is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kode.core.errors import LeaseLostError
from kode.core.store import SqliteStore
from kode.core.store.liveness import holder_name, is_dead
from kode.core.testing.conformance.store import Author

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

# Each worker prints what was acknowledged, line by line; what it printed must be found afterwards.
WORKER = """
import sys
from itertools import count
import anyio
from kode.core.errors import ConflictError, StoreUnavailableError
from kode.core.store import SqliteStore
from kode.core.store.liveness import holder_name
from kode.core.testing.conformance.store.author import Author, item

async def main(path, task, name, times):
    async with SqliteStore(path, busy_timeout_s=60) as store:
        if task == "hold":
            await store.acquire("agent", holder_name(name), 300)
        print("ready", flush=True)
        sys.stdin.readline()
        if task == "enqueue":
            for n in range(times):
                done = await store.enqueue("agent", item(f"{name}-{n}"))
                print(done.position, f"{name}-{n}", flush=True)
        if task in ("commit", "endless"):
            author = Author(store)
            for n in count() if task == "endless" else range(times):
                while True:
                    loaded = await store.load("agent")
                    author.state, author.version, author.seen = loaded.state, loaded.version, loaded.seen
                    try:
                        taken = {i.position: i for i in loaded.inbox}
                        await author.say(f"{name}-{n}", commit_id=f"{name}-{n}", consumed=taken)
                        break
                    except ConflictError:
                        pass
                print(author.state.next_seq - 1, f"{name}-{n}", flush=True)

anyio.run(main, sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
"""


def start(path: Path, task: str, name: str, times: int = 0) -> subprocess.Popen[str]:
    """Start a worker that waits for a line before it works."""
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(path), task, name, str(times)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == "ready\n"
    return worker


def go(*workers: subprocess.Popen[str]) -> None:
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()


async def test_acknowledged_items_and_commits_of_all_processes_are_there(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    async with SqliteStore(path) as store:
        await Author(store).create()
        workers = [
            start(path, "enqueue", "q", 60),
            start(path, "commit", "a", 30),
            start(path, "commit", "b", 30),
        ]
        go(*workers)
        said = [worker.communicate(timeout=60)[0] for worker in workers]
        assert [worker.returncode for worker in workers] == [0, 0, 0]
        positions = [int(line.split()[0]) for line in said[0].splitlines()]
        assert positions == list(range(1, 61))
        loaded = await store.load("agent")
        assert loaded is not None
        waiting = {found.id for found in loaded.inbox}
        for n in range(60):
            # Each is still in the inbox or was consumed, never both and never neither.
            again = await store._read(
                lambda db, n=n: db.execute("SELECT 1 FROM consumed WHERE key = ?", (f"q-{n}",)).fetchone()
            )
            assert (again is not None) is (f"q-{n}" not in waiting)
        page = await store.read_messages("agent", limit=100)
        texts = {m.seq: getattr(m.blocks[0], "text", "") for m in page.items}
        acknowledged = dict(line.split() for out in said[1:] for line in out.splitlines())
        assert {str(seq): text for seq, text in texts.items()} == acknowledged
        assert loaded.version == 61


@pytest.mark.parametrize("after", [1, 20, 60])
async def test_what_was_acknowledged_outlives_a_kill(tmp_path: Path, after: int) -> None:
    path = tmp_path / "x.db"
    async with SqliteStore(path, durability="process") as store:
        await Author(store).create()
    worker = start(path, "endless", "w")
    assert worker.stdout is not None
    go(worker)
    lines = [worker.stdout.readline() for _ in range(after)]
    os.kill(worker.pid, signal.SIGKILL)
    lines += worker.stdout.read().splitlines()  # communicate() would lose what readline() has read ahead
    worker.communicate(timeout=60)
    assert worker.returncode == -signal.SIGKILL
    async with SqliteStore(path) as store:
        loaded = await store.load("agent")
        assert loaded is not None
        whole = [line.split() for line in lines if len(line.split()) == 2]
        texts = [getattr(m.blocks[0], "text", "") for m in (await store.read_messages("agent", limit=10_000)).items]
        assert texts[: len(whole)] == [text for _, text in whole]
        # One more may have landed whose acknowledgement was lost; each is whole.
        assert len(texts) in (len(whole), len(whole) + 1)
        assert (loaded.version, loaded.state.next_seq) == (len(texts) + 1, len(texts))
        assert len((await store.read_events("agent", limit=10_000)).items) == len(texts)


async def test_a_killed_holder_s_lease_is_free_at_once(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    async with SqliteStore(path) as store:
        await Author(store).create()
        worker = start(path, "hold", "w")
        with pytest.raises(LeaseLostError):
            await store.acquire("agent", holder_name("me"), 300)
        held = await store.lease_of("agent")
        assert held is not None
        assert not is_dead(held.holder)
        os.kill(worker.pid, signal.SIGKILL)
        worker.communicate(timeout=60)
        assert is_dead(held.holder)
        lease = await store.acquire("agent", holder_name("me"), 300)
        assert (lease.fence, lease.takes) == (2, 1)
