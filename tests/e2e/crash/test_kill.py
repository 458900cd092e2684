"""Real processes: killed in mid-work and resumed; two that fight over one agent."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from kode.core.kernel.invariants import check, check_history
from kode.core.kernel.message import TextBlock, ToolResultBlock
from kode.core.kernel.toolcall import CallStatus
from kode.core.store.base import Store
from kode.core.store.json import JSONStore
from kode.core.store.open import open_store as store_at
from kode.core.store.sqlite import SqliteStore

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

CHILD = Path(__file__).with_name("child.py")
KILLS = {"sqlite": 9}
STOPS = 4


@pytest.fixture
def anyio_backend() -> str:
    """These processes run on asyncio; what they do is the same on trio, and takes real time."""
    return "asyncio"


@pytest.fixture(params=["sqlite", "json", "postgres"])
def kind(request: pytest.FixtureRequest) -> str:
    """A kind of store, or the URL of one."""
    return str(request.getfixturevalue("postgres_store") if request.param == "postgres" else request.param)


def open_store(kind: str, folder: Path) -> Store:
    if "://" in kind:
        return store_at(kind)
    return JSONStore(folder / "kode") if kind == "json" else SqliteStore(folder / "agents.db")


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[str]]]:
    """Whatever a test starts is gone when it ends."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for child in started:
        if child.poll() is None:
            child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


def start(children: list[subprocess.Popen[str]], *arguments: str) -> subprocess.Popen[str]:
    child = subprocess.Popen([sys.executable, str(CHILD), *arguments], stdout=subprocess.PIPE, text=True)
    children.append(child)
    return child


def read(child: subprocess.Popen[str]) -> list[list[str]]:
    assert child.stdout is not None
    return [line.split() for line in child.stdout.read().splitlines()]


