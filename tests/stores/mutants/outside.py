"""Wrong stores written from the contract alone, by someone who had not read the kit that must catch them.

Each is a mistake that the author of a store on a real engine could make, and that a first use would not show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from zlib import crc32

import anyio
from anyio.lowlevel import checkpoint
from tests.stores.mutants.table import wrong

from kode.core.clock import Clock
from kode.core.store import MemoryStore
from kode.core.store.contract import Appended, Condition, Due, Key, Record, Scan
from kode.core.store.records import int_key
from kode.core.store.rules import holds


@wrong(
    "repeat",
    "only_the_last_commit_is_known",
    also="compare-and-swap lease isolation consistency",
    why="what was written or removed once is not written or removed again, whatever it is",
)
class TokenReplay(MemoryStore):
    """Names each write by a digest of it, as idempotency tokens do, and calls one done that was done some time ago."""

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self._tokens: set[str] = set()

    async def apply(
        self, agent_id: str, conditions: Sequence[Condition], puts: Sequence[Record], deletes: Sequence[Key]
    ) -> int | None:
        token = repr((agent_id, conditions, [(put, put.body) for put in puts], deletes))
        if token in self._tokens:
            return None
        failed = await super().apply(agent_id, conditions, puts, deletes)
        if failed is None:
            self._tokens.add(token)
        return failed


@wrong("races", "a_reader_that_goes_on_meets_every_item")
class LateArrivals(MemoryStore):
    """Takes an item's position from a sequence when the insert begins; a large one shows behind later, smaller ones."""

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self._last: dict[str, int] = {}

    async def append_inbox(self, agent_id: str, record: Record, *, now: int, bounded: bool) -> Appended:
        done = await super().append_inbox(agent_id, record, now=now, bounded=bounded)
        header = self._row("header", "", agent_id)
        if header is None or done.outcome != "new":
            return done
        uid = str(header.columns["uid"])
        self._delete("inbox", uid, int_key(done.position))
        number = self._last[uid] = max(self._last.get(uid, 0) + 1, done.position)
        for _ in range(min(20, len(record.body) // 10_000)):
            await checkpoint()
        self._put(replace(record, uid=uid, key=int_key(number)))
        return Appended("new", number)


@wrong("cancellation", "whoever_goes_first_leaves_the_others_theirs")
class LeaderCancelled(MemoryStore):
    """Whoever comes first writes for all that come meanwhile; when that one is cancelled the others are told "done"."""

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self._batch: list[Any] | None = None
        self._done = anyio.Event()

    async def apply(
        self, agent_id: str, conditions: Sequence[Condition], puts: Sequence[Record], deletes: Sequence[Key]
    ) -> int | None:
        share: list[Any] = [None, agent_id, conditions, puts, deletes]
        if self._batch is not None:
            self._batch.append(share)
            await self._done.wait()
            return share[0]  # type: ignore[no-any-return]
        batch = self._batch = [share]
        done = self._done = anyio.Event()
        try:
            await checkpoint()
            for each in batch:
                each[0] = await super().apply(*each[1:])
        finally:
            self._batch = None
            done.set()
        return share[0]  # type: ignore[no-any-return]


@wrong("compare-and-swap", "a_large_body_is_not_written_when_a_condition_fails")
class BodiesFirst(MemoryStore):
    """Puts large bodies into a bucket, named by their row's key, before it knows whether the conditions hold."""

    async def apply(
        self, agent_id: str, conditions: Sequence[Condition], puts: Sequence[Record], deletes: Sequence[Key]
    ) -> int | None:
        for put in puts:
            old = self._row(put.kind, put.uid, put.key)
            if old is not None and len(put.body) > 100_000:
                self._put(replace(old, body=put.body))
        return await super().apply(agent_id, conditions, puts, deletes)


@wrong("isolation", "blobs_are_apart", also="fork retention", why="a fork has the blobs of what it was forked from")
class SharedBucket(MemoryStore):
    """Keeps a blob once for all agents, by its digest, and removes it with the first agent that goes."""

    async def drop(self, agent_id: str, uid: str) -> None:
        shelf = self._shelves.get(("blob", uid))
        gone = [] if shelf is None else list(shelf.keys)
        await super().drop(agent_id, uid)
        for kind, other in list(self._shelves):
            for key in gone if kind == "blob" else ():
                self._delete(kind, other, key)


@wrong("isolation", "an_identity_knows_nothing_of_the_one_before")
class DedupeCache(MemoryStore):
    """Answers ids that wait from a cache by agent id, cleared when they are consumed but not when the agent goes."""

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self._recent: dict[tuple[str, object], Appended] = {}

    async def append_inbox(self, agent_id: str, record: Record, *, now: int, bounded: bool) -> Appended:
        place = (agent_id, record.columns["id"])
        if place in self._recent:
            return self._recent[place]
        done = await super().append_inbox(agent_id, record, now=now, bounded=bounded)
        if done.outcome == "new":
            known = replace(record, key=int_key(done.position))
            self._recent[place] = Appended("waiting", done.position, known=known)
        return done

    def _delete(self, kind: Any, uid: str, key: str) -> None:
        row = self._row(kind, uid, key) if kind == "inbox" else None
        for place in [place for place in self._recent if row is not None and place[1] == row.columns["id"]]:
            del self._recent[place]
        super()._delete(kind, uid, key)


@wrong("lifecycle", "each_acknowledgement_outlives_a_close_by_itself")
class BufferedInbox(MemoryStore):
    """Acknowledges an item when it is in a buffer that the next `apply` writes out and that `close` throws away."""

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self._buffered: list[tuple[str, str]] = []

    async def append_inbox(self, agent_id: str, record: Record, *, now: int, bounded: bool) -> Appended:
        done = await super().append_inbox(agent_id, record, now=now, bounded=bounded)
        header = self._row("header", "", agent_id)
        if header is not None and done.outcome == "new":
            self._buffered.append((str(header.columns["uid"]), int_key(done.position)))
        return done

    async def apply(
        self, agent_id: str, conditions: Sequence[Condition], puts: Sequence[Record], deletes: Sequence[Key]
    ) -> int | None:
        self._buffered.clear()
        return await super().apply(agent_id, conditions, puts, deletes)

    async def close(self) -> None:
        for uid, key in self._buffered:
            self._delete("inbox", uid, key)
        self._buffered.clear()


@wrong("listing", "the_limit_is_exact")
class ShardByShard(MemoryStore):
    """Fills a page of agents from one shard after the other and sorts only what it got."""

    async def agents(self, prefix: str, after: str, limit: int, tenant: str | None = None) -> list[Record]:
        everyone = await super().agents(prefix, after, 2**62, tenant)
        by_shard = sorted(everyone, key=lambda record: crc32(record.key.encode()) % 256)
        return sorted(by_shard[:limit], key=lambda record: record.key)


@wrong("due", "after_names_a_place_and_no_record", also="paging", why="it lists who is due in pages")
class MillisecondIndex(MemoryStore):
    """Its index of `wake_at` counts milliseconds, but goes on behind a moment in microseconds."""

    async def due(self, now: int, limit: int, after: Due | None = None) -> list[Due]:
        found = await super().due(now, 2**62)
        if after is not None:
            last = (after.wake_at, after.agent_id)
            found = [due for due in found if (due.wake_at // 1000 * 1000, due.agent_id) > last]
        return found[:limit]


@wrong("isolation", "a_deletion_leaves_the_others")
class Tombstones(MemoryStore):
    """Drops an identity by a mark that hides its records, also those that are written after it."""

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self._dropped: set[str] = set()

    async def drop(self, agent_id: str, uid: str) -> None:
        await super().drop(agent_id, uid)
        self._dropped |= {uid} - {""}

    def _put(self, record: Record) -> None:
        if record.uid not in self._dropped:
            super()._put(record)


@wrong("round-trip", "a_key_may_have_600_bytes")
class CutKeys(MemoryStore):
    """Joins kind, uid and key to one key of the engine, which takes 511 bytes, and cuts what is longer."""

    def _put(self, record: Record) -> None:
        room = 511 - len(f"{record.kind}/{record.uid}/".encode())
        start = record.key.encode()[:room]
        shelf = self._shelves.get((record.kind, record.uid))
        long = shelf is not None and len(start) < len(record.key.encode())
        for key in list(shelf.keys) if long and shelf is not None else ():
            if key != record.key and key.encode()[:room] == start:
                self._delete(record.kind, record.uid, key)
        super()._put(record)


@wrong("races", "an_item_that_races_a_release_is_seen_or_wakes_someone")
class PhantomInbox(MemoryStore):
    """Locks the rows it judges, which an inbox that is still empty does not have; an item may come before the write."""

    async def apply(
        self, agent_id: str, conditions: Sequence[Condition], puts: Sequence[Record], deletes: Sequence[Key]
    ) -> int | None:
        if all(holds(self._view, condition) for condition in conditions):
            await checkpoint()
            # No record has the key "", so this holds whatever came meanwhile.
            conditions = [replace(each, op="absent") if each.op == "no_inbox_after" else each for each in conditions]
        return await super().apply(agent_id, conditions, puts, deletes)


@wrong("round-trip", "get_of_a_thousand_keys")
class UnprocessedKeys(MemoryStore):
    """Answers None for the keys of a large `get` that the engine left for the next request."""

    async def get(self, agent_id: str, keys: Sequence[Key]) -> list[Record | None]:
        return [row if n < 100 else None for n, row in enumerate(await super().get(agent_id, keys))]


@wrong("listing", "by_tenant", also="isolation", why="a tenant sees what is listed for it")
class TenantFalsy(MemoryStore):
    """Tests the tenant for truth, so that "" lists the agents of all."""

    async def agents(self, prefix: str, after: str, limit: int, tenant: str | None = None) -> list[Record]:
        return await super().agents(prefix, after, limit, tenant or None)


@wrong("inbox", "bounds_are_those_of_the_last_commit")
class BoundsOfCreation(MemoryStore):
    """Keeps an agent's bounds from when it first saw them."""

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self._first: dict[object, dict[str, Any]] = {}

    async def append_inbox(self, agent_id: str, record: Record, *, now: int, bounded: bool) -> Appended:
        header = self._row("header", "", agent_id)
        if header is None:
            return await super().append_inbox(agent_id, record, now=now, bounded=bounded)
        today = {name: header.columns[name] for name in ("max_inbox", "max_message_bytes")}
        first = self._first.setdefault(header.columns["uid"], today)
        self._put(replace(header, columns={**header.columns, **first}))
        done = await super().append_inbox(agent_id, record, now=now, bounded=bounded)
        header = self._row("header", "", agent_id)
        assert header is not None
        self._put(replace(header, columns={**header.columns, **today}))
        return done


@wrong("races", "an_item_and_a_write_of_the_header_both_count")
class HeaderWrittenBack(MemoryStore):
    """Reads the header for an item and writes the whole of it back a moment later, with the new `wake_at`."""

    async def append_inbox(self, agent_id: str, record: Record, *, now: int, bounded: bool) -> Appended:
        before = self._row("header", "", agent_id)
        done = await super().append_inbox(agent_id, record, now=now, bounded=bounded)
        after = self._row("header", "", agent_id)
        if before is not None and after is not None and after != before:
            self._put(before)
            await checkpoint()
            if self._row("header", "", agent_id) is not None:
                self._put(after)
        return done


@wrong("isolation", "a_uid_may_hold_what_joins_names_elsewhere")
class JoinedKeys(MemoryStore):
    """Drops what lies below `<uid>:` in one space of names, also what is of another uid which begins so."""

    async def drop(self, agent_id: str, uid: str) -> None:
        for other in {other for _, other in self._shelves if uid and other.startswith(f"{uid}:")}:
            await super().drop(agent_id, other)
        await super().drop(agent_id, uid)


@wrong("races", "a_scan_meets_all_that_stays")
class OffsetPages(MemoryStore):
    """Reads a scan in pages of 50 by offset, while others change what lies before."""

    async def scan(self, agent_id: str, ask: Scan) -> list[Record]:
        found: list[Record] = []
        while len(found) < ask.limit:
            rows = await super().scan(agent_id, replace(ask, limit=2**40))
            found += (page := rows[len(found) : min(len(found) + 50, ask.limit)])
            if len(page) < 50:
                break
            await checkpoint()
        return found
