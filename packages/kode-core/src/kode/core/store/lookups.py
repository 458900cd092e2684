"""Lookups: generators that ask for records and return what they made of them.

A lookup does no I/O, so one text serves every store: the default runs it one round trip at a time, SQLite runs
all of it in one thread and one snapshot. What the header does not name does not exist, and it is here that
this is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from typing import Generic, TypeAlias, TypeVar

from kode.core.errors import NotFoundError, UsageError
from kode.core.kernel.events import Event
from kode.core.kernel.message import Message
from kode.core.kernel.state import Document, RunRecord, State
from kode.core.kernel.toolcall import Call
from kode.core.kernel.window import Snapshot
from kode.core.store import records as rec
from kode.core.store.contract import MOST, DocumentBody, Footing, Item, Key, Kind, Lease, Loaded, Record, Scan, Value

__all__ = ["Ask", "Get", "Lookup", "Page", "StagedFound"]

T = TypeVar("T")
C = TypeVar("C")

CHUNK = 64
"""Records asked for before it is known how large they are."""


@dataclass(frozen=True, slots=True)
class Get:
    """Ask for records by key."""

    keys: tuple[Key, ...]
    lease: bool = False
    """The key is a header's, and its agent's lease is wanted next: who can, gives that too, at the end."""


Ask: TypeAlias = Get | Scan
Lookup: TypeAlias = Generator[Ask, list[Record | None], T]


class StagedFound(Exception):  # noqa: N818 - it is a turn of the road, not an error, and never leaves the base class
    """The header names a staged commit, which must be settled before anything is read."""

    def __init__(self, header: Record) -> None:
        super().__init__(header.key)
        self.header = header


@dataclass(frozen=True, slots=True)
class Page(Generic[T, C]):
    """Part of a list, in the direction it was asked for."""

    items: tuple[T, ...]
    next: C | None
    """Where to go on: the next `after` (or `before`, reading backwards). None: that was all there was."""
    pruned: bool = False
    """Some of what was asked for was pruned and is no longer there."""


def finish(lookup: Lookup[T], answer: Callable[[Ask], list[Record | None]]) -> T:
    """Run a lookup to its end."""
    try:
        ask = next(lookup)
        while True:
            ask = lookup.send(answer(ask))
    except StopIteration as end:
        value: T = end.value
        return value


# ---- the header and what it needs --------------------------------------------------------------------------


def get(*keys: Key) -> Lookup[list[Record | None]]:
    """Ask for keys."""
    return (yield Get(keys))


def scan(ask: Scan) -> Lookup[list[Record]]:
    """Ask for a range."""
    return [record for record in (yield ask) if record is not None]


def scan_all(ask: Scan) -> Lookup[list[Record]]:
    """Ask for a range until its end, `MOST` records at a time."""
    found: list[Record] = []
    while True:
        rows = yield from scan(ask)
        found += rows
        if len(rows) < ask.limit:
            return found
        ask = replace(ask, after=rows[-1].key)


def uid_of(header: Record) -> str:
    """The identity a header names."""
    return str(header.columns["uid"])


def integer(value: Value) -> int:
    """Read a column that holds a number; null counts as 0."""
    return value if isinstance(value, int) else 0


def header_key(agent_id: str) -> Key:
    """Where an agent's header lies."""
    return Key("header", "", agent_id)


def lease_key(uid: str) -> Key:
    """Where an agent's lease lies."""
    return Key("lease", uid, "")


def document_key(uid: str, document: Document) -> Key:
    """Where a document lies: its digest ends the key, so that a snapshot still finds the one it names."""
    return Key("document", uid, f"{rec.document_key(document.kind, document.name)}/{document.digest}")


def named_documents(snapshot: Snapshot) -> tuple[Document, ...]:
    """Documents as a snapshot names them."""
    return tuple(Document(kind, name, digest) for kind, name, digest in snapshot.documents)


