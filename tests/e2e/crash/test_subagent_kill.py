"""Two real processes with pools over one store: parents and sub-agents wherever they fall, and kill -9 at random."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import anyio
import pytest

from kode.core import Agent, AgentConfig, Dependencies
from kode.core.kernel.invariants import check, check_history
from kode.core.kernel.toolcall import CallStatus

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

PROGRAM = Path(__file__).with_name("family.py")
PARENTS = ("a", "b", "c")
KILLS = 5


@pytest.fixture
def anyio_backend() -> str:
    """These processes run on asyncio; what they do is the same on trio, and takes real time."""
    return "asyncio"


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Whatever a test starts is gone when it ends."""
    found: list[subprocess.Popen[str]] = []
    yield found
    for one in found:
        one.kill()
        one.wait()
        if one.stdout is not None:
            one.stdout.close()


def start(started: list[subprocess.Popen[str]], folder: Path) -> subprocess.Popen[str]:
    one = subprocess.Popen([sys.executable, str(PROGRAM), str(folder)], stdout=subprocess.PIPE, text=True)
    started.append(one)
    return one


def program() -> Any:
    spec = spec_from_file_location("family", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_killed_pools_lose_no_sub_agent_and_start_none_twice(
    tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    chance = random.Random(6)
    found = program()
    deps = found.dependencies(tmp_path)
    async with deps.store:
        for id in PARENTS:
            await (await Agent.create(AgentConfig(found.BOSS, agent_id=id), deps)).send("go")
        living = [start(started, tmp_path) for _ in range(2)]
        for one in living:
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n"
        ledger = tmp_path / "ledger"
        while not ledger.exists():  # noqa: ASYNC110 - another process writes it, and then its tool takes a while
            await anyio.sleep(0.005)
        for kill in range(KILLS):
            for one in living if kill == 0 else [chance.choice(living)]:
                one.kill()
                one.wait()
                living[living.index(one)] = start(started, tmp_path)
            await anyio.sleep(chance.uniform(0.05, 0.3))
        end = time.monotonic() + 25
        while time.monotonic() < end and not await at_rest(deps):  # noqa: ASYNC110 - another process ends
            await anyio.sleep(0.05)
        for one in living:
            one.kill()
            one.wait()
        await judge(deps, Counter((tmp_path / "ledger").read_text().split()))


async def at_rest(deps: Dependencies) -> bool:
    states = [await deps.store.read_state(one.agent_id) for one in await deps.store.list_agents()]
    return all(state.next_run == 2 and state.run is None and not state.effects for state in states)


async def times_resumed(deps: Dependencies, id: str) -> int:
    return sum(e.type == "agent_resumed" for e in (await deps.store.read_events(id, limit=1000)).items)


async def judge(deps: Dependencies, ledger: Counter[str]) -> None:
    listed = {one.agent_id for one in await deps.store.list_agents()}
    resumed = 0
    for id in PARENTS:
        state = await deps.store.read_state(id)
        check(state)
        check_history((await deps.store.read_messages(id)).items)
        (record,) = (await deps.store.read_runs(id)).items
        assert record.stop_reason == "end_turn"
        calls = (await deps.store.read_calls(id)).items
        assert len(calls) == 10
        assert {one.status for one in calls} == {CallStatus.COMPLETED}
        for one in calls:
            child = await deps.store.read_state(f"{state.uid}/{one.id}")
            listed.remove(child.agent_id)
            check(child)
            (work,) = (await deps.store.read_calls(child.agent_id)).items
            times = ledger.pop(f"{child.uid}:{work.id}", 0)
            assert times == 1 if work.status is CallStatus.COMPLETED else times <= 1
            resumed += await times_resumed(deps, child.agent_id)
        resumed += await times_resumed(deps, id)
    assert listed == set(PARENTS)
    assert resumed, "nobody was killed at work"
    assert not ledger
