"""A run and its events together: the run is driven while its events are read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType

import anyio
from anyio.abc import TaskGroup

from kode.core.errors import UsageError
from kode.core.event.base import Envelope
from kode.core.event.subscription import Subscription
from kode.core.runtime.result import RunResult

__all__ = ["Stream"]


class Stream(AsyncIterator[Envelope]):
    """An async context manager to iterate over. Its task group lives from enter to exit of the ``async with``."""

    def __init__(
        self,
        subscribe: Callable[[], Awaitable[Subscription]],
        run: Callable[[], Awaitable[RunResult]],
        wake: Callable[[], None],
        close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._subscribe = subscribe
        self._run = run
        self._wake = wake
        self._close = close
        self._events: Subscription | None = None
        self._tasks: TaskGroup | None = None
        self._finished = False
        self._failure: Exception | None = None
        self.result: RunResult | None = None
        """Of the run, once it ended."""

    @property
    def pruned(self) -> bool:
        """Events that were asked for are stored no more; what was handed out begins behind them."""
        return self._events is not None and self._events.pruned

    async def __aenter__(self) -> Stream:
        try:
            self._events = await self._subscribe()
        except BaseException:
            await self._let_go()
            raise
        self._events.done = lambda: self._finished
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._drive)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks, self._tasks = self._tasks, None
        try:
            if tasks is not None:
                tasks.cancel_scope.cancel()
                await tasks.__aexit__(None, None, None)
        finally:
            await self._let_go()
        if error is None and self._failure is not None:
            raise self._failure

    async def _let_go(self) -> None:
        close, self._close = self._close, None
        if close is not None:
            await close()

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Envelope:
        if self._events is None:
            raise UsageError("Enter the stream first: async with … as events.", code="not_entered")
        return await self._events.__anext__()

    async def _drive(self) -> None:
        try:
            self.result = await self._run()
        except Exception as error:  # noqa: BLE001 - raised when the ``async with`` is left, without a group around it
            self._failure = error
        finally:
            self._finished = True
            self._wake()
