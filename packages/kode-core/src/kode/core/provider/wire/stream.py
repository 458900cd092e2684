"""One reply on its way: events of an ``EventStream`` in, chunks of a vendor's reader out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from kode.core.errors import ProviderError
from kode.core.provider.base import Chunk, UsageReport
from kode.core.provider.wire.http import EventStream

__all__ = ["ReplyReader", "ReplyStream"]


class ReplyReader(Protocol):
    """Reads what one vendor streams. Pure; one per attempt."""

    over: bool
    """Nothing more is wanted of this answer."""

    @property
    def finished(self) -> bool:
        """Whether the reply is complete, so that only what does not matter can follow."""
        ...

    def feed(self, data: str) -> list[Chunk]:
        """Read the data of one event."""
        ...

    def end(self) -> list[Chunk]:
        """The answer is over: close what is open, and end the reply if it is complete."""
        ...


class ReplyStream:
    """What ``Provider.stream`` returns, over HTTP.

    Args:
        ask: Writes the request.
        reader: Reads the answer.
        go_on: Asked when an answer is over: the next request, where the vendor made a pause in the middle of the reply.
    """

    __slots__ = ("_answer", "_ask", "_chunks", "_ended", "_go_on", "_reader")

    def __init__(
        self,
        ask: Callable[[], EventStream],
        reader: ReplyReader,
        go_on: Callable[[], EventStream | None] | None = None,
    ) -> None:
        self._ask = ask
        self._reader = reader
        self._go_on = go_on
        self._answer: EventStream | None = None
        self._chunks: deque[Chunk] = deque()
        self._ended = False

    async def __aenter__(self) -> ReplyStream:
        await self._enter(self._ask())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            await answer.__aexit__(kind, error, trace)

    def __aiter__(self) -> ReplyStream:
        return self

    async def __anext__(self) -> Chunk:
        while not self._chunks:
            if self._ended or self._answer is None:
                raise StopAsyncIteration
            await self._fill(self._answer)
        return self._chunks.popleft()

    async def _enter(self, answer: EventStream) -> None:
        await answer.__aenter__()
        self._answer = answer

    async def _fill(self, answer: EventStream) -> None:
        reader = self._reader
        try:
            events = await answer.read()
        except ProviderError:
            if not reader.finished:
                raise
            events = None  # the model had said that this was all, so nothing of the reply can be missing
        if events is None:
            self._chunks.extend(reader.end())
        else:
            chunks = [chunk for event in events for chunk in reader.feed(event.data)]
            self._chunks.extend(chunks)
            grew = not all(isinstance(chunk, UsageReport) for chunk in chunks)
            answer.settle(reader.finished or reader.over, grew)
        if events is None or reader.over:
            await self._turn(answer)

    async def _turn(self, answer: EventStream) -> None:
        """An answer is over: so is the reply, unless the vendor made a pause."""
        following = self._go_on() if self._go_on is not None else None
        if following is None:
            self._ended = True
            return
        self._answer = None
        await answer.__aexit__(None, None, None)
        await self._enter(following)
