"""What a store holds of one agent, record for record: read in bounded pages, counted, and digested.

Nothing is decoded. The digest is the same for the same records on every store: kinds in the order of ``COLUMNS``, keys
in the order of ``scan``, of each record its key, its columns and its bytes. Leases and staged rows are no part of it:
they say who is at work, not what an agent is.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Final, TypeAlias

from kode.core.store import lookups
from kode.core.store.contract import Kind, Record, Scan
from kode.core.store.layers.reading import Reading
from kode.core.store.lookups import Lookup, header_key, lease_key
from kode.core.store.records.columns import COLUMNS

__all__ = ["KINDS", "PAGE_BYTES", "Contents", "Pages", "frame", "read_contents"]

KINDS: Final[tuple[Kind, ...]] = tuple(kind for kind in COLUMNS if kind not in ("header", "lease", "staged"))
"""What an agent is made of beside its header."""
FIRST: Final = 16
"""Records of a kind read before it is known how large they are."""
MOST: Final = 1_000
PAGE_BYTES: Final = 4_194_304
"""About how many bytes a page has at most, unless the first records are larger."""


class Pages:
    """The records of an agent in pages that cost one reading each, so that memory is bounded by the largest few.

    A page takes kind after kind until it is full; most agents have one page. Blobs come last and one by one, for each
    may be large: a page ends with the first that it meets.
    """

    def __init__(self, store: Reading, agent_id: str, uid: str, kinds: Sequence[Kind] = KINDS) -> None:
        self._store, self._agent_id, self._uid = store, agent_id, uid
        self._kinds: list[Kind] = [kind for kind in kinds if kind != "blob"]
        self._after = ""
        self._limit = FIRST
        self._largest = 1
        self.over = False
        """There are no more."""
        self.blobs = False
        """What is left are blobs."""
        self.header: Record | None = None
        """The header as it was after all but the blobs were read; None: it was gone."""
        self.lease: Record | None = None
        """The lease, likewise."""

    async def next(self) -> list[Record]:
        """Read the next page."""
        return await self._store.look_up(self._agent_id, self._page())

    def _page(self) -> Lookup[list[Record]]:
        page: list[Record] = []
        size = 0
        while self._kinds:
            limit = max(1, min(self._limit, (PAGE_BYTES - size) // self._largest))
            rows = yield from lookups.scan(Scan(self._kinds[0], self._uid, after=self._after, limit=limit))
            page += rows
            size += sum(len(row.body) for row in rows)
            if len(rows) < limit:
                del self._kinds[0]
                self._after, self._limit, self._largest = "", FIRST, 1
            else:
                self._after, self._limit = rows[-1].key, min(self._limit * 4, MOST)
                self._largest = max(self._largest, *(len(row.body) for row in rows))
            if size >= PAGE_BYTES:
                return page
        if not self.blobs:
            # A blob is written before the commit that names it, so none is missing that this header knows of.
            self.header, self.lease = yield from lookups.get(header_key(self._agent_id), lease_key(self._uid))
            self.blobs = True
        rows = yield from lookups.scan(Scan("blob", self._uid, after=self._after, limit=1))
        self.over = not rows
        self._after = rows[-1].key if rows else ""
        return page + rows


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


_encode: Final = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode


def frame(row: Record) -> bytes:
    """Write all of a record but its body, and how long that is, so that no two records run into the same bytes."""
    columns = [row.columns[name] for name, _ in COLUMNS[row.kind]]
    return _encode([row.kind, row.key, columns, len(row.body)]).encode("utf-8", "surrogatepass") + b"\n"


Take: TypeAlias = Callable[[list[Record]], Awaitable[None]]
"""What is done with each page that was read."""


async def read_contents(pages: Pages, lane: AbstractAsyncContextManager[object], *takes: Take) -> Contents:
    """Read all of an agent but its header.

    Args:
        pages: Where from.
        lane: Held while it reads on from blob to blob, so that few are in memory.
        takes: What is done with each page.
    """
    contents = Contents()
    while not pages.over:
        async with lane if pages.blobs else nullcontext():
            rows = await pages.next()
            for row in rows:
                contents.add(row)
            for take in takes:
                await take(rows)
            del rows
    return contents
