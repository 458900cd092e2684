"""Changing an agent that nobody drives: one compare-and-swap commit, made again when another came first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import count

from kode.core.errors import ConflictError
from kode.core.kernel.events import Event
from kode.core.kernel.message import Message
from kode.core.kernel.state import State
from kode.core.kernel.window import Snapshot
from kode.core.store import lookups
from kode.core.store import records as rec
from kode.core.store.contract import Commit, DocumentBody, Record
from kode.core.store.layers.commits import Writing
from kode.core.store.layers.leases import TRIES
from kode.core.store.liveness import holder_name
from kode.core.store.lookups import Lookup, integer

__all__ = ["Amending", "Amendment", "standing"]

_numbers = count()


@dataclass(frozen=True, slots=True)
class Amendment:
    """What a change makes of a state, and what is stored with it."""

    state: State
    messages: Sequence[Message] = ()
    events: Sequence[Event] = ()
    snapshots: Sequence[Snapshot] = ()
    documents: Sequence[DocumentBody] = ()


class Amending(Writing):
    """Commits without a driver."""

    async def _amend(self, agent_id: str, change: Callable[[State, int], Awaitable[Amendment | None]]) -> State:
        """Commit what `change` makes of the state and the time; None: nothing is to be done.

        `change` may be asked again with a newer state. Neither the inbox nor the moment to wake is touched.

        Raises:
            NotFoundError: No such agent.
            LeaseLostError: ``held``: somebody drives it, and keeps its state in memory.
            ConflictError: It changes too fast.
        """
        for _ in range(TRIES):
            header, state = await self._settled(agent_id, lambda: standing(agent_id))
            at = max(await self._time(), state.updated_at)
            made = await change(state, at)
            if made is None:
                return state
            wake_at = header.columns["wake_at"]
            commit = Commit(
                state=made.state,
                commit_id=_commit_id(),
                version=integer(header.columns["version"]),
                fence=None,
                at=at,
                bounds=rec.read_bounds(header),
                wake_at=wake_at if isinstance(wake_at, int) else None,
                messages=made.messages,
                events=made.events,
                snapshots=made.snapshots,
                documents=made.documents,
                seen=integer(header.columns["seen"]),
                amends=True,
            )
            try:
                await self.commit(commit)
            except ConflictError:
                continue
            return made.state
        raise ConflictError(f"{agent_id!r} changes too fast; try again.", agent_id=agent_id)


def standing(agent_id: str, uid: str | None = None) -> Lookup[tuple[Record, State]]:
    """Read header and state of an agent, of that identity if one is given."""
    header = yield from lookups.need_header(agent_id)
    if uid not in (None, lookups.uid_of(header)):
        raise lookups.no_agent(agent_id)
    return header, (yield from lookups.state_of(header))


def _commit_id() -> str:
    """Name a commit so that no other process and no other call gives the same name.

    Of two that append the same words to the same version one must lose, and not be told that it had landed before.
    """
    return sha256(f"{holder_name('amend')}#{next(_numbers)}".encode()).hexdigest()[:32]