def snapshot_documents(record: Record) -> tuple[Document, ...]:
    """Documents that a snapshot's record names."""
    return named_documents(rec.read_snapshot(record))


def find_header(agent_id: str) -> Lookup[Record | None]:
    """Read a header.

    Raises:
        StagedFound: A commit must be settled first.
    """
    (header,) = yield from get(header_key(agent_id))
    return _unstaged(header)


def need_header(agent_id: str) -> Lookup[Record]:
    """Read a header that must be there."""
    (header,) = yield from get(header_key(agent_id))
    return checked_header(agent_id, header)


def checked_header(agent_id: str, header: Record | None) -> Record:
    """Take a header that must be there, as it was read."""
    found = _unstaged(header)
    if found is None:
        raise no_agent(agent_id)
    return found


def _unstaged(header: Record | None) -> Record | None:
    if header is not None and header.columns["staged"] is not None:
        raise StagedFound(header)
    return header


def no_agent(agent_id: str) -> NotFoundError:
    """Make the error for an agent that is not stored."""
    return NotFoundError(f"No agent {agent_id!r} is stored here; create it or check the id.", agent_id=agent_id)


def read_state(agent_id: str) -> Lookup[State]:
    """Read an agent's state with the calls of its open step."""
    header = yield from need_header(agent_id)
    return (yield from state_of(header))


def state_of(header: Record) -> Lookup[State]:
    """Decode a header, reading the calls it names."""
    keys = rec.header_call_keys(header)
    calls = (yield from get(*keys)) if keys else []
    return rec.read_header(header, [rec.read_call(call) for call in present(calls)])


def load(
    agent_id: str, live: Callable[[Record | None, Record], Lease | None], now: int, *, recipe: bool = False
) -> Lookup[Loaded | None]:
    """Read all a driver needs: header, open calls, lease, inbox, and the window undecoded; its template if asked."""
    header = yield from find_header(agent_id)
    if header is None:
        return None
    uid = uid_of(header)
    named = rec.header_recipe(header) if recipe else None
    documents = [] if named is None else [document_key(uid, named)]
    lease, *found = yield from get(lease_key(uid), *documents, *rec.header_call_keys(header))
    template, calls = next(iter(found[: len(documents)]), None), found[len(documents) :]
    state = rec.read_header(header, [rec.read_call(call) for call in present(calls)])
    inbox = yield from scan_all(Scan("inbox", uid))
    window: list[Record] = []
    for part in state.window.bounded(state.next_seq):
        start, stop = max(part.start, state.first_seq), part.stop or 0
        if start < stop:
            window += yield from scan_all(message_range(uid, start, stop, min(MOST, stop - start + 1)))
    wake_at = header.columns["wake_at"]
    version, seen, held = integer(header.columns["version"]), integer(header.columns["seen"]), live(lease, header)
    return Loaded(
        state=state,
        version=version,
        seen=seen,
        bounds=rec.read_bounds(header),
        window=window,
        inbox=tuple(rec.read_item(record) for record in inbox),
        lease=held,
        wake_at=wake_at if isinstance(wake_at, int) else None,
        recipe=None if template is None else rec.read_document(template).data,
        footing=None if held is not None else Footing(agent_id, uid, version, seen, lease, now),
    )


def message_range(uid: str, start: int, stop: int, limit: int) -> Scan:
    """Ask for messages `start` (inclusive) to `stop` (exclusive)."""
    return Scan("message", uid, after=rec.int_key(start - 1) if start else "", before=rec.int_key(stop), limit=limit)


def inbox_after(uid: str, seen: int) -> Lookup[tuple[Item, ...]]:
    """Read what waits beyond a position."""
    rows = yield from scan_all(Scan("inbox", uid, after=rec.int_key(seen)))
    return tuple(rec.read_item(record) for record in rows)


# ---- pages -------------------------------------------------------------------------------------------------


