"""A reader of one agent's events: from the store as far as they are stored, then from the hub as they happen."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import TYPE_CHECKING

from kode.core.event.base import Envelope, Position, wanted_types
from kode.core.kernel.events import Channel, Event

if TYPE_CHECKING:
    from kode.core.clock import Clock
    from kode.core.event.hub import Hub
    from kode.core.provider.assemble import Assembler
    from kode.core.store.base import Store

__all__ = ["Subscription"]

PAGE = 500


class Subscription(AsyncIterator[Envelope]):
    """An endless reader of an agent's events, in order, without gaps or repeats of durable ones.

    ``async for envelope in subscription``; leave the loop whenever you like. It holds no task and nothing to close.

    Args:
        since: Go on behind this place; None: from now on, the text of a reply in progress included.
        channels: Which channels; None: all.
        kinds: Which event types; None: all.
    """

    def __init__(
        self,
        hub: Hub,
        store: Store,
        clock: Clock,
        *,
        since: Position | None,
        start: int,
        channels: Collection[Channel] | None = None,
        kinds: Collection[str] | None = None,
        poll_s: float = 1.0,
    ) -> None:
        self.hub = hub
        hub.has_readers = True
        self.store = store
        self.clock = clock
        self.poll_s = poll_s
        self.cursor = start if since is None else since.cursor
        """Last durable event handed out or skipped by the filter."""
        self.pruned = False
        """Events that were asked for are stored no more; what was handed out begins behind them."""
        self.types = wanted_types(channels, kinds)
        self.done: Callable[[], bool] | None = None
        """When given and true with nothing left to read, iteration ends."""
        self._index: int | None = None
        self._resume = since
        self._buffer: list[Envelope] = []
        self._next = 0
        if since is None or since.attempt is not None:
            self._join()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Envelope:
        while self._next >= len(self._buffer):
            if not await self._fill():
                raise StopAsyncIteration
        envelope = self._buffer[self._next]
        self._next += 1
        return envelope

    async def _fill(self) -> bool:
        """Read the next burst from the log, or a page from the store, or wait."""
        self._buffer, self._next = [], 0
        hub = self.hub
        if self._index is None or self._index < hub.base:
            self._join()
        if self._index is not None and not self._buffer:
            new = hub.log[self._index - hub.base :]
            if self._follows(new):
                self._index += len(new)
                self._take(new)
            else:
                self._index = None
            if not new and not hub.driven:
                # Another process may write from here on; the log says nothing about that.
                self._index = None
        if self._buffer:
            return True
        if self._index is None and await self._read_store():
            return True
        if self.done is not None and self.done():
            return False
        await hub.wait(self.clock, None if hub.driven and self._index is not None else self.poll_s)
        return True

    def _follows(self, new: Sequence[Envelope]) -> bool:
        """Whether the first durable event among these comes right behind what was read."""
        for envelope in new:
            if envelope.event.cursor:
                return envelope.cursor <= self.cursor + 1
        return True

    async def _read_store(self) -> bool:
        page = await self.store.read_events(self.hub.agent_id, after=self.cursor, limit=PAGE)
        self.pruned = self.pruned or page.pruned
        self._take([Envelope(self.hub.agent_id, event, event.cursor) for event in page.items])
        return bool(page.items)

    def _join(self) -> None:
        """Step from the store into the live log, if they meet."""
        hub = self.hub
        self._index = hub.index_after(self.cursor)
        if self._index is None:
            return
        resume, self._resume = self._resume, None
        reply = hub.reply
        if reply is not None and hub.cursor is not None and self.cursor >= hub.cursor:
            self._index = hub.base + len(hub.log)
            self._take(_text_so_far(hub, reply, resume))
        elif resume is not None and resume.attempt is not None:
            # The reply is complete, but not durable yet: what this reader was shown of it is still in the log.
            self._index = hub.index_behind(self._index, resume)

    def _take(self, new: Sequence[Envelope]) -> None:
        types = self.types
        cursor = self.cursor
        taken = []
        for envelope in new:
            if envelope.event.cursor:
                if envelope.cursor <= cursor:
                    continue
                cursor = envelope.cursor
            if types is None or envelope.event.type in types:
                taken.append(envelope)
        self.cursor = cursor
        self._buffer.extend(taken)


def _text_so_far(hub: Hub, reply: Assembler, resume: Position | None) -> list[Envelope]:
    """What the running attempt has shown, from where this reader left it."""
    out = []
    for shown in reply.so_far():
        if shown.kind == "think" and not hub.show_thinking:
            continue
        known = max(len(shown.text) - hub.keep_live, 0)
        if resume is not None and resume.attempt == hub.attempt:
            if shown.block < resume.block:
                continue
            known = resume.offset if shown.block == resume.block else known
        start = Event(f"{shown.kind}_chunk_start", step=hub.step)
        chunk = Event(f"{shown.kind}_chunk", step=hub.step)
        cursor = hub.cursor or 0
        if resume is None or resume.attempt != hub.attempt or shown.block > resume.block:
            out.append(Envelope(hub.agent_id, start, cursor, hub.attempt, shown.block, 0))
        rest = shown.text[known:]
        if rest:
            out.append(Envelope(hub.agent_id, chunk, cursor, hub.attempt, shown.block, len(shown.text), rest))
    return out
