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
from kode.core.store.commits import Writing
from kode.core.store.contract import Commit, Condition, Key, Kind, Record
from kode.core.store.leases import TRIES
from kode.core.store.plans import Scan, header_key, integer, lease_key, uid_of
from kode.core.store.primitives import check_agent_id

__all__ = ["Pruned", "Upkeep"]

COPIED = 500
"""Records copied at once, where the engine sets no bound."""
STAGED_FOR = 3_600_000_000
"""Staged rows of no commit are rubbish after an hour: from first row to header takes seconds."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """How many records went."""

    events: int = 0
    runs: int = 0
    consumed: int = 0
    documents: int = 0
    staged: int = 0


class Upkeep(Writing):
    """Whole agents."""

    async def delete(self, agent_id: str, *, holder: str | None = None, force: bool = False) -> None:
        """Remove an agent. From the moment its header is gone it does not exist; its records follow.

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

    async def erase(
        self, agent_id: str, *, uid: str | None = None, holder: str | None = None, force: bool = False
    ) -> str:
        """Delete an agent and prove that no record of it is left; returns the uid it had.

        With `uid`, an erasure that was interrupted after its first act is finished. Blobs are shared between
        agents and stay.

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
        await self.drop(agent_id, gone)
        left = [
            kind for kind in rec.COLUMNS if kind not in ("header", "blob") and await self._any(agent_id, kind, gone)
        ]
        (header,) = await self.get(agent_id, [header_key(agent_id)])
        if left or (header is not None and uid_of(header) == gone):
            raise StoreError(
                f"Records of {agent_id!r} ({gone}) are left: {', '.join(left) or 'header'}. Erase it again.",
                code="not_erased",
                agent_id=agent_id,
                uid=gone,
                kinds=left,
            )
        return gone

    async def fork(self, agent_id: str, new_id: str, *, new_uid: str, at: str | None = None) -> State:
        """Make a new agent with the history of another up to now, or up to a snapshot.

        It starts READY, with an identity and inbox of its own and nothing used of its budgets; messages,
        calls, compactions, snapshots and documents are copied. Repeating it with the same `new_uid` is safe.
        What an interrupted fork leaves has no header, so it does not exist.

        Raises:
            NotFoundError: No such agent or snapshot.
            UsageError: ``not_safe``: calls are open; fork at a snapshot, or wait.
            AgentExistsError: `new_id` is taken.
        """
        check_agent_id(agent_id)
        check_agent_id(new_id)
        header, state, snapshot = await self._settled(agent_id, lambda: _fork_source(agent_id, at))
        if snapshot is None and state.calls:
            raise UsageError(
                f"{agent_id!r} has open calls ({state.calls[0].id}, …); wait, or fork at a snapshot.",
                code="not_safe",
                agent_id=agent_id,
            )
        now = max(await self.now(), state.updated_at)
        forked = _forked(state, snapshot, new_id, new_uid, now)
        await self._copy(agent_id, new_id, state.uid, forked, snapshot)
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
        if await self.apply(new_id, [Condition("absent", header_key(new_id))], puts, ()) is None:
            return forked
        (taken,) = await self.get(new_id, [header_key(new_id)])
        if taken is not None and uid_of(taken) == new_uid:
            return await self._settled(new_id, lambda: plans.read_state(new_id))
        await self.drop(new_id, new_uid)
        raise AgentExistsError(f"An agent {new_id!r} exists already; choose another id for the fork.", agent_id=new_id)

    async def prune(self, agent_id: str, *, before: int, keep_events: int = 0, keep_runs: int = 0) -> Pruned:
        """Remove events and closed runs from before a moment, and what nothing reaches any more.

        Messages, calls, compactions and snapshots stay, and every document that the agent or a snapshot
        names. Ids of consumed items are forgotten once their time is over.

        Args:
            agent_id: Whose.
            before: Microseconds since the epoch.
            keep_events: The last so many events stay in any case.
            keep_runs: The last so many runs stay in any case.
        """
        check_agent_id(agent_id)
        state = await self._settled(agent_id, lambda: plans.read_state(agent_id))
        now = await self.now()
        uid = state.uid
        # Staged rows of a commit on its way stay: were its header put now, they would be needed.
        reached = await self._documents_reached(agent_id, state)
        cursor, number = state.next_cursor - keep_events, state.next_run - keep_runs
        open_run = 0 if state.run is None else state.run.number

        def old_events(row: Record) -> bool:
            return integer(row.columns["last"]) < cursor and integer(row.columns["at"]) < before

        def old_run(row: Record) -> bool:
            ended, own = row.columns["ended_at"], rec.key_int(row.key)
            return isinstance(ended, int) and ended < before and own < number and own != open_run

        return Pruned(
            events=await self._sweep(agent_id, uid, "events", old_events),
            runs=await self._sweep(agent_id, uid, "run", old_run),
            consumed=await self._sweep(
                agent_id, uid, "consumed", lambda row: integer(row.columns["expires_at"]) <= now
            ),
            documents=await self._sweep(
                agent_id,
                uid,
                "document",
                lambda row: row.key not in reached and integer(row.columns["at"]) < before,
            ),
            staged=await self._sweep(
                agent_id, uid, "staged", lambda row: integer(row.columns["at"]) < now - STAGED_FOR
            ),
        )

    # ---- inside --------------------------------------------------------------------------------------------

    async def _take_header(self, agent_id: str, holder: str | None, force: bool, uid: str | None = None) -> Record:
        """Remove the header, if nobody else drives the agent; returns what it was."""
        check_agent_id(agent_id)
        for _ in range(TRIES):
            now = await self.now()
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
            if await self.apply(agent_id, conditions, (), [header_key(agent_id)]) is None:
                return header
        raise ConflictError(f"{agent_id!r} changes hands too often to be deleted; try again.", agent_id=agent_id)

    async def _any(self, agent_id: str, kind: Kind, uid: str) -> bool:
        if kind == "lease":
            return (await self.get(agent_id, [lease_key(uid)]))[0] is not None
        return bool(await self.scan(agent_id, kind, uid, limit=1))

    async def _copy(self, agent_id: str, new_id: str, uid: str, forked: State, snapshot: Snapshot | None) -> None:
        """Bring the records that a fork takes with it under its uid."""
        stop, window = forked.next_seq, forked.window
        documents = {plans.document_key(forked.uid, document).key for document in forked.documents}
        tests: dict[Kind, Callable[[Record], bool]] = {
            "message": lambda row: True,
            "call": lambda row: integer(row.columns["seq"]) < stop,
            "compaction": lambda row: integer(row.columns["stop"]) <= stop or row.key == window.compaction,
            "snapshot": lambda row: integer(row.columns["seq"]) <= stop,
        }
        for kind, taken in tests.items():
            before = rec.int_key(stop) if kind == "message" else None
            found = await self._copy_kind(agent_id, new_id, Scan(kind, uid, before=before), forked.uid, taken)
            if kind == "snapshot":
                documents |= {
                    plans.document_key(forked.uid, document).key
                    for row in found
                    for document in plans.snapshot_documents(row)
                }
        await self._copy_kind(agent_id, new_id, Scan("document", uid), forked.uid, lambda row: row.key in documents)

    async def _copy_kind(
        self, agent_id: str, new_id: str, ask: Scan, new_uid: str, taken: Callable[[Record], bool]
    ) -> list[Record]:
        """Copy records in portions; returns the snapshots among them, whose documents must come too."""
        kept: list[Record] = []
        portion = self.max_batch or COPIED
        while True:
            rows = await self.read_plan(agent_id, plans.scan(replace(ask, limit=portion)))
            copies = [replace(row, uid=new_uid) for row in rows if taken(row)]
            if copies:
                await self.apply(new_id, (), copies, ())
            if ask.kind == "snapshot":
                kept += copies
            if len(rows) < portion:
                return kept
            ask = replace(ask, after=rows[-1].key)

    async def _documents_reached(self, agent_id: str, state: State) -> set[str]:
        rows = await self.read_plan(agent_id, plans.scan_all(Scan("snapshot", state.uid)))
        named = [*state.documents, *(document for row in rows for document in plans.snapshot_documents(row))]
        return {plans.document_key(state.uid, document).key for document in named}

    async def _sweep(self, agent_id: str, uid: str, kind: Kind, old: Callable[[Record], bool]) -> int:
        """Remove the records of a kind that are old; returns how many."""
        ask, count = Scan(kind, uid), 0
        while True:
            rows = await self.read_plan(agent_id, plans.scan(ask))
            gone = [row.address for row in rows if old(row)]
            await self._remove(agent_id, gone)
            count += len(gone)
            if len(rows) < ask.limit:
                return count
            ask = replace(ask, after=rows[-1].key)


def _fork_source(agent_id: str, at: str | None) -> plans.Plan[tuple[Record, State, Snapshot | None]]:
    header = yield from plans.need_header(agent_id)
    state = yield from plans.state_of(header)
    if at is None:
        return header, state, None
    (row,) = yield from plans.get(Key("snapshot", state.uid, at))
    if row is None:
        raise NotFoundError(f"{agent_id!r} has no snapshot {at!r}.", agent_id=agent_id, snapshot=at)
    return header, state, rec.read_snapshot(row)


def _forked(state: State, snapshot: Snapshot | None, new_id: str, new_uid: str, now: int) -> State:
    """Make the state a fork begins with. Run and step numbers go on, for copied calls bear them."""
    fork = replace(
        state,
        agent_id=new_id,
        uid=new_uid,
        created_at=now,
        updated_at=now,
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
