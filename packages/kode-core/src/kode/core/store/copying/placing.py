"""Writing an agent into a store from outside, so that it appears whole or not at all.

Its identity is marked (`orphans`), its records follow in portions, each on the condition that the mark is still as it
was, and one last act puts the header and removes the mark. Whatever breaks off before that has no header, so it does
not exist: the next try clears it away and begins anew, or `sweep` removes it after an hour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from kode.core.errors import ConflictError, LeaseLostError
from kode.core.store import lookups
from kode.core.store import records as rec
from kode.core.store.base import Store
from kode.core.store.contract import MOST, Condition, Key, Kind, Lease, Record, Scan
from kode.core.store.copying.contents import KINDS, PAGE_BYTES, Pages
from kode.core.store.layers.orphans import ORPHANED_FOR
from kode.core.store.lookups import Lookup, header_key, integer, lease_key, uid_of
from kode.core.store.primitives import portions

__all__ = ["Placing"]

REFRESHED: Final = ORPHANED_FOR // 6
"""Microseconds after which the mark is renewed, lest a sweep takes a long copy for one that broke off."""
_TELLING: Final[tuple[Kind, ...]] = ("events", "message", "document")
"""Kinds of which every agent has records."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What a store has of an agent that is to come."""

    header: Record | None
    """Of whoever has its name."""
    mark: Record | None
    lease: Record | None
    occupied: bool
    """There are records of its identity, and neither a mark nor that header says why."""


