"""The values that pass through a store's door: what callers hand in and what they get back.

Times are integer microseconds since the epoch, UTC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from kode.core.kernel.events import Event
from kode.core.kernel.message import Json, Message
from kode.core.kernel.state import RunRecord, State
from kode.core.kernel.toolcall import Call
from kode.core.kernel.window import Compaction, Snapshot
from kode.core.quick import quick

__all__ = [
    "MOST",
    "AgentInfo",
    "Appended",
    "Bounds",
    "Commit",
    "Committed",
    "Condition",
    "Copy",
    "DocumentBody",
    "Due",
    "Enqueued",
    "Footing",
    "Item",
    "ItemKind",
    "Key",
    "Kind",
    "Lease",
    "Loaded",
    "Record",
    "Scan",
    "Value",
]

Kind = Literal[
    "header",
    "lease",
    "message",
    "call",
    "events",
    "inbox",
    "consumed",
    "run",
    "compaction",
    "snapshot",
    "document",
    "blob",
    "staged",
]
Value: TypeAlias = str | int | None
"""What a column holds."""


# ---- records: all that a store's author sees ------------------------------------------------------------------


@quick
@dataclass(frozen=True, slots=True)
class Key:
    """Where a record lies. ``uid`` is "" for headers (their key is the agent id) and marks of orphans (an uid)."""

    kind: Kind
    uid: str
    key: str
    """Sorts bytewise in the record's natural order."""


@quick
@dataclass(frozen=True, slots=True)
class Record:
    """Columns for queries (a closed list per kind, ``records.COLUMNS``) and an opaque body."""

    kind: Kind
    uid: str
    key: str
    columns: Mapping[str, Value]
    body: bytes = field(repr=False)

    @property
    def address(self) -> Key:
        """Its key."""
        return Key(self.kind, self.uid, self.key)


MOST = 1_000
"""Records that a scan gives at most, where nothing else is said."""


@dataclass(frozen=True, slots=True)
class Scan:
    """Which records ``Records.scan`` is to read: those of a kind whose keys lie in a range, in the order of keys."""

    kind: Kind
    uid: str
    """As in their keys."""
    prefix: str = ""
    """Their keys begin with it."""
    after: str = ""
    """Their keys are above it."""
    before: str | None = None
    """Their keys are below it; None: up to the last."""
    limit: int = MOST
    """Not more than so many; 0: none."""
    reverse: bool = False
    """Falling instead of rising, by the bytes of the keys' UTF-8: the last of the range first."""


@quick
@dataclass(frozen=True, slots=True)
class Condition:
    """What must hold for an ``apply`` to happen; all are judged and acted on in one atomic act.

    * ``absent``: no record at ``key``;
    * ``equals``: a record is there and its ``column`` is ``value``;
    * ``free``: no record is there, or its ``holder`` is None, or its ``until`` <= ``value`` (for leases);
    * ``no_inbox_after``: no inbox record of ``key.uid`` has a key greater than ``value``.
    """

    op: Literal["absent", "equals", "free", "no_inbox_after"]
    key: Key
    column: str = ""
    value: Value = None


@dataclass(frozen=True, slots=True)
class Appended:
    """What ``append_inbox`` did. ``waiting``/``consumed``: the id is known, ``known`` is the record found.

    ``full``: ``max_inbox`` messages wait, nothing was written. ``gone``: no agent of that id.
    ``too_big``: the item's ``size`` column exceeds ``max_message_bytes``.
    """

    outcome: Literal["new", "waiting", "consumed", "full", "gone", "too_big"]
    position: int = 0
    limit: int = 0
    """The bound that refused it."""
    known: Record | None = None


@dataclass(frozen=True, slots=True)
class Due:
    """An agent that should be woken: a hint, ``acquire`` decides."""

    agent_id: str
    wake_at: int


# ---- the inbox ------------------------------------------------------------------------------------------------

ItemKind = Literal["message", "reminder", "decision", "resolve", "interrupt", "instruction"]


@dataclass(frozen=True, slots=True)
class Item:
    """One entry of an inbox. ``payload`` is the input as JSON (``records.item_input`` reads it)."""

    id: str
    kind: ItemKind
    payload: Json = field(repr=False)
    at: int = 0
    position: int = 0
    """Given by the store; rises, is never used again."""
    not_before: int | None = None
    priority: int = 0
    tenant: str | None = None
    sender: str | None = None
    context: Json | None = field(default=None, repr=False)
    """Trace context and baggage."""


@dataclass(frozen=True, slots=True)
class Enqueued:
    """The item is durable. ``run`` is set when a duplicate was consumed by that run before."""

    position: int
    duplicate: bool = False
    run: int | None = None


