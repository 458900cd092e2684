"""Doing something with each agent of a store, several at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import anyio

from kode.core.errors import ConflictError, KodeError, LeaseLostError, StoreUnavailableError, UsageError
from kode.core.store.base import Store
from kode.core.store.contract import Record
from kode.core.store.copying.report import Outcome, Progress, Verified
from kode.core.store.lookups import integer
from kode.core.store.primitives import check_agent_id

__all__ = ["Job", "OnProgress", "each_agent"]

OnProgress = Callable[[Progress], None]
PAGE = 1_000


class Job:
    """What all agents of one call share."""

    def __init__(self, report: Verified, on_progress: OnProgress | None) -> None:
        self.report = report
        self.lane = anyio.CapacityLimiter(1)
        """Held by who has blobs in memory."""
        self._on_progress = on_progress
        self._agents = self._records = self._size = 0

    async def read(self, rows: list[Record]) -> None:
        """Tell of records that were read."""
        self._records += len(rows)
        self._size += sum(len(row.body) for row in rows)
        self._tell(None)

    def done(self, outcome: Outcome) -> None:
        """Tell of an agent's end."""
        self._agents += 1
        self.report.add(outcome)
        self._tell(outcome)

    def _tell(self, outcome: Outcome | None) -> None:
        if self._on_progress is not None:
            self._on_progress(Progress(self._agents, self._records, self._size, outcome))


class _Agents:
    """Hands out ids of agents, one by one, to several who ask, with the header where a list has brought it along."""

    def __init__(self, store: Store, given: Iterable[str] | None, prefix: str, since: int | None) -> None:
        self._store = store
        self._left: list[tuple[str, Record | None]] = [(agent_id, None) for agent_id in dict.fromkeys(given or ())]
        self._left.reverse()
        self._more = given is None
        self._prefix, self._since, self._after = prefix, since, ""
        self._lock = anyio.Lock()
        for agent_id, _ in self._left:
            check_agent_id(agent_id)

    async def next(self) -> tuple[str, Record | None] | None:
        async with self._lock:
            while not self._left and self._more:
                page = await self._store.agents(self._prefix, self._after, PAGE)
                self._more = len(page) == PAGE
                self._after = page[-1].key if page else ""
                since = self._since
                new = [h for h in page if since is None or integer(h.columns["updated_at"]) >= since]
                self._left = [(header.key, header) for header in reversed(new)]
            return self._left.pop() if self._left else None


async def each_agent(
    store: Store,
    work: Callable[[str, Record | None], Awaitable[Outcome]],
    job: Job,
    *,
    concurrency: int,
    agents: Iterable[str] | None,
    prefix: str,
    since: int | None,
) -> None:
    """Do `work` for each agent, given its id and perhaps its header of a moment ago.

    An error of one is its outcome, but where a store is not there at all, it ends.

    Raises:
        UsageError: ``bad_concurrency``.
        StoreUnavailableError: A store does not answer.
    """
    if concurrency < 1:
        raise UsageError(f"concurrency is {concurrency}; give 1 or more.", code="bad_concurrency")
    ids = _Agents(store, agents, prefix, since)
    gone: list[StoreUnavailableError] = []

    async def run() -> None:
        while (agent := await ids.next()) is not None:
            agent_id, listed = agent
            try:
                outcome = await work(agent_id, listed)
            except StoreUnavailableError as error:
                gone.append(error)
                group.cancel_scope.cancel()
                return
            except (ConflictError, LeaseLostError) as error:
                outcome = Outcome(agent_id, "conflict", error.message)
            except KodeError as error:
                outcome = Outcome(agent_id, "failed", error.message)
            job.done(outcome)

    async with anyio.create_task_group() as group:
        for _ in range(concurrency):
            group.start_soon(run)
    if gone:
        raise gone[0]
