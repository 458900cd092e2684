"""Whether all that is stored of one agent fits together: read as a lookup, in one snapshot where the store has those.

It changes nothing, not even what other reads do in passing (they bring a staged commit to its place).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import TypeVar

from kode.core import jsontext
from kode.core.errors import KodeError
from kode.core.kernel.invariants import InvariantError, check, check_history
from kode.core.kernel.message import BlobBlock, Block, MediaBlock, Message, ToolResultBlock
from kode.core.kernel.state import Document, State
from kode.core.kernel.toolcall import Call
from kode.core.kernel.window import Window
from kode.core.store import lookups
from kode.core.store import records as rec
from kode.core.store.contract import Key, Kind, Record, Scan
from kode.core.store.layers.orphans import ORPHANED_FOR
from kode.core.store.lookups import Lookup, integer, uid_of
from kode.core.store.records.columns import where

__all__ = ["Consistency", "Problem", "check_agent"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong."""

    code: str
    """``unreadable`` · ``invariant`` · ``gap`` · ``orphan`` (a record that the header does not name) · ``missing`` (one
    that something names) · ``order`` · ``differs`` (from its digest) · ``unanswered`` · ``unsettled`` (too much goes on
    to tell; it is the only one then)."""
    record: str
    """``kind uid/key``, or the kind alone."""
    what: str
    """For a person."""


