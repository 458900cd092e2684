"""What happens to whole agents: fork, delete, erase, prune."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from kode.core.errors import (
    AgentExistsError,
    ConflictError,
    LeaseLostError,
    NotFoundError,
    StoreError,
    UsageError,
)
from kode.core.kernel.events import Event
from kode.core.kernel.message import Usage
from kode.core.kernel.state import Ancestor, State
from kode.core.kernel.window import Snapshot
from kode.core.store import plans
from kode.core.store import records as rec
from kode.core.store.contract import Commit, Condition, Key, Kind, Record
from kode.core.store.leases import TRIES
from kode.core.store.orphans import ORPHANED_FOR, Orphans
from kode.core.store.plans import Plan, Scan, header_key, integer, lease_key, uid_of
from kode.core.store.primitives import check_agent_id, check_name, portions

__all__ = ["Pruned", "Upkeep"]

COPIED = 500
"""Records read at once by a fork."""
COPIED_BYTES = 8_388_608
"""About how many bytes of them."""
BLOBS = 4
"""Blobs read at once, which may be large."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """How many records went."""

    events: int = 0
    runs: int = 0
    consumed: int = 0
    documents: int = 0
    staged: int = 0


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
        await self.drop(agent_id, uid_of(header))
        await self._unmark(agent_id, uid_of(header))

    async def erase(
        self, agent_id: str, *, uid: str | None = None, holder: str | None = None, force: bool = False
    ) -> str:
        """Delete an agent and prove that no record of it is left; returns the uid it had.

        With `uid`, an erasure that was interrupted after its first act is finished at once; else `sweep` does so
        later. Its blobs go too; what a fork has copied is the fork's.

        Raises:
            StoreError: ``not_erased``: something is left; `fields` name the kinds.
        """
        check_agent_id(agent_id)
        try:
            gone = uid_of(await self._take_header(agent_id, holder, force, uid))
        except NotFoundError:
            if uid is None:
                raise
            gone = uid
            await self._mark_dropped(agent_id, gone)
        await self.drop(agent_id, gone)
        left = [kind for kind in rec.COLUMNS if kind != "header" and await self._any(agent_id, kind, gone)]
        (header,) = await self.get(agent_id, [header_key(agent_id)])
        if left or (header is not None and uid_of(header) == gone):
            raise StoreError(
                f"Records of {agent_id!r} ({gone}) are left: {', '.join(left) or 'header'}. Erase it again.",
                code="not_erased",
                agent_id=agent_id,
                uid=gone,
                kinds=left,
            )
        await self._unmark(agent_id, gone)
        return gone

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
        check_agent_id(agent_id)
        check_agent_id(new_id)
        check_name("new_uid", new_uid)
        header, state, snapshot = await self._settled(agent_id, lambda: _fork_source(agent_id, at))
        if snapshot is None and state.calls:
            raise UsageError(
                f"{agent_id!r} has open calls ({state.calls[0].id}, …); wait, or fork at a snapshot.",
                code="not_safe",
                agent_id=agent_id,
            )
        begun = await self._begin_fork(new_id, new_uid)
        if begun is None:
            return await self._settled(new_id, lambda: plans.read_state(new_id))
        now = max(begun, state.updated_at)
        forked = _forked(state, snapshot, new_id, new_uid, now)
        mark = Condition("equals", rec.orphan_key(new_uid), "at", begun)
        if await self._copy(agent_id, mark, state.uid, forked):
            event = Event(
                "agent_forked",
                at=now,
                cursor=1,
                data={"agent_id": agent_id, "uid": state.uid, "seq": forked.next_seq},
            )
            commit = Commit(forked, f"fork:{new_uid}", None, None, now, rec.read_bounds(header))
            puts = [
                rec.events_record(new_uid, [event], 1),
                rec.header_record(commit, version=1, wake_at=None),
            ]
            absent = Condition("absent", header_key(new_id))
            if await self.apply(new_id, [absent, mark], puts, [rec.orphan_key(new_uid)]) is None:
                return forked
        (taken,) = await self.get(new_id, [header_key(new_id)])
        if taken is None:
            raise ConflictError(f"Another fork to {new_uid!r} came between; try again.", agent_id=new_id, uid=new_uid)
        if uid_of(taken) == new_uid:
            return await self._settled(new_id, lambda: plans.read_state(new_id))
        await self.drop(new_id, new_uid)
        await self._unmark(new_id, new_uid)
        raise _taken(new_id)

    async def prune(self, agent_id: str, *, before: int, keep_events: int = 0, keep_runs: int = 0) -> Pruned:
        """Remove events and closed runs from before a moment, and what nothing reaches any more.

        Messages, calls, compactions and snapshots stay, and every document that the agent or a snapshot
        names. Ids of consumed items are forgotten once their time is over. That events are gone is noted in the
        state (`first_cursor`) by a commit before the first of them goes.

        Args:
            agent_id: Whose.
            before: Microseconds since the epoch.
            keep_events: The last so many events stay in any case.
            keep_runs: The last so many runs stay in any case.

        Raises:
            NotFoundError: No such agent.
            LeaseLostError: ``held``: events are to go while somebody drives it; try again when it rests.
        """
        check_agent_id(agent_id)
        state = await self._settled(agent_id, lambda: plans.read_state(agent_id))
        now = await self._time()
        if now - self._swept_at > ORPHANED_FOR:
            await self.sweep()
        uid, number = state.uid, state.next_run - keep_runs
        floor = await self._raise_floor(agent_id, uid, before, state.next_cursor - keep_events)

        def old_events(row: Record) -> bool:
            return integer(row.columns["last"]) < floor

        def old_run(row: Record) -> bool:
            ended = row.columns["ended_at"]
            return isinstance(ended, int) and ended < before and rec.key_int(row.key) < number

        def old_consumed(row: Record) -> bool:
            return integer(row.columns["expires_at"]) <= now

        def old_staged(row: Record) -> bool:
            # Rows of a commit on its way stay: were its header put now, they would be needed.
            return integer(row.columns["at"]) < now - ORPHANED_FOR

        def old_document(row: Record) -> bool:
            return integer(row.columns["at"]) < before

        return Pruned(
            events=await self._remove_old(agent_id, Scan("events", uid, before=rec.int_key(floor)), old_events),
            runs=await self._remove_old(agent_id, Scan("run", uid), old_run),
            consumed=await self._remove_old(agent_id, Scan("consumed", uid), old_consumed),
            documents=await self._remove_old(agent_id, Scan("document", uid), old_document),
            staged=await self._remove_old(agent_id, Scan("staged", uid), old_staged),
        )

    # ---- inside --------------------------------------------------------------------------------------------

    async def _take_header(self, agent_id: str, holder: str | None, force: bool, uid: str | None = None) -> Record:
        """Remove the header, if nobody else drives the agent; returns what it was."""
        check_agent_id(agent_id)
        for _ in range(TRIES):
            now = await self._time()
            (header,) = await self.get(agent_id, [header_key(agent_id)])
            if header is None or uid not in (None, uid_of(header)):
                raise plans.no_agent(agent_id)
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
            conditions = [Condition("equals", header_key(agent_id), "uid", uid_of(header))]
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

    async def _any(self, agent_id: str, kind: Kind, uid: str) -> bool:
        if kind == "lease":
            return (await self.get(agent_id, [lease_key(uid)]))[0] is not None
        return bool(await self.scan(agent_id, kind, uid, limit=1))

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

    async def _copy(self, agent_id: str, mark: Condition, uid: str, forked: State) -> bool:
        """Bring the records that a fork takes with it under its uid; False if its mark is no longer as it was."""
        stop, window = forked.next_seq, forked.window
        needed = {plans.document_key(forked.uid, document).key for document in forked.documents}
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
            if not await self._copy_kind(agent_id, mark, Scan(kind, uid, before=before), forked, taken, limit):
                return False
        if needed:
            raise ConflictError(
                f"{agent_id!r} changed while it was being forked ({len(needed)} documents are gone); try again.",
                agent_id=agent_id,
            )
        return True

    async def _copy_kind(
        self,
        agent_id: str,
        mark: Condition,
        ask: Scan,
        forked: State,
        taken: Callable[[Record], bool],
        limit: int,
    ) -> bool:
        """Copy records in portions, each on the condition that the fork is still marked as it was."""
        while True:
            rows, more = await self.read_plan(agent_id, plans.bounded_scan(ask, limit, COPIED_BYTES))
            copies = [replace(row, uid=forked.uid) for row in rows if taken(row)]
            for part in portions(copies, self._most, self.max_batch_bytes):
                if await self.apply(forked.agent_id, [mark], part, ()) is not None:
                    return False
            if not more:
                return True
            ask = replace(ask, after=rows[-1].key)

    async def _raise_floor(self, agent_id: str, uid: str, before: int, cursor: int) -> int:
        """Note in the state below which cursor there are no events any more; returns that."""
        for _ in range(TRIES):
            header, state = await self._settled(agent_id, lambda: _header_and_state(agent_id, uid))
            floor = await self.read_plan(agent_id, _old_events_end(uid, state.first_cursor, before, cursor))
            if floor <= state.first_cursor:
                return state.first_cursor
            version = integer(header.columns["version"])
            wake_at = header.columns["wake_at"]
            commit = Commit(
                replace(state, first_cursor=floor),
                f"prune:{version}:{floor}",
                version,
                None,
                max(await self._time(), state.updated_at),
                rec.read_bounds(header),
                wake_at=wake_at if isinstance(wake_at, int) else None,
                seen=integer(header.columns["seen"]),
            )
            try:
                await self.commit(commit)
            except ConflictError:
                continue
            return floor
        raise ConflictError(f"{agent_id!r} changes too fast to be pruned; try again.", agent_id=agent_id)

    async def _remove_old(self, agent_id: str, ask: Scan, old: Callable[[Record], bool]) -> int:
        """Remove the records of a kind that are old and not reached; returns how many.

        Each removal happens only if nothing was committed since it was judged, for a commit may name a document
        again, or consume an id once more. An agent that commits without a pause keeps some for the next time.
        """
        count = failures = 0
        kind, uid = ask.kind, ask.uid
        header, reached = await self._settled(agent_id, lambda: _reached(agent_id, uid, kind))
        while failures < TRIES:
            same = [Condition("equals", header.address, name, header.columns[name]) for name in ("uid", "version")]
            rows = await self.read_plan(agent_id, plans.scan(ask))
            gone = [row.address for row in rows if old(row) and row.key not in reached]
            for part in portions(gone, self._most, self.max_batch_bytes):
                if await self.apply(agent_id, same, (), part) is not None:
                    failures += 1
                    header, reached = await self._settled(agent_id, lambda: _reached(agent_id, uid, kind))
                    break
                count += len(part)
            else:
                if len(rows) < ask.limit:
                    break
                ask = replace(ask, after=rows[-1].key)
        return count


def _header_and_state(agent_id: str, uid: str) -> Plan[tuple[Record, State]]:
    header = yield from plans.need_header(agent_id)
    if uid_of(header) != uid:
        raise plans.no_agent(agent_id)
    return header, (yield from plans.state_of(header))


def _reached(agent_id: str, uid: str, kind: Kind) -> Plan[tuple[Record, set[str]]]:
    """Read the header and, of documents, the keys that it or a snapshot names."""
    header, state = yield from _header_and_state(agent_id, uid)
    if kind != "document":
        return header, set()
    rows = yield from plans.scan_all(Scan("snapshot", uid))
    named = [*state.documents, *(document for row in rows for document in plans.snapshot_documents(row))]
    return header, {plans.document_key(uid, document).key for document in named}


def _old_events_end(uid: str, floor: int, before: int, cursor: int) -> Plan[int]:
    """Find the first cursor behind the events, from the oldest on, that are from before a moment and a cursor."""
    ask = Scan("events", uid)
    while True:
        rows = yield from plans.scan(ask)
        for row in rows:
            last = integer(row.columns["last"])
            if last >= cursor or integer(row.columns["at"]) >= before:
                return floor
            floor = max(floor, last + 1)
        if len(rows) < ask.limit:
            return floor
        ask = replace(ask, after=rows[-1].key)


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
