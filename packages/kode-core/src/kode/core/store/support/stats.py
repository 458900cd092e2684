"""Numbers about agents: how many there are, what they did, what it took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Unpack

from kode.core.errors import RecordCorruptError, SchemaTooNewError, StoreError
from kode.core.kernel.message import Usage
from kode.core.store import records as rec
from kode.core.store.contract import Record
from kode.core.store.records.columns import reader, text
from kode.core.store.support.query import QuerySupport
from kode.core.store.support.questions import AgentFilter, parse_filters

__all__ = ["Stats", "StatsSupport", "Tally"]


@dataclass(slots=True)
class Tally:
    """Durations, in seconds, of things that ended: how many, their sum, the longest."""

    count: int = 0
    seconds: float = 0.0
    longest: float = 0.0

    @property
    def mean(self) -> float:
        """Seconds on average; 0.0 if there were none."""
        return self.seconds / self.count if self.count else 0.0

    def add(self, began: object, ended: object) -> None:
        """Take one in, by its columns; nothing if it did not begin or end."""
        if isinstance(began, int) and isinstance(ended, int):
            took = max(ended - began, 0) / 1_000_000
            self.count += 1
            self.seconds += took
            self.longest = max(self.longest, took)


@dataclass(slots=True)
class Stats:
    """What `aggregate_stats` counted. What `prune` has removed is not counted any more."""

    agents: int = 0
    agents_by_status: Counter[str] = field(default_factory=Counter)
    messages: int = 0
    """Kept; those that a fork has copied are its own."""
    calls: dict[str, Counter[str]] = field(default_factory=dict)
    """How many, by tool and then by status."""
    call_seconds: dict[str, Tally] = field(default_factory=dict)
    """From start to end, by tool."""
    runs: Counter[str] = field(default_factory=Counter)
    """By status."""
    stop_reasons: Counter[str] = field(default_factory=Counter)
    run_seconds: Tally = field(default_factory=Tally)
    """Of runs that ended: from start to end, waiting included."""
    used_seconds: float = 0.0
    """Processing time of runs."""
    usage: Usage = Usage()
    """Tokens and cost of runs, as their records say."""
    damaged: list[StoreError] = field(default_factory=list)
    """Records that cannot be read and are not counted; each error names its record."""


class StatsSupport(QuerySupport):
    """Counting."""

    async def aggregate_stats(self, **filters: Unpack[AgentFilter]) -> Stats:
        """Count what one agent, some, or all of a store hold; see `AgentFilter`.

        It costs reading all calls and run records of these agents, messages are not read. For one agent say
        ``agent_id=…``; one that is not there counts as nothing.

        Raises:
            UsageError: ``bad_query``.
        """
        tests, _ = parse_filters("header", filters)
        stats = Stats()
        async for headers in self._headers(tests, str(filters.get("prefix", ""))):
            for header in headers:
                _guarded(stats, _add_agent, header)
                async for calls in self._rows("call", header):
                    for row in calls:
                        _guarded(stats, _add_call, row)
                async for runs in self._rows("run", header):
                    for row in runs:
                        _guarded(stats, _add_run, row)
        return stats


def _guarded(stats: Stats, add: Callable[[Record, Stats], None], row: Record) -> None:
    try:
        add(row, stats)
    except (RecordCorruptError, SchemaTooNewError) as error:
        stats.damaged.append(error)


@reader
def _add_agent(header: Record, stats: Stats) -> None:
    status = text(header.columns["status"])
    stats.agents += 1
    stats.agents_by_status[status] += 1
    state = rec.header_counters(header)
    stats.messages += state.next_seq - state.first_seq


@reader
def _add_call(row: Record, stats: Stats) -> None:
    columns = row.columns
    tool, status = text(columns["tool"]), text(columns["status"])
    stats.calls.setdefault(tool, Counter())[status] += 1
    stats.call_seconds.setdefault(tool, Tally()).add(columns["started_at"], columns["finished_at"])


@reader
def _add_run(row: Record, stats: Stats) -> None:
    run = rec.read_run(row)
    stats.runs[run.status] += 1
    stats.stop_reasons[run.stop_reason.value] += 1
    stats.run_seconds.add(run.started_at, run.ended_at)
    stats.used_seconds += run.used_us / 1_000_000
    stats.usage += run.usage
