"""An agent without a shell: inputs go in, transitions come out, invariants are checked after each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from kode.core.kernel.effects import CallModel, CompactHistory, Deliver
from kode.core.kernel.inputs import Input, MessageReceived, ModelReplied, PlannedCall, ToolFinished
from kode.core.kernel.invariants import check, check_history, check_transition
from kode.core.kernel.limits import Limits
from kode.core.kernel.machine import Context, Transition, advance
from kode.core.kernel.message import Json, Message, TextBlock, ToolUseBlock, Usage
from kode.core.kernel.state import RunRecord, State
from kode.core.kernel.toolcall import Call, Plan

SECOND = 1_000_000
WRITE = Plan("allow")
READ = Plan("allow", readonly=True)
ASK = Plan("ask", reason="It writes.")


class Play:
    """One agent in a test; ``feed`` is its only way forward."""

    def __init__(self, *, fence: int = 1, parent: Any = None, **limits: Any) -> None:
        self.state = State("agent", "uid", 0, 0, parent=parent)
        self.limits = Limits(**limits)
        self.fence = fence
        self.at = 0
        self.inbox: list[Input] = []
        self.history: list[Message] = []
        self.records: dict[str, Call] = {}
        self.runs: dict[int, RunRecord] = {}
        self.log: list[tuple[tuple[Input, ...], State, Transition]] = []
        self.items = 0

    def feed(self, *inputs: Input, hold: bool = False, after_s: float = 1, used_us: int = 0) -> Transition:
        """Apply a batch, what had to wait before it first."""
        self.at += round(after_s * SECOND)
        before = self.state
        context = Context(self.at, self.fence, self.limits, used_us)
        got = advance(before, (*self.inbox, *inputs), context, hold=hold)
        self.log.append((inputs, before, got))
        self.state, self.inbox = got.state, list(got.postponed)
        self.history += got.messages
        self.records.update({c.id: c for c in got.calls})
        self.runs.update({r.number: r for r in got.runs})
        check(got.state)
        check_transition(before, got)
        check_history(self.history, got.state.calls)
        return got

    def item(self) -> str:
        self.items += 1
        return f"m{self.items}"

    def say(self, text: str = "Hello", **more: Any) -> Transition:
        return self.feed(MessageReceived(self.item(), (TextBlock(text),), **more))

    def replied(self, *plans: Plan, text: str = "Well", usage: Usage = Usage(10, 5), **more: Any) -> ModelReplied:
        """The open model call's reply, with one tool use for each plan."""
        uses = tuple(
            ToolUseBlock(f"t{n}", "look" if p.readonly else "write", Json(f'{{"n":{n}}}')) for n, p in enumerate(plans)
        )
        planned = tuple(PlannedCall(n + 1, p) for n, p in enumerate(plans))
        return ModelReplied(self.model.id, (TextBlock(text), *uses), usage=usage, calls=planned, **more)

    def reply(self, *plans: Plan, **more: Any) -> Transition:
        return self.feed(self.replied(*plans, **more))

    def acting(self, *plans: Plan) -> tuple[Call, ...]:
        """Bring a fresh agent to the step in which these calls are open."""
        self.say()
        self.reply(*plans)
        return self.state.calls

    def finished(self, n: int = 1, text: str = "done", **more: Any) -> ToolFinished:
        return ToolFinished(self.id(n), (TextBlock(text),), **more)

    def id(self, n: int = 1) -> str:
        return f"{self.state.next_run - 1}.{self.state.step}.{n}"

    def call(self, n: int = 1) -> Call:
        """The n-th call of the open step, else as it was recorded."""
        call = self.state.call(self.id(n))
        return self.records[self.id(n)] if call is None else call

    def crash(self, *, narrower: dict[str, Any] | None = None) -> None:
        """A new driver has taken the lease."""
        self.fence += 1
        self.limits = replace(self.limits, **(narrower or {}))

    @property
    def model(self) -> CallModel:
        model = self.state.model
        assert model is not None
        return model

    @property
    def compaction(self) -> CompactHistory:
        return next(e for e in self.state.effects if isinstance(e, CompactHistory))

    @property
    def deliveries(self) -> list[Deliver]:
        return [e for e in self.state.effects if isinstance(e, Deliver)]

    @staticmethod
    def types(got: Transition) -> list[str]:
        """Names of a transition's events."""
        return [e.type for e in got.events]

    @property
    def statuses(self) -> list[str]:
        return [c.status.value for c in self.state.calls]

    def texts(self, seq: int = -1) -> list[str]:
        """The first text of each result in a message."""
        return [b.content[0].text for b in self.history[seq].blocks]  # type: ignore[union-attr]


@pytest.fixture
def play() -> Play:
    return Play()


@pytest.fixture
def new_play() -> Callable[..., Play]:
    return Play
