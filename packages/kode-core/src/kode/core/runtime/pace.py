"""The time of one drive: how long it may last, how long it may wait, how long its run may work."""

from __future__ import annotations

import anyio

from kode.core.clock import Clock
from kode.core.errors import StoreUnavailableError
from kode.core.kernel.limits import Limits
from kode.core.kernel.machine import next_due
from kode.core.kernel.state import State
from kode.core.kernel.words import Status
from kode.core.runtime.lease import Holding
from kode.core.runtime.mailbox import Mailbox

__all__ = ["Pace"]

MARGIN_S = 2.0
"""Time kept at the end of a request to stop in; a tenth of the request if that is less."""


class Pace:
    """Knows the moments at which a drive must do something even if nothing arrives.

    Args:
        clock: Where time comes from.
        holding: The lease, which must be renewed in time.
        box: Where the drive waits.
        limits: Those of the agent, within those of its run; the loop puts others here when they change.
        until: ``clock.monotonic()`` by which the drive must be over.
        margin_s: Time before that in which nothing new is started; None: 2 s, or a tenth if that is less.
    """

    __slots__ = ("_beat_at", "_over", "_worked_from", "box", "clock", "holding", "limits", "rest_at", "until")

    def __init__(
        self,
        clock: Clock,
        holding: Holding,
        box: Mailbox,
        limits: Limits,
        until: float | None,
        margin_s: float | None,
    ) -> None:
        self.clock = clock
        self.holding = holding
        self.box = box
        self.limits = limits
        self.until = until
        now = clock.monotonic()
        self.rest_at = None if until is None else until - _margin(until - now, margin_s)
        """From here on nothing new is started."""
        self._worked_from = now
        self._beat_at = now + limits.due_poll_s
        self._over = anyio.Event()

    # ---- what is over -----------------------------------------------------------------------------------------

    @property
    def late(self) -> bool:
        """Whether it is time to rest."""
        return self.rest_at is not None and self.clock.monotonic() >= self.rest_at

    def exhausted(self, state: State) -> bool:
        """Whether the run has worked for as long as it may."""
        run, allowed = state.run, self.limits.processing_timeout_s
        if run is None or allowed is None:
            return False
        return allowed <= run.used_us / 1e6 + (self.clock.monotonic() - self._worked_from)

    def worked(self, state: State, now: float) -> int:
        """Microseconds that the agent has worked since its last commit; waiting for a person is no work."""
        working = state.run is not None and state.status is Status.WORKING
        return round((now - self._worked_from) * 1e6) if working else 0

    def committed(self, at: float) -> None:
        """Count work from here on: what was done until then is written down."""
        self._worked_from = at

    # ---- waiting ----------------------------------------------------------------------------------------------

    async def wait(self, state: State) -> None:
        """Wait until the box has something, and no longer than until the next thing that must be done in time."""
        box, due = self.box, next_due(state)
        while not box.full:
            now = self.clock.monotonic()
            ends = self._ends(state, due, now)
            if ends <= now:
                return
            if ends >= self._beat_at:
                await box.wait()
            else:
                with self.clock.move_on_after(ends - now):
                    await box.wait()

    async def wait_to_open(self) -> None:
        """Wait for a sandbox: for the bell, a lease to renew, or the end."""
        seconds = self.holding.patience()
        if self.rest_at is not None:
            seconds = min(seconds, self.rest_at - self.clock.monotonic())
        with self.clock.move_on_after(max(seconds, 0.01)):
            await self.box.wait()
        self.box.tick = False

    def _ends(self, state: State, due: int | None, now: float) -> float:
        """When something must be done even if nothing arrives, by ``clock.monotonic()``."""
        ends = self.holding.renew_at
        if self.rest_at is not None:
            ends = min(ends, self.rest_at)
        run, allowed = state.run, self.limits.processing_timeout_s
        if run is not None and allowed is not None:
            ends = min(ends, self._worked_from + allowed - run.used_us / 1e6)
        if due is not None:
            ends = min(ends, now + (due - self.holding.now()) / 1e6)
        return ends

    async def beat(self) -> None:
        """Beat at intervals until the end, so that an ordinary wait needs no time-out of its own.

        Raises:
            StoreUnavailableError: ``no_answer``: the drive hangs on a store that does not answer; the lease is over.
        """
        unread = 0
        while True:
            with self.clock.move_on_after(self.limits.due_poll_s):
                await self._over.wait()
                return
            self._beat_at = self.clock.monotonic() + self.limits.due_poll_s
            unread = unread + 1 if self.box.tick else 0
            if unread > 1 and self.holding.left() <= 0:
                # The loop has not come back for two beats.
                text = "The store has not answered for as long as the lease lasted."
                raise StoreUnavailableError(text, code="no_answer")
            self.box.beat()

    def end(self) -> None:
        """Beat no more."""
        self._over.set()


def _margin(left: float, asked: float | None) -> float:
    """How long before the end to rest; never more than half of what is left."""
    left = max(left, 0.0)
    return min(MARGIN_S, left / 10) if asked is None else min(asked, left / 2)
