"""What a store can tell of an agent, built on lookups: `load`, pages of its history, and single records."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TypeVar

from kode.core.errors import NotFoundError, StoreError
from kode.core.kernel.events import Event
from kode.core.kernel.message import Message
from kode.core.kernel.state import RunRecord, State
from kode.core.kernel.toolcall import Call
from kode.core.kernel.window import Snapshot
from kode.core.store import liveness, lookups
from kode.core.store import records as rec
from kode.core.store.contract import AgentInfo, DocumentBody, Item, Lease, Loaded, Record
from kode.core.store.lookups import Get, Lookup, Page
from kode.core.store.primitives import Records, check_agent_id

__all__ = ["Reading"]

T = TypeVar("T")
PAGE = 100
PAGE_BYTES = 4_194_304


class Reading(Records):
    """Reads. A page holds at most `limit` items and about `max_bytes` of records, but at least one item.

    All of them raise `NotFoundError` when there is no such agent (but `load` and `exists`), and
    `RecordCorruptError` for a record that cannot be read, which is left as it is.
    """

    def __init__(self) -> None:
        self._last_time: int | None = None
        """What `now` said last; None: it was not asked yet."""

    async def look_up(self, agent_id: str, lookup: Lookup[T]) -> T:
        """Run a lookup, one round trip for each thing it asks. A store may run it whole, in one snapshot."""
        try:
            ask = next(lookup)
            while True:
                if isinstance(ask, Get):
                    ask = lookup.send(await self.get(agent_id, ask.keys))
                else:
                    ask = lookup.send(list(await self.scan(agent_id, ask)))
        except StopIteration as end:
            value: T = end.value
            return value

    async def load(self, agent_id: str, *, recipe: bool = False) -> Loaded | None:
        """Read an agent with all a driver needs; None if there is none. The window stays undecoded.

        `Loaded.lease` is the lease while it lives. `recipe`: read the template's document too.
        """
        check_agent_id(agent_id)
        now = await self._time()

        def live(lease: Record | None, header: Record) -> Lease | None:
            return self._live_lease(lease, header, now)

        return await self._settled(agent_id, lambda: lookups.load(agent_id, live, now, recipe=recipe))

    async def read_state(self, agent_id: str) -> State:
        """Read an agent's state, without its window and inbox."""
        return await self._settled(agent_id, lambda: lookups.read_state(agent_id))

    async def exists(self, agent_id: str) -> bool:
        """Tell whether there is such an agent."""
        check_agent_id(agent_id)
        (header,) = await self.get(agent_id, [lookups.header_key(agent_id)])
        return header is not None

    async def list_agents(
        self, prefix: str = "", after: str = "", limit: int = PAGE, tenant: str | None = None
    ) -> list[AgentInfo]:
        """List agents in the order of their ids, those above `after`; one row each, no bodies read."""
        return [rec.read_info(header) for header in await self.agents(prefix, after, limit, tenant)]

    async def read_messages(
        self,
        agent_id: str,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int = PAGE,
        max_bytes: int = PAGE_BYTES,
        backwards: bool = False,
    ) -> Page[Message, int]:
        """Read messages numbered above `after` and below `before`; `backwards`: the newest first."""
        return await self._settled(
            agent_id, lambda: lookups.messages(agent_id, after, before, limit, max_bytes, backwards)
        )

    async def read_calls(
        self,
        agent_id: str,
        *,
        run: int | None = None,
        after: str = "",
        before: str | None = None,
        limit: int = PAGE,
        max_bytes: int = PAGE_BYTES,
        backwards: bool = False,
    ) -> Page[Call, str]:
        """Read calls in the order they were asked for; `after` and `before` are a page's `next`."""
        prefix = "" if run is None else rec.call_prefix(run)
        return await self._settled(
            agent_id, lambda: lookups.calls(agent_id, prefix, after, before, limit, max_bytes, backwards)
        )

    async def read_events(
        self,
        agent_id: str,
        *,
        after: int = 0,
        before: int | None = None,
        limit: int = 1_000,
        max_bytes: int = PAGE_BYTES,
        backwards: bool = False,
    ) -> Page[Event, int]:
        """Read durable events with a cursor above `after` and below `before`; `backwards`: the newest first.

        Events that were pruned are left out: `Page.pruned` says so, the first cursor where the rest begins.
        """
        if backwards:
            return await self._settled(
                agent_id, lambda: lookups.events_backwards(agent_id, before, limit, max_bytes, after)
            )
        return await self._settled(agent_id, lambda: lookups.events(agent_id, after, limit, max_bytes, before))

    async def read_runs(
        self,
        agent_id: str,
        *,
        after: int = 0,
        before: int | None = None,
        limit: int = PAGE,
        max_bytes: int = PAGE_BYTES,
        backwards: bool = False,
    ) -> Page[RunRecord, int]:
        """Read run records numbered above `after` and below `before`; `backwards`: the newest first."""
        return await self._settled(agent_id, lambda: lookups.runs(agent_id, after, before, limit, max_bytes, backwards))

    async def read_run(self, agent_id: str, number: int) -> RunRecord | None:
        """Read what became of a run; None while nothing is recorded of it, or when it was pruned."""
        return await self._settled(agent_id, lambda: lookups.run(agent_id, number))

    async def read_call(self, agent_id: str, call_id: str, *, uid: str | None = None) -> Call | None:
        """Read one call by its id, ``run.step.n``; None if there is none of that id, or it was pruned.

        Raises:
            NotFoundError: No such agent, or not of that `uid`.
        """
        return await self._settled(agent_id, lambda: lookups.call(agent_id, call_id, uid))

    async def consumed_by(self, agent_id: str, item_id: str, *, uid: str | None = None) -> int | None:
        """Tell which run took an inbox item: its number, or 0 when it is used up and no run took it.

        None: it waits, or nothing is known of it, never or no longer (`Bounds.dedupe_for_s`).

        Raises:
            NotFoundError: No such agent, or not of that `uid`.
        """
        return await self._settled(agent_id, lambda: lookups.consumed_by(agent_id, item_id, uid))

    async def read_inbox(self, agent_id: str, uid: str, *, after: int = 0) -> tuple[Item, ...]:
        """Read what waits beyond a position, the oldest first; nothing if the agent is gone."""
        return await self.look_up(agent_id, lookups.inbox_after(uid, after))

    async def list_snapshots(self, agent_id: str) -> tuple[Snapshot, ...]:
        """List all snapshots, the oldest first."""
        return await self._settled(agent_id, lambda: lookups.snapshots(agent_id))

    async def read_documents(self, agent_id: str, kind: str | None = None) -> tuple[DocumentBody, ...]:
        """Read the documents the agent has now, of one kind or all."""
        return await self._settled(agent_id, lambda: lookups.documents(agent_id, kind))

    async def read_document(self, agent_id: str, kind: str, name: str) -> DocumentBody | None:
        """Read one document as the agent has it now; None if it has none of that name."""
        return await self._settled(agent_id, lambda: lookups.document(agent_id, kind, name))

    async def get_blob(self, agent_id: str, sha256: str) -> bytes:
        """Read what `put_blob` kept for this agent.

        Raises:
            NotFoundError: There is no such agent, or it has no such blob.
        """
        row = await self._settled(agent_id, lambda: lookups.blob(agent_id, sha256))
        if row is None:
            raise NotFoundError(f"{agent_id!r} has no blob {sha256[:64]!r}.", agent_id=agent_id, sha256=sha256)
        return row.body

    # ---- inside --------------------------------------------------------------------------------------------

    async def _time(self) -> int:
        """Ask for the time, and remember it as one that is certainly over."""
        self._last_time = await self.now()
        return self._last_time

    @abstractmethod
    async def settle(self, agent_id: str, header: Record) -> None:
        """Bring the commit that a header names as staged to its places. Anyone may; `Staging` does."""

    async def _settled(self, agent_id: str, lookup: Callable[[], Lookup[T]]) -> T:
        """Run a lookup; when it meets a staged commit, settle that and run it again."""
        check_agent_id(agent_id)
        for _ in range(5):
            try:
                return await self.look_up(agent_id, lookup())
            except lookups.StagedFound as found:
                header = found.header
            await self.settle(agent_id, header)
        raise StoreError(f"The staged commit of {agent_id!r} cannot be settled.", agent_id=agent_id)

    def _live_lease(self, record: Record | None, header: Record, now: int) -> Lease | None:
        """Decode a lease if it lives."""
        if record is None:
            return None
        lease = rec.read_lease(record, header.key, lookups.integer(header.columns["version"]))
        return lease if lease is not None and lease.until > now and not self._dead(lease.holder) else None

    def _dead(self, holder: str) -> bool:
        """Whether the holder is a process of this machine that is known to be gone."""
        return self.same_host and liveness.is_dead(holder)
