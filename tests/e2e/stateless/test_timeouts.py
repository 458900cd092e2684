"""Requests that run out of time anywhere: each rests in time, and the next ones take it to the right end.

``KODE_TORTURE=1000 pytest tests/e2e/stateless`` for a long run.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import time
from collections import Counter
from pathlib import Path

import anyio
import pytest
from tests.e2e.stateless.world import TEMPLATE, dependencies, open_store

from kode.core.config import Dependencies
from kode.core.errors import StoreUnavailableError
from kode.core.kernel.invariants import check, check_history
from kode.core.kernel.toolcall import CallStatus
from kode.core.runtime.result import RunResult
from kode.core.runtime.stateless import StatelessAgent
from kode.core.store.base import Store
from kode.core.testing.clock import VirtualClock

UNDONE = ("deadline", "queued")
"""It rests, or was not begun."""
MANY = int(os.environ.get("KODE_TORTURE", "40"))


async def judge(store: Store, id: str, result: RunResult, ledger: Counter[str]) -> bool:
    """It came to the right end; whether a call had to be given up on the way."""
    assert (result.status, result.text, result.unfinished) == ("ok", "end go", ())
    loaded = await store.load(id)
    assert loaded is not None
    assert (loaded.state.effects, loaded.state.calls, loaded.inbox, loaded.lease) == ((), (), (), None)
    check(loaded.state)
    history = (await store.read_messages(id, limit=1_000)).items
    check_history(history)
    assert [m.origin for m in history if m.origin and m.origin.startswith("inbox:")] == ["inbox:r"]
    made = (await store.read_calls(id, limit=1_000)).items
    assert Counter(call.tool for call in made) == {"look": 3, "pay": 1}
    for call in made:
        times = ledger[f"{loaded.state.uid}:{call.id}"]
        if call.tool == "look":
            assert call.status is CallStatus.COMPLETED
        elif call.status is CallStatus.COMPLETED:
            assert times == 1
        else:
            assert (call.status, times) in ((CallStatus.SEALED, 0), (CallStatus.SEALED, 1))
    return any(call.status is CallStatus.SEALED for call in made)


def ledger_of(folder: Path) -> Counter[str]:
    file = folder / "ledger"
    return Counter(file.read_text().split()) if file.exists() else Counter()


async def test_at_random_points_of_a_virtual_time(tmp_path: Path) -> None:
    clock, chance = VirtualClock(), random.Random(5)
    async with open_store("memory", tmp_path, clock=clock) as store:
        deps = dependencies(store, tmp_path, slow_s=2.0, clock=clock)
        rested = sealed = 0
        for n in range(MANY):
            result = await moved(clock, deps, f"a{n}", chance.uniform(0.01, 4.0))
            for _ in range(40):
                if result.status not in UNDONE:
                    break
                rested += 1
                result = await moved(clock, deps, f"a{n}", chance.uniform(0.01, 4.0), known=True)
            sealed += await judge(store, f"a{n}", result, ledger_of(tmp_path))
        assert clock.waiting == 0
    assert rested > MANY
    assert MANY / 20 < sealed < MANY


async def moved(
    clock: VirtualClock, deps: Dependencies, id: str, timeout_s: float, *, known: bool = False
) -> RunResult:
    """Serve one request while time passes."""
    began, results = clock.monotonic(), []

    async def serve() -> None:
        results.append(await served(id, known, timeout_s, deps))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        await clock.advance(0)
        while not results:
            await clock.advance(clock.next_in or 0)
    assert clock.monotonic() - began <= timeout_s + 0.001
    return results[0]


async def served(id: str, known: bool, timeout_s: float, deps: Dependencies) -> RunResult:
    """The first time it is a message, then it is gone on with."""
    if known:
        return await StatelessAgent.continue_(id, timeout_s=timeout_s, dependencies=deps)
    return await StatelessAgent.run(
        id, "go", template_id=TEMPLATE, request_id="r", timeout_s=timeout_s, dependencies=deps
    )


@pytest.mark.integration
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("kind", ["sqlite", "json", "postgres"])
async def test_at_random_points_of_real_time(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if kind == "postgres":
        kind = request.getfixturevalue("postgres_store")
    chance, late, rested = random.Random(7), [], 0
    gc.collect()  # what other tests left behind
    files, tasks_before = open_files(), len(asyncio.all_tasks())
    async with open_store(kind, tmp_path) as store:
        deps = dependencies(store, tmp_path, slow_s=0.04)
        limit = anyio.CapacityLimiter(4)

        async def one(n: int) -> None:
            nonlocal rested
            async with limit:
                known, result = False, None
                while result is None or result.status in UNDONE:
                    timeout_s = chance.uniform(0.005, 0.2)
                    began = time.monotonic()
                    try:
                        result = await served(f"a{n}", known, timeout_s, deps)
                        known = True
                    except StoreUnavailableError:
                        pass  # it took all of the time to open the agent, or to enqueue
                    late.append(time.monotonic() - began - timeout_s)
                    rested += result is None or result.status in UNDONE
                await judge(store, f"a{n}", result, ledger_of(tmp_path))

        async with anyio.create_task_group() as tasks:
            for n in range(MANY):
                tasks.start_soon(one, n)
    late.sort()
    print(
        f"{kind}: {len(late)} requests, {rested} rested, latest {late[-1]:.3f} s, median {late[len(late) // 2]:.3f} s"
    )
    assert rested > MANY / 4
    assert late[len(late) // 2] < 2.0, "they take longer than they may"
    assert late[-1] < 20.0, "a request hung"
    assert open_files() <= files, "something was left open"
    assert len(asyncio.all_tasks()) <= tasks_before, "something was left running"


def open_files() -> int:
    """Count those of this process, where the system tells."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0