def bounded_scan(ask: Scan, limit: int, max_bytes: int) -> Lookup[tuple[list[Record], bool]]:
    """Read until a count or a number of bytes is reached, at least one record; and whether more may follow.

    Nobody knows how large the records are before they are there, so the first chunk is small and the next
    ones are measured by it.
    """
    found: list[Record] = []
    used = 0
    chunk = min(CHUNK, limit)
    while True:
        rows = yield from scan(replace(ask, limit=chunk))
        for record in rows:
            used += len(record.body)
            if found and used > max_bytes:
                return found, True
            found.append(record)
        if len(rows) < chunk:
            return found, False
        if len(found) >= limit or used >= max_bytes:
            return found, True
        last = found[-1].key
        ask = replace(ask, before=last) if ask.reverse else replace(ask, after=last)
        room = (max_bytes - used) * len(found) // max(used, 1)
        chunk = min(limit - len(found), MOST, max(room, 1))


def messages(
    agent_id: str, after: int | None, before: int | None, limit: int, max_bytes: int, backwards: bool
) -> Lookup[Page[Message, int]]:
    """See `Reading.read_messages`."""
    state = yield from read_state(agent_id)
    stop = state.next_seq if before is None else min(before, state.next_seq)
    asked = 0 if after is None else max(after + 1, 0)
    start = max(asked, state.first_seq)
    pruned = asked < min(start, stop)
    if start >= stop:
        return Page((), None, pruned)
    ask = replace(message_range(state.uid, start, stop, MOST), reverse=backwards)
    rows, more = yield from bounded_scan(ask, limit, max_bytes)
    items = tuple(rec.read_message(row) for row in rows)
    return Page(items, items[-1].seq if more else None, pruned)


def calls(
    agent_id: str, prefix: str, after: str, before: str | None, limit: int, max_bytes: int, backwards: bool
) -> Lookup[Page[Call, str]]:
    """See `Reading.read_calls`."""
    state = yield from read_state(agent_id)
    last = (state.next_run - 1, state.step, state.next_n)
    ask = Scan("call", state.uid, prefix=prefix, after=after, before=before, reverse=backwards)
    rows, more = yield from bounded_scan(ask, limit, max_bytes)
    items = (rec.read_call(row) for row in rows)
    named = tuple(call for call in items if (call.run, call.step, call.n) < last)
    return Page(named, rows[-1].key if more else None)


def events(agent_id: str, after: int, limit: int, max_bytes: int, before: int | None) -> Lookup[Page[Event, int]]:
    """See `Reading.read_events`, forwards."""
    state = yield from read_state(agent_id)
    stop = state.next_cursor if before is None else min(before, state.next_cursor)
    asked = max(after, 0)
    after = max(asked, state.first_cursor - 1)
    pruned = asked + 1 < min(after + 1, stop)
    if after + 1 >= stop:
        return Page((), None, pruned)
    ask = Scan("events", state.uid, after=rec.int_key(after), before=rec.int_key(stop))
    rows, more = yield from bounded_scan(ask, limit, max_bytes)
    if not rows or rec.key_int(rows[0].key) != after + 1:
        # The position lies within a record, or what was there is pruned.
        head = Scan("events", state.uid, before=rec.int_key(after + 1), limit=1, reverse=True)
        earlier = yield from scan(head)
        rows = [row for row in earlier if integer(row.columns["last"]) > after] + rows
    found = [event for row in rows for event in rec.read_events(row) if after < event.cursor < stop]
    more = more or len(found) > limit
    items = tuple(found[:limit])
    return Page(items, items[-1].cursor if more else None, pruned)


def events_backwards(
    agent_id: str, before: int | None, limit: int, max_bytes: int, after: int
) -> Lookup[Page[Event, int]]:
    """See `Reading.read_events`, backwards."""
    state = yield from read_state(agent_id)
    stop = state.next_cursor if before is None else min(before, state.next_cursor)
    asked = max(after, 0)
    after = max(asked, state.first_cursor - 1)
    pruned = asked + 1 < min(after + 1, stop)
    if after + 1 >= stop:
        return Page((), None, pruned)
    ask = Scan("events", state.uid, before=rec.int_key(stop), reverse=True)
    rows, more = yield from bounded_scan(ask, limit, max_bytes)
    found = [event for row in rows for event in reversed(rec.read_events(row)) if after < event.cursor < stop]
    more = (more or len(found) > limit) and bool(found)
    items = tuple(found[:limit])
    return Page(items, items[-1].cursor if more else None, pruned)


