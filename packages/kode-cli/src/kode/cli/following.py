"""Follows a run to its end or rest: shows what happens, asks what is to be decided, and takes Ctrl-C as a wish to stop.

The first signal lets the agent rest in order: nothing new is started, running tools get their grace, and what they
report is kept. The second ends all at once. Either way the agent is in the store and goes on with ``kode resume``.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio

from kode.cli.approving import Approver
from kode.cli.screen import Screen
from kode.cli.telling import Line, Story, seconds, tokens
from kode.cli.visible import inline
from kode.core import Agent, Envelope, RunResult
from kode.core.clock import RealClock
from kode.core.event.base import Position
from kode.core.kernel.events import Event
from kode.core.runtime.streaming import Stream

__all__ = ["Follower", "Leg", "Outcome"]

Leg = Callable[[float | None], Awaitable[RunResult]]
"""Drives until the agent rests; it may be called again. Is told how many seconds it has."""
TICK_S = 0.1
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it went."""

    result: RunResult | None
    """None: it was stopped before there was one."""
    signal: int | None = None
    """What stopped it."""
    answer_shown: bool = False
    """The answer was shown live, whole."""


@dataclass(slots=True)
class Follower:
    """One agent being followed by a person."""

    agent: Agent
    screen: Screen
    approver: Approver
    story: Story = field(default_factory=Story)
    cursor: int = 0
    """Last durable event shown."""
    _live: dict[int, int] = field(default_factory=dict)
    """Blocks of the running reply that were shown as they came, and how far."""
    _output: str = ""
    """The last line that a running command wrote."""
    _reasons: set[str] = field(default_factory=set)
    """Why the model was asked again, as far as that was said already."""
    _whole: bool = False
    """All text of the last reply was shown live."""
    _signal: int | None = None
    _scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    _clock: RealClock = field(default_factory=RealClock)
    _began: float = 0.0

    async def follow(self, leg: Leg, timeout_s: float | None = None) -> Outcome:
        """Go on until the run ended, rests for something that nobody here can give, or is stopped.

        Args:
            leg: Drives the agent.
            timeout_s: Of all driving together; the time people take does not count.
        """
        failure: Exception | None = None
        result: RunResult | None = None
        self._began = self._clock.monotonic()
        self.screen.on_gone = lambda: self._stop(signal.SIGPIPE)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._listen)
            tasks.start_soon(self._tick)
            try:
                with self._scope:
                    result = await self._legs(leg, timeout_s)
            except Exception as error:  # noqa: BLE001 - raised again below, without the group around it
                failure = error
            finally:
                tasks.cancel_scope.cancel()
        self.screen.close()
        if failure is not None:
            raise failure
        return Outcome(result, self._signal, self._whole)

    async def _legs(self, leg: Leg, left: float | None) -> RunResult:
        while True:
            began = self._clock.monotonic()
            result = await self._show(leg, left)
            if left is not None:
                left = max(left - (self._clock.monotonic() - began), 0.001)
            if self._signal is not None or not (result.pending or (await self.agent.status()).pending):
                return result
            self.screen.status("")
            if not await self.approver.settle(self.agent):
                return result

    async def _show(self, leg: Leg, left: float | None) -> RunResult:
        agent, since = self.agent, Position(self.cursor)
        async with Stream(lambda: agent.subscribe(since=since), lambda: leg(left), agent.hub.wake) as events:
            async for envelope in events:
                self._take(envelope)
        assert events.result is not None, "a leg that ended gave no result"
        return events.result

    # ---- showing

    def _take(self, envelope: Envelope) -> None:
        event = envelope.event
        if event.durable:
            self.cursor = envelope.cursor
            self.screen.tell(self._told(event))
        elif event.type == "text_chunk":
            self._chunk(envelope)
        elif event.type == "text_chunk_start":
            self.screen.end_text()
        elif event.type == "attempt_started":
            self._attempt(event, envelope.attempt or "")
        elif event.type == "tool_progress":
            self._output = next((line for line in reversed(envelope.delta.split("\n")) if line.strip()), self._output)
        else:
            self.screen.tell(self.story.tell(event))

    def _told(self, event: Event) -> tuple[Line, ...]:
        """The lines of a durable event, without text that was shown as it came."""
        lines = self.story.tell(event)
        if event.type == "tool_end":
            self._output = ""
        if event.type == "permission_required" and self.approver.settles(str(event.data.get("kind"))):
            return ()  # the question itself follows
        if event.type == "step_complete":
            self._live.clear()
        if event.type == "error" and event.preview in self._reasons:
            return ()  # said when the model was asked again
        if event.type != "text_chunk_end":
            return lines
        live = event.ref is not None and event.ref.block in self._live
        self._whole = self._whole and live
        return tuple(line for line in lines if line.sign != "said") if live else lines

    def _chunk(self, envelope: Envelope) -> None:
        before = self._live.get(envelope.block, 0)
        if envelope.offset - len(envelope.delta) != before:
            self._whole = False  # this reader was too slow, and a piece was let go
        self._live[envelope.block] = envelope.offset
        self.screen.text(envelope.delta)

    def _attempt(self, event: Event, attempt: str) -> None:
        """A model call begins. What an attempt before it showed of the same reply does not count any more."""
        number = attempt.rpartition(".")[2]
        reason = f" {inline(event.preview)}" if event.preview else ""
        self._reasons.add(event.preview or "")
        if self._live:
            self._say(f"the text above is withdrawn: the reply broke off; asking again (attempt {number}).{reason}")
            self._live.clear()
        elif number not in ("", "1"):
            self._say(f"no reply yet; asking again (attempt {number}).{reason}")
        self._whole = True
        self.story.step = max(self.story.step, event.step)

    def _say(self, text: str) -> None:
        self.screen.tell([Line("item", "again", text)])

    async def _tick(self) -> None:
        while True:
            if self.agent.hub.driven or self._signal is not None:
                self.screen.status(self._status())
                self.screen.turn()
            await self._clock.sleep(TICK_S)

    def _status(self) -> str:
        parts = [f"step {max(self.story.step, 1)}", seconds(self._clock.monotonic() - self._began)]
        if self.story.usage.tokens:
            parts.append(tokens(self.story.usage))
        running = next(iter(self.story.calls.values()), None)
        if running is not None:
            parts += [running.name, inline(self._output.strip())] if self._output else [running.name]
        if self._signal is not None:
            parts = ["stopping"]
        return " · ".join(parts)

    # ---- stopping

    async def _listen(self) -> None:
        # What was ignored when we started stays so: `nohup` means it, and a shell that runs us in the background.
        heard = [each for each in _STOPS if signal.getsignal(each) is not signal.SIG_IGN]
        with anyio.open_signal_receiver(*heard) as signals:
            async for number in signals:
                if number != signal.SIGINT or not self.approver.editing:
                    self._stop(number)

    def _stop(self, number: int) -> None:
        first, self._signal = self._signal is None, self._signal or number
        if first and self.agent.hub.driven:
            self.screen.end_text()
            if number == signal.SIGINT:
                self.screen.say("Stopping: what runs is ended in order. Ctrl-C again ends it at once.", "yellow")
            self.agent.stop()
        else:
            self._scope.cancel()
