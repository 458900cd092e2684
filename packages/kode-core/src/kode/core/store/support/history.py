"""What one does to an agent's records by name: messages, snapshots and documents, without a driver.

Each change is one commit that passes the kernel's rules. It is refused while somebody drives the agent, for a driver
keeps the state in memory; a message to an agent at work is an `enqueue`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

from kode.core import jsontext
from kode.core.errors import ConflictError, IllegalInputError, NotFoundError, UsageError
from kode.core.kernel.events import Event, Ref, preview
from kode.core.kernel.inputs import DocumentsChanged, Input, SnapshotTaken
from kode.core.kernel.message import Block, Message, Role, TextBlock, ToolResultBlock
from kode.core.kernel.state import Document, State
from kode.core.kernel.window import Snapshot
from kode.core.store import lookups
from kode.core.store import records as rec
from kode.core.store.contract import Condition, DocumentBody, Key
from kode.core.store.layers.amend import Amending, Amendment
from kode.core.store.layers.reading import PAGE
from kode.core.store.lookups import Page, header_key
from kode.core.store.primitives import check_agent_id, check_name

__all__ = ["HistorySupport"]


class HistorySupport(Amending):
    """Messages, snapshots and documents by name."""

    # ---- messages ------------------------------------------------------------------------------------------

    async def load_messages(self, agent_id: str) -> tuple[Message, ...]:
        """Read all messages that are kept. A long history is better read in pages.

        Raises:
            NotFoundError: No such agent.
        """
        found: list[Message] = []
        page = await self.read_messages(agent_id)
        found += page.items
        while page.next is not None:
            page = await self.read_messages(agent_id, after=page.next)
            found += page.items
        return tuple(found)

    async def load_messages_paginated(self, agent_id: str, *, offset: int = 0, limit: int = PAGE) -> Page[Message, int]:
        """Read `limit` messages from the `offset`-th on that is kept; `Page.next` is the next offset.

        It costs the same at any offset, for messages are numbered. A page may hold fewer than `limit` where they
        are large.

        Raises:
            NotFoundError: No such agent.
            UsageError: ``bad_page``: a number below 0, or a limit of 0.
        """
        if offset < 0 or limit < 1:
            raise UsageError(f"offset={offset}, limit={limit}: give 0 or more, and 1 or more.", code="bad_page")
        first = (await self.read_state(agent_id)).first_seq
        page = await self.read_messages(agent_id, after=first + offset - 1, limit=limit)
        return Page(page.items, None if page.next is None else page.next + 1 - first, page.pruned)

    async def append_message(
        self, agent_id: str, role: Role, content: str | Sequence[Block], *, seq: int | None = None
    ) -> Message:
        """Put one message at the end of a history; no run begins by it.

        Args:
            agent_id: Whose.
            role: Who speaks.
            content: Text, or blocks.
            seq: The number that it must get. With it a repetition is safe: the same message at that place is fine,
                another one is a conflict. Without, it gets whatever number is next.

        Raises:
            NotFoundError: No such agent.
            UsageError: ``bad_history``: no provider would accept the history (a tool use and its result come
                together, by `save_messages`). ``not_safe``: a run is in progress.
            LeaseLostError: ``held``: somebody drives the agent; `enqueue` instead.
            ConflictError: Another message has that number.
        """
        blocks = (TextBlock(content),) if isinstance(content, str) else tuple(content)
        message = Message(-1, role, blocks, 0)
        new = await self._extend(agent_id, lambda s: [replace(message, seq=s.next_seq if seq is None else seq)])
        if new:
            return rec.read_message(rec.message_record("", new[0]))  # as it is read back
        assert seq is not None  # the next number is always free
        (stored,) = (await self.read_messages(agent_id, after=seq - 1, before=seq + 1)).items
        return stored

    async def save_messages(self, agent_id: str, messages: Sequence[Message]) -> int:
        """Extend a history: what is given must begin with what is stored, and goes on from there, in one commit.

        One may give all of it or its end; `Message.seq` says what is meant. A message that is stored already must
        be the same, so repeating a call does nothing. New messages belong to no run (`run` and `step` are 0); `at`
        0 becomes now; a tool result that names no call gets an id of its own. Nothing that is stored is ever
        replaced or removed.

        Returns: How many were new.

        Raises:
            NotFoundError: No such agent.
            ConflictError: ``not_an_extension``: what is stored differs, or there is a gap, or another came first.
            UsageError: ``bad_history``: no provider would accept the history. ``not_safe``: a run is in progress.
            LeaseLostError: ``held``: somebody drives the agent.
        """
        return len(await self._extend(agent_id, lambda _: messages))

    async def _extend(self, agent_id: str, give: Callable[[State], Sequence[Message]]) -> list[Message]:
        added: list[Message] = []

        async def extend(state: State, at: int) -> Amendment | None:
            nonlocal added
            added = _placed(await self._new_messages(agent_id, state, give(state)), at)
            if not added:
                return None
            if state.run is not None or state.calls:
                raise _not_safe(agent_id, "A run is in progress.")
            stop = state.next_seq + len(added)
            after = replace(state, next_seq=stop, next_cursor=state.next_cursor + 1, updated_at=at)
            _judge(agent_id, after, added)
            return Amendment(after, messages=added, events=(_told(added, at, state.next_cursor),))

        await self._amend(agent_id, extend)
        return added

    async def _new_messages(self, agent_id: str, state: State, given: Sequence[Message]) -> list[Message]:
        """Say which of these messages are behind the stored ones, all others being equal to those."""
        numbers = [message.seq for message in given]
        start = numbers[0] if numbers else state.next_seq
        if numbers != list(range(start, start + len(numbers))) or not state.first_seq <= start <= state.next_seq:
            raise _no_extension(agent_id, f"messages {numbers[:1]} to {numbers[-1:]} do not join them without a gap")
        known = {m.seq: m for m in given if m.seq < state.next_seq}
        after = start - 1
        while known:
            page = await self.read_messages(agent_id, after=after, before=min(state.next_seq, start + len(given)))
            for stored in page.items:
                if _said(known.pop(stored.seq)) != _said(stored):
                    raise _no_extension(agent_id, f"message {stored.seq} is another one")
            if page.next is None:
                break
            after = page.next
        return [message for message in given if message.seq >= state.next_seq]

    # ---- snapshots -----------------------------------------------------------------------------------------

    async def save_snapshot(
        self, agent_id: str, id: str, *, tags: Sequence[str] = (), parent: str | None = None
    ) -> Snapshot:
        """Name the present safe point, to fork from it later.

        Raises:
            NotFoundError: No such agent, or no such parent.
            UsageError: ``snapshot_exists``; ``not_safe``: calls are open; ``bad_name``.
            LeaseLostError: ``held``: somebody drives the agent.
        """
        if parent is not None and await self.load_snapshot(agent_id, parent) is None:
            raise _no_snapshot(agent_id, parent)
        made: list[Snapshot] = []

        async def take(state: State, at: int) -> Amendment:
            amendment = _transition(agent_id, state, SnapshotTaken(id, tuple(tags), parent), at)
            made[:] = amendment.snapshots
            return amendment

        await self._amend(agent_id, take)
        return made[0]

    async def load_snapshot(self, agent_id: str, id: str) -> Snapshot | None:
        """Read one snapshot; None if the agent has none of that name."""

        def lookup() -> lookups.Lookup[Snapshot | None]:
            state = yield from lookups.read_state(agent_id)
            (row,) = yield from lookups.get(Key("snapshot", state.uid, id))
            return None if row is None else rec.read_snapshot(row)

        return await self._settled(agent_id, lookup)

    async def delete_snapshot(self, agent_id: str, id: str) -> bool:
        """Forget a snapshot; says whether it was there. Forks of it, and its children, are not touched.

        What only it reached is removed by `prune`.

        Raises:
            NotFoundError: No such agent.
        """
        check_agent_id(agent_id)
        state = await self.read_state(agent_id)
        key = Key("snapshot", state.uid, id)
        (row,) = await self.get(agent_id, [key])
        same = Condition("equals", header_key(agent_id), "uid", state.uid)
        return await self.apply(agent_id, [same], (), [key]) is None and row is not None

    # ---- documents -----------------------------------------------------------------------------------------

    async def save_document(self, agent_id: str, kind: str, name: str, data: Any) -> str:
        """Write a document, any JSON value, in place of what has that kind and name; returns its digest.

        Raises:
            NotFoundError: No such agent.
            UsageError: It is no JSON, ``bad_name``, or the agent names too many documents already.
            LeaseLostError: ``held``: somebody drives the agent.
        """
        check_name("document kind", kind, without="/")
        check_name("document name", name, empty=True)
        text = jsontext.dump(data)
        document = Document(kind, name, jsontext.digest(text))

        async def put(state: State, at: int) -> Amendment | None:
            if document in state.documents:
                return None
            change = DocumentsChanged((document,))
            return replace(_transition(agent_id, state, change, at), documents=(DocumentBody(kind, name, text),))

        await self._amend(agent_id, put)
        return document.digest

    async def load_document(self, agent_id: str, kind: str, name: str = "") -> Any:
        """Read a document's value.

        Raises:
            NotFoundError: No such agent, or it has no such document.
        """
        body = await self.read_document(agent_id, kind, name)
        if body is None:
            raise NotFoundError(f"{agent_id!r} has no document {kind}/{name}.", agent_id=agent_id, kind=kind, name=name)
        return jsontext.parse(body.data)

    async def delete_document(self, agent_id: str, kind: str, name: str = "") -> bool:
        """Name a document no more; says whether it was there. Snapshots keep the one they name.

        Raises:
            NotFoundError: No such agent.
            LeaseLostError: ``held``: somebody drives the agent.
        """
        there = False

        async def forget(state: State, at: int) -> Amendment | None:
            nonlocal there
            there = any((document.kind, document.name) == (kind, name) for document in state.documents)
            return _transition(agent_id, state, DocumentsChanged((), ((kind, name),)), at) if there else None

        await self._amend(agent_id, forget)
        return there


# ---- the kernel's rules ------------------------------------------------------------------------------------


def _transition(agent_id: str, state: State, input: Input, at: int) -> Amendment:
    from kode.core.kernel.machine import Context, transition  # all of the kernel, which most who read do not need

    try:
        done = transition(state, input, Context(at))
    except IllegalInputError as error:
        raise _not_safe(agent_id, error.message) from None
    return Amendment(done.state, events=done.events, snapshots=done.snapshots)


def _judge(agent_id: str, state: State, new: Sequence[Message]) -> None:
    from kode.core.kernel.invariants import InvariantError, check, check_history

    try:
        check(state)
        check_history(new)
    except InvariantError as error:
        raise UsageError(
            f"These messages would make the history of {agent_id!r} one that no provider accepts. {error.message}",
            code="bad_history",
            agent_id=agent_id,
            invariant=error.fields["invariant"],
        ) from None


def _placed(new: Sequence[Message], at: int) -> list[Message]:
    """Give new messages what the sender leaves to the store."""
    calls: dict[str, str] = {}
    placed = []
    for message in new:
        blocks = tuple(
            replace(block, call=calls.get(block.tool_use_id, ""))
            if isinstance(block, ToolResultBlock) and not block.call
            else block
            for block in message.blocks
        )
        # No run ever has the number 0, and no message another's number: nothing else bears such an id.
        uses = [block for block in message.blocks if block.type == "tool_use"]
        calls = {use.id: f"0.{message.seq}.{n}" for n, use in enumerate(uses)}
        placed.append(replace(message, blocks=blocks, run=0, step=0, at=min(message.at or at, at)))
    return placed


def _said(message: Message) -> Message:
    """Leave out what the store fills in, and write the rest as it would be stored."""
    blocks = tuple(replace(block, call="") if isinstance(block, ToolResultBlock) else block for block in message.blocks)
    return rec.read_message(rec.message_record("", replace(message, blocks=blocks, at=0, run=0, step=0)))


def _told(new: Sequence[Message], at: int, cursor: int) -> Event:
    first = next((block.text for block in new[0].blocks if isinstance(block, TextBlock)), "")
    data = {"count": len(new), "role": new[0].role}
    return Event("message_received", at, cursor, ref=Ref(new[0].seq), preview=preview(first), data=cast(Any, data))


def _no_extension(agent_id: str, why: str) -> ConflictError:
    return ConflictError(
        f"What is given does not extend the messages of {agent_id!r}: {why}. Load them and add to their end.",
        code="not_an_extension",
        agent_id=agent_id,
    )


def _not_safe(agent_id: str, why: str) -> UsageError:
    return UsageError(
        f"{agent_id!r} cannot be changed from outside just now. {why} Wait until it is over, or interrupt it first.",
        code="not_safe",
        agent_id=agent_id,
    )


def _no_snapshot(agent_id: str, id: str) -> NotFoundError:
    return NotFoundError(f"{agent_id!r} has no snapshot {id!r}.", agent_id=agent_id, snapshot=id)
