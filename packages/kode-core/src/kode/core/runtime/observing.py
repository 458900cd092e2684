"""Observers: plugins and hooks that are told what an agent did, beside its driver and never in its way.

Each has one place for all drives of a handle, and reads the agent's events as any subscriber does: who is slow falls
behind, and reads what it missed from the store. Nothing is queued for it. When a drive ends it has a blink to finish;
the rest is shown with the next drive, or when the handle is closed.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import anyio
from anyio.abc import TaskGroup

from kode.core.errors import KodeError
from kode.core.event.base import Envelope, Position
from kode.core.event.hub import Hub
from kode.core.event.subscription import Subscription
from kode.core.hook.asking import Asker, HookFailed, LateError, called
from kode.core.hook.base import Hooks
from kode.core.kernel.events import DURABLE, Event
from kode.core.kernel.message import Message
from kode.core.plugin import Plugin
from kode.core.runtime.resident import Resident
from kode.core.runtime.watched import Place
from kode.core.tools.base import is_failure

if TYPE_CHECKING:
    from kode.core.config import Dependencies
    from kode.core.runtime.binding import Binding

__all__ = ["BLINK_S", "Observers", "catch_up"]

_log = logging.getLogger("kode")
PAGE = 1_000
"""Messages that a hook is told of at once."""
BLINK_S = 0.1
"""What observers may hold up the end of a drive."""
CLOSE_S = 1.0
"""What they may hold up the closing of a handle."""


Show: TypeAlias = Callable[[Place, Envelope], Awaitable[None]]


class Observers:
    """Those of one agent, during one drive; without ``resident``, while they catch up behind the last one."""

    def __init__(
        self,
        agent_id: str,
        resident: Resident | None,
        binding: Binding,
        deps: Dependencies,
        hub: Hub,
        note: Callable[[Event], None],
    ) -> None:
        self.agent_id = agent_id
        self.resident = resident
        self.binding = binding
        self.watched = binding.watched
        self.deps = deps
        self.hub = hub
        self.asker = Asker(deps.clock, note)
        self._over = False
        self._left = 0
        self._bell: anyio.Event | None = None

    def start(self, tasks: TaskGroup) -> None:
        """Give each its task. What others did since the last drive is not theirs to see."""
        here = self._here()
        self.watched.begin(here)
        for name, kinds, plain, show in self._all():
            place = self.watched.places.setdefault(name, Place(here.cursor, here.seq))
            self._left += 1
            tasks.start_soon(self._follow, place, kinds, plain, show)

    async def finish(self, seconds: float) -> bool:
        """Let them see what is left, for so long; whether they all did."""
        self.stop()
        if self._left:
            with self.deps.clock.move_on_after(seconds):
                while self._left:
                    self._bell = anyio.Event()
                    await self._bell.wait()
        return not self._left

    def stop(self) -> None:
        """Nothing follows."""
        self.watched.end = self._here()
        self._over = True
        self.hub.wake()

    def _here(self) -> Place:
        if self.resident is not None:
            return Place(self.resident.state.next_cursor - 1, self.resident.state.next_seq)
        return self.watched.end or Place(0, 0)

    def _all(self) -> Iterator[tuple[str, Collection[str], bool, Show]]:
        for plugin in self.binding.plugins:
            if plugin.observes and self.deps.runs(plugin):
                kinds = DURABLE if plugin.kinds is None else plugin.kinds
                yield f"plugin {plugin.name}", kinds, _plain(plugin.on_event), partial(self._show, plugin)
        for hooks in self.binding.hooks:
            if hooks.messages_changed is not None:
                yield f"hooks {hooks.name}", DURABLE, _plain(hooks.messages_changed), partial(self._tell, hooks)

    async def _follow(self, place: Place, kinds: Collection[str], plain: bool, show: Show) -> None:
        events = Subscription(
            self.hub, self.deps.store, self.deps.clock, since=Position(place.cursor), start=place.cursor, kinds=kinds
        )
        events.done = lambda: self._over
        try:
            async for envelope in events:
                end = self._here()
                if self._over and envelope.cursor > end.cursor:
                    break
                if plain:  # its thread goes on when we do not wait any more
                    place.cursor = envelope.cursor
                if not (envelope.event.durable and any(envelope.cursor in strange for strange, _ in self._strange)):
                    await show(place, envelope)
                place.cursor = envelope.cursor
            place.cursor = self._here().cursor
        except KodeError as error:
            # It could not read what it had missed; the next drive tries again.
            _log.warning("An observer of agent %s was cut off: %s", self.agent_id, error)
        finally:
            self._left -= 1
            if self._bell is not None:
                self._bell.set()

    @property
    def _strange(self) -> Sequence[tuple[range, range]]:
        return self.watched.strange

    async def _show(self, plugin: Plugin, place: Place, envelope: Envelope) -> None:
        """Show a plugin one event. Its failure is its own."""
        try:
            await called(self.deps.clock, plugin.timeout_s, plugin.on_event, envelope)
        except LateError:
            _log.warning("Plugin %s did not see event %s to its end in time", plugin.name, envelope.type)
        except BaseException as error:
            if not is_failure(error):
                raise
            _log.exception("Plugin %s failed on event %s", plugin.name, envelope.type)

    async def _tell(self, hooks: Hooks, place: Place, _: Envelope) -> None:
        """Tell a hook of the messages that came since it was told last; they may be those of several commits."""
        while place.seq < self._here().seq:
            upto = min(self._here().seq, place.seq + PAGE)
            messages = await self._messages(place.seq, upto)
            if _plain(hooks.messages_changed):
                place.seq = upto
            try:
                if messages:
                    await self.asker.ask(hooks, "messages_changed", lambda _: None, self.agent_id, messages)
            except HookFailed:
                pass
            place.seq = upto

    async def _messages(self, start: int, stop: int) -> Sequence[Message]:
        found = [None if self.resident is None else self.resident.message(seq) for seq in range(start, stop)]
        messages = [message for message in found if message is not None]
        if len(messages) < len(found):
            page = await self.deps.store.read_messages(self.agent_id, after=start - 1, before=stop, limit=PAGE)
            messages = list(page.items)
        return [one for one in messages if not any(one.seq in strange for _, strange in self._strange)]


async def catch_up(agent_id: str, binding: Binding, deps: Dependencies, hub: Hub) -> None:
    """Show the observers of a handle what they have not seen of its last drives, for a while."""
    if not binding.watched.behind:
        return
    async with anyio.create_task_group() as tasks:
        observers = Observers(agent_id, None, binding, deps, hub, binding.watched.unsaid.append)
        observers.start(tasks)
        await observers.finish(CLOSE_S)
        tasks.cancel_scope.cancel()


def _plain(function: object) -> bool:
    return not inspect.iscoroutinefunction(function)
