"""What the contracts of stores share: fixtures, and an author that writes commits the way a driver does."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from kode.core.kernel.effects import Attempt, CallModel
from kode.core.kernel.events import Event
from kode.core.kernel.inputs import ApprovalDecided, CallResolved, InboxInput, InterruptRequested, MessageReceived
from kode.core.kernel.message import Json, Message, TextBlock
from kode.core.kernel.state import State
from kode.core.kernel.toolcall import Call, CallStatus, Plan
from kode.core.store.base import Store
from kode.core.store.contract import Commit, Committed, Item
from kode.core.store.records import input_item
from kode.core.testing.clock import VirtualClock

__all__ = ["AT", "Author", "StoreCase", "item"]

AT = 1_700_000_000_000_000
"""When the tests' commits happen."""


class StoreCase:
    """Base of every contract of a store."""

    pytestmark = pytest.mark.anyio

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
