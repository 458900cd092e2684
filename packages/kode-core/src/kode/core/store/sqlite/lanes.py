"""Carrying work into threads: whoever comes first takes along what the others bring.

The first caller runs its job in a worker thread. Callers that arrive meanwhile queue up; when it is done, the
first of them takes all of the queue along as the next batch, so that many concurrent callers share one thread
hop. No task waits for others than its own batch and the one before, and nothing runs in the background.

There may be several lanes, each with one batch at a time; they share one queue, so that a batch that takes
long holds up those in it and nobody else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import anyio
from anyio import to_thread

__all__ = ["Job", "Lanes"]

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Job(Generic[T]):
    """What one caller brought."""

    work: Callable[..., T]
    alone: bool = False
    """It shares its batch with nobody."""
    turn: anyio.Event = field(default_factory=anyio.Event)
    """It is done, or leads the next batch."""
    leads: bool = False
    value: T | None = None
    error: BaseException | None = None

    def result(self) -> T:
        """Give its value, or raise what went wrong."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]  # T may be None itself


class Lanes:
    """Runs jobs in batches. Used from one event loop at a time.

    Args:
        carry: Runs a batch, in a thread; it gives each job its `value` or its `error` and raises nothing.
        width: How many batches may be under way at once.
        most: How many jobs a batch takes.
    """

    def __init__(self, carry: Callable[[list[Job[Any]]], None], *, width: int, most: int) -> None:
        self._carry = carry
        self._width = width
        self._most = most
        self._queue: list[Job[Any]] = []
        self._busy = 0
        """Lanes that are taken; one whose next leader has not woken up yet is."""
        self._appointed = False
        """The first in the queue is a leader that has not woken up yet."""

    async def run(self, work: Callable[..., T], *, alone: bool = False) -> T:
        """Run a function in a thread and return its value.

        A caller that is cancelled while its batch is under way does not hear what came of it; one that still
        waits in the queue is taken out of it.
        """
        job = Job(work, alone)
        # Who finds others waiting may not overtake them: the leader to come takes it along.
        first = self._busy < self._width and not self._queue
        self._queue.append(job)
        if first:
            self._busy += 1
        else:
            await self._wait(job)
            if not job.leads:
                return job.result()
        await self._lead(job)
        return job.result()

    async def _wait(self, job: Job[Any]) -> None:
        try:
            await job.turn.wait()
        except BaseException:  # cancelled
            if job in self._queue:
                self._queue.remove(job)
                if job.leads:
                    self._appointed = False
                    self._pass_on()
            raise

    def _pass_on(self) -> None:
        """Give a lane that is taken to the first in the queue, or back."""
        if self._queue and not self._appointed:
            self._appointed = self._queue[0].leads = True
            self._queue[0].turn.set()
        else:
            self._busy -= 1

    async def _lead(self, job: Job[Any]) -> None:
        batch = self._take(job)
        failed: BaseException | None = None
        try:
            # A thread cannot be cancelled, and the queue must not be left without a leader. A limiter of its
            # own: the tools of a process may occupy every thread of the default one.
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(self._carry, batch, limiter=anyio.CapacityLimiter(1))
        except BaseException as error:
            failed = error  # no thread could be had: nobody may take silence for success
            raise
        finally:
            for other in batch:
                if other is not job:
                    other.error = failed or other.error
                    other.turn.set()
            self._pass_on()

    def _take(self, job: Job[Any]) -> list[Job[Any]]:
        """Take a batch off the queue; what is left over may fill a lane that is free."""
        if job.leads:
            self._appointed = False
        size = 1
        if not job.alone:
            for other in self._queue[1 : self._most]:
                if other.alone:
                    break
                size += 1
        batch, self._queue = self._queue[:size], self._queue[size:]
        if self._queue and self._busy < self._width:
            self._busy += 1
            self._pass_on()
        return batch
