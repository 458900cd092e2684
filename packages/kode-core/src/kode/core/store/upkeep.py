"""What happens to whole agents: fork, delete, erase."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from kode.core.errors import (
    AgentExistsError,
    ConflictError,
    KodeError,
    LeaseLostError,
    NotFoundError,
    StoreError,
    UsageError,
)
from kode.core.kernel.events import Event, Scalar
from kode.core.kernel.message import Usage
from kode.core.kernel.state import Ancestor, State
from kode.core.kernel.window import Snapshot
from kode.core.store import plans
from kode.core.store import records as rec
from kode.core.store.contract import Bounds, Commit, Condition, Key, Kind, Record
from kode.core.store.leases import TRIES
from kode.core.store.orphans import Orphans
from kode.core.store.plans import Plan, Scan, header_key, integer, lease_key, uid_of
from kode.core.store.primitives import check_agent_id, check_name, portions

__all__ = ["Upkeep"]

COPIED = 500
"""Records read at once by a fork."""
COPIED_BYTES = 8_388_608
"""About how many bytes of them."""
BLOBS = 4
"""Blobs read at once, which may be large."""


@dataclass(slots=True)
class _Target:
    """A fork that is being made."""

    state: State
    mark: Condition
    """That its identity is still marked as it was."""
    lost: bool = False
    """It is not: somebody else goes on with it, or removes it."""


class Upkeep(Orphans):
    """Whole agents."""

    async def delete(self, agent_id: str, *, holder: str | None = None, force: bool = False) -> None:
        """Remove an agent. From the moment its header is gone it does not exist; its records and blobs follow.

        What is left when it breaks off there is removed by `sweep`.

        Args:
            agent_id: Whose.
            holder: Who asks; its own lease does not stop it.
            force: Delete even while somebody drives it, who is stopped by its next commit.

        Raises:
            NotFoundError: No such agent.
            LeaseLostError: ``held``: somebody else drives it.
        """
        header = await self._take_header(agent_id, holder, force)
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

        With `uid`, an erasure that was interrupted after its first act is finished at once; else `sweep` does so
        later. Its blobs go too; what a fork has copied is the fork's. `remains` repeats the proof at any time.

        Args:
            agent_id: Whose.
            uid: Only this identity.
            holder: Who asks; its own lease does not stop it.
            force: Erase even while somebody drives it.
            expired_by: Only if its `expires_at` is not after this moment.

        Raises:
            NotFoundError: No such agent.
            LeaseLostError: ``held``: somebody else drives it.
            ConflictError: ``not_expired``.
            StoreError: ``not_erased``: something is left; `fields` name the kinds.
        """
        check_agent_id(agent_id)
        try:
            gone = uid_of(await self._take_header(agent_id, holder, force, uid, expired_by))
        except NotFoundError:
            if uid is None:
                raise
            gone = uid
            await self._mark_dropped(agent_id, gone)
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
                rows = await self.read_plan(agent_id, _count(Scan(kind, uid, limit=COPIED)))
                found |= {kind: rows} if rows else {}
        return found

    async def fork(self, agent_id: str, new_id: str, *, new_uid: str, at: str | None = None) -> State:
        """Make a new agent with the history of another up to now, or up to a snapshot.

        It starts READY, with an identity and inbox of its own and nothing used of its budgets; messages,
        calls, compactions, snapshots, documents and blobs are copied. Repeating it with the same `new_uid` is
        safe. What an interrupted fork leaves has no header, so it does not exist, and `sweep` removes it.

        Raises:
            NotFoundError: No such agent or snapshot.
            UsageError: ``not_safe``: calls are open; fork at a snapshot, or wait. ``pruned``: messages that the
                snapshot shows were pruned. ``uid_in_use``: records of `new_uid` are still being removed.
            AgentExistsError: `new_id` is taken.
            ConflictError: Another fork to `new_uid` came between, or the source changed; try again.
        """
        (made,) = await self.batch_fork(agent_id, {new_id: new_uid}, at=at)
        return made

    async def batch_fork(self, agent_id: str, forks: Mapping[str, str], *, at: str | None = None) -> tuple[State, ...]:
        """Make many forks of one agent, reading it once; see `fork`.

        Each comes to be in an act of its own. When one cannot, the others do, and its error is raised after that;
        repeating the call with the same identities finishes what is missing and leaves the rest as it is.

        Args:
            agent_id: Of whom.
            forks: The new agents' ids, each with its identity, which nobody may have had before.
            at: A snapshot; None: up to now.

        Returns: Their states, in that order.
        """
        check_agent_id(agent_id)
        for new_id, new_uid in forks.items():
            check_agent_id(new_id)
            check_name("new_uid", new_uid)
        if len(set(forks.values())) < len(forks):
            raise UsageError("Two forks cannot have one identity; give each a new_uid of its own.", code="uid_in_use")
        header, state, snapshot = await self._settled(agent_id, lambda: _fork_source(agent_id, at))
        if snapshot is None and state.calls:
            raise UsageError(
                f"{agent_id!r} has open calls ({state.calls[0].id}, …); wait, or fork at a snapshot.",
                code="not_safe",
                agent_id=agent_id,
            )
        begun = await self._begin_forks(forks)
        now = max([state.updated_at, *(moment for moment in begun.values() if moment is not None)])
        targets = [
            _Target(
                _forked(state, snapshot, id, forks[id], now), Condition("equals", rec.orphan_key(forks[id]), "at", t)
            )
            for id, t in begun.items()
            if t is not None
        ]
        if targets:
            await self._copy(agent_id, state.uid, targets)
        failed: KodeError | None = None
        for target in targets:
            try:
                await self._finish_fork(state, rec.read_bounds(header), target)
            except (AgentExistsError, ConflictError) as error:
                failed = failed or error
        if failed is not None:
            raise failed
        made = {target.state.agent_id: target.state for target in targets if not target.lost}
        return tuple([made[id] if id in made else await self.read_state(id) for id in forks])

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
                raise plans.no_agent(agent_id)
            conditions = [Condition("equals", header_key(agent_id), "uid", uid_of(header))]
            if expired_by is not None:
                conditions.append(_expired(header, expired_by))
            (lease,) = await self.get(agent_id, [lease_key(uid_of(header))])
            held = self._live_lease(lease, header, now)
            if held is not None and held.holder != holder and not force:
                raise LeaseLostError(
                    f"{agent_id!r} is driven by {held.holder!r}; stop that first, or delete with force=True.",
                    code="held",
                    agent_id=agent_id,
                    holder=held.holder,
                    until=held.until,
                )
            if not force:
                key = lease_key(uid_of(header))
                conditions.append(
                    Condition("absent", key)
                    if lease is None
                    else Condition("equals", key, "fence", lease.columns["fence"])
                )
            mark = rec.orphan_record(uid_of(header), agent_id, "drop", now)
            if await self.apply(agent_id, conditions, [mark], [header_key(agent_id)]) is None:
                return header
        raise ConflictError(f"{agent_id!r} changes hands too often to be deleted; try again.", agent_id=agent_id)

    async def _begin_forks(self, forks: Mapping[str, str]) -> dict[str, int | None]:
        """Mark all identities of forks to come, or none."""
        begun: dict[str, int | None] = {}
        try:
            for new_id, new_uid in forks.items():
                begun[new_id] = await self._begin_fork(new_id, new_uid)
        except KodeError:
            for new_id, moment in begun.items():
                if moment is not None:
                    mark = rec.orphan_key(forks[new_id])
                    await self.apply(new_id, [Condition("equals", mark, "at", moment)], (), [mark])
            raise
        return begun

    async def _finish_fork(self, source: State, bounds: Bounds, target: _Target) -> None:
        """Give a fork its header; what happened to one that lost its mark is found out here."""
        forked = target.state
        new_id, new_uid = forked.agent_id, forked.uid
        if not target.lost:
            data: dict[str, Scalar] = {"agent_id": source.agent_id, "uid": source.uid, "seq": forked.next_seq}
            event = Event("agent_forked", at=forked.created_at, cursor=1, data=data)
            commit = Commit(forked, f"fork:{new_uid}", None, None, forked.created_at, bounds)
            puts = [rec.events_record(new_uid, [event], 1), rec.header_record(commit, version=1, wake_at=None)]
            conditions = [Condition("absent", header_key(new_id)), target.mark]
            if await self.apply(new_id, conditions, puts, [rec.orphan_key(new_uid)]) is None:
                self._changed(new_id)
                return
        target.lost = True
        (taken,) = await self.get(new_id, [header_key(new_id)])
        if taken is None:
            raise ConflictError(f"Another fork to {new_uid!r} came between; try again.", agent_id=new_id, uid=new_uid)
        if uid_of(taken) == new_uid:
            return
        await self.drop(new_id, new_uid)
        await self._unmark(new_id, new_uid)
        raise _taken(new_id)

    async def _begin_fork(self, new_id: str, new_uid: str) -> int | None:
        """Mark the uid of a fork to come; returns when that was, None if that agent is there already."""
        for _ in range(TRIES):
            header, mark = await self.get(new_id, [header_key(new_id), rec.orphan_key(new_uid)])
            if header is not None:
                if uid_of(header) == new_uid:
                    return None
                raise _taken(new_id)
            if mark is not None and rec.read_orphan(mark) != ("fork", new_id):
                raise UsageError(
                    f"Records of {new_uid!r} are being made or removed for another agent; choose another new_uid.",
                    code="uid_in_use",
                    uid=new_uid,
                )
            place = rec.orphan_key(new_uid)
            same = Condition("absent", place) if mark is None else Condition("equals", place, "at", mark.columns["at"])
            now = await self._time()
            begin = [rec.orphan_record(new_uid, new_id, "fork", now)]
            if await self.apply(new_id, [Condition("absent", header_key(new_id)), same], begin, ()) is None:
                return now
        raise ConflictError(f"{new_id!r} changes hands too often; try again.", agent_id=new_id)

    async def _copy(self, agent_id: str, uid: str, targets: Sequence[_Target]) -> None:
        """Bring the records that forks take with them under their uids."""
        forked = targets[0].state  # they differ in their names only
        stop, window = forked.next_seq, forked.window
        needed = {plans.document_key("", document).key for document in forked.documents}
        named = set(needed)

        def taken_snapshot(row: Record) -> bool:
            if integer(row.columns["seq"]) > stop:
                return False
            named.update(plans.document_key(uid, document).key for document in plans.snapshot_documents(row))
            return True

        def taken_document(row: Record) -> bool:
            needed.discard(row.key)
            return row.key in named

        tests: dict[Kind, Callable[[Record], bool]] = {
            "message": lambda row: True,
            "call": lambda row: integer(row.columns["seq"]) < stop,
            "compaction": lambda row: integer(row.columns["stop"]) <= stop or row.key == window.compaction,
            "snapshot": taken_snapshot,
            "document": taken_document,
            "blob": lambda row: True,
        }
        for kind, taken in tests.items():
            before = rec.int_key(stop) if kind == "message" else None
            limit = BLOBS if kind == "blob" else COPIED
            await self._copy_kind(agent_id, Scan(kind, uid, before=before), targets, taken, limit)
        if needed:
            raise ConflictError(
                f"{agent_id!r} changed while it was being forked ({len(needed)} documents are gone); try again.",
                agent_id=agent_id,
            )

    async def _copy_kind(
        self, agent_id: str, ask: Scan, targets: Sequence[_Target], taken: Callable[[Record], bool], limit: int
    ) -> None:
        """Copy records in portions, each on the condition that the fork is still marked as it was."""
        more = True
        while more and not all(target.lost for target in targets):
            rows, more = await self.read_plan(agent_id, plans.bounded_scan(ask, limit, COPIED_BYTES))
            chosen = [row for row in rows if taken(row)]
            for target in targets:
                copies = [replace(row, uid=target.state.uid) for row in chosen]
                for part in portions(copies, self._most, self.max_batch_bytes):
                    if target.lost:
                        break
                    target.lost = await self.apply(target.state.agent_id, [target.mark], part, ()) is not None
            if more:
                ask = replace(ask, after=rows[-1].key)