class Placing:
    """One agent on its way into a store: `look`, `begin`, `put` all there is, `flush`, `finish`.

    Args:
        target: Where to.
        header: The header it will have.
    """

    def __init__(self, target: Store, header: Record) -> None:
        self._target = target
        self._header = header
        self._agent_id, self._uid = header.key, uid_of(header)
        self._old: Record | None = None
        """The header that is there now and is to be replaced; None: there must be none."""
        self._replaced: str | None = None
        """Another identity that goes when this one comes."""
        self._mark = rec.orphan_key(self._uid)
        self._found = _Found(None, None, None, False)
        self._conditions: list[Condition] = []
        """What must hold for the next act."""
        self._at: int | None = None
        """The moment in our mark; None: it is still to be put."""
        self._waiting: list[Record] = []
        self._size = 0

    async def look(self) -> Record | None:
        """See what is there now; returns the header of whoever has the agent's name."""
        self._found = await self._target.look_up(self._agent_id, _look(self._agent_id, self._uid))
        return self._found.header

    async def begin(self, old: Record | None) -> None:
        """Take the place, with what `look` found. The mark is put with the first records.

        What an earlier try has left is removed before. Where the same identity is to be replaced it ceases to exist
        here: of one identity there cannot be two.

        Args:
            old: The header that is there now and is to be replaced; None: there must be none.

        Raises:
            ConflictError: Somebody else does something to this agent.
            LeaseLostError: ``held``: what is to be replaced is being driven.
        """
        target, agent_id = self._target, self._agent_id
        self._old = old
        same_identity = old is not None and uid_of(old) == self._uid
        self._replaced = None if old is None or same_identity else uid_of(old)
        expected = await self._expected()
        if old is not None:
            await self.look()  # the lease must be at least as new as what is expected of it
        mark = self._found.mark
        if mark is not None and rec.read_orphan(mark) == ("drop", agent_id):
            await target.erase(agent_id, uid=self._uid)  # a deletion that was not finished
            mark = None
        elif mark is not None and rec.read_orphan(mark) != ("fork", agent_id):
            raise self._busy()
        if self._found.occupied:
            raise ConflictError(
                f"Records of identity {self._uid!r} are in the target under another agent's name than {agent_id!r}; "
                "copy into another store.",
                code="uid_in_use",
                agent_id=agent_id,
                uid=self._uid,
            )
        unmarked = Condition("absent", self._mark) if mark is None else self._marked(integer(mark.columns["at"]))
        self._conditions = [*expected, unmarked]
        if mark is not None or same_identity:
            self._old = None if same_identity else old
            # Later than the mark that is there, so that who made that one sees that it is not his any more.
            now = max(await target.now(), 0 if mark is None else integer(mark.columns["at"]) + 1)
            await self._act([self._marking(now)], [header_key(agent_id)] if same_identity else ())
            await self._clear()

    async def put(self, rows: Sequence[Record]) -> None:
        """Take records to write; they show once `finish` is done.

        Raises:
            ConflictError: Somebody else goes on with this agent, or removes it.
        """
        self._waiting += rows
        self._size += sum(len(row.body) for row in rows)
        if len(self._waiting) >= MOST or self._size >= PAGE_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Write all that was taken.

        Raises:
            ConflictError: Somebody else goes on with this agent, or removes it.
        """
        if self._at is None:
            self._waiting.insert(0, self._marking(await self._target.now()))
        await self.keep()
        for part in portions(self._waiting, self._most, self._target.max_batch_bytes):
            await self._act(part)
        self._waiting, self._size = [], 0

    async def keep(self, _rows: Sequence[Record] = ()) -> None:
        """Keep what was written from being swept away, however long the rest takes. Call it now and then.

        Raises:
            ConflictError: Somebody else goes on with this agent, or removes it.
        """
        now = await self._target.now()
        if self._at is not None and now - self._at > REFRESHED:
            await self._act([self._marking(now)])

    async def finish(self, lease: Record | None) -> None:
        """Let the agent be. Nobody drives it; its next fence is above that of `lease` and of any it had here.

        Raises:
            ConflictError: Somebody else was faster.
            LeaseLostError: ``held``: what is to be replaced is being driven.
        """
        target, agent_id, uid = self._target, self._agent_id, self._uid
        await self.keep()
        puts = [self._header]
        known = [row for row in (lease, self._found.lease) if row is not None]
        if known:
            fence, takes = (max(integer(row.columns[name]) for row in known) for name in ("fence", "takes"))
            puts.insert(0, rec.released_record(Lease(agent_id, uid, "", fence, 0, 0, takes)))
        conditions = await self._expected()
        if self._replaced is not None:
            # Before the act, which some engines allow three changes; a mark on what has a header does no harm.
            drop = rec.orphan_record(self._replaced, agent_id, "drop", await target.now())
            await target.apply(agent_id, conditions, [drop], ())
        done = await target.apply(agent_id, [*conditions, *self._conditions], puts, [self._mark])
        if done is not None:
            raise self._busy()
        if self._replaced is not None:
            await target.erase(agent_id, uid=self._replaced)

    async def abandon(self) -> None:
        """Take everything back that was written."""
        self._waiting = []
        if self._at is not None:
            await self._clear()
            await self._act((), [self._mark])

    # ---- inside --------------------------------------------------------------------------------------------

    @property
    def _most(self) -> int:
        return self._target.max_batch or MOST

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

    async def _clear(self) -> None:
        """Remove all of this identity but its lease, which holds the fence."""
        pages = Pages(self._target, self._agent_id, self._uid, (*KINDS, "staged"))
        while not pages.over:
            rows = [row.address for row in await pages.next()]
            for part in portions(rows, self._most, self._target.max_batch_bytes):
                await self._act((), part)

    async def _act(self, puts: Sequence[Record], deletes: Sequence[Key] = ()) -> None:
        """Write under our mark, which is the first of `puts` if it is among them."""
        if await self._target.apply(self._agent_id, self._conditions, puts, deletes) is not None:
            raise self._busy()
        if puts and puts[0].kind == "staged":
            self._at = integer(puts[0].columns["at"])
            self._conditions = [self._marked(self._at)]

    def _busy(self) -> ConflictError:
        return ConflictError(
            f"{self._agent_id!r} changed in the target meanwhile: somebody else copies, forks or removes it. "
            "Try again.",
            agent_id=self._agent_id,
            uid=self._uid,
        )


def _look(agent_id: str, uid: str) -> Lookup[_Found]:
    header, mark, lease = yield from lookups.get(header_key(agent_id), rec.orphan_key(uid), lease_key(uid))
    occupied = False
    if mark is None and (header is None or uid_of(header) != uid):
        for kind in _TELLING:
            occupied = occupied or bool((yield from lookups.scan(Scan(kind, uid, limit=1))))
    return _Found(header, mark, lease, occupied)
