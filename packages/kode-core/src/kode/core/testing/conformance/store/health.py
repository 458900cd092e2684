"""The contracts of what a store says of itself: metrics and health."""

from __future__ import annotations

from itertools import count
from typing import Any

import anyio
import pytest

from kode.core.errors import NotFoundError, StoreUnavailableError, UsageError
from kode.core.store.base import Store
from kode.core.store.contract import Scan
from kode.core.store.records import codec
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store.author import (
    Author,
    StoreCase,
    item,
    open_effect,
)

__all__ = ["HealthContract", "MetricsContract"]


class MetricsContract(StoreCase):
    """Numbers of what was asked, true and without a word of what was said."""

    group = "metrics"

    async def test_nothing_is_told_before_measuring_begins(self, store: Store) -> None:
        """`metrics` before `measure` is ``not_measured``; what came before is not counted."""
        with pytest.raises(UsageError) as error:
            store.metrics()
        assert error.value.code == "not_measured"
        await Author(store).create()
        store.measure()
        assert store.metrics().gauges == {}
        await store.load("agent")
        store.measure()
        assert store.metrics().gauges["load"].calls == 1

    async def test_each_call_counts_once(self, store: Store) -> None:
        """So many calls are so many, each method apart; a repeated commit is one call more, and so is a duplicate."""
        store.measure()
        author = Author(store)
        await author.create()
        for n in range(5):
            await author.say(f"{n}")
        assert author.last is not None
        await store.commit(author.last)
        for id in ("a", "b", "a"):
            await store.enqueue("agent", item(id))
        await store.release(await store.acquire("agent", "driver", 30))
        await store.fork("agent", "fork", new_uid="uid-9")
        await store.erase("fork")
        gauges = store.metrics().gauges
        asked = {"commit": 7, "enqueue": 3, "acquire": 1, "release": 1, "fork": 1, "erase": 1}
        assert {name: gauges[name].calls for name in asked} == asked
        assert {name: dict(gauges[name].errors) for name in asked if gauges[name].errors} == {}

    async def test_what_failed_counts_as_a_call_and_by_its_code(self, store: Store) -> None:
        """A call that was refused is a call, and is counted once by the code of its error."""
        store.measure()
        await Author(store).create()
        for _ in range(3):
            with pytest.raises(NotFoundError):
                await store.read_state("nobody")
        await store.read_state("agent")
        with pytest.raises(UsageError):
            await store.enqueue("agent", item("x" * 501))
        gauges = store.metrics().gauges
        assert (gauges["read_state"].calls, dict(gauges["read_state"].errors)) == (4, {"not_found": 3})
        assert (gauges["enqueue"].calls, dict(gauges["enqueue"].errors)) == (1, {"bad_item_id": 1})
        assert gauges["commit"].errors.total() == 0

    async def test_calls_at_once_are_all_counted(self, store: Store) -> None:
        """Of calls that run beside each other each is counted."""
        await Author(store).create()
        store.measure()
        async with anyio.create_task_group() as tasks:
            for n in range(20):
                tasks.start_soon(store.enqueue, "agent", item(f"{n}"))
        assert store.metrics().gauges["enqueue"].calls == 20

    async def test_times_are_those_of_the_clock(self, store: Store) -> None:
        """Every call took time; sum, longest, parts and buckets of it agree with each other."""
        ticks = count()
        told = store.clock.monotonic
        try:
            store.clock.monotonic = lambda: next(ticks) / 1_000  # type: ignore[method-assign]
        except AttributeError:
            pytest.skip("its clock cannot be moved")
        store.measure()
        author = Author(store)
        await author.create()
        for n in range(8):
            await author.say(f"{n}")
        await store.load("agent")
        gauges = store.metrics().gauges
        store.clock.monotonic = told  # type: ignore[method-assign]
        assert {"commit", "load"} <= gauges.keys()
        for name, gauge in gauges.items():
            assert sum(gauge.buckets) == gauge.calls, name
            assert gauge.calls * 0.0009 < gauge.seconds <= gauge.calls * gauge.longest * 1.001, name
            parts = [gauge.quantile(q / 10) for q in range(11)]
            assert parts == sorted(parts), name
            assert 0.0009 < parts[0], name
        assert gauges["commit"].seconds > 0.008

    async def test_what_was_told_is_of_that_moment(self, store: Store) -> None:
        """Numbers that were given do not change afterwards, and counting goes on."""
        await Author(store).create()
        store.measure()
        await store.load("agent")
        before = store.metrics().gauges["load"]
        await store.load("agent")
        now = store.metrics().gauges["load"]
        assert (before.calls, sum(before.buckets), now.calls) == (1, 1, 2)

    async def test_nothing_of_what_was_said_is_in_it(self, store: Store) -> None:
        """Metrics name methods and codes of errors, and nothing of agents or of what they said."""
        store.measure()
        author = Author(store, "secret-agent")
        await author.create()
        await author.say("secret")
        await store.enqueue("secret-agent", item("a", "secret"))
        with pytest.raises(NotFoundError):
            await store.read_state("secret-nobody")
        assert "secret" not in repr(store.metrics())

    async def test_measuring_changes_no_answer(self, store: Store) -> None:
        """A store that measures is still what it was, and answers the same."""
        author = Author(store)
        await author.create()
        await author.say("hi", events=2)
        kind = type(store)
        before = await store.load("agent"), await store.read_events("agent"), await store.query_messages()
        store.measure()
        assert isinstance(store, kind)
        assert (await store.load("agent"), await store.read_events("agent"), await store.query_messages()) == before


