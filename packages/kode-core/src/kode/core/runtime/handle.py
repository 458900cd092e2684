"""What every part of an `Agent` needs to know of it: who it is, what its names are bound to, whether it is gone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kode.core.config import Dependencies
from kode.core.errors import NotFoundError
from kode.core.event.hub import Hub, switchboard
from kode.core.kernel.inputs import InboxInput
from kode.core.kernel.limits import Limits, narrower
from kode.core.kernel.state import State
from kode.core.runtime.binding import Binding
from kode.core.runtime.lease import check_identity
from kode.core.runtime.sending import Sent, enqueue
from kode.core.template import AgentTemplate

__all__ = ["Handle"]


class Handle:
    """An agent's identity, and what its names are bound to in this process."""

    def __init__(self, agent_id: str, uid: str, binding: Binding, deps: Dependencies) -> None:
        self.agent_id = agent_id
        self.uid = uid
        self.within: Limits | None = None
        """Bounds of whoever holds this handle (a pool); what they name binds here as well."""
        self.gone = False
        """The agent was found deleted, or made again under its id: this handle is good for nothing any more."""
        self.hub: Hub = switchboard(deps.store, agent_id)
        self._binding = binding
        self._deps = deps

    @property
    def template(self) -> AgentTemplate:
        """The recipe it runs by, as this process last read it."""
        return self._binding.template

    @property
    def limits(self) -> Limits:
        """The bounds it runs under."""
        own = self.template.limits
        return own if self.within is None else narrower(own, self.within)

    async def _enqueue(self, input: InboxInput, *, priority: int = 0, not_before: int | None = None) -> Sent:
        store = self._deps.store
        with self._noting_gone():
            return await enqueue(store, self.agent_id, input, uid=self.uid, priority=priority, not_before=not_before)

    async def _state(self) -> State:
        """The agent as it is stored.

        Raises:
            NotFoundError: It is gone; perhaps another one was made under its id (``replaced``).
        """
        with self._noting_gone():
            state = await self._deps.store.read_state(self.agent_id)
            check_identity(state, self.uid)
        return state

    @contextmanager
    def _noting_gone(self) -> Iterator[None]:
        try:
            yield
        except NotFoundError:
            self.gone = True
            raise
