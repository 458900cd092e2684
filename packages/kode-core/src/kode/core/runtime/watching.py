"""How an agent is watched: its events, its family's, what it is at. A part of `Agent`."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from kode.core.errors import NotFoundError, UsageError
from kode.core.event.base import Position
from kode.core.event.family import FamilySubscription
from kode.core.event.hub import switchboard
from kode.core.event.subscription import Subscription
from kode.core.kernel.events import Channel
from kode.core.runtime.handle import Handle
from kode.core.runtime.lease import check_identity
from kode.core.runtime.subagent import at_work
from kode.core.runtime.view import AgentView, view_of

__all__ = ["Watching"]


class Watching(Handle):
    """The members of `Agent` that watch."""

    async def subscribe(
        self,
        channels: Collection[Channel] | None = None,
        *,
        since: Position | str | int | None = None,
        kinds: Collection[str] | None = None,
    ) -> Subscription:
        """Follow events from now on, or from a place; from any process. See ``Subscription``.

        Raises:
            UsageError: ``bad_position``: the agent has no such place; perhaps it is another agent's.
        """
        place = since if isinstance(since, Position) or since is None else Position.parse(since)
        if place is not None and place.cursor > await self._cursor() and place.cursor > (self.hub.cursor or 0):
            raise UsageError(
                f"The agent {self.agent_id!r} has no event {place.cursor} yet; give a position of this agent.",
                code="bad_position",
                value=str(place),
            )
        start = 0
        if place is None:
            start = self.hub.cursor if self.hub.driven and self.hub.cursor is not None else await self._cursor()
        return Subscription(
            self.hub, self._deps.store, self._deps.clock, since=place, start=start, channels=channels, kinds=kinds,
            poll_s=self.limits.due_poll_s,
        )  # fmt: skip

    async def follow(
        self,
        channels: Collection[Channel] | None = None,
        *,
        since: Position | str | int | None = None,
        kinds: Collection[str] | None = None,
    ) -> FamilySubscription:
        """As ``subscribe``, with the events of all sub-agents too; each envelope says whose it is."""
        place = since if isinstance(since, Position) or since is None else Position.parse(since)
        store, clock = self._deps.store, self._deps.clock

        def reader(id: str, cursor: int) -> Subscription:
            poll_s = self.limits.due_poll_s
            return Subscription(
                switchboard(store, id), store, clock, since=Position(cursor), start=cursor, poll_s=poll_s
            )

        children = await at_work(store, self.agent_id) if place is None else {}
        return FamilySubscription(await self.subscribe(channels, since=place, kinds=kinds), children, reader)

    def on(self, kind: str, handler: Callable[[Any], None]) -> Callable[[], None]:
        """Call ``handler(envelope)`` for each event of that type that a driver of this process publishes.

        It is called in the driver's task and must be quick; what it raises is logged and changes nothing. Returns a
        function that takes it off. To miss nothing, also what other processes do, use ``subscribe``.
        """
        return self.hub.on(kind, handler)

    async def status(self) -> AgentView:
        """What the agent is at, as stored."""
        with self._noting_gone():
            loaded = await self._deps.store.load(self.agent_id)
            if loaded is None:
                raise NotFoundError(f"Agent {self.agent_id!r} is gone.", agent_id=self.agent_id)
            check_identity(loaded.state, self.uid)
        return view_of(loaded)

    info = status

    async def _cursor(self) -> int:
        return (await self._state()).next_cursor - 1
