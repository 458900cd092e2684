"""Checkpoints: named moments of an agent that one can look at, list, and go on from in a fork.

A checkpoint and an agent's snapshot are one thing. It lies in the store where its agent lives, is taken in one commit
with everything that belongs to that moment, costs a record of some hundred bytes however long the history is, and
keeps `prune` from removing what it shows.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from kode.core.kernel.message import Message
from kode.core.kernel.state import State
from kode.core.kernel.window import Snapshot
from kode.core.store.base import Store

__all__ = ["Checkpoint", "Checkpointer", "FileCheckpointer", "MemoryCheckpointer", "StoreCheckpointer"]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One named moment."""

    agent_id: str
    id: str
    at: int
    """Microseconds since the epoch."""
    seq: int
    """Messages below this number belong to it."""
    tags: tuple[str, ...] = ()
    parent: str | None = None
    """The checkpoint that it followed, as who saved it said."""
    tokens: int = 0
    """Size of the window then."""
    template: str = ""
    """``name@version`` then."""
    compaction: str | None = None
    """The summary that stood before the messages."""
    messages: tuple[Message, ...] = field(default=(), repr=False)
    """What the model was shown then; only `load` reads them."""


@runtime_checkable
class Checkpointer(Protocol):
    """Keeps checkpoints."""

    async def save(self, agent_id: str, id: str, *, tags: Sequence[str] = (), parent: str | None = None) -> Checkpoint:
        """Name the present moment of an agent that nobody drives and whose calls are all answered.

        Raises:
            NotFoundError: No such agent, or no such parent.
            UsageError: ``snapshot_exists``: the name is taken. ``not_safe``: calls are open.
            LeaseLostError: ``held``: somebody drives the agent.
        """
        ...

    async def load(self, agent_id: str, id: str) -> Checkpoint | None:
        """Read a checkpoint with its messages; None if there is none of that name."""
        ...

    async def list(
        self, agent_id: str, *, tags: Collection[str] = (), parent: str | None = None
    ) -> tuple[Checkpoint, ...]:
        """List checkpoints without their messages, the oldest first: those with all these tags, and of that parent."""
        ...

    async def delete(self, agent_id: str, id: str) -> bool:
        """Forget a checkpoint; says whether it was there. Its forks and children stay."""
        ...

    async def fork(self, agent_id: str, id: str, new_id: str, *, new_uid: str) -> State:
        """Make a new agent that begins at a checkpoint; see `Store.fork`."""
        ...


class StoreCheckpointer:
    """Checkpoints of the agents of a store, any store. Open it, or the store, before it is used.

    Args:
        store: Where the agents live.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    async def __aenter__(self) -> Self:
        await self.store.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.store.close()

    async def save(self, agent_id: str, id: str, *, tags: Sequence[str] = (), parent: str | None = None) -> Checkpoint:
        """See `Checkpointer.save`."""
        return _checkpoint(agent_id, await self.store.save_snapshot(agent_id, id, tags=tags, parent=parent))

    async def load(self, agent_id: str, id: str) -> Checkpoint | None:
        """See `Checkpointer.load`."""
        snapshot = await self.store.load_snapshot(agent_id, id)
        if snapshot is None:
            return None
        messages: list[Message] = []
        for part in snapshot.window.bounded(snapshot.seq):
            after: int | None = part.start - 1
            while after is not None:
                page = await self.store.read_messages(agent_id, after=after, before=part.stop)
                messages += page.items
                after = page.next
        return _checkpoint(agent_id, snapshot, tuple(messages))

    async def list(
        self, agent_id: str, *, tags: Collection[str] = (), parent: str | None = None
    ) -> tuple[Checkpoint, ...]:
        """See `Checkpointer.list`."""
        return tuple(
            _checkpoint(agent_id, snapshot)
            for snapshot in await self.store.list_snapshots(agent_id)
            if set(tags) <= set(snapshot.tags) and parent in (None, snapshot.parent)
        )

    async def delete(self, agent_id: str, id: str) -> bool:
        """See `Checkpointer.delete`."""
        return await self.store.delete_snapshot(agent_id, id)

    async def fork(self, agent_id: str, id: str, new_id: str, *, new_uid: str) -> State:
        """See `Checkpointer.fork`."""
        return await self.store.fork(agent_id, new_id, new_uid=new_uid, at=id)


class MemoryCheckpointer(StoreCheckpointer):
    """Checkpoints in a `MemoryStore` of its own, which is `store`: create the agents there."""

    def __init__(self) -> None:
        from kode.core.store.memory import MemoryStore

        super().__init__(MemoryStore())


class FileCheckpointer(StoreCheckpointer):
    """Checkpoints in a `JSONStore` of its own, which is `store`: create the agents there.

    Args:
        path: The store's directory.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        from kode.core.store.json import JSONStore

        super().__init__(JSONStore(path))


def _checkpoint(agent_id: str, snapshot: Snapshot, messages: tuple[Message, ...] = ()) -> Checkpoint:
    return Checkpoint(
        agent_id,
        snapshot.id,
        snapshot.at,
        snapshot.seq,
        snapshot.tags,
        snapshot.parent,
        snapshot.tokens,
        snapshot.template,
        snapshot.window.compaction,
        messages,
    )
