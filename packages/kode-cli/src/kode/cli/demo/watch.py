"""Runs the agent's processes from outside: follows their events in the store, has questions decided, and kills."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import anyio

from kode.cli.demo.deciding import Answer, Ask, Question, ask_meanwhile, open_question, store_answer
from kode.cli.demo.moments import Moment, Stages
from kode.cli.demo.processes import left_of
from kode.cli.demo.reading import every
from kode.cli.demo.settings import AGENT_ID, Settings
from kode.core.errors import NotFoundError
from kode.core.kernel.events import Event
from kode.core.kernel.message import Message
from kode.core.kernel.state import State
from kode.core.store.base import Store

__all__ = ["Decision", "Kill", "Process", "View", "Watcher"]

_POLL_S = 0.01
_GONE_S = 5.0


@dataclass(slots=True)
class Process:
    """One process of the agent."""

    number: int
    pid: int
    began: float


@dataclass(slots=True)
class Kill:
    """What was seen at one kill, from outside."""

    process: int
    moment: Moment
    after_s: float
    state: State | None
    """As the store has it; None: the agent was not made yet."""
    messages: tuple[Message, ...] = ()
    events: int = 0
    left: list[int] = field(default_factory=list)
    """Processes of the killed one that were still there after five seconds."""
    gone_s: float = 0.0
    """Seconds until none was left."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One answer, and what was seen from outside just before it was stored."""

    question: Question
    answer: Answer
    file_there: bool
    """Whether there was a report already."""
    running: Sequence[int]
    """Processes of the agent; none, if nothing waits in memory."""


class View(Protocol):
    """Is told what happens, as it happens."""

    def show(self, event: Event) -> None:
        """Take the agent's next event."""

    def began(self, process: Process) -> None:
        """A process was started."""

    def killed(self, kill: Kill) -> None:
        """A process was killed, and what it left was looked at."""

    def asked(self, question: Question, running: Sequence[int]) -> None:
        """A question is open, and these processes of the agent run."""

    def decided(self, answer: Answer | None) -> None:
        """The answer is stored; None: it is somebody else's."""


class Watcher:
    """Follows one agent through all its processes.

    Args:
        settings: Of the demo.
        store: Where the agent is; already open.
        view: Who is told.
        decide: Who answers the agent's questions.
    """

    def __init__(self, settings: Settings, store: Store, view: View, decide: Ask) -> None:
        self.settings = settings
        self.store = store
        self.events: list[Event] = []
        self.kills: list[Kill] = []
        self.processes: list[Process] = []
        self.decisions: list[Decision] = []
        self.refs: set[str] = set()
        """Marks of every sandbox the agent had."""
        self.said = ""
        """What the last process that ended by itself printed."""
        self._view = view
        self._decide = decide
        self._stages = Stages()
        self._strangers = set(left_of(0, (), settings.work))
        """Others that stand in the work folder, such as the shell that started us."""

    async def run(self, moments: Sequence[Moment]) -> int:
        """Start processes until one is done, and kill the first ones at the moments given. Returns its exit code."""
        left = deque(moments)
        while True:
            moment = left[0] if left else None
            if moment is None or moment.stage != "approval":
                await self._answer()
            code = await self._one(moment)
            if code is None:
                left.popleft()
            elif code or await self._ended():
                return code

    async def catch_up(self) -> None:
        """Show what earlier processes left in the store."""
        while events := await self._follow():
            self._stages.begun(events, None)

    def running(self, group: int = 0) -> list[int]:
        """Find processes of the agent that run now; ``group``: one of them, to find those it started."""
        return [pid for pid in left_of(group, self.refs, self.settings.work) if pid not in self._strangers]

    async def _ended(self) -> bool:
        """Whether the run is over: a process that ended in order may have left a question instead."""
        return (await self.store.read_state(AGENT_ID)).run is None

    async def _answer(self) -> None:
        """Have the open question decided, if there is one, and store the answer."""
        while (question := await open_question(self.store)) is not None:
            running = self.running(self.processes[-1].pid if self.processes else 0)
            self._view.asked(question, running)
            answer = await ask_meanwhile(self.store, question, self._decide)
            there = self.settings.report.exists()
            ours = answer is not None and await store_answer(self.settings, self.store, question, answer)
            self._stages.waiting = "decision"
            if ours and answer is not None:
                self.decisions.append(Decision(question, answer, there, running))
            self._view.decided(answer if ours else None)

    async def _one(self, moment: Moment | None) -> int | None:
        """Run one process; None if it was killed."""
        began = time.monotonic()
        popen = _spawn(self.settings)
        process = Process(len(self.processes) + 1, popen.pid, began)
        self.processes.append(process)
        self._view.began(process)
        try:
            struck = await self._until(popen, process, moment)
        finally:
            _kill(popen)
        self.said = _output_of(popen)
        self._stages.begun(await self._follow(), None)
        with contextlib.suppress(NotFoundError):
            ref = (await self.store.read_state(AGENT_ID)).sandbox_ref
            self.refs |= {ref} if ref else set()
        if struck and moment is not None:
            await self._look(process, moment, time.monotonic())
            return None
        return popen.returncode

    async def _until(self, popen: subprocess.Popen[bytes], process: Process, moment: Moment | None) -> bool:
        """Follow its events until it ends (False) or is killed (True)."""
        at = None
        stages = self._stages.start()
        if moment is not None and moment.stage in stages:
            at = process.began + moment.delay(self.settings)
        while popen.poll() is None:
            begun = self._stages.begun(await self._follow(), moment)
            if begun and at is None and moment is not None:
                at = time.monotonic() + moment.delay(self.settings)
            wait = _POLL_S if at is None else min(_POLL_S, at - time.monotonic())
            if wait <= 0:
                os.kill(popen.pid, signal.SIGKILL)
                popen.wait()
                return popen.returncode == -signal.SIGKILL
            await anyio.sleep(wait)
        return False

    async def _follow(self) -> tuple[Event, ...]:
        """Read what is new in the store."""
        cursor = self.events[-1].cursor if self.events else 0
        try:
            page = await self.store.read_events(AGENT_ID, after=cursor)
        except NotFoundError:
            return ()
        for event in page.items:
            self.events.append(event)
            self._view.show(event)
        return page.items

    async def _look(self, process: Process, moment: Moment, killed_at: float) -> None:
        """Look at what the store knows after a kill, and wait until everything of the process is gone."""
        kill = Kill(process.number, moment, killed_at - process.began, None, events=len(self.events))
        with contextlib.suppress(NotFoundError):
            kill.state = await self.store.read_state(AGENT_ID)
            kill.messages = tuple(await every(self.store.read_messages))
        while True:
            kill.left = self.running(process.pid)
            kill.gone_s = time.monotonic() - killed_at
            if not kill.left or kill.gone_s > _GONE_S:
                break
            await anyio.sleep(_POLL_S)
        self.kills.append(kill)
        self._view.killed(kill)


def _spawn(settings: Settings) -> subprocess.Popen[bytes]:
    """Start a process of the agent, in a group of its own: Ctrl-C is for us, and what is left of it can be found."""
    command = [sys.executable, "-m", "kode.cli.demo.child", str(settings.work)]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


def _output_of(popen: subprocess.Popen[bytes]) -> str:
    """Read what an ended process printed; never waits."""
    assert popen.stdout is not None
    with popen.stdout as pipe:
        os.set_blocking(pipe.fileno(), False)
        return (pipe.read() or b"").decode("utf-8", "replace").strip()


def _kill(popen: subprocess.Popen[bytes]) -> None:
    if popen.poll() is None:
        popen.kill()
    popen.wait()
