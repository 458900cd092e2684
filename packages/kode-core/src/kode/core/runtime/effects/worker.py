"""What carrying out effects takes, and which are under way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import anyio

from kode.core.clock import Clock
from kode.core.config import Dependencies
from kode.core.event.base import Envelope
from kode.core.event.hub import Hub
from kode.core.hook.asking import Asker
from kode.core.hook.chain import Chain
from kode.core.kernel.events import Event
from kode.core.kernel.limits import Limits
from kode.core.runtime.binding import Binding
from kode.core.runtime.context.window import ContextWindow
from kode.core.runtime.documents import documents_of
from kode.core.runtime.media.supply import Media
from kode.core.runtime.resident import Resident
from kode.core.store.base import Store
from kode.core.tools.documents import Documents

__all__ = ["Worker"]


@dataclass(slots=True)
class Worker:
    """Who carries out one agent's effects under one lease: what that takes, and what is under way."""

    resident: Resident
    binding: Binding
    deps: Dependencies
    hub: Hub
    limits: Limits
    note: Callable[[Event], None]
    """Takes durable events that ride in the next commit."""
    chain: Chain = field(init=False)
    """The agent's hooks."""
    context: ContextWindow = field(init=False)
    """What the model is shown."""
    media: Media = field(init=False)
    """Fetches bytes for a request, and stores those of a reply."""
    documents: Documents = field(init=False)
    """What the tools remember. It ends with the drive: what an abandoned tool puts later goes nowhere."""
    interrupted: set[str] = field(default_factory=set)
    """Sub-agents that were told to stop."""
    _scopes: dict[str, anyio.CancelScope] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)
    """Effects whose answers nobody wants any more."""

    def __post_init__(self) -> None:
        self.chain = Chain(self.binding.hooks, Asker(self.clock, self.note))
        self.context = ContextWindow(self.resident, self.binding, self.deps, self.note)
        self.documents = documents_of(self.resident, self.store)
        self.media = Media(self.resident.agent_id, self.binding.provider, self.deps, self.documents, self.note)

    @property
    def clock(self) -> Clock:
        """Where time comes from."""
        return self.deps.clock

    @property
    def store(self) -> Store:
        """Where the agent lives."""
        return self.deps.store

    def drop(self, id: str) -> None:
        """Cancel an effect: its answer is not wanted. One that is not to be stopped may still give it."""
        self.dropped.add(id)
        scope = self._scopes.get(id)
        if scope is not None:
            scope.cancel()

    def enter(self, id: str, scope: anyio.CancelScope) -> None:
        """Let an effect be dropped while this scope lasts."""
        self._scopes[id] = scope
        if id in self.dropped:
            scope.cancel()

    def forget(self, id: str) -> None:
        """Let go of an effect that is done."""
        self._scopes.pop(id, None)
        self.dropped.discard(id)

    def live(
        self, kind: str, attempt: str | None = None, call: str | None = None, delta: str = "", why: str = ""
    ) -> None:
        """Tell watchers now of what is not stored."""
        hub = self.hub
        event = Event(kind, step=self.resident.state.step, call=call, preview=why)
        hub.publish_live(Envelope(hub.agent_id, event, hub.cursor or 0, attempt, delta=delta))
