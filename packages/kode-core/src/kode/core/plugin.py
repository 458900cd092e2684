"""Plugins: hooks, an observer, and a lifespan under one name, for what watches over agents from beside them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Collection, Iterable
from contextlib import AbstractAsyncContextManager, nullcontext
from weakref import WeakValueDictionary

import anyio
import anyio.lowlevel

from kode.core.clock import Clock
from kode.core.discovery import Registry
from kode.core.errors import NotBoundError, UsageError
from kode.core.event.base import Envelope
from kode.core.hook.base import Hooks
from kode.core.kernel.events import CHANNEL
from kode.core.tools.base import is_failure

__all__ = ["Lifespans", "Plugin", "default_hooks", "default_plugins"]

_log = logging.getLogger("kode")
START_S = 30.0
"""Seconds that a plugin has to start."""
STOP_S = 10.0
"""Seconds that a plugin has to stop."""


class Plugin:
    """Subclass it, give it a ``name``, and keep of the rest what you need. One is shared by all agents that name it.

    * ``hooks`` are asked after those that the template names.
    * ``on_event`` is called for each durable event of an agent that this process drives, in order. It runs beside the
      agent and never holds it up: who is slow reads what it missed from the store. It has ``timeout_s`` for one event
      and, when a drive ends, a tenth of a second; the rest comes with the next drive, or within a second when the
      handle is closed. An async one that is cut off by that is shown the event again. What it raises is logged.
      Events that another process published are that process's to observe.
    * ``lifespan`` is entered before the first agent that names the plugin is driven, and left when the last
      ``Dependencies`` that used it is closed, perhaps by another task: it holds no task group and no cancel scope.
      Threads with event loops of their own enter it once each. It has 30 s to begin and 10 s to end.
    """

    name: str = ""
    """How templates name it."""
    hooks: Hooks | None = None
    kinds: Collection[str] | None = None
    """Event types that ``on_event`` is called for, live ones among them; None: all that are durable."""
    timeout_s: float = 10.0
    """Seconds for one event."""

    def on_event(self, envelope: Envelope) -> Awaitable[None] | None:
        """See an event. May be async, or plain: then it runs in a worker thread."""
        return None

    def lifespan(self) -> AbstractAsyncContextManager[object]:
        """What must be open while agents with this plugin are driven."""
        return nullcontext()

    @property
    def observes(self) -> bool:
        """Whether anything listens to events."""
        return type(self).on_event is not Plugin.on_event

    def check(self) -> None:
        """Look at what the subclass says of itself.

        Raises:
            UsageError: ``bad_plugin``.
        """
        kinds = self.kinds
        strange = [kinds] if isinstance(kinds, str) else sorted(kind for kind in kinds or () if kind not in CHANNEL)
        if strange:
            raise self._bad(f"kinds names {strange[0]!r}; give types of events: {', '.join(sorted(CHANNEL))}")
        if not isinstance(self.timeout_s, int | float) or not 0 < self.timeout_s < float("inf"):
            raise self._bad(f"timeout_s is {self.timeout_s!r}; give seconds above 0")
        if not isinstance(self.hooks, Hooks | None):
            raise self._bad(f"hooks is {type(self.hooks).__name__}; give Hooks")

    def _bad(self, what: str) -> UsageError:
        return UsageError(f"Plugin {self.name!r}: {what}.", code="bad_plugin", plugin=self.name)


class _Life:
    """One plugin in one event loop."""

    def __init__(self, plugin: Plugin) -> None:
        self.plugin = plugin
        self.lock = anyio.Lock()
        self.lifespan: AbstractAsyncContextManager[object] | None = None
        """The one that was entered."""
        self.users: set[Lifespans] = set()

    async def enter(self, clock: Clock) -> None:
        lifespan = self.plugin.lifespan()
        with clock.move_on_after(START_S):
            try:
                await lifespan.__aenter__()
            except BaseException as error:
                if isinstance(error, Exception) or not is_failure(error):
                    raise
                text = f"Plugin {self.plugin.name!r} failed to start ({type(error).__name__})."
                raise NotBoundError(text, code="plugin_failed", plugin=self.plugin.name) from error
            self.lifespan = lifespan
            return
        text = f"Plugin {self.plugin.name!r} did not start within {START_S} s."
        raise NotBoundError(text, code="plugin_late", plugin=self.plugin.name)

    async def leave(self, clock: Clock) -> None:
        lifespan, self.lifespan = self.lifespan, None
        if lifespan is None:
            return
        try:
            with clock.move_on_after(STOP_S, shield=True):
                await lifespan.__aexit__(None, None, None)
                return
            _log.warning("Plugin %s did not stop within %s s and was left", self.plugin.name, STOP_S)
        except BaseException as error:
            if not is_failure(error):
                raise
            _log.exception("Plugin %s failed to stop", self.plugin.name)


_lives: anyio.lowlevel.RunVar[WeakValueDictionary[int, _Life]] = anyio.lowlevel.RunVar("kode_plugins")


def _life(plugin: Plugin) -> _Life:
    try:
        lives = _lives.get()
    except LookupError:
        lives = WeakValueDictionary()
        _lives.set(lives)
    return lives.setdefault(id(plugin), _Life(plugin))  # it holds the plugin, so that no other one takes its id


class Lifespans:
    """Those that one ``Dependencies`` uses. A plugin that several use is entered by the first, left by the last."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._used: list[_Life] = []

    async def start(self, plugins: Iterable[Plugin]) -> None:
        """Enter those that nobody has entered yet; each waits for nobody but itself.

        Raises:
            NotBoundError: One did not start in time, or failed with what is no `Exception`.
        """
        for plugin in plugins:
            life = _life(plugin)
            if life in self._used and self in life.users:
                continue
            if life not in self._used:
                self._used.append(life)
            async with life.lock:
                if not life.users:
                    await life.enter(self.clock)
                life.users.add(self)

    def run(self, plugin: Plugin) -> bool:
        """Whether it was entered."""
        return any(life.plugin is plugin and self in life.users for life in self._used)

    async def stop(self) -> None:
        """Leave them, the last one first, behind starts in progress; what one raises keeps none of the others open."""
        used, self._used = self._used, []
        for life in reversed(used):
            with self.clock.move_on_after(START_S + STOP_S, shield=True):
                async with life.lock:
                    life.users.discard(self)
                    if not life.users:
                        await life.leave(self.clock)


default_hooks: Registry[Hooks] = Registry(Hooks, "hook")
"""The process's own hooks, for agents that were not given others."""
default_plugins: Registry[Plugin] = Registry(Plugin, "plugin", group="kode.plugin", check=Plugin.check)
"""The process's own plugins and those that wheels bring, for agents that were not given others."""
