"""What the author of a store writes: a dozen record primitives. Everything else is built on them in `Store`.

A store sees keys, columns and opaque bytes. It never looks into a body, and it may query columns only.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Literal, TypeAlias, TypeVar

from kode.core.errors import UsageError
from kode.core.store.contract import Appended, Condition, Due, Key, Record, Scan

__all__ = [
    "Durability",
    "Records",
    "check_agent_id",
    "check_item_id",
    "check_name",
    "portions",
    "prefix_end",
    "weight",
]

Durability: TypeAlias = Literal["power", "process"]
"""What an acknowledged write survives: loss of power, or only the death of this process."""

_AGENT_ID = re.compile(r"(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._:@-]+(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._:@-]+)*\Z")
MAX_AGENT_ID = 200
MAX_ITEM_ID = 500
MAX_NAME = 200
RESERVED: Final = {"decision:": "decision", "answer:": "resolve", "interrupt:": "interrupt"}
"""What the ids of items begin with that agents and deciders send, and the only kind that may bear such an id."""


class Records(ABC):
    """The primitives. A store of one's own subclasses `Store`, which holds the rest, and writes these.

    All may be called concurrently, `open` too; `close` only when nothing else is under way. A call that raises has
    written nothing, except that after `StoreUnavailableError` and after cancellation the write may have landed;
    repeating it is safe. What a call has acknowledged is durable, also when others that shared its write were
    cancelled, by whatever means.

    A body may have any size: a message of 10 MB and a blob of 100 MB are records like others. A store whose engine
    bounds the size of a row keeps what exceeds it elsewhere (rows behind it, a bucket), written before the row that
    tells where, and removes it with that row. A key has at most 600 bytes, a uid or an agent id 200. A column has no
    bound of its own (a snapshot's `tags` are a list), but most hold less than 500 bytes, and integers fit in 64 bits
    with sign. No text in any of them holds a NUL or anything that is not well-formed Unicode.
    """

    durability: Durability = "power"
    """What an acknowledged write survives."""
    max_batch: int | None = None
    """Most records (puts and deletes together) one `apply` can take, at least 3; None: any number. Conditions do not
    count: there are seldom more than ten, but one more for each snapshot that a commit takes."""
    max_batch_bytes: int | None = None
    """Most bytes (see `weight`) one `apply` can take, though a single record of any size; None: any number."""
    same_host: bool = False
    """Whether all its users are on one machine, so that a dead process's lease is seen at once."""

    @abstractmethod
    async def open(self) -> None:
        """Make the store ready, creating what is missing. Does nothing when it is open; may be called concurrently.

        What was closed may be opened again.
        """

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

        A put inserts a record or replaces the whole of it; of two puts of one key the last counts. A delete of what
        is not there is fine. A key that is both put and deleted is put. All conditions are judged by what was there
        before. With nothing to write it only judges. `agent_id` says where records lie that have no uid, and which
        shard is meant.

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
        """Read records by key in one round trip, in the order asked; None for what is not there.

        A key may be asked for twice. Each record is whole and as of some moment during the call, which need not be
        one moment for all of them; one read never sees less than an earlier one has.
        """

    @abstractmethod
    async def scan(self, agent_id: str, ask: Scan) -> list[Record]:
        """Read a range of records of one kind; `Scan` says which.

        Fewer than its `limit` means that there are no more. What is written meanwhile may be among them or not; what
        stays is. A record whose key is "" is never among them. With `agent_id` "" and a `uid` of "" it reads those of
        all agents, wherever they lie.
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
        5. `bounded` and the header's `max_inbox` items wait that are counted for its kind: `full`; instructions for an
           instruction, messages and reminders for either of these;
        6. else `new`: it gets a position, written as a key by `int_key`, that is above every position in the inbox
           and above the header's `seen` (the next one will do; gaps are fine). What was consumed is at or below
           `seen`, so a position is never given twice. The header's `wake_at` becomes the smaller of itself and
           max(`now`, `not_before`), unless its `parked` is set. Nothing else of the header changes.

        `now` and `wake_at` are never negative; a null `not_before` counts as 0.
        """

    @abstractmethod
    async def due(self, now: int, limit: int, after: Due | None = None) -> list[Due]:
        """List agents with `wake_at` <= `now` whose lease is free (no holder, or `until` <= `now`).

        At most `limit` (0: none), in the order of (`wake_at`, agent id), those behind `after`; answered from an
        index. What was acknowledged before the call is in the answer: an item that `due` overlooks waits for ever.
        Only as to leases it is a hint, for they come and go: `acquire` decides.
        """

    @abstractmethod
    async def agents(self, prefix: str, after: str, limit: int, tenant: str | None = None) -> list[Record]:
        """List headers in the order of their ids: those that begin with `prefix` and are above `after`.

        At most `limit` (0: none). With `tenant` only those whose column is that, so "" gives nobody.
        """

    @abstractmethod
    async def drop(self, agent_id: str, uid: str) -> None:
        """Remove every record of that uid, of all kinds, its lease and what bodies were cut into too.

        Need not be atomic; doing it again goes on where it stopped, and with nothing left does nothing. When it
        returns nothing that was there at its beginning is. `max_batch` is yours to heed. With uid "" it does nothing:
        headers and marks lie there, and are deleted one by one.
        """


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


def check_item_id(item_id: str, kind: str) -> None:
    """Refuse an inbox id that cannot be a key everywhere, or that belongs to items of another kind.

    The ids of decisions, of sub-agents' answers and of their interruptions can be foreseen. Who could take one for
    a message would make the real one a duplicate.

    Raises:
        UsageError: ``bad_item_id``.
    """
    if not _fits(item_id, MAX_ITEM_ID):
        raise UsageError(
            f"{_shown(item_id)} is no inbox id; use 1 to {MAX_ITEM_ID} bytes of printable text.",
            code="bad_item_id",
            item_id=item_id,
        )
    owner = next((owner for prefix, owner in RESERVED.items() if item_id.startswith(prefix)), None)
    if owner is not None and owner != kind:
        raise UsageError(
            f"{_shown(item_id)} begins as ids of {owner} items do; use another id for a {kind}.",
            code="bad_item_id",
            item_id=item_id,
        )
    if owner is None and kind == "decision":
        raise UsageError(
            f"{_shown(item_id)} is no id of a decision; it is decision:<call id>:<number of the question>.",
            code="bad_item_id",
            item_id=item_id,
        )


def check_name(field: str, name: str | None, *, without: str = "", empty: bool = False, most: int = MAX_NAME) -> None:
    """Refuse a text that would become a key or a column and cannot be one everywhere; None is fine.

    Args:
        field: What it is, for the message.
        name: The text.
        without: Characters that it must not hold.
        empty: Whether "" is fine.
        most: Its largest size, bytes of UTF-8.

    Raises:
        UsageError: ``bad_name``.
    """
    if name is None or (name == "" and empty):
        return
    if not _fits(name, most) or (without and any(mark in name for mark in without)):
        besides = f" and no {' or '.join(without)}" if without else ""
        raise UsageError(
            f"{field} is {_shown(name)}; use 1 to {most} bytes of printable text{besides}.",
            code="bad_name",
            field=field,
        )


def _fits(text: object, most: int) -> bool:
    return (
        isinstance(text, str)
        and text.isprintable()
        and 0 < len(text) <= most
        and (4 * len(text) <= most or len(text.encode()) <= most)
    )


def _shown(text: object) -> str:
    return repr(text[:60] + "…" if len(text) > 60 else text) if isinstance(text, str) else type(text).__name__


# ---- how much fits into one apply --------------------------------------------------------------------------

R = TypeVar("R", Record, Key, "Record | Key")


def weight(row: Record | Key) -> int:
    """Count the bytes of a record as engines count them: key, names and values of columns, body."""
    # One character may take up to four bytes; few records come near a bound, so a rough count is good enough.
    size = 4 * (len(row.key) + len(row.uid)) + len(row.kind)
    if isinstance(row, Key):
        return size
    columns = row.columns
    size += sum(map(len, columns)) + 8 * len(columns)
    size += 4 * sum([len(value) for value in columns.values() if isinstance(value, str)])
    return size + len(row.body)


def portions(rows: Iterable[R], most: int, most_bytes: int | None) -> Iterator[list[R]]:
    """Cut a list into parts that one `apply` can take."""
    part: list[R] = []
    used = 0
    for row in rows:
        size = 0 if most_bytes is None else weight(row)
        if part and (len(part) >= most or (most_bytes is not None and used + size > most_bytes)):
            yield part
            part, used = [], 0
        part.append(row)
        used += size
    if part:
        yield part