@dataclass(frozen=True, slots=True)
class Consistency:
    """What `check_consistency` found."""

    agent_id: str
    uid: str
    version: int
    problems: tuple[Problem, ...]
    records: int = 0
    """How many were looked at."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


@dataclass(slots=True)
class _Check:
    """One check under way."""

    uid: str
    state: State
    now: int
    problems: list[Problem] = field(default_factory=list)
    records: int = 0
    blobs: dict[str, str] = field(default_factory=dict)
    """Blobs that messages name, with one who does."""

    def add(self, code: str, record: Record | str, what: str) -> None:
        name = record if isinstance(record, str) else f"{record.kind} {where(record)}"
        self.problems.append(Problem(code, name, what))

    def trial(self, record: Record | str, do: Callable[[], T]) -> T | None:
        """Do something; None, and a problem noted, where an error comes of it."""
        try:
            return do()
        except InvariantError as error:
            self.add("invariant", record, error.message)
        except KodeError as error:
            self.add("unreadable", record, error.message)
        return None

    def rows(self, kind: Kind) -> Lookup[list[Record]]:
        found = yield from lookups.scan_all(Scan(kind, self.uid))
        self.records += len(found)
        return found

    def read(self, kind: Kind, read: Callable[[Record], T]) -> Lookup[list[tuple[Record, T]]]:
        """Read all records of a kind but those that cannot be."""
        good: list[tuple[Record, T]] = []
        for row in (yield from self.rows(kind)):
            value = self.trial(row, partial(read, row))
            if value is not None:
                good.append((row, value))
        return good


def check_agent(agent_id: str, now: int) -> Lookup[Consistency]:
    """See `HealthSupport.check_consistency`; `now` tells what is on its way from what broke off.

    Raises:
        NotFoundError: No such agent.
    """
    (header,) = yield from lookups.get(lookups.header_key(agent_id))
    if header is None:
        raise lookups.no_agent(agent_id)
    uid, version = uid_of(header), integer(header.columns["version"])
    made = _Check(uid, State(agent_id, uid, 0, 0), now, records=1)
    if header.columns["staged"] is not None:
        made.add("unsettled", header, "its last commit is still to be brought to its places; any read does so.")
    else:
        try:
            made.state = yield from lookups.state_of(header)
        except KodeError as error:
            made.add("unreadable", header, error.message)
        else:
            yield from _check_all(made)
    return Consistency(agent_id, uid, version, tuple(made.problems), made.records)


def _check_all(made: _Check) -> Lookup[None]:
    made.trial("header", lambda: check(made.state))
    seqs = yield from _check_messages(made)
    yield from _check_calls(made, seqs)
    yield from _check_events(made)
    yield from _check_runs(made)
    compactions = {row.key for row, _ in (yield from made.read("compaction", rec.read_compaction))}
    documents = yield from _check_documents(made)
    yield from _check_snapshots(made, documents, compactions)
    _check_named(made, "header", made.state.documents, made.state.window, documents, compactions)
    yield from _check_blobs(made)
    yield from _check_inbox(made)


# ---- messages and calls ------------------------------------------------------------------------------------


@dataclass(slots=True)
class _History:
    """Judges a history in parts that begin at safe points, for it may be long."""

    made: _Check
    part: list[Message] = field(default_factory=list)
    whole: bool = True
    """Nothing is missing in this part: what follows a gap may answer what is not there."""

    def take(self, message: Message) -> None:
        if self.part and self.part[-1].seq + 1 != message.seq:
            self.whole = False
        elif self.part and not any(block.type == "tool_use" for block in self.part[-1].blocks):
            self.judge(())
            self.part, self.whole = [], True
        self.part.append(message)

    def judge(self, calls: tuple[Call, ...]) -> None:
        if self.part and self.whole:
            name = f"message {self.made.uid}/{rec.int_key(self.part[0].seq)}"
            self.made.trial(name, lambda: check_history(self.part, calls))


def _check_messages(made: _Check) -> Lookup[set[int]]:
    """Read the history; returns the numbers that are there."""
    state = made.state
    seqs: set[int] = set()
    history = _History(made)
    ask = Scan("message", made.uid)
    while True:
        rows = yield from lookups.scan(ask)
        made.records += len(rows)
        for row in rows:
            message = made.trial(row, partial(rec.read_message, row))
            if message is None:
                history.whole = False
            elif message.seq >= state.next_seq:
                made.add("orphan", row, f"the history is {state.first_seq} to {state.next_seq - 1}.")
            elif message.seq >= state.first_seq:  # else a prune is at work, or broke off; the next one removes it
                seqs.add(message.seq)
                _note_blobs(made, row, message.blocks)
                history.take(message)
        if len(rows) < ask.limit:
            break
        ask = replace(ask, after=rows[-1].key)
    history.judge(state.calls)
    count = state.next_seq - state.first_seq - len(seqs)
    if count > 0:
        # Looked for one by one: what a damaged header counts to may be more than fits into memory.
        missing = (seq for seq in range(state.first_seq, state.next_seq) if seq not in seqs)
        shown = ", ".join(map(str, islice(missing, 10))) + (", …" if count > 10 else "")
        made.add("gap", "message", f"{count} of messages {state.first_seq} to {state.next_seq - 1}: {shown}.")
    return seqs


def _note_blobs(made: _Check, row: Record, blocks: tuple[Block, ...]) -> None:
    for block in blocks:
        inner = block.content if isinstance(block, ToolResultBlock) else (block,)
        for one in inner:
            named = one.sha256 if isinstance(one, BlobBlock) else one.blob if isinstance(one, MediaBlock) else None
            if named is not None:
                made.blobs.setdefault(named, f"message {where(row)}")


def _check_calls(made: _Check, seqs: set[int]) -> Lookup[None]:
    state = made.state
    last = (state.next_run - 1, state.step, state.next_n)
    opened = {call.id for call in state.calls}
    for row, call in (yield from made.read("call", rec.read_call)):
        if (call.run, call.step, call.n) >= last:
            made.add("orphan", row, "the header has not counted so far.")
        elif call.id in opened or call.seq < state.first_seq:
            continue
        elif not call.status.final:
            made.add("unanswered", row, f"it is {call.status} and its step is over.")
        elif call.seq not in seqs:
            made.add("missing", row, f"message {call.seq}, which asked for it, is not there.")
        elif call.result_seq is not None and call.result_seq not in seqs:
            made.add("missing", row, f"message {call.result_seq}, which holds its result, is not there.")


# ---- events and runs ---------------------------------------------------------------------------------------


def _check_events(made: _Check) -> Lookup[None]:
    state = made.state
    expected = state.first_cursor
    for row in (yield from made.rows("events")):
        events = made.trial(row, partial(rec.read_events, row)) or ()
        cursors = [event.cursor for event in events]
        first, last = cursors[0] if cursors else expected, integer(row.columns["last"])
        if cursors and (cursors != list(range(first, first + len(cursors))) or cursors[-1] != last):
            made.add("order", row, f"its events do not rise by one from {first} to {last}.")
        if last >= state.next_cursor:
            made.add("orphan", row, f"the header has counted to {state.next_cursor - 1}.")
        elif last < state.first_cursor:
            continue  # being pruned
        elif first < expected and expected != state.first_cursor:
            made.add("order", row, f"event {first} comes again, after {expected - 1}.")
        elif first > expected:
            made.add("gap", row, f"events {expected} to {first - 1} are not there.")
        expected = max(expected, last + 1)
    if expected < state.next_cursor:
        made.add("gap", "events", f"events {expected} to {state.next_cursor - 1} are not there.")


def _check_runs(made: _Check) -> Lookup[None]:
    for row, run in (yield from made.read("run", rec.read_run)):
        if run.number >= made.state.next_run:
            made.add("orphan", row, f"the header has counted to {made.state.next_run - 1}.")
        elif run.ended_at is None and (made.state.run is None or made.state.run.number != run.number):
            made.add("unanswered", row, "it has no end and is not the run in progress.")


# ---- what is named -----------------------------------------------------------------------------------------


def _check_documents(made: _Check) -> Lookup[set[str]]:
    good = yield from made.read("document", rec.read_document)
    for row, body in good:
        if body.kind == "template":  # its digest is of the text as it stands
            same = hashlib.sha256(body.data.encode()).hexdigest() == row.columns["digest"]
        else:
            same = jsontext.digest(body.data) == row.columns["digest"]
        if not same:
            made.add("differs", row, "its text is not what its digest was made of.")
    return {row.key for row, _ in good}


def _check_snapshots(made: _Check, documents: set[str], compactions: set[str]) -> Lookup[None]:
    for row, snapshot in (yield from made.read("snapshot", rec.read_snapshot)):
        name = f"snapshot {where(row)}"
        if snapshot.seq > made.state.next_seq:
            made.add("orphan", row, f"it is of message {snapshot.seq}; the history ends before {made.state.next_seq}.")
        _check_named(made, name, lookups.named_documents(snapshot), snapshot.window, documents, compactions)
        shown = snapshot.window.bounded(snapshot.seq)
        if shown and shown[0].start < made.state.first_seq:
            made.add("missing", row, f"messages below {made.state.first_seq}, which it shows, were pruned.")


def _check_named(
    made: _Check,
    name: str,
    named: tuple[Document, ...],
    window: Window,
    documents: set[str],
    compactions: set[str],
) -> None:
    for document in named:
        key = lookups.document_key(made.uid, document).key
        if key not in documents:
            made.add("missing", name, f"it names document {key}.")
    if window.compaction is not None and window.compaction not in compactions:
        made.add("missing", name, f"its window begins with compaction {window.compaction}.")


def _check_blobs(made: _Check) -> Lookup[None]:
    ask, there = Scan("blob", made.uid, limit=1), set()
    while rows := (yield from lookups.scan(ask)):  # one by one: they may be large
        made.records += 1
        there.add(rows[0].key)
        if hashlib.sha256(rows[0].body).hexdigest() != rows[0].key:
            made.add("differs", rows[0], "its bytes are not what its name was made of.")
        ask = replace(ask, after=rows[0].key)
    for sha256, by in made.blobs.items():
        if sha256 not in there:
            made.add("missing", by, f"it names blob {sha256}.")


def _check_inbox(made: _Check) -> Lookup[None]:
    waiting = {item.id: row for row, item in (yield from made.read("inbox", rec.read_item))}
    for row, _ in (yield from made.read("consumed", rec.read_consumed)):
        if row.key in waiting:
            made.add("order", waiting[row.key], "it waits, and was consumed.")
    (lease,) = yield from lookups.get(Key("lease", made.uid, ""))
    if lease is not None:
        made.records += 1
        made.trial(lease, partial(rec.read_lease, lease, made.state.agent_id, 0))
    for row in (yield from made.rows("staged")):
        if integer(row.columns["at"]) < made.now - ORPHANED_FOR:
            made.add("orphan", row, "it is of a commit that the header does not name; `prune` removes it.")