def _count(ask: Scan) -> Plan[int]:
    count = 0
    while True:
        rows = yield from plans.scan(ask)
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


def _taken(new_id: str) -> AgentExistsError:
    return AgentExistsError(f"An agent {new_id!r} exists already; choose another id for the fork.", agent_id=new_id)


def _fork_source(agent_id: str, at: str | None) -> Plan[tuple[Record, State, Snapshot | None]]:
    header = yield from plans.need_header(agent_id)
    state = yield from plans.state_of(header)
    if at is None:
        return header, state, None
    (row,) = yield from plans.get(Key("snapshot", state.uid, at))
    if row is None:
        raise NotFoundError(f"{agent_id!r} has no snapshot {at!r}.", agent_id=agent_id, snapshot=at)
    snapshot = rec.read_snapshot(row)
    shown = snapshot.window.bounded(snapshot.seq)
    if shown and shown[0].start < state.first_seq:
        raise UsageError(
            f"Messages that snapshot {at!r} of {agent_id!r} shows were pruned (below {state.first_seq}).",
            code="pruned",
            agent_id=agent_id,
            first_seq=state.first_seq,
        )
    return header, state, snapshot


def _forked(state: State, snapshot: Snapshot | None, new_id: str, new_uid: str, now: int) -> State:
    """Make the state a fork begins with. Run and step numbers go on, for copied calls bear them."""
    fork = replace(
        state,
        agent_id=new_id,
        uid=new_uid,
        created_at=now,
        updated_at=now,
        first_cursor=1,
        next_cursor=2,  # cursor 1 is `agent_forked`
        usage_total=Usage(),
        run=None,
        effects=(),
        calls=(),
        timers=(),
        sandbox_ref=None,
        parent=None,
        parked=None,
        lineage=(*state.lineage, Ancestor(state.agent_id, state.uid, state.next_seq)),
    )
    if snapshot is None:
        return fork
    return replace(
        fork,
        next_seq=snapshot.seq,
        window=snapshot.window,
        documents=plans.named_documents(snapshot),
        lineage=(*state.lineage, Ancestor(state.agent_id, state.uid, snapshot.seq)),
        template=snapshot.template or state.template,
        tokens=snapshot.tokens,
    )
