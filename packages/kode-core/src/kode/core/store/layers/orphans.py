"""Records without a header: they do not exist for any reader, but they take room and may be what someone erased.

Before records are written that a header will name only later (`fork`), and in the very act that removes a header
(`delete`, `erase`), the uid is marked by a record of kind ``staged`` under uid "" (`records.orphan_record`). The mark
is removed in the act that gives the records a header, or after the last of them is gone. So whatever breaks off in
between leaves a mark, and `sweep` finds it.
"""

from __future__ import annotations

from kode.core.clock import Clock
from kode.core.errors import ConflictError, RecordCorruptError, SchemaTooNewError
from kode.core.store import records as rec
from kode.core.store.contract import MOST, Condition, Record, Scan
from kode.core.store.layers.amend import Amending
from kode.core.store.layers.leases import TRIES
from kode.core.store.lookups import header_key, integer, uid_of

__all__ = ["ORPHANED_FOR", "Orphans"]

ORPHANED_FOR = 3_600_000_000
"""Microseconds after which what is marked or staged is taken for broken off: from first row to last takes seconds."""


class Orphans(Amending):
    """Finishes what broke off."""

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self._swept_at = 0

    async def sweep(self) -> int:
        """Remove the records of forks and deletions that broke off over an hour ago; returns how many there were.

        `prune` calls it now and then. Doing it from several processes at once is fine.
        """
        now = self._swept_at = await self._time()
        count, after = 0, ""
        while True:
            marks = await self.scan("", Scan("staged", "", after=after, limit=MOST))
            for mark in marks:
                if integer(mark.columns["at"]) < now - ORPHANED_FOR:
                    count += await self._finish(mark, now)
            if len(marks) < MOST:
                return count
            after = marks[-1].key

    # ---- inside --------------------------------------------------------------------------------------------

    async def _finish(self, mark: Record, now: int) -> bool:
        try:
            _, agent_id = rec.read_orphan(mark)
        except (RecordCorruptError, SchemaTooNewError):
            return False  # nothing is removed because of an error
        uid = mark.key
        same = [Condition("equals", mark.address, "at", mark.columns["at"])]
        (header,) = await self.get(agent_id, [header_key(agent_id)])
        if header is not None and uid_of(header) == uid:
            return await self.apply(agent_id, same, (), [mark.address]) is None
        # From here on a fork that was only slow fails: its last act asks for the mark as it was.
        claim = rec.orphan_record(uid, agent_id, "drop", now)
        if await self.apply(agent_id, same, [claim], ()) is not None:
            return False
        await self.drop(agent_id, uid)
        await self._unmark(agent_id, uid)
        return True

    async def _claim(self, agent_id: str, uid: str) -> bool:
        """Say that all of a uid must go, if it is marked for that agent; a fork to it that is under way fails."""
        for _ in range(TRIES):
            (mark,) = await self.get(agent_id, [rec.orphan_key(uid)])
            if mark is None or rec.read_orphan(mark)[1] != agent_id:
                return False
            same = Condition("equals", mark.address, "at", mark.columns["at"])
            claim = rec.orphan_record(uid, agent_id, "drop", await self._time())
            if await self.apply(agent_id, [same], [claim], ()) is None:
                return True
        raise ConflictError(f"{agent_id!r} changes hands too often to be erased; try again.", agent_id=agent_id)

    async def _unmark(self, agent_id: str, uid: str) -> None:
        await self.apply(agent_id, (), (), [rec.orphan_key(uid)])
