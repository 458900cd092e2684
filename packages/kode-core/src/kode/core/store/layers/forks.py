"""Making an agent with the history of another: `fork`, `batch_fork`.

What a fork takes with it is read page by page while its source goes on. So the source's header is read again behind
the last page: had anything been pruned meanwhile that the fork needs, its floor would have risen first.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import anyio

from kode.core.errors import AgentExistsError, ConflictError, KodeError, NotFoundError, UsageError
from kode.core.kernel.events import Event, Scalar
from kode.core.kernel.message import Usage
from kode.core.kernel.state import Ancestor, State
from kode.core.kernel.window import Snapshot
from kode.core.store import lookups
from kode.core.store import records as rec
from kode.core.store.contract import Bounds, Commit, Condition, Copy, Key, Kind, Record, Scan
from kode.core.store.layers.leases import TRIES
from kode.core.store.layers.orphans import Orphans
from kode.core.store.lookups import Lookup, header_key, integer, lease_key, uid_of
from kode.core.store.primitives import check_agent_id, check_name, portions

__all__ = ["Forking"]

COPIED = 500
"""Records read at once."""
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


@dataclass(slots=True)
class _Documents:
    """Which documents a fork needs."""

    uid: str
    named: dict[str, Key | None] = field(default_factory=dict)
    """By key: a snapshot that names it; None: the state does."""
    found: set[str] = field(default_factory=set)

    def take_snapshot(self, row: Record) -> None:
        for document in lookups.snapshot_documents(row):
            self.named.setdefault(lookups.document_key(self.uid, document).key, row.address)

    def take(self, row: Record) -> bool:
        self.found.add(row.key)
        return row.key in self.named

    def missing(self) -> set[Key | None]:
        """Say who names what was not found."""
        return {owner for key, owner in self.named.items() if key not in self.found}


class Forking(Orphans):
    """New agents with the history of others."""

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
            ConflictError: Another fork to `new_uid` came between, or what the fork needs was pruned meanwhile; try
                again.
        """
        (made,) = await self.batch_fork(agent_id, {new_id: new_uid}, at=at)
        return made

    async def batch_fork(self, agent_id: str, forks: Mapping[str, str], *, at: str | None = None) -> tuple[State, ...]:
        """Make many forks of one agent, reading it once; see `fork`.

        Each comes to be in an act of its own. When one cannot, because its id or identity is taken, the others do;
        the first error is raised after that, and its `fields` name under ``failed`` all that were not made. Repeating
        the call with the same identities makes what is missing and leaves the rest as it is.

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
        made = await self._try_forks(agent_id, forks, at)
        if made is None:  # a prune is over soon, so one more try nearly always does
            made = await self._try_forks(agent_id, forks, at)
        if made is None:
            raise ConflictError(
                f"Records of {agent_id!r} were removed while it was being forked; try again.", agent_id=agent_id
            )
        return tuple([made[id] if id in made else await self.read_state(id) for id in forks])

    async def copy_rows(self, records: Sequence[Record], copies: Sequence[Copy]) -> Sequence[bool]:
        """Put the same records under several uids; says of each whether what it asks still held.

        The default writes them to one after the other. A store that can copy where they lie overrides it.

        Args:
            records: Records of one kind and uid, as they were just read.
            copies: Where to.
        """
        done = [True] * len(copies)
        for i, copy in enumerate(copies):
            for part in portions([replace(row, uid=copy.uid) for row in records], self._most, self.max_batch_bytes):
                if done[i]:
                    done[i] = await self.apply(copy.agent_id, [copy.held], part, ()) is None
        return done

    # ---- inside --------------------------------------------------------------------------------------------

    async def _try_forks(self, agent_id: str, forks: Mapping[str, str], at: str | None) -> dict[str, State] | None:
        """Make forks; None, and nothing is left of them, if the source lost meanwhile what they need."""
        header, state, snapshot = await self._settled(agent_id, lambda: _fork_source(agent_id, at))
        if snapshot is None and state.calls:
            raise UsageError(
                f"{agent_id!r} has open calls ({state.calls[0].id}, …); wait, or fork at a snapshot.",
                code="not_safe",
                agent_id=agent_id,
            )
        begun, failed = await self._begin_forks(forks)
        now = max([state.updated_at, *begun.values()])
        targets = [
            _Target(_forked(state, snapshot, id, forks[id], now), _marked(forks[id], moment))
            for id, moment in begun.items()
        ]
        if targets and not await self._copy(agent_id, state, targets):
            await _together([partial(self._abandon, target) for target in targets])
            return None

        async def finish(target: _Target) -> None:
            try:
                await self._finish_fork(state, rec.read_bounds(header), target)
            except (AgentExistsError, ConflictError) as error:
                failed[target.state.agent_id] = error

        await _together([partial(finish, target) for target in targets])
        if failed:
            first = next(iter(failed.values()))
            first.fields["failed"] = list(failed)
            raise first
        return {target.state.agent_id: target.state for target in targets if not target.lost}

    async def _begin_forks(self, forks: Mapping[str, str]) -> tuple[dict[str, int], dict[str, KodeError]]:
        """Mark the identities of forks to come; returns when that was, but of those there already, and who cannot."""
        begun: dict[str, int] = {}
        failed: dict[str, KodeError] = {}

        async def begin(new_id: str, new_uid: str) -> None:
            try:
                moment = await self._begin_fork(new_id, new_uid)
            except (AgentExistsError, ConflictError, UsageError) as error:
                failed[new_id] = error
            else:
                if moment is not None:
                    begun[new_id] = moment

        await _together([partial(begin, new_id, new_uid) for new_id, new_uid in forks.items()])
        in_order = [id for id in forks if id in begun]
        return {id: begun[id] for id in in_order}, {id: failed[id] for id in forks if id in failed}

    async def _begin_fork(self, new_id: str, new_uid: str) -> int | None:
        """Mark the uid of a fork to come; returns when that was, None if that agent is there already."""
        place = rec.orphan_key(new_uid)
        for _ in range(TRIES):
            header, mark = await self.get(new_id, [header_key(new_id), place])
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
            now, same = await self._time(), Condition("absent", place)
            if mark is not None:
                before = integer(mark.columns["at"])
                # Later than that, so that who made it sees that it is not theirs any more.
                now, same = max(now, before + 1), _marked(new_uid, before)
            begin = [rec.orphan_record(new_uid, new_id, "fork", now)]
            if await self.apply(new_id, [Condition("absent", header_key(new_id)), same], begin, ()) is None:
                if mark is not None:
                    await self._clear(new_id, new_uid, _marked(new_uid, now))
                return now
        raise ConflictError(f"{new_id!r} changes hands too often; try again.", agent_id=new_id)

    async def _clear(self, new_id: str, new_uid: str, mark: Condition) -> None:
        """Remove what a fork that broke off has left, while its identity is marked as it is.

        `drop` asks for no mark: going on in one process, it would take from a fork that another has begun since.
        """
        await self.apply(new_id, [mark], (), [lease_key(new_uid)])
        for kind in rec.COLUMNS:
            ask, more = Scan(kind, new_uid), kind != "header"
            while more:
                limit = BLOBS if kind == "blob" else COPIED
                rows, more = await self.look_up(new_id, lookups.bounded_scan(ask, limit, COPIED_BYTES))
                for part in portions([row.address for row in rows], self._most, self.max_batch_bytes):
                    if await self.apply(new_id, [mark], (), part) is not None:
                        return
                if more:
                    ask = replace(ask, after=rows[-1].key)

    async def _abandon(self, target: _Target) -> None:
        """Leave nothing of a fork that is not to be."""
        new_id, new_uid = target.state.agent_id, target.state.uid
        await self._clear(new_id, new_uid, target.mark)
        await self.apply(new_id, [target.mark], (), [rec.orphan_key(new_uid)])

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

    async def _copy(self, agent_id: str, source: State, targets: Sequence[_Target]) -> bool:
        """Bring the records that forks take with them under their uids; False: the source lost some meanwhile."""
        forked = targets[0].state  # they differ in their names only
        stop, window = forked.next_seq, forked.window
        documents = _Documents(source.uid, {lookups.document_key("", d).key: None for d in forked.documents})

        def taken_snapshot(row: Record) -> bool:
            if integer(row.columns["seq"]) > stop:
                return False
            documents.take_snapshot(row)
            return True

        tests: dict[Kind, Callable[[Record], bool]] = {
            "message": lambda row: True,
            "call": lambda row: integer(row.columns["seq"]) < stop,
            "compaction": lambda row: integer(row.columns["stop"]) <= stop or row.key == window.compaction,
            "snapshot": taken_snapshot,
            "document": documents.take,
            "blob": lambda row: True,
        }
        for kind, taken in tests.items():
            before = rec.int_key(stop) if kind == "message" else None
            limit = BLOBS if kind == "blob" else COPIED
            await self._copy_kind(agent_id, Scan(kind, source.uid, before=before), targets, taken, limit)
        if all(target.lost for target in targets):
            return True  # why, `_finish_fork` finds out
        return await self._still_there(agent_id, source, documents.missing())

    async def _still_there(self, agent_id: str, source: State, owners: set[Key | None]) -> bool:
        """Whether nothing of a source was pruned, nor it erased, since it was read; some documents were not found."""
        now = await self._settled(agent_id, lambda: _state_now(agent_id))
        if now is None or (now.uid, now.first_seq) != (source.uid, source.first_seq) or None in owners:
            return False
        # A snapshot may name what is missing for another reason, which hinders no fork.
        return None not in await self.get(agent_id, [owner for owner in owners if owner is not None])

    async def _copy_kind(
        self, agent_id: str, ask: Scan, targets: Sequence[_Target], taken: Callable[[Record], bool], limit: int
    ) -> None:
        """Copy records in portions, each on the condition that the fork is still marked as it was."""
        more = True
        while more and not all(target.lost for target in targets):
            rows, more = await self.look_up(agent_id, lookups.bounded_scan(ask, limit, COPIED_BYTES))
            chosen = [row for row in rows if taken(row)]
            there = [target for target in targets if not target.lost]
            if chosen:
                copies = [Copy(target.state.agent_id, target.state.uid, target.mark) for target in there]
                for target, done in zip(there, await self.copy_rows(chosen, copies), strict=True):
                    target.lost = not done
            if more:
                ask = replace(ask, after=rows[-1].key)


async def _together(calls: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Do what can be done at once, so that a store may write it together; the first error counts."""
    errors: list[KodeError] = []

    async def run(call: Callable[[], Awaitable[None]]) -> None:
        try:
            await call()
        except KodeError as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        for call in calls:
            tasks.start_soon(run, call)
    if errors:
        raise errors[0]


def _marked(uid: str, at: int) -> Condition:
    return Condition("equals", rec.orphan_key(uid), "at", at)


def _state_now(agent_id: str) -> Lookup[State | None]:
    header = yield from lookups.find_header(agent_id)
    return None if header is None else (yield from lookups.state_of(header))


def _taken(new_id: str) -> AgentExistsError:
    return AgentExistsError(f"An agent {new_id!r} exists already; choose another id for the fork.", agent_id=new_id)


def _fork_source(agent_id: str, at: str | None) -> Lookup[tuple[Record, State, Snapshot | None]]:
    header = yield from lookups.need_header(agent_id)
    state = yield from lookups.state_of(header)
    if at is None:
        return header, state, None
    (row,) = yield from lookups.get(Key("snapshot", state.uid, at))
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
        documents=lookups.named_documents(snapshot),
        lineage=(*state.lineage, Ancestor(state.agent_id, state.uid, snapshot.seq)),
        template=snapshot.template or state.template,
        tokens=snapshot.tokens,
    )
