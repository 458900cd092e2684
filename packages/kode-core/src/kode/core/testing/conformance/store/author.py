"""What the contracts of stores share: what a store's author tells the kit, records by hand, and an author of commits.

A clause is a method `test_…` of a contract; its first line of prose is what the store promises, in words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import count, groupby
from typing import Any, ClassVar, NoReturn

import pytest

from kode.core.kernel.effects import Attempt, CallModel
from kode.core.kernel.events import Event
from kode.core.kernel.inputs import ApprovalDecided, CallResolved, InboxInput, InterruptRequested, MessageReceived
from kode.core.kernel.message import Json, Message, TextBlock, Usage
from kode.core.kernel.state import RunRecord, State
from kode.core.kernel.toolcall import Call, CallStatus, Plan
from kode.core.kernel.window import Compaction, Window
from kode.core.kernel.words import StopReason
from kode.core.store.base import Store
from kode.core.store.contract import Commit, Committed, Item, Key, Loaded, Record
from kode.core.store.primitives import portions
from kode.core.store.records import COLUMNS, input_item
from kode.core.testing.clock import VirtualClock

__all__ = [
    "AT",
    "Author",
    "Place",
    "StoreCase",
    "compaction",
    "head",
    "item",
    "keep",
    "loaded",
    "one_loop",
    "open_call",
    "open_effect",
    "row",
    "run_record",
    "text_of",
]

AT = 1_700_000_000_000_000
"""When the tests' commits happen."""

A = "a/b:c@d.e-f_1"
"""An agent of whom records are written by hand."""

Place = Callable[..., Store]
"""Makes a store of the same data again; takes ``clock=``, and can be pickled: ``functools.partial(MyStore, path)``."""

one_loop = pytest.mark.parametrize("anyio_backend", ["asyncio"])
"""For clauses that start processes: what is between processes does not depend on the event loop of one of them."""


class StoreCase:
    """Base of every contract of a store. The methods below may be overridden; who cannot do a thing need not.

    A store of asyncio only overrides the fixture `anyio_backend` of anyio's plugin to return ``"asyncio"``.
    """

    pytestmark = pytest.mark.anyio
    group: ClassVar[str] = ""
    """What the clauses of this class are about."""

    @pytest.fixture
    def clock(self) -> VirtualClock:
        """The clock to make the store with."""
        return VirtualClock(AT)

    @pytest.fixture
    async def store(self, clock: VirtualClock) -> Any:
        """An open and empty store."""
        raise NotImplementedError("give a fixture `store`")

    async def elapse(self, clock: VirtualClock, seconds: float) -> None:
        """Let time pass for the store."""
        await clock.advance(seconds)

    def place(self, store: Store) -> Place | None:
        """Say how another process, or another object in this one, opens the same data; None: nobody else can."""
        return None

    async def spoil(self, store: Store, key: Key) -> bool:
        """Damage the stored bytes of a record beneath the store, as a bad disk would; False: cannot be done."""
        return False

    async def make_newer(self, store: Store) -> bool:
        """Mark the data as written by a later version of this store, which is closed; False: cannot be done."""
        return False

    def shared(self, store: Store) -> Place:
        """Give `place`, or skip the clause."""
        return self.place(store) or _skip("only this object has its data")


def _skip(why: str) -> NoReturn:
    pytest.skip(why)