def runs(
    agent_id: str, after: int, before: int | None, limit: int, max_bytes: int, backwards: bool
) -> Lookup[Page[RunRecord, int]]:
    """See `Reading.read_runs`."""
    state = yield from read_state(agent_id)
    stop = state.next_run if before is None else min(before, state.next_run)
    ask = Scan("run", state.uid, after=rec.int_key(after), before=rec.int_key(stop), reverse=backwards)
    rows, more = yield from bounded_scan(ask, limit, max_bytes)
    items = tuple(rec.read_run(row) for row in rows)
    return Page(items, items[-1].number if more else None)


def run(agent_id: str, number: int) -> Lookup[RunRecord | None]:
    """See `Reading.read_run`."""
    state = yield from read_state(agent_id)
    (row,) = yield from get(Key("run", state.uid, rec.int_key(number)))
    return None if row is None or number >= state.next_run else rec.read_run(row)


def snapshots(agent_id: str) -> Lookup[tuple[Snapshot, ...]]:
    """See `Reading.list_snapshots`."""
    state = yield from read_state(agent_id)
    rows = yield from scan_all(Scan("snapshot", state.uid))
    found = (rec.read_snapshot(row) for row in rows)
    return tuple(sorted((s for s in found if s.seq <= state.next_seq), key=lambda s: (s.seq, s.at, s.id)))


def documents(agent_id: str, kind: str | None) -> Lookup[tuple[DocumentBody, ...]]:
    """See `Reading.read_documents`."""
    state = yield from read_state(agent_id)
    named = [d for d in state.documents if kind is None or d.kind == kind]
    rows = yield from get(*(document_key(state.uid, d) for d in named))
    return tuple(rec.read_document(row) for row in present(rows))


def document(agent_id: str, kind: str, name: str) -> Lookup[DocumentBody | None]:
    """See `Reading.read_document`."""
    state = yield from read_state(agent_id)
    for named in state.documents:
        if (named.kind, named.name) == (kind, name):
            (row,) = yield from get(document_key(state.uid, named))
            return None if row is None else rec.read_document(row)
    return None


def blob(agent_id: str, sha256: str) -> Lookup[Record | None]:
    """See `Reading.get_blob`."""
    return (yield from one(agent_id, "blob", sha256, None))


def call(agent_id: str, call_id: str, uid: str | None) -> Lookup[Call | None]:
    """See `Reading.read_call`."""
    try:
        key = rec.call_key(call_id)
    except UsageError:
        key = ""  # nothing lies there
    row = yield from one(agent_id, "call", key, uid)
    return None if row is None else rec.read_call(row)


def consumed_by(agent_id: str, item_id: str, uid: str | None) -> Lookup[int | None]:
    """See `Reading.consumed_by`."""
    row = yield from one(agent_id, "consumed", item_id, uid)
    return None if row is None else rec.read_consumed(row)[2] or 0


def one(agent_id: str, kind: Kind, key: str, uid: str | None) -> Lookup[Record | None]:
    """Read a single record of an agent: in one round trip if its identity is told."""
    if uid is None:
        (row,) = yield from get(Key(kind, uid_of((yield from need_header(agent_id))), key))
        return row
    header, row = yield from get(header_key(agent_id), Key(kind, uid, key))
    if uid_of(checked_header(agent_id, header)) != uid:
        raise no_agent(agent_id)
    return row


def present(rows: Iterable[Record | None]) -> Iterable[Record]:
    """Leave out what was not there."""
    return (row for row in rows if row is not None)
