"""What the author of a store writes: a dozen record primitives. Everything else is built on them in `Store`.

A store sees keys, columns and opaque bytes. It never looks into a body, and it may query columns only.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, TypeAlias

from kode.core.errors import UsageError
from kode.core.store.contract import Appended, Condition, Due, Key, Kind, Record

__all__ = ["Durability", "Records", "check_agent_id", "check_item_id", "prefix_end"]

Durability: TypeAlias = Literal["power", "process"]
"""What an acknowledged write survives: loss of power, or only the death of this process."""

_AGENT_ID = re.compile(r"(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._:@-]+(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._:@-]+)*\Z")
MAX_AGENT_ID = 200
MAX_ITEM_ID = 500


class Records(ABC):
    """The primitives. A store of one's own subclasses `Store`, which holds the rest, and writes these.

    All but `open` and `close` may be called concurrently. A call that raises has written nothing, except that
    after `StoreUnavailableError` and after cancellation the write may have landed; repeating it is safe.
    """

    durability: Durability = "power"
    """What an acknowledged write survives."""
    max_batch: int | None = None
    """Most records (puts and deletes together) one `apply` can take; None: any number."""
    same_host: bool = False
    """Whether all its users are on one machine, so that a dead process's lease is seen at once."""

    @abstractmethod
    async def open(self) -> None:
        """Make the store ready, creating what is missing. Does nothing when it is open."""

    @abstractmethod
    async def close(self) -> None:
        """Give everything back; what was acknowledged stays. Does nothing when it is closed."""

    @abstractmethod
    async def now(self) -> int:
        """Tell the time by the clock that leases expire by: microseconds since the epoch, UTC."""

    @abstractmethod
    async def apply(
        self,
        agent_id: str,
        conditions: Sequence[Condition],
        puts: Sequence[Record],
        deletes: Sequence[Key],
    ) -> int | None:
        """Judge the conditions in order and write, all in one atomic act.

        A put inserts a record or replaces the whole of it. A delete of what is not there is fine. A key that
        is both put and deleted is put. `agent_id` says where records lie that have no uid, and which shard is
        meant.

        Returns: None when it is done and durable; else the index of the first condition that failed, and
        nothing is written.
        """

    async def apply_and_look(
        self,
        agent_id: str,
        conditions: Sequence[Condition],
        puts: Sequence[Record],
        deletes: Sequence[Key],
        *,
        uid: str,
        after: str,
    ) -> tuple[int | None, list[Record]]:
        """Do `apply` and, where it costs nothing more, read the inbox after that key in the same act.

        The default does not look. A store whose engine answers both in one round trip should: it is how a
        driver learns of an interrupt with its next commit.
        """
        return await self.apply(agent_id, conditions, puts, deletes), []

    @abstractmethod
    async def get(self, agent_id: str, keys: Sequence[Key]) -> list[Record | None]:
        """Read records by key in one round trip, in the order asked; None for what is not there."""

    @abstractmethod
    async def scan(
        self,
        agent_id: str,
        kind: Kind,
        uid: str,
        *,
        prefix: str = "",
        after: str = "",
        before: str | None = None,
        limit: int,
        reverse: bool = False,
    ) -> list[Record]:
        """Read records of a kind whose key begins with `prefix`, is above `after` and below `before`.

        At most `limit`, in rising order of keys (bytes of their UTF-8), or falling with `reverse`. A record
        whose key is "" is never among them.
        """

    @abstractmethod
    async def append_inbox(self, agent_id: str, record: Record, *, now: int, bounded: bool) -> Appended:
        """Put an item at the end of an agent's inbox, in one atomic and durable act.

        `record` has no key yet, and a uid only if it is meant for that identity alone; its `id` column is the
        item's id. In this order:

        1. no header of `agent_id`, or one of another uid than the record's: `gone`;
        2. an inbox record of that id exists: `waiting`, with it;
        3. a consumed record of that id exists with `expires_at` > `now`: `consumed`, with it;
        4. `bounded` and the `size` column exceeds the header's `max_message_bytes`: `too_big`;
        5. `bounded` and the header's `max_inbox` items of kind message and reminder wait: `full`;
        6. else `new`: it gets a position above every position in the inbox and above the header's `seen`; the
           header's `wake_at` becomes the smaller of itself and max(`now`, `not_before`). Nothing else of the
           header changes.
        """

    @abstractmethod
    async def due(self, now: int, limit: int, after: Due | None = None) -> list[Due]:
        """List agents with `wake_at` <= `now` whose lease is free (no holder, or `until` <= `now`).

        In the order of (`wake_at`, agent id), those behind `after`; answered from an index. A hint: `acquire`
        decides.
        """

    @abstractmethod
    async def agents(self, prefix: str, after: str, limit: int, tenant: str | None = None) -> list[Record]:
        """List headers in the order of their ids: those that begin with `prefix` and are above `after`."""

    @abstractmethod
    async def blob_put(self, sha256: str, data: bytes, media_type: str) -> None:
        """Keep bytes under their digest; doing it again is fine."""

    @abstractmethod
    async def blob_get(self, sha256: str) -> Record | None:
        """Read bytes by their digest: a record of kind ``blob``, None if there is none."""

    @abstractmethod
    async def drop(self, agent_id: str, uid: str) -> None:
        """Remove every record of that uid. Need not be atomic; doing it again goes on where it stopped."""


def prefix_end(prefix: str) -> str | None:
    """Find the smallest text above all texts that begin with `prefix`; None when there is none."""
    for i in range(len(prefix) - 1, -1, -1):
        point = ord(prefix[i])
        if point < 0x10FFFF:
            # Surrogates are not text.
            return prefix[:i] + chr(0xE000 if point == 0xD7FF else point + 1)
    return None


def check_agent_id(agent_id: str) -> None:
    """Refuse what no store could use as a name.

    Raises:
        UsageError: ``bad_agent_id``.
    """
    if len(agent_id) > MAX_AGENT_ID or _AGENT_ID.match(agent_id) is None:
        raise UsageError(
            f"{agent_id[:220]!r} is no agent id; use 1 to {MAX_AGENT_ID} of A-Z a-z 0-9 . _ : @ / - "
            "with no empty, '.' or '..' part between slashes.",
            code="bad_agent_id",
            agent_id=agent_id,
        )


def check_item_id(item_id: str) -> None:
    """Refuse an inbox id that cannot be a key everywhere.

    Raises:
        UsageError: ``bad_item_id``.
    """
    if not 0 < len(item_id) <= MAX_ITEM_ID or not item_id.isprintable():
        raise UsageError(
            f"{item_id[:520]!r} is no inbox id; use 1 to {MAX_ITEM_ID} printable characters.",
            code="bad_item_id",
            item_id=item_id,
        )
