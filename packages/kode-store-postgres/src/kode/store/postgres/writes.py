"""Group commit: acts of different agents share one transaction, each judged by itself in the server.

What touches one agent is never in two batches at once, so what is written lands in the order in which it was brought,
also when who brought the first was cancelled.

Somebody else may have an agent locked. The server does not wait long for that: it rolls the batch back, and each agent
of it is tried again by itself, later and later, while the others go on.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, TypeAlias

from kode.core.errors import StoreUnavailableError
from kode.store.postgres.batches import MOST, Batches, Job
from kode.store.postgres.rows import Act, Drop, Item

__all__ = ["CONTENDED", "Work", "Writes"]

Work: TypeAlias = Act | Drop | Item
WIDTH: Final = 2
"""Batches under way at once: while one waits for its disk, the other is judged."""
APART: Final = 2
"""Agents that are tried by themselves at once: each may wait for a lock, with a connection."""
MOST_BYTES: Final = 4_194_304
CONTENDED: Final = frozenset({"contended"})
"""The code of what was rolled back because others were in the way."""


class Writes(Batches[Work]):
    """The queue of what is written. `again` repeats a call while it fails with one of these codes and time is left."""

    def __init__(
        self,
        carry: Callable[[Sequence[Any]], Awaitable[Sequence[Any]]],
        own: Callable[[Coroutine[Any, Any, None]], object],
        again: Callable[[Callable[[], Awaitable[Sequence[Any]]], frozenset[str]], Awaitable[Sequence[Any]]],
    ) -> None:
        super().__init__(carry, own, width=WIDTH)
        self._again = again
        self._busy: Counter[str] = Counter()
        self._apart = asyncio.Semaphore(APART)

    def take(self) -> list[Job[Work]]:
        """Choose works of one kind, of agents that nothing under way touches."""
        batch: list[Job[Work]] = []
        left: list[Job[Work]] = []
        passed: set[str] = set()
        size = 0
        while self._waiting and len(batch) < MOST and size < MOST_BYTES:
            job = self._waiting.popleft()
            work = job.work
            if job.answer.done():
                continue  # cancelled
            free = work.agent_id not in passed and not self._busy[work.agent_id]
            if free and (not batch or (type(work) is type(batch[0].work) and size + work.weight <= MOST_BYTES)):
                batch.append(job)
                size += work.weight
                if isinstance(work, Item):
                    continue  # items of one agent may go together, acts may not
            else:
                left.append(job)
            passed.add(work.agent_id)
        self._waiting.extendleft(reversed(left))
        self._busy.update(job.work.agent_id for job in batch)
        return batch

    def ended(self, batch: Sequence[Job[Work]], answers: Sequence[Any]) -> None:
        """Let others at these agents; but works of one that was locked are tried again, and others of it wait."""
        locked: dict[str, list[Job[Work]]] = {}
        for job, answer in zip(batch, answers, strict=True):
            if _locked(answer):
                locked.setdefault(job.work.agent_id, []).append(job)
            else:
                self._ended(job, answer)
        for agent_id, jobs in locked.items():
            self._own(self._alone(agent_id, jobs))

    def _ended(self, job: Job[Work], answer: Any) -> None:
        agent_id = job.work.agent_id
        self._busy[agent_id] -= 1
        if not self._busy[agent_id]:
            del self._busy[agent_id]
        job.tell(answer)

    async def _alone(self, agent_id: str, jobs: list[Job[Work]]) -> None:
        async def once() -> Sequence[Any]:
            async with self._apart:
                answers = await self._answers(jobs)
            if all(map(_locked, answers)):
                raise answers[0]
            return answers

        answers: Sequence[Any]
        try:
            answers = await self._again(once, CONTENDED)
        except StoreUnavailableError as error:
            answers = [_named(error, agent_id)] * len(jobs)
        for job, answer in zip(jobs, answers, strict=True):
            self._ended(job, answer)
        self._start()


def _locked(answer: Any) -> bool:
    return isinstance(answer, StoreUnavailableError) and answer.code in CONTENDED


def _named(error: StoreUnavailableError, agent_id: str) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"Agent {agent_id!r} was not written: {error} If it goes on, look in pg_locks for who has it locked.",
        code=error.code,
        agent_id=agent_id,
        **error.fields,
    )
