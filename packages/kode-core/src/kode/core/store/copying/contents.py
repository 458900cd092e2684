"""What a store holds of one agent, record for record: read in bounded pages, counted, and digested.

Nothing is decoded. The digest is the same for the same records on every store: kinds in the order of ``COLUMNS``, keys
in the order of ``scan``, of each record its key, its columns and its bytes. Leases and staged rows are no part of it:
they say who is at work, not what an agent is.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Final, TypeAlias

from kode.core.store import plans
from kode.core.store.columns import COLUMNS
from kode.core.store.contract import Kind, Record
from kode.core.store.plans import Plan, Scan
from kode.core.store.primitives import Records
from kode.core.store.reading import Reading

__all__ = ["KINDS", "PAGE_BYTES", "Contents", "Pages", "frame", "read_contents"]

KINDS: Final[tuple[Kind, ...]] = tuple(kind for kind in COLUMNS if kind not in ("header", "lease", "staged"))
"""What an agent is made of beside its header."""
FIRST: Final = 16
"""Records read before it is known how large they are."""
MOST: Final = 1_000
PAGE_BYTES: Final = 4_194_304
"""About how many bytes a page has at most, unless a single record is larger."""


class Pages:
    """The records of one kind, a page at a time, so that memory is bounded by the largest few of them.

    Blobs come one by one, for each may be large. Of other kinds the next page is measured by the largest record so far.
    """

    def __init__(self, store: Records, agent_id: str, uid: str, kind: Kind, first: list[Record] | None = None) -> None:
        self._read = (store, agent_id, uid, kind)
        self._first = first
        """The first page, where it was read already."""
        self._after = ""
        self._limit = 1 if kind == "blob" else FIRST
        self._over = False
        self._largest = 1

    async def next(self) -> list[Record]:
        """Read the next page; empty when there is none."""
        if self._over:
            return []
        store, agent_id, uid, kind = self._read
        rows, self._first = self._first, None
        if rows is None:
            rows = await store.scan(agent_id, kind, uid, after=self._after, limit=self._limit)
        self._over = len(rows) < self._limit
        if rows:
            self._after = rows[-1].key
            self._largest = max(self._largest, *(len(row.body) for row in rows))
        if kind != "blob":
            self._limit = max(1, min(self._limit * 4, PAGE_BYTES // self._largest, MOST))
        return rows


class Contents:
    """Counts and digests what it is shown, which must come in canonical order within each kind."""

    def __init__(self) -> None:
        self.counts: Counter[Kind] = Counter()
        """Records by kind."""
        self.size = 0
        """Bytes of all bodies."""
        self._hashes = {kind: hashlib.sha256() for kind in KINDS}

    def add(self, row: Record) -> None:
        """Take the next record."""
        self.counts[row.kind] += 1
        self.size += len(row.body)
        digest = self._hashes[row.kind]
        digest.update(frame(row))
        digest.update(row.body)

    def digest(self, header: Record) -> str:
        """SHA-256 (hex) of the agent with that header."""
        whole = hashlib.sha256(frame(header) + header.body)
        for kind in KINDS:
            whole.update(self._hashes[kind].digest())
        return whole.hexdigest()

    def difference(self, other: Contents) -> str:
        """Say for a person where this differs from another; empty if it does not."""
        kinds: list[Kind] = [kind for kind in KINDS if self._hashes[kind].digest() != other._hashes[kind].digest()]
        return ", ".join(
            f"{kind} records ({self.counts[kind]} here, {other.counts[kind]} there)"
            if self.counts[kind] != other.counts[kind]
            else f"{kind} records"
            for kind in kinds
        )


def frame(row: Record) -> bytes:
    """Write all of a record but its body, and how long that is, so that no two records run into the same bytes."""
    columns = [row.columns[name] for name, _ in COLUMNS[row.kind]]
    head = json.dumps([row.kind, row.key, columns, len(row.body)], ensure_ascii=False, separators=(",", ":"))
    return head.encode("utf-8", "surrogatepass") + b"\n"


Take: TypeAlias = Callable[[list[Record]], Awaitable[None]]
"""What is done with each page that was read."""


async def read_contents(
    store: Reading, agent_id: str, uid: str, lane: AbstractAsyncContextManager[object], *takes: Take
) -> Contents:
    """Read all of an agent but its header.

    Args:
        store: Where from.
        agent_id: Whose.
        uid: Which identity.
        lane: Held while blobs are read, so that one agent at a time has one in memory.
        takes: What is done with each page.
    """
    contents = Contents()
    firsts = await store.read_plan(agent_id, _firsts(uid))
    for kind in KINDS:
        async with lane if kind == "blob" else nullcontext():
            pages = Pages(store, agent_id, uid, kind, firsts.get(kind))
            while rows := await pages.next():
                for row in rows:
                    contents.add(row)
                for take in takes:
                    await take(rows)
    return contents


def _firsts(uid: str) -> Plan[dict[Kind, list[Record]]]:
    """Read the first page of each kind, which is often all of it, in one go."""
    found: dict[Kind, list[Record]] = {}
    for kind in KINDS:
        if kind != "blob":
            found[kind] = yield from plans.scan(Scan(kind, uid, limit=FIRST))
    return found
