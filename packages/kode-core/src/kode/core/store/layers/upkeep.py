"""What happens to whole agents: delete, erase; `fork` is in `forks`."""

from __future__ import annotations

from dataclasses import replace

from kode.core.errors import ConflictError, LeaseLostError, NotFoundError, StoreError
from kode.core.store import lookups
from kode.core.store import records as rec
from kode.core.store.contract import Condition, Kind, Record, Scan
from kode.core.store.layers.forks import COPIED, Forking
from kode.core.store.layers.leases import TRIES, unchanged
from kode.core.store.liveness import named
from kode.core.store.lookups import Lookup, header_key, lease_key, uid_of
from kode.core.store.primitives import check_agent_id

__all__ = ["Upkeep"]


class Upkeep(Forking):
    """Whole agents."""

    async def delete(
        self, agent_id: str, *, uid: str | None = None, holder: str | None = None, force: bool = False
    ) -> None:
        """Remove an agent. From the moment its header is gone it does not exist; its records and blobs follow.

        What is left when it breaks off there is removed by `sweep`.

        Args:
            agent_id: Whose.
            uid: Only this identity: an agent that was made again under the id stays.
            holder: Who asks; its own lease does not stop it.
            force: Delete even while somebody drives it, who is stopped by its next commit.

        Raises:
            NotFoundError: No such agent, or not of that `uid`.
            LeaseLostError: ``held``: somebody else drives it.
        """
        header = await self._take_header(agent_id, holder, force, uid)
        self._changed(agent_id)
        await self.drop(agent_id, uid_of(header))
        await self._unmark(agent_id, uid_of(header))

    async def erase(
        self,
        agent_id: str,
        *,
        uid: str | None = None,
        holder: str | None = None,
        force: bool = False,
        expired_by: int | None = None,
    ) -> str:
        """Delete an agent and prove that no record of it is left; returns the uid it had.

        With `uid`, an erasure (or fork) of this `agent_id` that was interrupted after its first act is finished at
        once; else `sweep` does so later. One that was finished may be repeated. The agent's blobs go too; what a
        fork has copied is the fork's. `remains` repeats the proof at any time.

        Args:
            agent_id: Whose.
            uid: Only this identity.
            holder: Who asks; its own lease does not stop it.
            force: Erase even while somebody drives it.
            expired_by: Only if its `expires_at` is not after this moment.

        Raises:
            NotFoundError: No such agent; what there is of `uid` belongs to another and is untouched.
            LeaseLostError: ``held``: somebody else drives it.
            ConflictError: ``not_expired``, or it changes hands too often.
            StoreError: ``not_erased``: something is left; `fields` name the kinds.
        """
        check_agent_id(agent_id)
        try:
            gone = uid_of(await self._take_header(agent_id, holder, force, uid, expired_by))
        except NotFoundError:
            if uid is None:
                raise
            gone = uid
            if not await self._claim(agent_id, gone):
                # An erasure repeated after its end; or somebody's records, of which nobody said that they may go.
                if await self.remains(agent_id, gone):
                    raise
                return gone
        self._changed(agent_id)
        await self.drop(agent_id, gone)
        left = await self.remains(agent_id, gone)
        if left:
            raise StoreError(
                f"Records of {agent_id!r} ({gone}) are left: {', '.join(left)}. Erase it again.",
                code="not_erased",
                agent_id=agent_id,
                uid=gone,
                kinds=list(left),
            )
        await self._unmark(agent_id, gone)
        return gone

    async def remains(self, agent_id: str, uid: str) -> dict[Kind, int]:
        """Count what there is of an identity, by kind: empty when nothing is left of it.

        It reads all of it, so it is cheap exactly when it proves an erasure.
        """
        header, lease = await self.get(agent_id, [header_key(agent_id), lease_key(uid)])
        found: dict[Kind, int] = {}
        if header is not None and uid_of(header) == uid:
            found["header"] = 1
        if lease is not None:
            found["lease"] = 1
        for kind in rec.COLUMNS:
            if kind not in ("header", "lease"):
                rows = await self.look_up(agent_id, _count(Scan(kind, uid, limit=COPIED)))
                found |= {kind: rows} if rows else {}
        return found

    # ---- inside --------------------------------------------------------------------------------------------

    async def _take_header(
        self, agent_id: str, holder: str | None, force: bool, uid: str | None = None, expired_by: int | None = None
    ) -> Record:
        """Remove the header, if nobody else drives the agent; returns what it was."""
        check_agent_id(agent_id)
        for _ in range(TRIES):
            now = await self._time()
            (header,) = await self.get(agent_id, [header_key(agent_id)])
            if header is None or uid not in (None, uid_of(header)):
                raise lookups.no_agent(agent_id)
            conditions = [Condition("equals", header_key(agent_id), "uid", uid_of(header))]
            if expired_by is not None:
                conditions.append(_expired(header, expired_by))
            (lease,) = await self.get(agent_id, [lease_key(uid_of(header))])
            held = self._live_lease(lease, header, now)
            if held is not None and held.holder != holder and not force:
                raise LeaseLostError(
                    f"{agent_id!r} is driven by {named(held.holder)!r} just now; stop that first, or delete "
                    "with force=True.",
                    code="held",
                    agent_id=agent_id,
                    holder=held.holder,
                    until=held.until,
                )
            if not force:
                # As it was read, for whose lease had lapsed may renew it, and drives on.
                conditions += unchanged(lease) if lease else [Condition("absent", lease_key(uid_of(header)))]
            mark = rec.orphan_record(uid_of(header), agent_id, "drop", now)
            if await self.apply(agent_id, conditions, [mark], [header_key(agent_id)]) is None:
                return header
        raise ConflictError(f"{agent_id!r} changes hands too often to be deleted; try again.", agent_id=agent_id)


def _count(ask: Scan) -> Lookup[int]:
    count = 0
    while True:
        rows = yield from lookups.scan(ask)
        count += len(rows)
        if len(rows) < ask.limit:
            return count
        ask = replace(ask, after=rows[-1].key)


def _expired(header: Record, moment: int) -> Condition:
    """Say that an agent's time is over and stays so."""
    ends = header.columns["expires_at"]
    if not isinstance(ends, int) or ends > moment:
        raise ConflictError(
            f"{header.key!r} has not expired: its time ends {'never' if ends is None else f'at {ends}'}.",
            code="not_expired",
            agent_id=header.key,
            expires_at=ends,
        )
    return Condition("equals", header.address, "expires_at", ends)