class Author:
    """Writes commits for one agent, keeping its numbers as a driver would."""

    def __init__(self, store: Store, agent_id: str = "agent", uid: str = "uid-1") -> None:
        self.store = store
        self.state = State(agent_id, uid, AT, AT)
        self.version: int | None = None
        self.fence: int | None = None
        self.seen = 0
        self.last: Commit | None = None
        self._ids = count()

    @property
    def id(self) -> str:
        """The agent's id."""
        return self.state.agent_id

    async def create(self, **fields: Any) -> Committed:
        """Commit the birth."""
        return await self.write(self.make(**fields))

    async def drive(self, holder: str = "driver", ttl_s: float = 30.0) -> None:
        """Acquire the lease and commit under its fence from now on."""
        self.fence = (await self.store.acquire(self.id, holder, ttl_s)).fence

    def make(self, **fields: Any) -> Commit:
        """Build a commit on what was written last. `state` changes come as a dict; `seen` never goes back."""
        state = replace(self.state, **fields.pop("state", {}))
        self.seen = max(self.seen, fields.pop("seen", 0), *fields.get("consumed", {0: None}))
        given = {
            "commit_id": f"{state.uid}-{next(self._ids)}".replace("/", "_"),
            "version": self.version,
            "fence": self.fence,
            "at": AT,
        }
        return Commit(state=state, seen=self.seen, **{**given, **fields})

    async def write(self, commit: Commit) -> Committed:
        """Commit and take the outcome over."""
        self.last = commit
        done = await self.store.commit(commit)
        self.state, self.version = commit.state, done.version
        if done.released:
            self.fence = None
        return done

    async def commit(self, **fields: Any) -> Committed:
        """Build and write."""
        return await self.write(self.make(**fields))

    async def say(self, *texts: str, events: int = 1, **fields: Any) -> Committed:
        """Commit messages, with as many durable events as asked for."""
        seq, cursor = self.state.next_seq, self.state.next_cursor
        messages = [Message(seq + i, "user", (TextBlock(text),), AT + i) for i, text in enumerate(texts)]
        noted = [Event("done", AT, cursor + i, data={"n": cursor + i}) for i in range(events)]
        changes = {"next_seq": seq + len(texts), "next_cursor": cursor + events, **fields.pop("state", {})}
        return await self.commit(messages=messages, events=noted, state=changes, **fields)


# ---- values to write -------------------------------------------------------------------------------------------


def item(id: str, text: str = "hi", *, kind: str = "message", **fields: Any) -> Item:
    """Build an inbox item that says so; a message unless told otherwise."""
    inputs: dict[str, InboxInput] = {
        "message": MessageReceived(id, (TextBlock(text),)),
        "reminder": MessageReceived(id, (TextBlock(text),), "reminder"),
        "decision": ApprovalDecided(id, "1.1.0", 1, "allow", note=text),
        "resolve": CallResolved(id, "1.1.0", (TextBlock(text),)),
        "interrupt": InterruptRequested(id, text),
    }
    return replace(input_item(inputs[kind], at=0), **fields)


def open_call(n: int = 0, run: int = 1, step: int = 1, **fields: Any) -> Call:
    """Build a call that executes."""
    given: dict[str, Any] = {"seq": 0, "status": CallStatus.EXECUTING, "input": Json("{}"), **fields}
    return Call(run, step, n, f"p{n}", "bash", block=n, plan=Plan("allow"), asked_at=AT, **given)


def open_effect(fence: int = 1) -> CallModel:
    """Build a model call that is open."""
    return CallModel("1.1.0", Attempt(fence), 1)


def compaction(id: str, start: int, stop: int) -> Compaction:
    """Build a compaction."""
    return Compaction(id, start, stop, AT, (TextBlock("sum"),), "digest", Window())


def run_record(number: int) -> RunRecord:
    """Build what became of a run that ended `number` microseconds after `AT`."""
    end = (1, 0, 1, 1, 2)
    return RunRecord(number, "ok", StopReason.END_TURN, AT, AT + number, "i", *end, 1, 0, Usage(), 5)


def row(kind: Any, key: str, owner: str = "u", /, body: bytes = b"1{}", **columns: Any) -> Record:
    """Build a record; columns that are not given are null."""
    return Record(kind, owner, key, {**{name: None for name, _ in COLUMNS[kind]}, **columns}, body)


def head(agent_id: str = A, uid: str = "u", **columns: Any) -> Record:
    """Build a header."""
    given = {"max_inbox": 3, "max_message_bytes": 100, "seen": 0, "version": 1, **columns}
    return row("header", agent_id, "", agent_id=agent_id, uid=uid, **given)


# ---- what every contract does ----------------------------------------------------------------------------------


async def keep(store: Store, rows: Iterable[Record], agent_id: str = A) -> None:
    """Write records, in as many acts as the store needs: headers where their agents lie, others with `agent_id`."""
    for place, run in groupby(rows, key=lambda row: row.key if row.kind == "header" else agent_id):
        for part in portions(list(run), store.max_batch or 500, store.max_batch_bytes):
            assert await store.apply(place, (), part, ()) is None


async def loaded(store: Store, agent_id: str = "agent") -> Loaded:
    """Load an agent that must be there."""
    found = await store.load(agent_id)
    assert found is not None, f"{agent_id} is not there"
    return found


def text_of(message: Any) -> str:
    """Read the text of a message's first block."""
    return str(message.blocks[0].text)
