"""The real clock tells time, the virtual one moves by hand."""

from __future__ import annotations

import time

import anyio
import pytest

from kode.core.clock import Clock, RealClock
from kode.core.testing.clock import VirtualClock

pytestmark = pytest.mark.anyio


async def test_real_clock() -> None:
    clock: Clock = RealClock()
    assert abs(clock.now() - time.time_ns() // 1_000) < 1_000_000
    before = clock.monotonic()
    await clock.sleep(0.001)
    assert 0.001 <= clock.monotonic() - before < 5
    with clock.move_on_after(0.001) as scope:
        await clock.sleep(60)
    assert scope.cancelled_caught
    with pytest.raises(TimeoutError), clock.fail_after(0.001):
        await clock.sleep(60)


async def test_sleepers_wake_in_order_and_may_sleep_again() -> None:
    clock = VirtualClock()
    woke: list[tuple[str, float]] = []

    async def sleeper(name: str, *naps: float) -> None:
        for nap in naps:
            await clock.sleep(nap)
            woke.append((name, clock.monotonic()))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sleeper, "a", 3, 1)
        tasks.start_soon(sleeper, "b", 1, 1, 0)
        tasks.start_soon(sleeper, "c", 10)
        await clock.advance(0.5)
        assert (woke, clock.waiting, clock.next_in) == ([], 3, 0.5)
        await clock.advance(4.5)
        assert woke == [("b", 1), ("b", 2), ("b", 2), ("a", 3), ("a", 4)]
        assert clock.monotonic() == 5
        await clock.advance(5)
    assert woke[-1] == ("c", 10)
    assert (clock.now(), clock.next_in) == (1_700_000_000_000_000 + 10_000_000, None)


async def test_time_outs() -> None:
    clock: Clock = VirtualClock()
    assert isinstance(clock, VirtualClock)
    seen: list[str] = []

    async def moves_on() -> None:
        with clock.move_on_after(2) as scope:
            await clock.sleep(5)
        seen.append(f"moved {scope.cancelled_caught}")

    async def fails() -> None:
        with pytest.raises(TimeoutError), clock.fail_after(1):
            await clock.sleep(5)
        seen.append("failed")

    async def in_time() -> None:
        with clock.fail_after(5), clock.move_on_after(None):
            await clock.sleep(4)
        seen.append("in time")

    async with anyio.create_task_group() as tasks:
        for task in (moves_on, fails, in_time):
            tasks.start_soon(task)
        await clock.advance(10)
        assert seen == ["failed", "moved True", "in time"]
    assert clock.waiting == 0
    with pytest.raises(TimeoutError), clock.fail_after(0):
        await clock.sleep(1)


async def test_a_cancelled_sleeper_leaves_no_alarm() -> None:
    clock = VirtualClock()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.sleep, 5)
        await clock.advance(1)
        tasks.cancel_scope.cancel()
    assert clock.waiting == 0


async def test_what_is_said_may_jump_and_what_is_measured_not() -> None:
    clock = VirtualClock(1_000_000)
    clock.jump(-1)
    assert (clock.now(), clock.monotonic()) == (0, 0)
