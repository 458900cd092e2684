"""Runs the agent's processes from outside: follows their events in the store, and kills them at a chosen moment."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import anyio

from kode.cli.demo.processes import left_of
from kode.cli.demo.settings import AGENT_ID, Settings
from kode.core.errors import NotFoundError
from kode.core.kernel.events import Event
from kode.core.kernel.message import Message
from kode.core.kernel.state import State
from kode.core.store.base import Store

__all__ = ["MOMENTS", "Kill", "Moment", "Process", "Watcher"]

MOMENTS = ("start", "model", "read", "command", "write")
_POLL_S = 0.01
_GONE_S = 5.0


@dataclass(frozen=True, slots=True)
class Moment:
    """When to kill: a stage, and how far into it, from 0 to 1; or seconds after the process began."""

    stage: str
    part: float
    model_call: int = 1
    """Which model call of the process, for stage ``model``."""

    @classmethod
    def choose(cls, text: str, dice: random.Random, *, middle: bool = False) -> Moment:
        """Read what a person wrote; ``random`` is any stage. Raises ``ValueError``.

        Args:
            text: A stage, ``random``, or seconds.
            dice: What chance is taken from.
            middle: Take the middle of a stage instead of a random place in it.
        """
        stage = dice.choice(MOMENTS) if text == "random" else text
        if stage in MOMENTS:
            return cls(stage, 0.5 if middle else dice.random(), dice.randint(1, 2))
        try:
            seconds = float(text)
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds <= 3_600:
            raise ValueError(text)
        return cls("seconds", seconds)

    def delay(self, settings: Settings) -> float:
        """Seconds from the event that opens the stage to the kill."""
        spans = {
            "start": 0.25,
            "model": 25 * settings.gap_s,
            "read": 0.05,
            "command": 0.8 * settings.count_s,
            "write": settings.write_s,
        }
        return self.part if self.stage == "seconds" else self.part * spans[self.stage]

    def opened_by(self, event: Event, models: int) -> bool:
        """Whether the stage begins with this event."""
        tool = str(event.data.get("tool", "")) if event.type == "tool_start" else ""
        if self.stage == "model":
            return models >= self.model_call
        names = {"read": "fs_grep", "command": "bash_run", "write": "fs_write"}
        return tool != "" and tool == names.get(self.stage)


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


@dataclass(slots=True)
class Process:
    """One process of the agent."""

    number: int
    pid: int
    began: float
    code: int | None = None


class Watcher:
    """Follows one agent through all its processes.

    Args:
        show: Is told each event, once.
        began: Is told each process that was started.
        killed: Is told each kill.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        show: Callable[[Event], None],
        began: Callable[[Process], None],
        killed: Callable[[Kill], None],
    ) -> None:
        self.settings = settings
        self.store = store
        self.events: list[Event] = []
        self.kills: list[Kill] = []
        self.processes: list[Process] = []
        self.refs: set[str] = set()
        """Marks of every sandbox the agent had."""
        self._show, self._began, self._killed = show, began, killed
        self.said = ""
        """What the last process that ended by itself printed."""
        self._strangers = set(left_of(0, (), settings.work))
        """Others that stand in the work folder, such as the shell that started us."""

    async def run(self, moments: Sequence[Moment]) -> int:
        """Start processes until one ends by itself; kill the first ones at the moments given. Returns its exit code."""
        for moment in (*moments, None):
            code = await self._one(moment)
            if code is not None:
                return code
        return 1

    async def catch_up(self) -> None:
        """Show what earlier processes left in the store."""
        while await self._follow():
            pass

    def left(self, group: int) -> list[int]:
        """Find processes of the agent that run now."""
        return [pid for pid in left_of(group, self.refs, self.settings.work) if pid not in self._strangers]

    async def _one(self, moment: Moment | None) -> int | None:
        """Run one process; None if it was killed."""
        began = time.monotonic()
        popen = _spawn(self.settings)
        process = Process(len(self.processes) + 1, popen.pid, began)
        self.processes.append(process)
        self._began(process)
        try:
            struck = await self._until(popen, process, moment)
        finally:
            _kill(popen)
        process.code = popen.returncode
        self.said = _output_of(popen)
        await self._follow()
        if struck and moment is not None:
            await self._look(process, moment, time.monotonic())
            return None
        return popen.returncode

    async def _until(self, popen: subprocess.Popen[bytes], process: Process, moment: Moment | None) -> bool:
        """Follow its events until it ends (False) or is killed (True)."""
        at = None
        if moment is not None and moment.stage in ("start", "seconds"):
            at = process.began + moment.delay(self.settings)
        models = 0
        while popen.poll() is None:
            for event in await self._follow():
                models += event.type == "breakpoint_changed" and event.data.get("current") == "STREAMING_MODEL"
                models += event.type == "agent_resumed" and bool(event.data.get("again"))
                if at is None and moment is not None and moment.opened_by(event, models):
                    at = time.monotonic() + moment.delay(self.settings)
            wait = _POLL_S if at is None else min(_POLL_S, at - time.monotonic())
            if wait <= 0:
                os.kill(popen.pid, signal.SIGKILL)
                popen.wait()
                return popen.returncode == -signal.SIGKILL
            await anyio.sleep(wait)
        return False

    async def _follow(self) -> list[Event]:
        """Read what is new in the store."""
        cursor = self.events[-1].cursor if self.events else 0
        try:
            page = await self.store.read_events(AGENT_ID, after=cursor)
        except NotFoundError:
            return []
        for event in page.items:
            self.events.append(event)
            self._show(event)
        return list(page.items)

    async def _look(self, process: Process, moment: Moment, killed_at: float) -> None:
        """Look at what the store knows after a kill, and wait until everything of the process is gone."""
        kill = Kill(process.number, moment, killed_at - process.began, None, events=len(self.events))
        with contextlib.suppress(NotFoundError):
            kill.state = await self.store.read_state(AGENT_ID)
            kill.messages = await all_messages(self.store)
            if kill.state.sandbox_ref is not None:
                self.refs.add(kill.state.sandbox_ref)
        while True:
            kill.left = self.left(process.pid)
            kill.gone_s = time.monotonic() - killed_at
            if not kill.left or kill.gone_s > _GONE_S:
                break
            await anyio.sleep(_POLL_S)
        self.kills.append(kill)
        self._killed(kill)


async def all_messages(store: Store) -> tuple[Message, ...]:
    """Read the whole history."""
    found: list[Message] = []
    while True:
        page = await store.read_messages(AGENT_ID, after=found[-1].seq if found else None)
        found += page.items
        if page.next is None:
            return tuple(found)


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
