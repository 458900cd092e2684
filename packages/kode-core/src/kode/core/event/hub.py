"""The hub of one agent in one process: where its driver publishes and its subscribers read.

It owns no task. Subscribers share one log and hold a place in it; they are woken once per burst. Who falls further
behind than the log reaches reads the store and comes back: nothing durable is ever missed, live deltas may be (the
``…_end`` event that follows them is durable). When another process drives, subscribers read the store at intervals.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, WeakValueDictionary

import anyio

from kode.core.event.base import Envelope, Position, wanted_types
from kode.core.kernel.events import Event

if TYPE_CHECKING:
    from kode.core.clock import Clock
    from kode.core.provider.assemble import Assembler
    from kode.core.store.base import Store

__all__ = ["Hub", "listen_for_rings", "switchboard"]

_log = logging.getLogger("kode")

MIN_LIVE = 262_144


class Hub:
    """Passive: a log, a bell for subscribers, and a bell for the driver."""

    def __init__(self, agent_id: str, keep: int = 10_000, listeners: Sequence[Callable[[str], None]] = ()) -> None:
        self.agent_id = agent_id
        self.listeners = listeners
        """Pools of this process, who hear the id of an agent whom somebody rang for and nobody drives."""
        self.keep = keep
        self.log: list[Envelope] = []
        self.has_readers = False
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
            for heard in tuple(self.listeners):
                heard(self.agent_id)
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
        if self.has_readers or self._handlers:
            for event in events:
                envelope = Envelope(self.agent_id, event, event.cursor)
                self.log.append(envelope)
                self._tell(envelope)
        if self.has_readers:
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
            self._tell(envelope)
        self._held += len(envelope.delta)
        if len(self.log) > 2 * self.keep or self._held > 2 * max(self.keep_live, MIN_LIVE):
            self._trim()
        self.wake()

    def _tell(self, envelope: Envelope) -> None:
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
        wanted_types(None, (kind,))
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
    listeners: list[Callable[[str], None]] = field(default_factory=list)


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
        hub = board.hubs[agent_id] = Hub(agent_id, listeners=board.listeners)
    return hub


@contextmanager
def listen_for_rings(store: Store, heard: Callable[[str], None]) -> Iterator[None]:
    """Hear of the agents of a store whom somebody of this process rings for while nobody drives them."""
    listeners = _board(store).listeners
    listeners.append(heard)
    try:
        yield
    finally:
        listeners.remove(heard)
