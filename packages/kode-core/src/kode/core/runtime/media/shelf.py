"""Where an agent's media lie, and what it remembers of them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from kode.core.clock import Clock
from kode.core.errors import NotFoundError, RecordCorruptError, StoreUnavailableError, UsageError
from kode.core.kernel.message import Block
from kode.core.runtime.media.door import stowed
from kode.core.runtime.media.remembered import Remembered
from kode.core.store.base import Store
from kode.core.tools.documents import Documents

__all__ = ["Shelf"]

T = TypeVar("T")

HOLD_OUT_S: Final = 60.0
"""How long a store may be away. A drive whose lease is over meanwhile ends before."""


class Shelf:
    """One drive's way to blobs and notes; a store that is away is asked again, as for a commit.

    Args:
        agent_id: Whose.
        store: Where blobs lie.
        clock: Measures how long the store is away.
        documents: Where the notes are.
        account: Tells whose files the notes are about.
    """

    def __init__(
        self, agent_id: str, store: Store, clock: Clock, documents: Documents, account: Callable[[], str]
    ) -> None:
        self._agent_id = agent_id
        self._store = store
        self._clock = clock
        self._documents = documents
        self._account = account
        self._notes: Remembered | None = None

    async def get(self, sha: str) -> bytes | None:
        """Read a blob; None: it is not there any more, or broken."""
        try:
            return await self._insist(partial(self._store.get_blob, self._agent_id, sha))
        except (NotFoundError, RecordCorruptError):
            return None

    async def put(self, kind: str, media_type: str, data: bytes) -> dict[str, Any]:
        """Store what was made; returns how notes name it."""
        blob = await self._insist(partial(self._store.put_blob, self._agent_id, data, media_type))
        return {"kind": kind, "type": media_type, "blob": blob, "size": len(data)}

    async def put_list(self, made: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Store a list that is too long for the notes; returns the short one that names it."""
        return [await self.put("list", "application/json", json.dumps(made).encode())]

    async def read_list(self, made: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
        """Give a list that may lie apart; None: it is gone."""
        if not made or made[0].get("kind") != "list":
            return made
        data = await self.get(made[0]["blob"])
        return None if data is None else json.loads(data)

    async def stow(self, blocks: tuple[Block, ...]) -> Sequence[Block]:
        """Store what is large apart from its message; see ``stowed``."""
        return await self._insist(partial(stowed, blocks, self._agent_id, self._store))

    async def notes(self) -> Remembered:
        """What is remembered. Nobody else writes it while this drive lasts, so it is read once."""
        if self._notes is None:
            text = await self._insist(partial(self._documents.get, "media"))
            self._notes = Remembered.read(text, self._account())
        return self._notes

    def keep(self, notes: Remembered) -> None:
        """Have the notes ride in the next commit. They save work; where they cannot be written, it is done again."""
        try:
            self._documents.keep_media(notes.text())
        except UsageError:
            return

    async def _insist(self, work: Callable[[], Awaitable[T]]) -> T:
        delay, ends = 0.05, self._clock.monotonic() + HOLD_OUT_S
        while True:
            try:
                return await work()
            except StoreUnavailableError:
                if self._clock.monotonic() >= ends:
                    raise
            await self._clock.sleep(delay)
            delay = min(delay * 2, 2.0)
