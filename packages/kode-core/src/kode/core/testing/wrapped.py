"""A store around another one: every record primitive passes through one door, and all layers above still work.

``Store`` builds all it promises on a dozen primitives. This one hands those to the inner store and lets a
subclass stand in the door; it also tells for which operation (``commit``, ``acquire``, …) a primitive is called.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from typing import Any, TypeVar

from kode.core.kernel.state import State
from kode.core.store.base import Store
from kode.core.store.contract import (
    Appended,
    Commit,
    Committed,
    Condition,
    Due,
    Enqueued,
    Footing,
    Item,
    Key,
    Lease,
    Record,
    Scan,
)
from kode.core.store.lookups import Lookup

__all__ = ["WRITES", "WrappedStore"]

T = TypeVar("T")

WRITES = frozenset({"apply", "apply_and_look", "append_inbox", "drop"})
"""Primitives that change something."""

_operation: ContextVar[str] = ContextVar("kode_testing_operation", default="")


class WrappedStore(Store):
    """Pass everything through to ``inner``; override ``around`` and ``operate`` to stand in between."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner.clock)
        self.inner = inner
        self.durability = inner.durability
        self.max_batch = inner.max_batch
        self.max_batch_bytes = inner.max_batch_bytes
        self.same_host = inner.same_host

    # ---- the door ------------------------------------------------------------------------------------------

    async def around(self, method: str, call: Callable[[], Awaitable[T]]) -> T:
        """Do one primitive. ``operation`` says what for."""
        return await call()

    async def operate(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        """Do one operation of the layers above: ``create``, ``commit``, ``enqueue``, ``acquire`` and so on."""
        token = _operation.set(name)
        try:
            return await call()
        finally:
            _operation.reset(token)

    @property
    def operation(self) -> str:
        """The operation this task is in, or ""."""
        return _operation.get()

    # ---- operations ----------------------------------------------------------------------------------------

    async def commit(self, commit: Commit) -> Committed:
        """See ``Writing.commit``; a commit that creates is called ``create``."""
        call = super().commit
        return await self.operate("create" if commit.version is None else "commit", lambda: call(commit))

    async def enqueue(self, agent_id: str, item: Item, *, uid: str | None = None) -> Enqueued:
        """See ``Writing.enqueue``; what one agent puts into another's inbox is called ``deliver``."""
        call = super().enqueue
        name = "deliver" if item.kind == "resolve" else "enqueue"
        return await self.operate(name, lambda: call(agent_id, item, uid=uid))

    async def acquire(self, agent_id: str, holder: str, ttl_s: float) -> Lease:
        """See ``Leasing.acquire``."""
        call = super().acquire
        return await self.operate("acquire", lambda: call(agent_id, holder, ttl_s))

    async def acquire_on(self, footing: Footing, holder: str, ttl_s: float) -> tuple[Lease, tuple[Item, ...]] | None:
        """See ``Leasing.acquire_on``; it is called ``acquire``, too."""
        call = super().acquire_on
        return await self.operate("acquire", lambda: call(footing, holder, ttl_s))

    async def renew(self, lease: Lease, ttl_s: float) -> Lease:
        """See ``Leasing.renew``."""
        call = super().renew
        return await self.operate("renew", lambda: call(lease, ttl_s))

    async def release(self, lease: Lease, **options: Any) -> None:
        """See ``Leasing.release``."""
        call = super().release
        await self.operate("release", lambda: call(lease, **options))

    async def fork(self, agent_id: str, new_id: str, **options: Any) -> State:
        """See ``Upkeep.fork``."""
        call = super().fork
        return await self.operate("fork", lambda: call(agent_id, new_id, **options))

    async def delete(self, agent_id: str, **options: Any) -> None:
        """See ``Upkeep.delete``."""
        call = super().delete
        await self.operate("delete", lambda: call(agent_id, **options))

    # ---- primitives ----------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the inner store."""
        await self.around("open", self.inner.open)

    async def close(self) -> None:
        """Close the inner store."""
        await self.around("close", self.inner.close)

    async def now(self) -> int:
        """Ask the inner store."""
        return await self.around("now", self.inner.now)

    async def apply(
        self, agent_id: str, conditions: Sequence[Condition], puts: Sequence[Record], deletes: Sequence[Key]
    ) -> int | None:
        """Hand on."""
        return await self.around("apply", lambda: self.inner.apply(agent_id, conditions, puts, deletes))

    async def apply_and_look(
        self,
        agent_id: str,
        conditions: Sequence[Condition],
        puts: Sequence[Record],
        deletes: Sequence[Key],
        *,
        uid: str,
        after: str,
    ) -> tuple[int | None, list[Record]]:
        """Hand on."""
        return await self.around(
            "apply_and_look",
            lambda: self.inner.apply_and_look(agent_id, conditions, puts, deletes, uid=uid, after=after),
        )

    async def append_inbox(self, agent_id: str, record: Record, *, now: int, bounded: bool) -> Appended:
        """Hand on."""
        return await self.around(
            "append_inbox", lambda: self.inner.append_inbox(agent_id, record, now=now, bounded=bounded)
        )

    async def look_up(self, agent_id: str, lookup: Lookup[T]) -> T:
        """Hand on whole, so that a store that reads in one snapshot still does."""
        return await self.around("look_up", lambda: self.inner.look_up(agent_id, lookup))

    async def get(self, agent_id: str, keys: Sequence[Key]) -> list[Record | None]:
        """Hand on."""
        return await self.around("get", lambda: self.inner.get(agent_id, keys))

    async def scan(self, agent_id: str, ask: Scan) -> list[Record]:
        """Hand on."""
        return await self.around("scan", lambda: self.inner.scan(agent_id, ask))

    async def due(self, now: int, limit: int, after: Due | None = None) -> list[Due]:
        """Hand on."""
        return await self.around("due", lambda: self.inner.due(now, limit, after))

    async def agents(self, prefix: str, after: str, limit: int, tenant: str | None = None) -> list[Record]:
        """Hand on."""
        return await self.around("agents", lambda: self.inner.agents(prefix, after, limit, tenant))

    async def drop(self, agent_id: str, uid: str) -> None:
        """Hand on."""
        await self.around("drop", lambda: self.inner.drop(agent_id, uid))