def running(mark: str) -> list[int]:
    """Processes that have this word in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if mark.encode() in words and b"child.py" not in words and state != "Z":
                found.append(int(entry.name))
    return found


async def judge(kind: str, folder: Path, acknowledged: list[str]) -> Counter[str]:
    """Everything acknowledged is there once, nothing happened twice unannounced; says how calls ended."""
    async with open_store(kind, folder) as store:
        loaded = await store.load("a")
        assert loaded is not None
        state = loaded.state
        check(state)
        assert (state.effects, state.calls, loaded.inbox, loaded.lease) == ((), (), (), None)
        history = await everything(store.read_messages)
        found = await everything(store.read_calls)
        cursors = [e.cursor for e in await everything(store.read_events)]
    check_history(history)
    assert cursors == list(range(1, state.next_cursor))
    said = Counter(m.origin for m in history if m.origin and m.origin.startswith("inbox:"))
    assert said == Counter(f"inbox:{id}" for id in acknowledged)
    ledger = Counter((folder / "ledger").read_text().split())
    shown = {b.call: b for m in history for b in m.blocks if isinstance(b, ToolResultBlock)}
    for one in found:
        times = ledger.pop(f"{state.uid}:{one.id}", 0)
        text = "".join(b.text for b in shown[one.id].content if isinstance(b, TextBlock))
        assert times <= 1 or (one.plan.recovery == "retry" and times <= len(one.attempts)), one
        if one.status is CallStatus.COMPLETED:
            assert times >= 1, one
        else:
            assert one.status is CallStatus.SEALED, one
            assert "unknown" in text if times else True, text
    assert not ledger, "an effect of a call that nobody knows"
    return Counter(one.status.value for one in found)


async def everything(page: Any) -> list[Any]:
    """All pages of a reader."""
    items: list[Any] = []
    found = await page("a")
    items += found.items
    while found.next is not None:
        found = await page("a", after=found.next)
        items += found.items
    return items


@pytest.mark.skipif(sys.platform != "linux", reason="looks for orphans in /proc")
async def test_killed_at_random_moments(kind: str, tmp_path: Path, children: list[subprocess.Popen[str]]) -> None:
    chance = random.Random(20)
    far = "://" in kind  # there it first waits for the lease of the one before
    nap = f"{'0.7' if far else '0.2'}{os.getpid():08d}"  # long, and in no other process's command line
    acknowledged: list[str] = []
    kills = KILLS.get(kind, 6)
    for n in range(kills):
        child = start(children, "once", kind, str(tmp_path), f"m{n}", nap)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        # One comes anywhere, one behind the message, one while a command runs: nothing is left to how busy it is here.
        if n % 3 > 0:
            assert child.stdout.readline() == f"sent m{n}\n"
            acknowledged.append(f"m{n}")
        if n % 3 == 2:
            while not running(nap) and child.poll() is None:  # noqa: ASYNC110 - a process tells nobody
                await anyio.sleep(0.01)
        await anyio.sleep(chance.uniform(0.0, (1.6 if far else 0.5) if n % 3 < 2 else 0.3))
        child.kill()
        lines = read(child)
        child.wait()
        acknowledged += [line[1] for line in lines if line[0] == "sent"]
        end = time.monotonic() + 20
        while running(nap) and time.monotonic() < end:  # noqa: ASYNC110 - another process ends
            await anyio.sleep(0.02)
        assert running(nap) == [], "a command outlived its owner"
    last = start(children, "once", kind, str(tmp_path), "last", nap)
    lines = read(last)
    assert last.wait() == 0
    assert lines[-1] == ["done"]
    assert len(acknowledged) > kills / 3
    # What was sent but not acknowledged may be there or not; ask which.
    async with open_store(kind, tmp_path) as store:
        taken = {f"m{n}" for n in range(kills) if await store.consumed_by("a", f"m{n}") is not None}
    assert taken >= set(acknowledged)
    ends = await judge(kind, tmp_path, [*taken, "last"])
    assert ends["SEALED"] > 0
    assert ends["COMPLETED"] > 0
    assert running(nap) == []


async def driving(kind: str, folder: Path, fighters: list[subprocess.Popen[str]]) -> subprocess.Popen[str]:
    """Who has the lease just now: a busy machine leaves few rounds, so none is left to chance."""
    async with open_store(kind, folder) as store:
        while True:
            lease = await store.lease_of("a") if await store.exists("a") else None
            assert any(one.poll() is None for one in fighters)
            for one in fighters:
                if lease is not None and f"#{one.pid}#" in lease.holder:
                    return one


async def test_two_processes_fight_over_one_agent(
    kind: str, tmp_path: Path, children: list[subprocess.Popen[str]]
) -> None:
    fighters = [start(children, "fight", kind, str(tmp_path), name) for name in "ab"]
    chance = random.Random(3)
    await anyio.sleep(1.0)
    for _ in range(STOPS):
        one = await driving(kind, tmp_path, fighters)
        await anyio.sleep(chance.uniform(0.0, 0.01))  # not always right behind the look, which takes a file's lock
        one.send_signal(signal.SIGSTOP)
        await anyio.sleep(1.25)  # its lease runs out, and the other takes over
        one.send_signal(signal.SIGCONT)
        await anyio.sleep(chance.uniform(0.05, 0.3))
    (tmp_path / "over").touch()
    told = [read(one) for one in fighters]
    assert [one.wait() for one in fighters] == [0, 0]
    last = start(children, "fight", kind, str(tmp_path), "c")
    told.append(read(last))
    assert last.wait() == 0
    lines = [line for one in told for line in one]
    acknowledged = [line[1] for line in lines if line[0] == "sent"]
    losses = Counter(line[1] for line in lines if line[0] == "lost")
    assert set(losses) <= {"ConflictError", "FencedError", "LeaseLostError"}
    thrown_out = [line for line in lines if line[0] == "lost" and line[2] != "held"]
    assert thrown_out, "nobody was ever taken over while driving"
    assert all(any(line[0] == "drove" for line in one) for one in told[:2]), "one never got its turn"
    await judge(kind, tmp_path, acknowledged)
