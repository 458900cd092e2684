"""Work for a store while its server is ill-treated, and what must be true of it afterwards."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import anyio

from kode.core import Agent, AgentConfig, AgentTemplate, Dependencies, ToolContext, tool
from kode.core.errors import LeaseLostError, StoreUnavailableError
from kode.core.kernel.invariants import check, check_history
from kode.core.kernel.limits import Limits
from kode.core.kernel.message import TextBlock, ToolUseBlock
from kode.core.kernel.toolcall import CallStatus
from kode.core.provider.base import ModelRequest
from kode.core.provider.script import Turn, calls, say
from kode.core.provider.scripted import ScriptedProvider
from kode.core.store import Store
from kode.core.store.contract import Bounds
from kode.core.testing.conformance.store import Author
from kode.core.testing.conformance.store.author import item, text_of

__all__ = ["Load"]

TEMPLATE = AgentTemplate("t", model="m", tools=("pay",), limits=Limits(lease_s=30.0, max_recoveries=1_000))
ROOM = Bounds(max_inbox=1_000_000)
"""Nobody empties the writers' inboxes, however long it takes."""


@dataclass(eq=False)
class Load:
    """Writers that commit one thing after the other, and agents that run; what was acknowledged is noted."""

    store: Store
    stopped: bool = False
    said: dict[str, list[str]] = field(default_factory=dict)
    """What each writer was told is written."""
    answered: dict[str, list[str]] = field(default_factory=dict)
    """What each agent was asked and has answered."""
    ledger: Counter[str] = field(default_factory=Counter)
    """How often each call of a tool had its effect."""
    total: int = 0
    _bell: anyio.Event = field(default_factory=anyio.Event)

    async def write(self, id: str) -> None:
        """Commit and enqueue, each once; the store itself sees to what is lost on the way."""
        author = Author(self.store, id, f"uid-{id}")
        await author.create(bounds=ROOM)
        n = 0
        while not self.stopped:
            await author.say(f"{n}", events=1, bounds=ROOM)
            await self.store.enqueue(id, item(f"i{n}"))
            self._note(self.said, id, f"{n}")
            n += 1

    async def run(self, id: str) -> None:
        """Ask an agent one thing after the other."""

        @tool
        async def pay(context: ToolContext) -> str:
            """Do what must not be done twice."""
            self.ledger[context.idempotency_key] += 1
            return "paid"

        deps = Dependencies(self.store, tools=[pay], providers={"m": ScriptedProvider(_think)})
        agent = await Agent.resume_or_create(AgentConfig(TEMPLATE, agent_id=id), deps, strategy="manual")
        n = 0
        while not self.stopped:
            try:
                result = await agent.run(f"{n}", item_id=f"i{n}")
            except (StoreUnavailableError, LeaseLostError):
                continue  # it says who it is: asking again is asking once
            assert (result.status, result.text) == ("ok", f"heard {n}"), result
            self._note(self.answered, id, f"{n}")
            n += 1
        await agent.close()

    def _note(self, notes: dict[str, list[str]], id: str, text: str) -> None:
        notes.setdefault(id, []).append(text)
        self.total += 1
        self._bell.set()

    async def more(self, count: int) -> None:
        """Wait until so much more was acknowledged."""
        goal = self.total + count
        while self.total < goal:
            self._bell = anyio.Event()
            await self._bell.wait()

    async def judge(self, store: Store) -> None:
        """Nothing that was acknowledged is lost, and nothing is there twice."""
        for id, texts in self.said.items():
            found = (await store.read_messages(id, limit=1_000_000)).items
            assert [text_of(m) for m in found] == texts
            items = await store.read_inbox(id, f"uid-{id}")
            assert [i.id for i in items] == [f"i{n}" for n in range(len(texts))]
        for id, texts in self.answered.items():
            loaded = await store.load(id)
            assert loaded is not None
            check(loaded.state)
            history = (await store.read_messages(id, limit=1_000_000)).items
            check_history(history)
            asked = Counter(m.origin for m in history if m.origin and m.origin.startswith("inbox:"))
            assert asked == {f"inbox:i{n}": 1 for n in range(len(texts))}
            for one in (await store.read_calls(id, limit=1_000_000)).items:
                times = self.ledger.pop(f"{loaded.state.uid}:{one.id}", 0)
                assert times == 1 if one.status is CallStatus.COMPLETED else times <= 1, one
        assert not self.ledger, "an effect of a call that nobody knows"


def _think(request: ModelRequest) -> Turn:
    """Pay once for what was asked last, then answer."""
    *_, before, last = (None, *request.messages)
    if last.origin == "tools" and before is not None and any(isinstance(b, ToolUseBlock) for b in before.blocks):
        asked = next(m for m in reversed(request.messages) if m.origin and m.origin.startswith("inbox:"))
        return say("heard " + "".join(b.text for b in asked.blocks if isinstance(b, TextBlock)))
    return calls(("pay", {}))
