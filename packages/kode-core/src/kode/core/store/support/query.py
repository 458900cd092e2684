"""Asking across agents: by columns only, sorted by one of a list of columns, page after page.

The default reads columns of whole pages of `agents` and `scan` and keeps the best: it costs a pass over all agents
that the question allows and, for messages and calls, over all of theirs, for every page of the answer. That is right
for hundreds of agents. An engine that can judge and sort columns itself overrides `select`, which is the only thing
it must.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass, field
from heapq import nlargest, nsmallest
from typing import Any, Generic, TypeVar, Unpack

from anyio.lowlevel import checkpoint

from kode.core.errors import RecordCorruptError, SchemaTooNewError, StoreError
from kode.core.kernel.message import Message
from kode.core.kernel.state import State
from kode.core.kernel.toolcall import Call
from kode.core.store import lookups
from kode.core.store import records as rec
from kode.core.store.contract import MOST, AgentInfo, Kind, Record, Scan
from kode.core.store.layers.reading import Reading
from kode.core.store.lookups import header_key, uid_of
from kode.core.store.records.columns import maybe_whole, reader, text, whole
from kode.core.store.support.questions import (
    AgentFilter,
    AgentSort,
    CallFilter,
    CallSort,
    MessageFilter,
    MessageSort,
    Question,
    Test,
    make_question,
    order,
    write_cursor,
)

__all__ = ["Found", "FoundCall", "FoundMessage", "QuerySupport"]

T = TypeVar("T")


# ---- what is answered --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """Part of an answer. It may hold fewer than were asked for, even none, while more follow."""

    items: tuple[T, ...]
    next: str | None
    """Where to go on: the next `after`. None: that was all."""
    damaged: tuple[StoreError, ...] = ()
    """Records that cannot be read and are left out; each error names its record."""


@dataclass(frozen=True, slots=True)
class FoundMessage:
    """A message's columns; `read` decodes the rest."""

    agent_id: str
    uid: str
    seq: int
    role: str
    run: int
    step: int
    at: int
    size: int
    """Bytes of its record."""
    record: Record = field(repr=False, compare=False)

    def read(self) -> Message:
        """Decode it.

        Raises:
            RecordCorruptError: It cannot be read.
            SchemaTooNewError: A newer KODE wrote it.
        """
        return rec.read_message(self.record)


@dataclass(frozen=True, slots=True)
class FoundCall:
    """A call's columns; `read` decodes the rest. Times are microseconds since the epoch, UTC; ``size`` is bytes."""

    agent_id: str
    uid: str
    id: str
    """``run.step.n``."""
    tool: str
    status: str
    seq: int
    """Message that asked."""
    run: int
    asked_at: int
    started_at: int | None
    finished_at: int | None
    size: int
    record: Record = field(repr=False, compare=False)

    def read(self) -> Call:
        """Decode it.

        Raises:
            RecordCorruptError: It cannot be read.
            SchemaTooNewError: A newer KODE wrote it.
        """
        return rec.read_call(self.record)


