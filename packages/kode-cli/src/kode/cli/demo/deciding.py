"""Decisions: what waits for one, who makes it, and how it gets to the agent. While one is open, no process waits.

The question and the answer are in the store: the agent's process has ended, and whichever is started next goes on.
"""

from __future__ import annotations

import getpass
import json
import os
import sys
import termios
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

import anyio

from kode.cli.demo.agent import dependencies
from kode.cli.demo.settings import AGENT_ID, Settings
from kode.core import Agent
from kode.core.clock import RealClock
from kode.core.errors import UsageError
from kode.core.store.base import Store

__all__ = [
    "Answer",
    "Ask",
    "LeftOpenError",
    "Question",
    "ask_meanwhile",
    "by_itself",
    "open_question",
    "person",
    "store_answer",
]

_POLL_S = 0.25


@dataclass(frozen=True, slots=True)
class Question:
    """One call that waits for a decision."""

    call: str
    tool: str
    what: str
    """Its file, or its command."""
    content: str
    """What would be written; empty for a command."""
    reason: str
    n: int = 1
    """Which question of the call."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What was decided, and by whom."""

    decision: Literal["allow", "deny"]
    by: str
    note: str | None = None


class LeftOpenError(Exception):
    """Whoever was asked went away without an answer; the question stays in the store."""


Ask = Callable[[Question], Awaitable[Answer]]


async def open_question(store: Store) -> Question | None:
    """Find the first question that nobody has answered; an answer may wait in the inbox for a process to take it."""
    loaded = await store.load(AGENT_ID)
    if loaded is None:
        return None
    answered = {item.id for item in loaded.inbox}
    for call in loaded.state.calls:
        asked = call.approval
        if asked is not None and f"decision:{call.id}:{asked.n}" not in answered:
            given = json.loads(call.input or "{}")
            what = str(given.get("path") or given.get("cmd") or "")
            return Question(call.id, call.tool, what, str(given.get("content", "")), asked.reason or "", asked.n)
    return None


async def store_answer(settings: Settings, store: Store, question: Question, answer: Answer) -> bool:
    """Put an answer into the agent's inbox; False: somebody else was quicker.

    It is durable when this returns; nothing has to run for it.
    """
    agent = await Agent.open(AGENT_ID, dependencies(settings, store))
    try:
        await agent.decide(question.call, answer.decision, by=answer.by, note=answer.note, n=question.n)
    except UsageError as error:
        if error.code not in ("not_pending", "duplicate_id"):
            raise
        return False
    return True


async def ask_meanwhile(store: Store, question: Question, ask: Ask) -> Answer | None:
    """Ask, unless somebody else answers meanwhile."""
    answer: Answer | None = None
    left = False
    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            while await open_question(store) == question:  # the store is all that tells it
                await RealClock().sleep(_POLL_S)
            tasks.cancel_scope.cancel()

        tasks.start_soon(watch)
        try:
            answer = await ask(question)
        except LeftOpenError:
            left = True
        tasks.cancel_scope.cancel()
    if left:
        raise LeftOpenError
    return answer


def by_itself(decision: Literal["allow", "deny"], why: str) -> Ask:
    """Decide without asking anybody."""

    async def decide(_: Question) -> Answer:
        return Answer(decision, "kode demo", why)

    return decide


def person(prompt: Callable[[str], None]) -> Ask:
    """Ask the person at the terminal; Enter allows. The end of input (Ctrl-D) leaves it open, as Ctrl-C does."""

    async def decide(_: Question) -> Answer:
        termios.tcflush(sys.stdin, termios.TCIFLUSH)  # what was typed before the question is no answer to it
        while True:
            prompt("Allow it? [Y/n] ")
            word = await _line()
            word = None if word is None else word.lower()
            if word in ("", "y", "yes"):
                return Answer("allow", _name())
            if word in ("n", "no"):
                prompt("Why not? The agent is told. [Enter: no reason] ")
                return Answer("deny", _name(), await _line() or None)

    return decide


async def _line() -> str | None:
    """Read a line that was typed; None: Enter did not end it. Waits in the event loop, so that Ctrl-C gets through."""
    await anyio.wait_readable(sys.stdin)
    typed = os.read(sys.stdin.fileno(), 4_096)
    if not typed:
        raise LeftOpenError
    return typed.decode("utf-8", "replace").strip() if typed.endswith(b"\n") else None


def _name() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no such user in this system's list
        return "someone"
