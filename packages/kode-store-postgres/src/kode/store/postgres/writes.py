"""Group commit: acts of different agents share one transaction, each judged by itself in the server.

What touches one agent is never in two batches at once, so what is written lands in the order in which it was brought,
also when who brought the first was cancelled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, TypeAlias

from kode.store.postgres.batches import MOST, Batches, Job
from kode.store.postgres.rows import Act, Drop, Item

__all__ = ["Work", "Writes"]

Work: TypeAlias = Act | Drop | Item
WIDTH: Final = 2
"""Batches under way at once: while one waits for its disk, the other is judged."""
MOST_BYTES: Final = 4_194_304


class Writes(Batches[Work]):
    """The queue of what is written."""

    def __init__(
        self,
        carry: Callable[[Sequence[Any]], Awaitable[Sequence[Any]]],
        own: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        super().__init__(carry, own, width=WIDTH)
        self._busy: Counter[str] = Counter()

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

    def ended(self, batch: Sequence[Job[Work]]) -> None:
        """Let others at these agents."""
        self._busy.subtract(job.work.agent_id for job in batch)
        for job in batch:
            if not self._busy[job.work.agent_id]:
                del self._busy[job.work.agent_id]
