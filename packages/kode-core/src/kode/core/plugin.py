"""Plugins: hooks, an observer, and a lifespan under one name, for what watches over agents from beside them."""

from __future__ import annotations

from collections.abc import Awaitable, Collection
from contextlib import AbstractAsyncContextManager, nullcontext

from kode.core.discovery import Registry
from kode.core.event.base import Envelope
from kode.core.hook.base import Hooks

__all__ = ["Plugin", "default_hooks", "default_plugins"]


class Plugin:
    """Subclass it, give it a ``name``, and keep of the rest what you need. One is shared by all agents that name it.

    * ``hooks`` are asked after those that the template names.
    * ``on_event`` is called for each durable event of an agent that this process drives, in order. It runs beside the
      agent and never holds it up: who is slow reads what it missed from the store. It has ``timeout_s`` for one event
      and, when a drive ends, ``Limits.cancel_grace_s`` to catch up; the rest comes with the next drive. What it
      raises is logged. Events that another process published are that process's to observe.
    * ``lifespan`` is entered before the first agent that names the plugin is driven, and left by
      ``Dependencies.close()``, perhaps by another task: it holds no task group and no cancel scope.
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


default_hooks: Registry[Hooks] = Registry(Hooks, "hook")
"""The process's own hooks, for agents that were not given others."""
default_plugins: Registry[Plugin] = Registry(Plugin, "plugin", group="kode.plugin")
"""The process's own plugins and those that wheels bring, for agents that were not given others."""
