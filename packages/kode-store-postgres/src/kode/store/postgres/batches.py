"""What waits at the same moment goes to the server together: one round trip for many callers.

What is brought during one turn of the event loop is sent at its end. A batch runs in a task of the store's own, so
whoever is cancelled while his work waits takes it with him; once it is under way it is done like the others, and only
nobody hears of it. When a batch cannot be done, because of one work that nobody could know to be impossible, each is
done again alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from kode.core.errors import KodeError, StoreUnavailableError

__all__ = ["Batches", "Job"]

W = TypeVar("W")
MOST: Final = 128
"""Works in a batch. Each act holds one lock in the server's table of locks, which is small."""


@dataclass(slots=True, eq=False)
class Job(Generic[W]):
    """What one caller brought."""

    work: W
    answer: asyncio.Future[Any]

    def tell(self, answer: Any) -> None:
        """Give the answer to who brought it, if anybody waits still."""
        if self.answer.done():
            return
        if isinstance(answer, BaseException):
            self.answer.set_exception(answer)
        else:
            self.answer.set_result(answer)


class Batches(Generic[W]):
    """A queue. `carry` does a batch and gives its answers; `own` runs it in a task of the store's."""

    def __init__(
        self,
        carry: Callable[[Sequence[W]], Awaitable[Sequence[Any]]],
        own: Callable[[Coroutine[Any, Any, None]], object],
        *,
        width: int,
    ) -> None:
        self._carry = carry
        self._own = own
        self._width = width
        self._waiting: deque[Job[W]] = deque()
        self._under_way = 0
        self._starting = False
        self.sent = 0
        """How many batches were done."""

    def bring(self, work: W) -> asyncio.Future[Any]:
        """Put a work into the queue; await what it gives."""
        loop = asyncio.get_running_loop()
        job = Job(work, loop.create_future())
        self._waiting.append(job)
        self._start()
        return job.answer

    def take(self) -> list[Job[W]]:
        """Choose the next batch; what may not go with it stays, in its order."""
        batch: list[Job[W]] = []
        while self._waiting and len(batch) < MOST:
            job = self._waiting.popleft()
            if not job.answer.done():  # cancelled
                batch.append(job)
        return batch

    def ended(self, batch: Sequence[Job[W]], answers: Sequence[Any]) -> None:
        """Hand out what a batch gave."""
        for job, answer in zip(batch, answers, strict=True):
            job.tell(answer)

    # ---- inside --------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if not self._starting and self._under_way < self._width:
            self._starting = True
            self._under_way += 1
            self._own(self._send())

    async def _send(self) -> None:
        """Do batches as long as there are any. It begins at the end of the turn, with all that was brought in it."""
        self._starting = False
        while batch := self.take():
            if self._waiting:
                self._start()
            answers = await self._answers(batch)
            self.sent += 1
            self.ended(batch, answers)
        self._under_way -= 1

    async def _answers(self, batch: list[Job[W]]) -> Sequence[Any]:
        try:
            return await self._carry([job.work for job in batch])
        except StoreUnavailableError as error:
            return [error] * len(batch)
        except KodeError as error:
            if len(batch) == 1:
                return [error]
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - raised in the tasks that brought the works
            return [error] * len(batch)
        return [answer for job in batch for answer in await self._answers([job])]
