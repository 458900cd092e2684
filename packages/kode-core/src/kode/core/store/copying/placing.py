"""Writing an agent into a store from outside, so that it appears whole or not at all.

Its identity is marked (`orphans`), its records follow in portions, each on the condition that the mark is still as it
was, and one last act puts the header and removes the mark. Whatever breaks off before that has no header, so it does
not exist: the next try clears it away and begins anew, or `sweep` removes it after an hour.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from kode.core.errors import ConflictError, LeaseLostError
from kode.core.store import records as rec
from kode.core.store.base import Store
from kode.core.store.contract import Condition, Key, Lease, Record
from kode.core.store.copying.contents import KINDS, PAGE_BYTES, Pages
from kode.core.store.orphans import ORPHANED_FOR
from kode.core.store.plans import SCAN, header_key, integer, lease_key, uid_of
from kode.core.store.primitives import portions

__all__ = ["Placing"]

REFRESHED: Final = ORPHANED_FOR // 6
"""Microseconds after which the mark is renewed, lest a sweep takes a long copy for one that broke off."""


class Placing:
    """One agent on its way into a store.

    Args:
        target: Where to.
        header: The header it will have.
        old: The header that is there now and is to be replaced; None: there must be none.
    """

    def __init__(self, target: Store, header: Record, old: Record | None) -> None:
        self._target = target
        self._header = header
        self._agent_id, self._uid = header.key, uid_of(header)
        self._old = old
        self._replaced = None if old is None or uid_of(old) == self._uid else uid_of(old)
        """Another identity that goes when this one comes."""
        self._mark = rec.orphan_key(self._uid)
        self._at = 0
        self._waiting: list[Record] = []
        self._size = 0

    async def begin(self) -> None:
        """Mark the identity; remove what an earlier try has left.

        Where the same identity is to be replaced, it ceases to exist here: of one identity there cannot be two.

        Raises:
            ConflictError: Somebody else does something to this agent.
            LeaseLostError: ``held``: what is to be replaced is being driven.
        """
        target, agent_id = self._target, self._agent_id
        (mark,) = await target.get(agent_id, [self._mark])
        if mark is not None and rec.read_orphan(mark) == ("drop", agent_id):
            await target.erase(agent_id, uid=self._uid)  # a deletion that was not finished
            mark = None
        elif mark is not None and rec.read_orphan(mark) != ("fork", agent_id):
            raise self._busy()
        left = mark is not None or (self._old is not None and self._replaced is None)
        if not left and await self._occupied():
            raise ConflictError(
                f"Records of identity {self._uid!r} are in the target under another agent's name than {agent_id!r}; "
                "copy into another store.",
                code="uid_in_use",
                agent_id=agent_id,
                uid=self._uid,
            )
        conditions, deletes = await self._expected(), []
        if self._old is not None and self._replaced is None:
            deletes.append(header_key(agent_id))
            self._old = None
        same = Condition("absent", self._mark) if mark is None else self._marked(integer(mark.columns["at"]))
        # Later than the mark that is there, so that who made that one sees that it is not his any more.
        now = max(await target.now(), 0 if mark is None else integer(mark.columns["at"]) + 1)
        if await target.apply(agent_id, [*conditions, same], [self._marking(now)], deletes) is not None:
            raise self._busy()
        self._at = now
        if left:
            await self._clear()

    async def put(self, rows: Sequence[Record]) -> None:
        """Take records to write; they show once `finish` is done.

        Raises:
            ConflictError: Somebody else goes on with this agent, or removes it.
        """
        self._waiting += rows
        self._size += sum(len(row.body) for row in rows)
        if len(self._waiting) >= SCAN or self._size >= PAGE_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Write all that was taken.

        Raises:
            ConflictError: Somebody else goes on with this agent, or removes it.
        """
        await self.keep()
        for part in portions(self._waiting, self._most, self._target.max_batch_bytes):
            await self._act(part, ())
        self._waiting, self._size = [], 0

    async def keep(self, _rows: Sequence[Record] = ()) -> None:
        """Keep what was written from being swept away, however long the rest takes. Call it now and then.

        Raises:
            ConflictError: Somebody else goes on with this agent, or removes it.
        """
        now = await self._target.now()
        if now - self._at > REFRESHED:
            await self._act([self._marking(now)], ())
            self._at = now

    async def finish(self, lease: Record | None) -> None:
        """Let the agent be. Nobody drives it; its next fence is above that of `lease` and of any it had here.

        Raises:
            ConflictError: Somebody else was faster.
            LeaseLostError: ``held``: what is to be replaced is being driven.
        """
        target, agent_id, uid = self._target, self._agent_id, self._uid
        await self.keep()
        puts = [self._header]
        (own,) = await target.get(agent_id, [lease_key(uid)])
        known = [row for row in (lease, own) if row is not None]
        if known:
            fence, takes = (max(integer(row.columns[name]) for row in known) for name in ("fence", "takes"))
            puts.insert(0, rec.released_record(Lease(agent_id, uid, "", fence, 0, 0, takes)))
        conditions = await self._expected()
        if self._replaced is not None:
            # Before the act, which some engines allow three changes; a mark on what has a header does no harm.
            drop = rec.orphan_record(self._replaced, agent_id, "drop", await target.now())
            await target.apply(agent_id, conditions, [drop], ())
        done = await target.apply(agent_id, [*conditions, self._marked(self._at)], puts, [self._mark])
        if done is not None:
            raise self._busy()
        if self._replaced is not None:
            await target.erase(agent_id, uid=self._replaced)

    async def abandon(self) -> None:
        """Take everything back that was written."""
        self._waiting = []
        await self._clear()
        await self._act((), [self._mark])

    # ---- inside --------------------------------------------------------------------------------------------

    @property
    def _most(self) -> int:
        return self._target.max_batch or SCAN

    def _marking(self, now: int) -> Record:
        return rec.orphan_record(self._uid, self._agent_id, "fork", now)

    def _marked(self, at: int) -> Condition:
        return Condition("equals", self._mark, "at", at)

    async def _expected(self) -> list[Condition]:
        """Say that the agent in the target is what it was when it was judged, and that nobody drives it."""
        key = header_key(self._agent_id)
        if self._old is None:
            return [Condition("absent", key)]
        uid = uid_of(self._old)
        same = [Condition("equals", key, name, self._old.columns[name]) for name in ("uid", "version", "wake_at")]
        (lease,) = await self._target.get(self._agent_id, [lease_key(uid)])
        if lease is None:
            return [*same, Condition("absent", lease_key(uid))]
        held = await self._target.lease_of(self._agent_id)
        if held is not None:
            raise LeaseLostError(
                f"{self._agent_id!r} is driven in the target by {held.holder!r}; stop that first.",
                code="held",
                agent_id=self._agent_id,
                holder=held.holder,
            )
        return [*same, Condition("equals", lease_key(uid), "fence", lease.columns["fence"])]

    async def _occupied(self) -> bool:
        for kind in ("events", "message", "document"):
            if await self._target.scan(self._agent_id, kind, self._uid, limit=1):
                return True
        return False

    async def _clear(self) -> None:
        """Remove all of this identity but its lease, which holds the fence."""
        for kind in (*KINDS, "staged"):
            pages = Pages(self._target, self._agent_id, self._uid, kind)
            while rows := await pages.next():
                for part in portions([row.address for row in rows], self._most, self._target.max_batch_bytes):
                    await self._act((), part)

    async def _act(self, puts: Sequence[Record], deletes: Sequence[Key]) -> None:
        if await self._target.apply(self._agent_id, [self._marked(self._at)], puts, deletes) is not None:
            raise self._busy()

    def _busy(self) -> ConflictError:
        return ConflictError(
            f"{self._agent_id!r} changed in the target meanwhile: somebody else copies, forks or removes it. "
            "Try again.",
            agent_id=self._agent_id,
            uid=self._uid,
        )
