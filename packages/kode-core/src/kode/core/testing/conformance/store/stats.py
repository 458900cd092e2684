"""The contract of statistics: what is counted is what is there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kode.core.errors import UsageError
from kode.core.kernel.message import Usage
from kode.core.kernel.words import StopReason
from kode.core.store.base import Store
from kode.core.store.contract import Key
from kode.core.store.records import call_key, int_key
from kode.core.testing.conformance.store.author import AT, Author, StoreCase, keep, open_effect, run_record
from kode.core.testing.conformance.store.query import AGENTS, fill

__all__ = ["StatsContract"]

S = 1_000_000


async def _ran(store: Store, agent_id: str, uid: str, tenant: str | None, *, runs: int) -> None:
    """Write an agent with runs of 2 s each, half of it used, and of 10 tokens in, `n` out."""
    records = [
        replace(run_record(n), ended_at=AT + 2 * S, used_us=S, usage=Usage(10, n, cost_nanos=5))
        for n in range(1, runs + 1)
    ]
    records[-1] = replace(records[-1], status="limit", stop_reason=StopReason.MAX_STEPS)
    await Author(store, agent_id, uid).create(runs=records, state={"next_run": runs + 1, "tenant": tenant})


class StatsContract(StoreCase):
    """Numbers agree with the records."""

    group = "stats"

    async def test_of_nobody_nothing_is_counted(self, store: Store) -> None:
        """A store without agents, or a filter that fits none, counts nothing."""
        await Author(store).create()
        none = await store.aggregate_stats(agent_id="nobody")
        assert (none.agents, none.messages, none.calls, none.runs, none.damaged) == (0, 0, {}, {}, [])
        assert (none.usage, none.run_seconds.count, none.run_seconds.mean) == (Usage(), 0, 0.0)

    async def test_agents_messages_and_calls_are_those_that_are_there(self, store: Store) -> None:
        """The number of agents by status, of messages, and of calls by tool and status is that of the records."""
        await fill(store)
        await Author(store, "z", "uid-9").create(state={"effects": (open_effect(),)})
        stats = await store.aggregate_stats()
        assert (stats.agents, dict(stats.agents_by_status)) == (6, {"READY": 5, "WORKING": 1})
        assert stats.messages == 15
        assert {tool: dict(by) for tool, by in stats.calls.items()} == {
            "read": {"COMPLETED": 2, "FAILED": 1, "SEALED": 1, "DENIED": 1},
            "bash": {"COMPLETED": 4, "FAILED": 2, "SEALED": 2, "DENIED": 2},
        }
        assert stats.damaged == []

    async def test_durations_are_of_what_has_ended(self, store: Store) -> None:
        """A tool's times are sum, number and longest of its calls that began and ended."""
        await fill(store)
        stats = await store.aggregate_stats()
        # The n-th agent's calls take n microseconds; its n-th call, and the first two of the others, differ in that.
        bash, read = stats.call_seconds["bash"], stats.call_seconds["read"]
        assert (read.count, round(read.seconds * S), round(read.longest * S)) == (4, 1 + 2 + 3 + 4, 4)
        assert (bash.count, round(bash.seconds * S), round(bash.longest * S)) == (8, 2 * 10 - 1 - 2, 4)
        assert bash.mean == pytest.approx(bash.seconds / 8)

    async def test_runs_by_status_and_their_use(self, store: Store) -> None:
        """Runs are counted by status and stop reason; their time, tokens and cost are summed up exactly."""
        await _ran(store, "a", "u-a", "t1", runs=3)
        await _ran(store, "b", "u-b", "t2", runs=2)
        stats = await store.aggregate_stats()
        assert (dict(stats.runs), dict(stats.stop_reasons)) == (
            {"ok": 3, "limit": 2},
            {"end_turn": 3, "max_steps": 2},
        )
        assert (stats.run_seconds.count, stats.run_seconds.seconds, stats.used_seconds) == (5, 10.0, 5.0)
        assert stats.usage == Usage(50, 9, cost_nanos=25)

    async def test_only_those_asked_for_are_counted(self, store: Store) -> None:
        """A filter counts what is of the agents that fit it, and nothing of others."""
        await _ran(store, "a", "u-a", "t1", runs=3)
        await _ran(store, "b", "u-b", "t2", runs=2)
        await _ran(store, "b/c", "u-c", None, runs=1)
        asked: list[tuple[Any, int, int]] = [
            ({"agent_id": "a"}, 1, 3),
            ({"tenant": "t2"}, 1, 2),
            ({"tenant": ["t2", None]}, 2, 3),
            ({"prefix": "b"}, 2, 3),
            ({"prefix": "b", "tenant": "t1"}, 0, 0),
        ]
        for filters, agents, runs in asked:
            stats = await store.aggregate_stats(**filters)
            assert (stats.agents, stats.runs.total(), stats.usage.input) == (agents, runs, 10 * runs), filters
        with pytest.raises(UsageError):
            await store.aggregate_stats(tool="bash")  # type: ignore[call-arg]

    async def test_what_is_gone_is_not_counted(self, store: Store) -> None:
        """Nobody counts what was erased or pruned."""
        await fill(store)
        await _ran(store, "z", "uid-9", None, runs=3)
        await store.erase("t/a")
        await store.prune("z", before=None, keep_runs=1)
        stats = await store.aggregate_stats()
        assert (stats.agents, stats.messages, stats.runs.total()) == (len(AGENTS), 12, 1)
        assert sum(by.total() for by in stats.calls.values()) == 12

    async def test_what_cannot_be_read_is_named_and_not_counted(self, store: Store) -> None:
        """Damaged rows are named in `damaged`; the rest is counted."""
        await fill(store)
        await _ran(store, "z", "uid-9", None, runs=2)
        damaged = [(Key("call", "uid-1", call_key("1.1.1")), "t/b"), (Key("run", "uid-9", int_key(1)), "z")]
        for key, agent_id in damaged:
            (row,) = await store.get(agent_id, [key])
            assert row is not None
            damage = {"tool": None} if key.kind == "call" else {}
            await store.apply(agent_id, (), (), [key])
            await keep(store, [replace(row, body=b"1{", columns={**row.columns, **damage})], agent_id)
        stats = await store.aggregate_stats()
        assert sorted(str(error.fields["record"]) for error in stats.damaged) == sorted(
            f"{key.uid}/{key.key}" for key, _ in damaged
        )
        assert (stats.runs.total(), sum(by.total() for by in stats.calls.values())) == (1, 14)