class QuerySupport(Reading):
    """Questions across agents. ``isinstance(store, QuerySupport)`` tells whether a store answers them.

    An answer is no snapshot: between two pages agents go on, and one whose sort value changes may be seen twice or
    not at all. What does not change is seen exactly once.
    """

    async def query_agents(
        self,
        *,
        sort: AgentSort = "agent_id",
        descending: bool = False,
        limit: int = 100,
        after: str | None = None,
        **filters: Unpack[AgentFilter],
    ) -> Found[AgentInfo]:
        """Find agents.

        Args:
            sort: Column to sort by; null comes first.
            descending: The other way around.
            limit: 1 to 1,000.
            after: `Found.next` of the page before, with the same sort.
            **filters: See `AgentFilter`.

        Raises:
            UsageError: ``bad_query``, ``bad_agent_id``: no such filter, sort or value. ``bad_cursor``: `after` is of
                another question.
        """
        question = make_question("header", sort, descending, limit, after, filters)
        return await self._answer(question, lambda agent_id, row: rec.read_info(row))

    async def query_messages(
        self,
        *,
        sort: MessageSort = "at",
        descending: bool = False,
        limit: int = 100,
        after: str | None = None,
        **filters: Unpack[MessageFilter],
    ) -> Found[FoundMessage]:
        """Find messages; see `query_agents` and `MessageFilter`."""
        return await self._answer(make_question("message", sort, descending, limit, after, filters), _found_message)

    async def query_tool_calls(
        self,
        *,
        sort: CallSort = "asked_at",
        descending: bool = False,
        limit: int = 100,
        after: str | None = None,
        **filters: Unpack[CallFilter],
    ) -> Found[FoundCall]:
        """Find tool calls; see `query_agents` and `CallFilter`."""
        return await self._answer(make_question("call", sort, descending, limit, after, filters), _found_call)

    async def select(self, question: Question) -> list[tuple[str, Record]]:
        """Give agent id and record of the first `limit` rows of an answer, in its order.

        For authors: override it where the engine can do better. Rows without a header must not be among them; that
        the header names a row is judged afterwards.
        """
        best: list[tuple[str, Record]] = []
        pick = nlargest if question.descending else nsmallest

        def place(found: tuple[str, Record]) -> tuple[bool, Any, str, str]:
            return order(question.place(*found))

        async for headers in self._headers(question.agents, question.prefix):
            for header in headers:
                async for rows in self._rows(question.kind, header):
                    fit = [(header.key, row) for row in rows if _fits(question, header.key, row)]
                    best = pick(question.limit, [*best, *fit], key=place)
        return best

    # ---- inside --------------------------------------------------------------------------------------------

    async def _headers(self, tests: Sequence[Test], prefix: str) -> AsyncIterator[list[Record]]:
        """Read the headers that pass, page by page."""
        named = next((test.values for test in tests if test.column == "agent_id"), None)
        if named is not None:
            ids = sorted({str(id) for id in named})
            rows = [row for id in ids for row in await self.get(id, [header_key(id)])]
            yield [row for row in lookups.present(rows) if _passes(row, tests) and row.key.startswith(prefix)]
            return
        after = ""
        while True:
            found = await self.agents(prefix, after, MOST)
            yield [row for row in found if _passes(row, tests)]
            if len(found) < MOST:
                return
            after = found[-1].key
            await checkpoint()  # a store in memory never lets others run by itself

    async def _rows(self, kind: Kind, header: Record) -> AsyncIterator[list[Record]]:
        """Read all rows of a kind that an agent has, page by page."""
        if kind == "header":
            yield [header]
            return
        if header.columns["staged"] is not None:
            await self.settle(header.key, header)
        after = ""
        while True:
            rows = await self.scan(header.key, Scan(kind, uid_of(header), after=after, limit=MOST))
            yield rows
            if len(rows) < MOST:
                return
            after = rows[-1].key
            await checkpoint()

    async def _answer(self, question: Question, read: Callable[[str, Record], T]) -> Found[T]:
        rows = await self.select(question)
        items: list[T] = []
        damaged: dict[str, StoreError] = {}
        states = {} if question.kind == "header" else await self._states({id for id, _ in rows}, damaged)
        for agent_id, row in rows:
            try:
                if question.kind == "header" or _named(row, states.get(agent_id)):
                    items.append(read(agent_id, row))
            except (RecordCorruptError, SchemaTooNewError) as error:
                damaged[str(error)] = error
        more = write_cursor(question, *rows[-1]) if len(rows) == question.limit else None
        return Found(tuple(items), more, tuple(damaged.values()))

    async def _states(self, ids: Collection[str], damaged: dict[str, StoreError]) -> dict[str, tuple[str, State]]:
        """Read identity and counters of agents: what a header does not name does not exist."""
        states: dict[str, tuple[str, State]] = {}
        for id in sorted(ids):
            (header,) = await self.get(id, [header_key(id)])
            if header is not None:
                try:
                    states[id] = uid_of(header), rec.header_counters(header)
                except (RecordCorruptError, SchemaTooNewError) as error:
                    damaged[str(error)] = error
        return states


@reader
def _named(row: Record, known: tuple[str, State] | None) -> bool:
    if known is None or known[0] != row.uid:
        return False
    state = known[1]
    if row.kind == "message":
        return state.first_seq <= rec.key_int(row.key) < state.next_seq
    run, step, n = map(rec.key_int, row.key.split("."))
    return (run, step, n) < (state.next_run - 1, state.step, state.next_n)


def _passes(row: Record, tests: Sequence[Test]) -> bool:
    return all(test.holds(row) for test in tests)


def _fits(question: Question, agent_id: str, row: Record) -> bool:
    if question.kind != "header" and not _passes(row, question.rows):
        return False
    if question.after is None:
        return True
    here, last = order(question.place(agent_id, row)), order(question.after)
    return here < last if question.descending else here > last


def _found_message(agent_id: str, record: Record) -> FoundMessage:
    return _message_columns(record, agent_id)


@reader
def _message_columns(record: Record, agent_id: str) -> FoundMessage:
    columns = record.columns
    run, step, at, size = (whole(columns[name]) for name in ("run", "step", "at", "size"))
    seq, role = rec.key_int(record.key), text(columns["role"])
    return FoundMessage(agent_id, record.uid, seq, role, run, step, at, size, record)


def _found_call(agent_id: str, record: Record) -> FoundCall:
    return _call_columns(record, agent_id)


@reader
def _call_columns(record: Record, agent_id: str) -> FoundCall:
    columns = record.columns
    return FoundCall(
        agent_id,
        record.uid,
        ".".join(str(rec.key_int(part)) for part in record.key.split(".")),
        text(columns["tool"]),
        text(columns["status"]),
        whole(columns["seq"]),
        whole(columns["run"]),
        whole(columns["asked_at"]),
        maybe_whole(columns["started_at"]),
        maybe_whole(columns["finished_at"]),
        whole(columns["size"]),
        record,
    )
