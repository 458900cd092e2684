"""The mailbox of one drive: what effects, senders and the pool put in, and the loop takes out."""

from __future__ import annotations

import anyio

from kode.core.kernel.events import Event
from kode.core.kernel.inputs import Input, Noted

__all__ = ["Mailbox"]


class Mailbox:
    """Synchronous to put in, one reader to wait. Nothing that is put in is ever lost between two takes."""

    __slots__ = ("_bell", "_rung", "failure", "look", "noted", "posted", "stopping", "tick")

    def __init__(self) -> None:
        self.posted: list[Input] = []
        """Answers to effects."""
        self.noted: list[Event] = []
        """Durable events that ride in the next commit."""
        self.look = False
        """Somebody enqueued: read the inbox."""
        self.stopping = False
        """The drive shall stop."""
        self.tick = False
        """The metronome beat: look whether another process enqueued."""
        self.failure: Exception | None = None
        """A fault of ours that ends the drive."""
        self._rung = False
        self._bell = anyio.Semaphore(0, fast_acquire=True)
        """Not an event: that rings once, and a drive waits at every step."""

    @property
    def full(self) -> bool:
        """Whether there is anything to act on."""
        return bool(self.posted or self.look or self.stopping or self.tick or self.failure)

    def post(self, answer: Input) -> None:
        """Put an answer in."""
        self.posted.append(answer)
        self.wake()

    def ring(self) -> None:
        """Say that the inbox has something new."""
        self.look = True
        self.wake()

    def stop(self) -> None:
        """Say that the drive shall stop."""
        self.stopping = True
        self.wake()

    def fail(self, error: Exception) -> None:
        """Report a fault; the first one counts."""
        self.failure = self.failure or error
        self.wake()

    def beat(self) -> None:
        """Let the metronome wake the reader."""
        self.tick = True
        self.wake()

    def wake(self) -> None:
        """Wake the reader to look for itself."""
        if not self._rung:
            self._rung = True
            self._bell.release()

    def take(self) -> list[Input]:
        """Empty it of answers and events."""
        answers, self.posted = self.posted, []
        if self.noted:
            answers.append(Noted(tuple(self.noted)))
            self.noted.clear()
        return answers

    async def wait(self) -> None:
        """Wait for the bell; it may have rung for something that was taken since."""
        try:
            await self._bell.acquire()
        finally:
            self._rung = False
