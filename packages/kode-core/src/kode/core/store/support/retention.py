"""How long things are kept: events, runs, snapshots and messages of an agent, and agents themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from kode.core.errors import ConflictError, KodeError, LeaseLostError, NotFoundError, UsageError
from kode.core.kernel.state import State
from kode.core.kernel.window import Snapshot, Window
from kode.core.store import lookups
from kode.core.store import records as rec
from kode.core.store.contract import MOST, Condition, Key, Kind, Record, Scan
from kode.core.store.layers.amend import Amendment, standing
from kode.core.store.layers.leases import TRIES
from kode.core.store.layers.orphans import ORPHANED_FOR
from kode.core.store.layers.upkeep import Upkeep
from kode.core.store.lookups import Lookup, header_key, integer
from kode.core.store.primitives import check_agent_id, portions
from kode.core.store.support.query import QuerySupport
from kode.core.store.support.questions import Question, Test

__all__ = ["Expired", "Pruned", "RetentionSupport"]

EVER = 1 << 62
"""Later than every moment that is stored."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """How many records went."""

    events: int = 0
    runs: int = 0
    consumed: int = 0
    documents: int = 0
    staged: int = 0
    snapshots: int = 0
    messages: int = 0
    calls: int = 0


@dataclass(frozen=True, slots=True)
class Expired:
    """What became of agents whose time is over."""

    erased: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    """They are driven just now; the next call finds them again."""
    failed: tuple[KodeError, ...] = ()
    """Errors that kept others; each is tried again by the next call."""


class RetentionSupport(Upkeep, QuerySupport):
    """Removing what is no longer wanted."""

    async def prune(
        self,
        agent_id: str,
        *,
        before: int | None,
        keep_events: int = 0,
        keep_runs: int = 0,
        keep_snapshots: int | None = None,
        keep_messages: int | None = None,
    ) -> Pruned:
        """Remove what is old, and what nothing reaches any more.

        By age: give `before`. By count: give `before` None and say how many to keep. By both: what is older and not
        among the last ones goes.

        Events and closed runs go always, snapshots and messages only if it is said how many of them must stay. Of
        messages only the oldest go, up to the first that the window, a pinned place or a snapshot still shows;
        calls they asked for go with them. A fork or a revert to what they were part of is refused from then on. Every
        document that the agent or a snapshot names stays, and so do blobs, until the agent is erased. Ids of consumed
        items are forgotten once their time is over. That events or messages are gone is noted in the state
        (`first_cursor`, `first_seq`) by a commit before the first of them goes.

        Args:
            agent_id: Whose.
            before: Microseconds since the epoch; None: of whatever age.
            keep_events: The last so many events stay in any case.
            keep_runs: The last so many runs stay in any case.
            keep_snapshots: The last so many snapshots stay in any case; None: all.
            keep_messages: The last so many messages stay in any case; None: all.

        Raises:
            NotFoundError: No such agent.
            LeaseLostError: ``held``: events or messages are to go while somebody drives it; try again when it rests.
            RecordCorruptError: A snapshot cannot be read, so that nobody knows what it shows. Nothing that it may
                show was removed.
        """
        check_agent_id(agent_id)
        state = await self._settled(agent_id, lambda: lookups.read_state(agent_id))
        now = await self._time()
        if now - self._swept_at > ORPHANED_FOR:
            await self.sweep()
        uid, number = state.uid, state.next_run - keep_runs
        old = EVER if before is None else before
        snapshots = 0
        if keep_snapshots is not None:
            snapshots = await self._prune_snapshots(agent_id, uid, old, keep_snapshots)
        cursor, seq = await self._raise_floors(agent_id, uid, old, keep_events, keep_messages)

        def old_run(row: Record) -> bool:
            ended = row.columns["ended_at"]
            return isinstance(ended, int) and ended < old and rec.key_int(row.key) < number

        def old_staged(row: Record) -> bool:
            # Rows of a commit on its way stay: were its header put now, they would be needed.
            return integer(row.columns["at"]) < now - ORPHANED_FOR

        async def remove(kind: Kind, test: Callable[[Record], bool], below: int | None = None) -> int:
            end = None if below is None else rec.int_key(below)
            return await self._remove_old(agent_id, Scan(kind, uid, before=end), test)

        return Pruned(
            events=await remove("events", lambda row: integer(row.columns["last"]) < cursor, cursor),
            runs=await remove("run", old_run),
            consumed=await remove("consumed", lambda row: integer(row.columns["expires_at"]) <= now),
            documents=await remove("document", lambda row: integer(row.columns["at"]) < old),
            staged=await remove("staged", old_staged),
            snapshots=snapshots,
            messages=await remove("message", lambda row: True, seq) if seq else 0,
            calls=await remove("call", lambda row: integer(row.columns["seq"]) < seq) if seq else 0,
        )

    async def set_expiry(self, agent_id: str, expires_at: int | None) -> State:
        """Say until when an agent is kept; None: for ever. From then on `expire` erases it; nothing else does.

        Args:
            agent_id: Whose.
            expires_at: Microseconds since the epoch.

        Raises:
            NotFoundError: No such agent.
            UsageError: ``bad_moment``.
            LeaseLostError: ``held``: somebody drives it.
        """
        if expires_at is not None and not 0 <= expires_at < EVER:
            raise UsageError(f"expires_at is {expires_at}; give microseconds since the epoch.", code="bad_moment")

        async def change(state: State, at: int) -> Amendment | None:
            if state.expires_at == expires_at:
                return None
            return Amendment(replace(state, expires_at=expires_at, updated_at=at))

        return await self._amend(agent_id, change)

    async def expire(self, *, now: int | None = None, limit: int = 100) -> Expired:
        """Erase agents whose time is over, those first that ended first; call it again while it erases `limit`.

        One that is driven stays until it rests, one that was given more time meanwhile stays. It costs what
        `query_agents` costs.

        Args:
            now: The moment; None: by the store's clock.
            limit: How many at most.
        """
        moment = await self._time() if now is None else now
        erased: list[str] = []
        held: list[str] = []
        failed: list[KodeError] = []
        tests = (Test("expires_at", "<", (moment + 1,)),)
        for agent_id, header in await self.select(Question("header", "expires_at", limit=limit, agents=tests)):
            try:
                await self.erase(agent_id, uid=lookups.uid_of(header), expired_by=moment)
                erased.append(agent_id)
            except LeaseLostError:
                held.append(agent_id)
            except (NotFoundError, ConflictError):
                pass  # it is gone, or its time is not over any more
            except KodeError as error:
                failed.append(error)
        return Expired(tuple(erased), tuple(held), tuple(failed))

    # ---- inside --------------------------------------------------------------------------------------------

    async def _prune_snapshots(self, agent_id: str, uid: str, before: int, keep: int) -> int:
        taken = await self.list_snapshots(agent_id)
        old = [s for s in taken[: max(len(taken) - keep, 0)] if s.at < before]
        same = [Condition("equals", header_key(agent_id), "uid", uid)]
        count = 0
        for part in portions([Key("snapshot", uid, s.id) for s in old], self._most, self.max_batch_bytes):
            if await self.apply(agent_id, same, (), part) is None:
                count += len(part)
        return count

    async def _raise_floors(
        self, agent_id: str, uid: str, before: int, keep_events: int, keep_messages: int | None
    ) -> tuple[int, int]:
        """Note in the state below which cursor and which number there is nothing any more; returns both."""

        async def change(state: State, at: int) -> Amendment | None:
            if state.uid != uid:
                raise lookups.no_agent(agent_id)
            cursor = state.next_cursor - keep_events
            first = await self.look_up(agent_id, _old_events_end(uid, state.first_cursor, before, cursor))
            seq = state.first_seq
            if keep_messages is not None:
                snapshots = await self.list_snapshots(agent_id)
                end = min(_shown_from(state, snapshots), state.next_seq - keep_messages)
                seq = await self.look_up(agent_id, _old_messages_end(uid, seq, before, end))
            if (first, seq) == (state.first_cursor, state.first_seq):
                return None
            return Amendment(replace(state, first_cursor=first, first_seq=seq))

        state = await self._amend(agent_id, change)
        return state.first_cursor, state.first_seq

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
            rows = await self.look_up(agent_id, lookups.scan(ask))
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


def _reached(agent_id: str, uid: str, kind: Kind) -> Lookup[tuple[Record, set[str]]]:
    """Read the header and, of documents, the keys that it or a snapshot names."""
    header, state = yield from standing(agent_id, uid)
    if kind != "document":
        return header, set()
    rows = yield from lookups.scan_all(Scan("snapshot", uid))
    named = [*state.documents, *(document for row in rows for document in lookups.snapshot_documents(row))]
    return header, {lookups.document_key(uid, document).key for document in named}


def _old_events_end(uid: str, floor: int, before: int, cursor: int) -> Lookup[int]:
    """Find the first cursor behind the events, from the oldest on, that are from before a moment and a cursor."""
    ask = Scan("events", uid)
    while True:
        rows = yield from lookups.scan(ask)
        for row in rows:
            last = integer(row.columns["last"])
            if last >= cursor or integer(row.columns["at"]) >= before:
                return floor
            floor = max(floor, last + 1)
        if len(rows) < ask.limit:
            return floor
        ask = replace(ask, after=rows[-1].key)


def _old_messages_end(uid: str, floor: int, before: int, stop: int) -> Lookup[int]:
    """Find the first message, from the oldest on, that is not from before a moment or not below a number."""
    while floor < stop:
        rows = yield from lookups.scan(lookups.message_range(uid, floor, stop, min(MOST, stop - floor)))
        for row in rows:
            if integer(row.columns["at"]) >= before:
                return floor
            floor = rec.key_int(row.key) + 1
        if not rows:
            return floor
    return floor


def _shown_from(state: State, snapshots: Sequence[Snapshot]) -> int:
    """Find the first message that the window or a snapshot shows."""
    windows: list[tuple[Window, int]] = [(state.window, state.next_seq), *((s.window, s.seq) for s in snapshots)]
    starts = [part.start for window, stop in windows for part in window.bounded(stop)[:1]]
    return min([state.next_seq, *starts])