class HealthContract(StoreCase):
    """It says truly how it is."""

    group = "health"

    async def test_a_store_that_is_well_says_so(self, store: Store) -> None:
        """A store that works is healthy, and tells its name, format, durability, and how long it took."""
        health = await store.check_health()
        assert (health.healthy, health.problems) == (True, ())
        assert (health.reachable, health.writable) == (True, True)
        assert (health.format, health.durability) == (codec.VERSION, store.durability)
        assert health.store == type(store).__name__
        assert health.read_s is not None
        assert health.write_s is not None
        assert min(health.read_s, health.write_s) >= 0

    async def test_its_agents_are_counted(self, store: Store, clock: VirtualClock) -> None:
        """Agents and those that wait for a driver are counted, up to `count_to`."""
        for n in range(3):
            effects = (open_effect(),) if n else ()
            await Author(store, f"a{n}", f"uid-{n}").create(state={"effects": effects})
        await self.elapse(clock, 0.1)
        health = await store.check_health()
        assert (health.agents, health.due) == (3, 2)
        health = await store.check_health(count_to=1)
        assert (health.agents, health.due) == (1, 1)

    async def test_looking_leaves_nothing(self, store: Store) -> None:
        """The probe leaves neither an agent nor a record, and disturbs none that is there."""
        author = Author(store)
        await author.create()
        before = await store.agents("", "", 9)
        for _ in range(2):
            await store.check_health()
        assert await store.agents("", "", 9) == before
        assert await store.scan("", Scan("staged", "", limit=9)) == []
        assert await store.scan("health-check", Scan("message", "health-check", limit=9)) == []
        assert (await author.say("hi")).version == 2

    async def test_what_does_not_work_is_said_and_not_raised(self, store: Store) -> None:
        """A store that cannot be read is not reachable, one that cannot be written not writable; the words say why."""

        async def refuse(*given: Any, **more: Any) -> Any:
            raise StoreUnavailableError("the disk is gone")

        for name, reachable, writable in (("get", False, None), ("apply", True, False)):
            kept = getattr(store, name)
            setattr(store, name, refuse)
            health = await store.check_health()
            setattr(store, name, kept)
            assert not health.healthy
            assert health.reachable is reachable
            assert writable is None or health.writable is writable
            assert "the disk is gone" in " ".join(health.problems)
            assert (health.read_s is None) is not reachable
        assert (await store.check_health()).healthy

    async def test_one_that_does_not_answer_is_not_waited_for(self, store: Store, clock: VirtualClock) -> None:
        """A part that gives no answer within `timeout_s` is a problem, and the others are asked."""
        hung: list[str] = []
        found: list[Any] = []

        async def hang(*given: Any, **more: Any) -> Any:
            hung.append("once more")
            await anyio.Event().wait()

        await Author(store).create()
        store.get = hang  # type: ignore[method-assign]

        async def ask() -> None:
            found.append(await store.check_health(timeout_s=3.0, clock=clock))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            with anyio.fail_after(20):
                while not found:
                    if hung:  # else it is at work, maybe in a thread, and has all the time it needs
                        await clock.advance(3.0 * bool(hung.pop()))
                    await anyio.sleep(0.001)
        del store.get
        assert (found[0].healthy, found[0].reachable, found[0].agents) == (False, False, 1)

    async def test_secrets_of_a_driver_are_not_shown(self, store: Store) -> None:
        """An error of the engine's own is told of by its name only."""

        async def leak(*given: Any, **more: Any) -> Any:
            raise ConnectionError("postgresql://user:secret@host")

        store.get = leak  # type: ignore[method-assign]
        health = await store.check_health()
        del store.get
        assert not health.healthy
        assert "secret" not in repr(health)
