"""The resident part of an agent: its state and window in this process, between one commit and the next."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from kode.core.clock import Reading
from kode.core.errors import NotFoundError, StoreUnavailableError
from kode.core.kernel.machine import Transition, wake_at
from kode.core.kernel.message import Block, Message
from kode.core.kernel.state import State
from kode.core.runtime.context.showing import Showing
from kode.core.store import records
from kode.core.store.base import Store
from kode.core.store.contract import Bounds, Commit, Committed, Footing, Item, Key, Loaded, Record

__all__ = ["Resident"]


class Resident:
    """What a driver works on. Dropped as a whole when another driver may have written.

    The window is kept as stored records until somebody needs it as messages.
    """

    __slots__ = (
        "_rows",
        "_showing",
        "_summary",
        "_window",
        "agent_id",
        "bounds",
        "footing",
        "inbox",
        "reading",
        "seen",
        "state",
        "version",
        "wake_at",
    )

    def __init__(self, loaded: Loaded, footing: Footing | None = None, reading: Reading | None = None) -> None:
        self.agent_id = loaded.state.agent_id
        self.state: State = loaded.state
        self.version = loaded.version
        self.seen = loaded.seen
        self.bounds: Bounds = loaded.bounds
        self.wake_at = loaded.wake_at
        """When the store was to wake it, as loaded; None once this process has committed."""
        self.inbox: list[Item] = list(loaded.inbox)
        """Items that wait, those offered and postponed included."""
        self.footing = footing
        """What the next lease may be taken on, if nothing has changed since."""
        self.reading = reading
        """The store's clock at that moment, or before."""
        self._rows: Sequence[Record] = loaded.window
        self._window: dict[int, Message] | None = None
        self._showing: Showing | None = None
        self._summary: tuple[str, tuple[Block, ...]] | None = None

    @classmethod
    async def load(cls, store: Store, agent_id: str) -> Resident:
        """Read an agent.

        Raises:
            NotFoundError: There is none of that id.
        """
        loaded = await store.load(agent_id)
        if loaded is None:
            raise NotFoundError(
                f"No agent {agent_id!r} in this store; create it, or look with list_agents().", agent_id=agent_id
            )
        return cls(loaded)

    def take(self, transition: Transition, commit: Commit, committed: Committed) -> None:
        """Become what a commit made durable."""
        self.state = transition.state
        self.version = committed.version
        self.seen = commit.seen
        self.wake_at = None
        if commit.consumed:
            self.inbox = [item for item in self.inbox if item.position not in commit.consumed]
        if committed.inbox:
            self.add(committed.inbox)
        for compaction in transition.compactions:
            self._summary = (compaction.id, compaction.summary)
        if transition.messages:
            window = self._decoded()
            for message in transition.messages:
                window[message.seq] = message

    def wake_at_of(self, state: State, consumed: Container[int] = ()) -> int | None:
        """When such a state must wake: by itself, or for an item that may not be taken yet.

        An item whose moment has come and that is still here was postponed: it waits for the agent.
        """
        own = wake_at(state)
        if not self.inbox:
            return own
        waiting = (item.not_before for item in self.inbox if item.position not in consumed)
        later = (moment for moment in waiting if moment is not None and moment > state.updated_at)
        return min(later, default=None) if own is None else min((own, *later))

    @property
    def offered(self) -> int:
        """The highest inbox position that was read."""
        return max(item.position for item in self.inbox) if self.inbox else self.seen

    def commit(
        self, state: State, commit_id: str, fence: int, consumed: Mapping[int, Item] | None = None, **parts: Any
    ) -> Commit:
        """Make the commit that leads from here to a state; ``parts`` are further fields of it."""
        used = consumed or {}
        return Commit(
            state=state,
            commit_id=commit_id,
            version=self.version,
            fence=fence,
            at=state.updated_at,
            bounds=self.bounds,
            wake_at=self.wake_at_of(state, used),
            consumed=used,
            **parts,
        )

    async def read_inbox(self, store: Store) -> None:
        """Read what was enqueued beyond what was offered; a store that is away just now is asked with the next look."""
        try:
            self.add(await store.read_inbox(self.agent_id, self.state.uid, after=self.seen))
        except StoreUnavailableError:
            return

    def add(self, items: Iterable[Item]) -> None:
        """Take in items that wait, known or not."""
        known = {item.position for item in self.inbox}
        self.inbox += [item for item in items if item.position not in known]

    async def window(self, store: Store, upto: int) -> list[Message]:
        """The messages a model is shown, oldest first, the summary of what was compacted in front."""
        state = self.state
        shown = state.window
        messages = self._decoded()
        if len(shown.ranges) == 1 and not shown.pinned and shown.compaction is None and len(messages) == upto:
            return list(messages.values())
        wanted = list(shown.seqs(upto))
        missing = [seq for seq in wanted if seq not in messages]
        if missing:
            await self._fetch(store, missing, messages)
        if len(messages) > len(wanted) + 100:
            self._window = {seq: messages[seq] for seq in wanted}
        listed = [messages[seq] for seq in wanted]
        if shown.compaction is not None:
            blocks = await self._summary_blocks(store, shown.compaction)
            listed.insert(0, Message(-1, "user", blocks, state.updated_at, origin="summary"))
        return listed

    def showing(self, keep_media: int, max_message: int) -> Showing:
        """What was found of its messages, within such bounds."""
        known = self._showing
        if known is None or (known.keep_media, known.max_message) != (keep_media, max_message):
            known = self._showing = Showing(keep_media, max_message)
        return known

    def message(self, seq: int) -> Message | None:
        """A message, if it is in memory."""
        return self._decoded().get(seq)

    def release(self) -> None:
        """Let the window go; it is read again when it is needed."""
        self._window = {}
        self._rows = ()
        self._showing = None

    def _decoded(self) -> dict[int, Message]:
        if self._window is None:
            self._window = {message.seq: message for message in map(records.read_message, self._rows)}
            self._rows = ()
        return self._window

    async def _fetch(self, store: Store, missing: list[int], into: dict[int, Message]) -> None:
        start, last = missing[0] - 1, missing[-1]
        while start < last:
            page = await store.read_messages(self.agent_id, after=start, before=last + 1, limit=1_000)
            for message in page.items:
                into[message.seq] = message
            if page.next is None:
                return
            start = page.next

    async def _summary_blocks(self, store: Store, id: str) -> tuple[Block, ...]:
        if self._summary is None or self._summary[0] != id:
            (row,) = await store.get(self.agent_id, [Key("compaction", self.state.uid, id)])
            if row is None:
                raise NotFoundError(f"Compaction {id!r} of agent {self.agent_id!r} is not stored.", compaction=id)
            self._summary = (id, records.read_compaction(row).summary)
        return self._summary[1]