# ---- commits --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the inbox checks in the act of an enqueue; header columns."""

    max_inbox: int = 1_000
    """Messages that may wait, and as many instructions."""
    max_message_bytes: int = 10_485_760
    """Bytes of one message's body."""
    dedupe_for_s: float = 604_800.0
    """Seconds that the id of a consumed item is remembered."""


@dataclass(frozen=True, slots=True)
class DocumentBody:
    """A document's content, named in the state's ``documents`` by its digest."""

    kind: str
    name: str
    data: Json = field(repr=False)


@quick
@dataclass(frozen=True, slots=True)
class Commit:
    """One atomic write. ``version`` is the number it expects; None creates the agent.

    ``fence`` None: no lease is claimed (refused while one lives). ``wake_at``: the earliest moment the state itself
    asks for (``machine.wake_at``); the store makes it earlier when an item beyond ``seen`` waits. With ``amends`` it is
    what the header says, and stays so: the commit conflicts when an enqueue has changed that.
    """

    state: State
    commit_id: str
    version: int | None
    fence: int | None
    at: int
    bounds: Bounds = Bounds()
    wake_at: int | None = None
    messages: Sequence[Message] = ()
    calls: Sequence[Call] = ()
    events: Sequence[Event] = ()
    runs: Sequence[RunRecord] = ()
    compactions: Sequence[Compaction] = ()
    snapshots: Sequence[Snapshot] = ()
    documents: Sequence[DocumentBody] = ()
    consumed: Mapping[int, Item] = field(default_factory=dict)
    """Inbox items used up, by position."""
    taken: Mapping[str, int] = field(default_factory=dict)
    """Which run took which of them, by item id."""
    seen: int = 0
    """Highest inbox position offered to the kernel."""
    release: bool = False
    """Give the lease back in the same act; honoured only if nothing beyond ``seen`` waits."""
    answered: bool = False
    """An effect's answer is in it: the take-over counter starts again."""
    amends: bool = False
    """No driver's work: it wakes nobody."""

    def __repr__(self) -> str:
        """Say which commit it is, and nothing of what an agent said or was told."""
        counted = ("messages", "calls", "events", "runs", "compactions", "snapshots", "documents", "consumed")
        held = ", ".join(f"{name}={len(getattr(self, name))}" for name in counted if getattr(self, name))
        return (
            f"Commit({self.state.agent_id!r}, uid={self.state.uid!r}, commit_id={self.commit_id!r}, "
            f"version={self.version}, fence={self.fence}, seen={self.seen}{held and ', '}{held})"
        )


@quick
@dataclass(frozen=True, slots=True)
class Committed:
    """The commit is durable (``Store.durability`` says against what)."""

    version: int
    cursor: int
    """Cursor of the last durable event."""
    repeated: bool = False
    """This ``commit_id`` had landed before; same numbers."""
    released: bool = False
    inbox: Sequence[Item] = ()
    """Items beyond ``seen`` that waited at that moment; may be empty when none did or the store did not look."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to drive an agent until ``until`` by the store's clock."""

    agent_id: str
    uid: str
    holder: str
    fence: int
    until: int
    version: int
    """Of the agent at that moment: resident state of another version is loaded again."""
    takes: int = 0
    """Take-overs of a lapsed lease in a row without an answer committed."""


@dataclass(frozen=True, slots=True)
class Footing:
    """What a lease can be taken on in one write, for whoever has just loaded the agent: see ``Store.acquire_on``."""

    agent_id: str
    uid: str
    version: int
    seen: int
    lease: Record | None = field(repr=False)
    """The lease's record, which nobody holds; None: there never was one."""
    at: int = 0
    """When that was so, by the store's clock."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """An agent as it is stored. ``window`` holds undecoded message records in rising order."""

    state: State = field(repr=False)
    version: int
    seen: int
    bounds: Bounds
    window: Sequence[Record]
    inbox: Sequence[Item]
    lease: Lease | None
    wake_at: int | None = None
    recipe: Json | None = field(default=None, repr=False)
    """The template's document, if it was asked for."""
    footing: Footing | None = field(default=None, repr=False, compare=False)
    """None while somebody drives it."""


@dataclass(frozen=True, slots=True)
class AgentInfo:
    """One row of a listing: header columns only."""

    agent_id: str
    uid: str
    version: int
    status: str
    template: str
    tenant: str | None
    parent: str | None
    created_at: int
    updated_at: int
    wake_at: int | None
    expires_at: int | None = None
    parked: str | None = None


@dataclass(frozen=True, slots=True)
class Copy:
    """Where records are to be copied; see `Forking.copy_rows`."""

    agent_id: str
    uid: str
    held: Condition
    """What must hold; its value is a number."""
