"""The hub of one agent in one process: where its driver publishes and its subscribers read.

It owns no task. Subscribers share one log and hold a place in it; they are woken once per burst. Who falls further
behind than the log reaches reads the store and comes back: nothing durable is ever missed, live deltas may be (the
``…_end`` event that follows them is durable). When another process drives, subscribers read the store at intervals.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, WeakValueDictionary

import anyio

from kode.core.errors import UsageError
from kode.core.event.base import Envelope, Position
from kode.core.kernel.events import CHANNEL, Channel, Event

if TYPE_CHECKING:
    from kode.core.clock import Clock
    from kode.core.provider.assemble import Assembler
    from kode.core.store.base import Store

__all__ = ["Hub", "Subscription", "on_call", "switchboard"]

_log = logging.getLogger("kode")

PAGE = 500
MIN_LIVE = 262_144


class Hub:
    """Passive: a log, a bell for subscribers, and a bell for the driver."""

    def __init__(self, agent_id: str, keep: int = 10_000, calls: Sequence[Callable[[str], None]] = ()) -> None:
        self.agent_id = agent_id
        self.calls = calls
        """What pools of this process want to hear: the id of an agent whom somebody rang for and nobody drives."""
        self.keep = keep
        self.log: list[Envelope] = []
        self.read = False
        """Somebody subscribed here once. Until then only what is not durable yet is kept: who comes reads the store."""
        self.base = 0
        """Index of ``log[0]`` in all that was ever published here."""
        self.cursor: int | None = None
        """Last durable cursor published here; None until a driver has run in this process."""
        self.driven = False
        """Whether a driver of this process is at work, so that nothing needs to be polled."""
        self.attempt: str | None = None
        self.step = 0
        self.reply: Assembler | None = None
        """The reply being streamed, for who attaches in the middle."""
        self.show_thinking = False
        """Whether reasoning in it may be shown."""
        self.keep_live = 1_048_576
        """Characters of each block that who attaches in the middle is given, and of live deltas that the log keeps
        (of these ``MIN_LIVE`` at least, for who attached before)."""
        self._held = 0
        """Characters of live deltas in the log."""
        self.on_ring: Callable[[], None] | None = None
        """Set by the driver that is at work."""
        self.rests = 0
        """How often a run ended here, or a drive was over and its lease given back."""
        self._rested: anyio.Event | None = None
        self._bell: anyio.Event | None = None
        """Made by the first who waits: most agents are watched by nobody."""
        self._handlers: dict[str, list[Callable[[Envelope], None]]] = {}

    # ---- for whoever enqueues

    def ring(self) -> None:
        """Something new is in the inbox: tell the driver, or the pools, or nobody."""
        if self.on_ring is not None:
            self.on_ring()
        else:
            for call in tuple(self.calls):
                call(self.agent_id)
        self.wake()

    # ---- for the driver

    def begin(self, cursor: int, ring: Callable[[], None]) -> None:
        """A driver takes over after the durable event ``cursor``; what another process wrote leaves a gap."""
        if self.cursor != cursor:
            self._clear()
        self.cursor = cursor
        self.driven = True
        self.on_ring = ring
        self.reply = self.attempt = None
        self.wake()

    def end(self, ring: Callable[[], None]) -> None:
        """The driver that began with ``ring`` is done; one that took over from it in this process goes on."""
        if self.on_ring == ring:
            self.driven = False
            self.on_ring = None
            self.reply = self.attempt = None
        self.wake()

    def rest(self) -> None:
        """Wake who waits for their turn, or for what comes of a run."""
        self.rests += 1
        bell, self._rested = self._rested, None
        if bell is not None:
            bell.set()

    async def rested(self, since: int) -> None:
        """Wait until there were more of those ``rests`` than that."""
        if self.rests <= since:
            bell = self._rested = self._rested or anyio.Event()
            await bell.wait()

    def _clear(self) -> None:
        # One more than was there, so that a reader who had read it all notices too that the log starts anew.
        self.base += len(self.log) + 1
        self.log.clear()
        self._held = 0

    def forget(self) -> None:
        """Let the log go while nobody drives; who still wants to read it reads the store."""
        if not self.driven:
            self._clear()

    def publish(self, events: Sequence[Event]) -> None:
        """Show durable events, once their commit is durable.

        A driver that was taken over may hear of its last commit late: what is known is not shown again, and what
        does not follow starts the log anew, so that a reader fetches what lies between from the store.
        """
        if self.cursor is not None and events and events[0].cursor != self.cursor + 1:
            events = [event for event in events if event.cursor > (self.cursor or 0)]
            if events and events[0].cursor != self.cursor + 1:
                self._clear()
        if not events:
            return
        if self.read or self._handlers:
            for event in events:
                envelope = Envelope(self.agent_id, event, event.cursor)
                self.log.append(envelope)
                self._call(envelope)
        if self.read:
            self._trim()
        else:
            self._clear()
        self.cursor = events[-1].cursor
        for event in events:
            if event.type == "done":
                self.rest()
        self.wake()

    def publish_live(self, envelope: Envelope) -> None:
        """Show a live event."""
        self.log.append(envelope)
        if self._handlers:
            self._call(envelope)
        self._held += len(envelope.delta)
        if len(self.log) > 2 * self.keep or self._held > 2 * max(self.keep_live, MIN_LIVE):
            self._trim()
        self.wake()

    def _call(self, envelope: Envelope) -> None:
        for handler in tuple(self._handlers.get(envelope.event.type, ())):
            try:
                handler(envelope)
            except Exception:  # noqa: BLE001 - a listener's fault is not the agent's
                _log.exception("A handler of %s on agent %s failed", envelope.event.type, self.agent_id)

    def _trim(self) -> None:
        # Cut rarely and much: a list is cut in time proportional to what stays.
        over = len(self.log) - self.keep
        if over <= self.keep // 2:
            over = 0
        held = self._held - sum(len(envelope.delta) for envelope in self.log[:over])
        most = max(self.keep_live, MIN_LIVE)
        if held > 2 * most:  # a tool that floods: few pieces, but large ones
            while held > most:
                held -= len(self.log[over].delta)
                over += 1
        self._held = held
        del self.log[:over]
        self.base += over

    # ---- for subscribers

    def on(self, kind: str, handler: Callable[[Envelope], None]) -> Callable[[], None]:
        """Call a function for each event of a type; returns what takes it off again.

        Raises:
            UsageError: ``bad_filter``: there is no such type.
        """
        _wanted(None, (kind,))
        handlers = self._handlers.setdefault(kind, [])
        handlers.append(handler)

        def off() -> None:
            if handler in handlers:
                handlers.remove(handler)
            if not handlers:
                self._handlers.pop(kind, None)

        return off

    def wake(self) -> None:
        """Wake all who wait, once for everything since they last looked."""
        bell, self._bell = self._bell, None
        if bell is not None:
            bell.set()

    async def wait(self, clock: Clock, seconds: float | None) -> None:
        """Wait for the next publication or that long."""
        bell = self._bell = self._bell or anyio.Event()
        if seconds is None:
            await bell.wait()
        else:
            with clock.move_on_after(seconds):
                await bell.wait()

    def index_after(self, cursor: int) -> int | None:
        """Where to go on in the log behind that durable event; None: the store must be read first."""
        if self.cursor is None or (not self.driven and cursor >= self.cursor):
            return None
        if cursor >= self.cursor:
            # Behind everything durable; skip live events older than the last durable one.
            for i in range(len(self.log) - 1, -1, -1):
                if self.log[i].event.durable:
                    return self.base + i + 1
            return self.base
        for i, envelope in enumerate(self.log):
            if envelope.event.durable:
                if envelope.cursor > cursor + 1:
                    return None
                if envelope.cursor == cursor + 1:
                    return self.base + i
        return None

    def index_behind(self, index: int, place: Position) -> int:
        """Where to go on from ``index`` for a reader who was shown an attempt up to that place."""
        for i in range(len(self.log) - 1, index - self.base - 1, -1):
            shown = self.log[i]
            of_reply = shown.attempt == place.attempt and shown.event.call is None
            if of_reply and (shown.block, shown.offset) <= (place.block, place.offset):
                return self.base + i + 1
        return index


@dataclass(slots=True)
class _Board:
    """What this process has of one store object."""

    hubs: WeakValueDictionary[str, Hub] = field(default_factory=WeakValueDictionary)
    calls: list[Callable[[str], None]] = field(default_factory=list)


_BOARDS: WeakKeyDictionary[Store, _Board] = WeakKeyDictionary()


def _board(store: Store) -> _Board:
    board = _BOARDS.get(store)
    if board is None:
        board = _BOARDS[store] = _Board()
    return board


def switchboard(store: Store, agent_id: str) -> Hub:
    """The hub of that agent in this process; one per store object, kept while anybody uses it."""
    board = _board(store)
    hub = board.hubs.get(agent_id)
    if hub is None:
        hub = board.hubs[agent_id] = Hub(agent_id, calls=board.calls)
    return hub


@contextmanager
def on_call(store: Store, call: Callable[[str], None]) -> Iterator[None]:
    """Hear of the agents of a store whom somebody of this process rings for while nobody drives them."""
    calls = _board(store).calls
    calls.append(call)
    try:
        yield
    finally:
        calls.remove(call)


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
        hub.read = True
        self.store = store
        self.clock = clock
        self.poll_s = poll_s
        self.cursor = start if since is None else since.cursor
        """Last durable event handed out or skipped by the filter."""
        self.pruned = False
        """Events that were asked for are stored no more; what was handed out begins behind them."""
        self.types = _wanted(channels, kinds)
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


def _wanted(channels: Collection[Channel] | None, kinds: Collection[str] | None) -> frozenset[str] | None:
    """Types to hand out; None: all.

    Raises:
        UsageError: ``bad_filter``: a channel or type that does not exist would wait for ever.
    """
    known = set(CHANNEL.values())
    strange = sorted({*(c for c in channels or () if c not in known), *(k for k in kinds or () if k not in CHANNEL)})
    if strange:
        raise UsageError(
            f"No channel or event type {', '.join(map(repr, strange))}; channels are {', '.join(sorted(known))}, "
            f"types are {', '.join(sorted(CHANNEL))}.",
            code="bad_filter",
        )
    if channels is None and kinds is None:
        return None
    return frozenset(
        kind
        for kind, channel in CHANNEL.items()
        if (channels is None or channel in channels) and (kinds is None or kind in kinds)
    )
