"""What is measured is true, and what is not asked for costs nothing."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from kode.core.errors import ConflictError, StoreUnavailableError, UsageError
from kode.core.store import MemoryStore, SqliteStore, Store
from kode.core.store.support.metrics import EDGES, MEASURED, Gauge
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store.author import AT, Author, item
from kode.core.testing.faulty import Fault, FaultyStore


async def test_calls_errors_and_times_are_counted(store: Store) -> None:
    with pytest.raises(UsageError) as error:
        store.metrics()
    assert error.value.code == "not_measured"
    author = Author(store, "a")
    await author.create()  # before: not counted
    store.measure()
    store.measure()
    assert (store.metrics().since, store.metrics().gauges) == (AT, {})
    for n in range(3):
        await author.say(str(n))
    with pytest.raises(ConflictError):
        await store.commit(author.make(version=1))
    await store.enqueue("a", item("i"))
    await store.load("a")
    gauges = store.metrics().gauges
    assert (gauges["commit"].calls, dict(gauges["commit"].errors)) == (4, {"conflict": 1})
    assert (gauges["enqueue"].calls, gauges["append_inbox"].calls, gauges["load"].calls) == (1, 1, 1)
    assert gauges["look_up"].calls >= 1
    assert sum(gauges["commit"].buckets) == 4
    await author.say("later")
    assert gauges["commit"].calls == 4  # what was given is of that moment
    assert store.metrics().gauges["commit"].calls == 5


async def test_times_are_told_by_the_clock(clock: VirtualClock) -> None:
    inner = MemoryStore(clock)
    store = FaultyStore(
        inner,
        Fault("get", "delay", nth=1, seconds=0.003),
        Fault("get", "delay", nth=2, seconds=200.0),
        Fault("get", "fail", nth=3),
        Fault("get", "hang", nth=5),
        clock=clock,
    )
    store.measure()

    async def ask() -> None:
        with anyio.move_on_after(0.05 if store.calls["get"] == 4 else 30):
            try:
                await store.get("a", [])
            except StoreUnavailableError:
                pass

    for seconds in (0.003, 200.0, 0.0, 0.0, 0.0):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            if seconds:
                await clock.advance(seconds)
    gauge = store.metrics().gauges["get"]
    assert (gauge.calls, dict(gauge.errors)) == (5, {"fault": 1, "cancelled": 1})
    assert gauge.seconds == pytest.approx(200.003)
    assert gauge.longest == pytest.approx(200.0)
    assert (gauge.buckets[0], gauge.buckets[EDGES.index(0.005)], gauge.buckets[-1]) == (3, 1, 1)
    assert (gauge.quantile(0.5), gauge.quantile(0.8), gauge.quantile(1.0)) == (0.00001, 0.005, gauge.longest)
    assert Gauge().quantile(0.5) == 0.0


async def test_one_object_is_measured_and_no_other(tmp_path: Path, clock: VirtualClock) -> None:
    measured, plain = MemoryStore(clock), MemoryStore(clock)
    kind = type(plain)
    measured.measure()
    assert (type(plain), type(measured).__name__) == (kind, "MemoryStore")
    assert isinstance(measured, MemoryStore)
    assert type(plain).get is MemoryStore.get
    again = MemoryStore(clock)
    again.measure()
    assert type(again) is type(measured)
    async with SqliteStore(tmp_path / "a.db", clock=clock) as store:
        store.measure()
        await Author(store, "a").create()
        assert await store.query_agents() == await store.query_agents()
        assert store.metrics().gauges["select"].calls == 2


def test_every_measured_name_is_a_method() -> None:
    assert [name for name in MEASURED if not callable(getattr(Store, name, None))] == []
