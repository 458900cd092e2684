"""Observers: plugins and hooks that are told what an agent did, beside its driver and never in its way.

Each has a task of its own in the drive's task group and reads the agent's events as any subscriber does: who is slow
falls behind, and reads what it missed from the store. Nothing is queued for it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from anyio.abc import TaskGroup

from kode.core.errors import StoreError
from kode.core.event.base import Envelope, Position
from kode.core.event.hub import Hub, Subscription
from kode.core.hook.asking import Asker, HookFailed, called
from kode.core.hook.base import Hooks
from kode.core.kernel.events import DURABLE
from kode.core.kernel.message import Message
from kode.core.plugin import Plugin
from kode.core.runtime.mailbox import Mailbox
from kode.core.runtime.resident import Resident

if TYPE_CHECKING:
    from kode.core.config import Dependencies
    from kode.core.runtime.binding import Binding

__all__ = ["Observers"]

_log = logging.getLogger("kode")
PAGE = 1_000
"""Messages that a hook is told of at once."""


@dataclass(slots=True)
class Place:
    """How far one observer has come with an agent, from drive to drive of one handle."""

    cursor: int
    """Last event it was shown, or that is none of its."""
    seq: int
    """First message it was not told of."""


Show: TypeAlias = Callable[[Place, Envelope], Awaitable[None]]


@dataclass(slots=True)
class Observers:
    """Those of one agent during one drive."""

    resident: Resident
    binding: Binding
    deps: Dependencies
    hub: Hub
    box: Mailbox
    _end: int | None = None
    """Last event of the drive, once that is over."""
    _hurry: bool = False
    """Something new waits for the agent: let the next drive show the rest."""
    _left: int = 0

    def start(self, tasks: TaskGroup) -> None:
        """Give each its task. What another process did since the last drive is not theirs to see."""
        state, binding = self.resident.state, self.binding
        if binding.driven_to != state.next_cursor - 1:
            binding.places.clear()
        for plugin in binding.plugins:
            if plugin.observes:
                kinds = DURABLE if plugin.kinds is None else plugin.kinds
                self._begin(tasks, f"plugin {plugin.name}", kinds, partial(self._show, plugin))
        for hooks in binding.hooks:
            if hooks.messages_changed is not None:
                self._begin(tasks, f"hooks {hooks.name}", DURABLE, partial(self._tell, hooks))

    def _begin(self, tasks: TaskGroup, name: str, kinds: Collection[str], show: Show) -> None:
        state = self.resident.state
        place = self.binding.places.setdefault(name, Place(state.next_cursor - 1, state.next_seq))
        self._left += 1
        tasks.start_soon(self._follow, place, kinds, show)

    async def finish(self, until: float | None, at_most_s: float) -> None:
        """Wait until all have seen everything, for a while; with the next drive they go on where they were."""
        clock = self.deps.clock
        if until is not None:
            at_most_s = min(at_most_s, until - clock.monotonic())
        self._end = self.binding.driven_to = self.resident.state.next_cursor - 1
        self.hub.wake()
        with clock.move_on_after(at_most_s):
            while self._left:
                self._hurry = self.box.look
                await self.box.wait()
                # The metronome goes on beating, and takes a beat that nobody heeds for a store that hangs.
                self.box.tick = False

    async def _follow(self, place: Place, kinds: Collection[str], show: Show) -> None:
        events = Subscription(
            self.hub, self.deps.store, self.deps.clock, since=Position(place.cursor), start=place.cursor, kinds=kinds
        )
        events.done = lambda: self._end is not None
        try:
            async for envelope in events:
                if self._hurry or (self._end is not None and envelope.cursor > self._end):
                    return
                # Before it is shown: what an observer does not get done with is not shown to it again.
                place.cursor = envelope.cursor
                await show(place, envelope)
        except StoreError as error:
            # It could not read what it had missed; the next drive tries again.
            _log.warning("An observer of agent %s was cut off: %s", self.resident.agent_id, error)
        finally:
            self._left -= 1
            self.box.wake()

    async def _show(self, plugin: Plugin, place: Place, envelope: Envelope) -> None:
        """Show a plugin one event. Its failure is its own."""
        try:
            with self.deps.clock.move_on_after(plugin.timeout_s):
                await called(plugin.on_event, envelope)
                return
            _log.warning("Plugin %s did not see event %s to its end in time", plugin.name, envelope.type)
        except (Exception, SystemExit):  # noqa: BLE001 - an observer's fault is not the agent's
            _log.exception("Plugin %s failed on event %s", plugin.name, envelope.type)

    async def _tell(self, hooks: Hooks, place: Place, _: Envelope) -> None:
        """Tell a hook of the messages that came since it was told last; they may be those of several commits."""
        upto = min(self.resident.state.next_seq, place.seq + PAGE)
        if upto <= place.seq:
            return
        messages = await self._messages(place.seq, upto)
        place.seq = upto
        try:
            asker = Asker(self.deps.clock, self.box.noted.append)
            await asker.ask(hooks, "messages_changed", lambda _: None, self.resident.agent_id, messages)
        except HookFailed:
            return

    async def _messages(self, start: int, stop: int) -> Sequence[Message]:
        found = [self.resident.message(seq) for seq in range(start, stop)]
        messages = [message for message in found if message is not None]
        if len(messages) == len(found):
            return messages
        page = await self.deps.store.read_messages(self.resident.agent_id, after=start - 1, before=stop, limit=PAGE)
        return page.items
