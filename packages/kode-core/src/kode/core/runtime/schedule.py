"""The scheduler: timers of an agent, set from any process, kept in its state, fired by whoever finds it due.

No process waits for them. What is set goes through the agent's inbox, so it is durable when the call returns, also
while somebody else drives the agent.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

from kode.core.config import Ids, RandomIds
from kode.core.errors import NotBoundError, UsageError
from kode.core.kernel.events import Event, preview
from kode.core.kernel.history import LAST_MOMENT, MAX_TIMER_DATA, MAX_TIMER_WORDS, MAX_TIMERS, RESERVED
from kode.core.kernel.inputs import Input, Instructed, Noted, TimePassed, TimerCancelled, TimerSet
from kode.core.kernel.state import State, Timer
from kode.core.runtime.asked import read_instructions
from kode.core.runtime.cron import EPOCH, first_time, next_time
from kode.core.runtime.lease import check_identity
from kode.core.runtime.sending import enqueue
from kode.core.store.base import Store

__all__ = ["Scheduler", "TimerKind", "time_passed"]

TimerKind: TypeAlias = Literal["message", "reminder", "signal"]
"""``message``: the text is sent as a user's message, and starts a run if there is none. ``reminder``: it is shown with
the next model call and starts none; one that comes by an interval or a cron line waits for a run, so that it does not
pile up. ``signal``: observers alone are told (``scheduler_triggered``)."""

_MICROSECOND = timedelta(microseconds=1)


class Scheduler:
    """The timers of one agent. ``agent.schedule`` is one; whoever has the store alone may make one too.

    A timer of kind ``message`` or ``reminder`` waits for the end of the step in progress, as a message does, and so for
    an approval that is asked for. Times at which nobody drove are skipped: such a timer fires once, and its event says
    for when it was set, when it comes next, and how many times of an interval were missed. An id that is known is set
    anew.

    Args:
        store: Where the agent lives.
        agent_id: Which.
        uid: Its identity, if it must be that very one.
        ids: Where names come from.
    """

    def __init__(self, store: Store, agent_id: str, *, uid: str | None = None, ids: Ids | None = None) -> None:
        self._store = store
        self._agent_id = agent_id
        self._uid = uid
        self._ids = ids or RandomIds()

    async def at(
        self, when: datetime | int, text: str = "", *, id: str | None = None, kind: TimerKind = "message"
    ) -> str:
        """Fire once, at an aware datetime or microseconds since the epoch; at once if that is over.

        Returns:
            The timer's id.

        Raises:
            UsageError: ``bad_timer``, ``too_many_timers``.
        """
        return await self._set(id, _moment(when), text, kind)

    async def after(self, seconds: float, text: str = "", *, id: str | None = None, kind: TimerKind = "message") -> str:
        """Fire once, in so many seconds by the store's clock. See ``at``."""
        due = await self._store.now() + _microseconds("seconds", seconds, 0)
        return await self._set(id, due, text, kind)

    async def every(self, seconds: float, text: str = "", *, id: str | None = None, kind: TimerKind = "message") -> str:
        """Fire after each so many seconds, at least 1, the first time after as many. See ``at``."""
        every = _microseconds("seconds", seconds, 1)
        return await self._set(id, await self._store.now() + every, text, kind, every_us=every)

    async def every_steps(self, n: int, text: str = "", *, id: str | None = None, kind: TimerKind = "reminder") -> str:
        """Fire after each ``n`` steps of the agent, counted over all its runs; 1 is after each. See ``at``.

        Of kind ``reminder`` or ``signal``: a message would start a run, and with it the steps to the next, without end.
        """
        if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n < 2**53:
            raise _bad(f"every_steps got {n!r:.50}; give a whole number from 1")
        if kind == "message":
            raise _bad("every_steps takes 'reminder' and 'signal': a message would start one run after another")
        steps = (await self._state()).steps_total
        return await self._set(id, None, text, kind, due_step=steps + n, every_steps=n)

    async def cron(
        self, line: str, text: str = "", *, tz: str = "UTC", id: str | None = None, kind: TimerKind = "message"
    ) -> str:
        """Fire at the times of a cron line: minute, hour, day of the month, month, day of the week. See ``at``.

        Where clocks change: with minute and hour fixed it is the time on the wall, once, and right after the gap that
        skips it; a ``*`` in either means time that passes.

        Args:
            line: As ``30 9 * * MON-FRI``. Days of the month and of the week both restrict if one of them is ``*``,
                else either is enough.
            text: What is said.
            tz: Name of the time zone.
            id: Names the timer.
            kind: What it does.

        Raises:
            UsageError: ``bad_cron``: it is no cron line, or it never comes. ``bad_timezone``.
            NotBoundError: ``no_cron``: the extra ``cron`` is not installed.
        """
        schedule, first = first_time(line, tz, await self._store.now())
        return await self._set(id, first, text, kind, schedule=schedule)

    async def cancel(self, id: str) -> None:
        """Take a timer away; one that is not there is fine."""
        _check_id(id)
        await self._ask(TimerCancelled(id))

    async def list(self) -> tuple[Timer, ...]:
        """All timers that are set, with what was asked for and no driver has taken yet."""
        timers = await self._timers()
        return tuple(timer for id, timer in timers.items() if not id.startswith(RESERVED))

    async def _timers(self) -> dict[str, Timer]:
        waiting = await read_instructions(self._store, self._agent_id, self._uid or (await self._state()).uid)
        timers = {timer.id: timer for timer in (await self._state()).timers}
        for what in waiting:
            if isinstance(what, TimerSet):
                timers[what.id] = Timer(
                    what.id, what.due_at, what.kind, what.data, what.every_us, what.schedule, what.due_step,
                    what.every_steps,
                )  # fmt: skip
            elif isinstance(what, TimerCancelled):
                timers.pop(what.id, None)
        return timers

    async def _set(
        self,
        id: str | None,
        due_at: int | None,
        text: str,
        kind: TimerKind,
        *,
        every_us: int | None = None,
        schedule: str | None = None,
        due_step: int | None = None,
        every_steps: int | None = None,
    ) -> str:
        if id is None:
            id = f"timer-{self._ids.uid()}"
        _check_id(id)
        if kind not in ("message", "reminder", "signal"):
            raise _bad(f"the kind is {kind!r:.50}; give 'message', 'reminder' or 'signal'")
        if not isinstance(text, str) or not (text.strip() or kind == "signal"):
            raise _bad(f"the text is {text!r:.50}; give what is to be said, or the kind 'signal'")
        if len(text) > MAX_TIMER_DATA:
            raise _bad(
                f"the text has {len(text):,} characters, and at most {MAX_TIMER_DATA:,} are kept; put the rest into a "
                "file or a document and say where it is"
            )
        others = {timer.id for timer in await self.list()} - {id}
        if len(others) >= MAX_TIMERS:
            raise UsageError(
                f"The agent has {len(others)} timers, and at most {MAX_TIMERS} are kept; cancel one, or let one timer "
                "do for several.",
                code="too_many_timers",
            )
        await self._ask(TimerSet(id, due_at, kind, text, every_us, schedule, due_step, every_steps))
        return id

    async def _ask(self, what: TimerSet | TimerCancelled) -> None:
        await enqueue(self._store, self._agent_id, Instructed(self._ids.item_id(), what), uid=self._uid)

    async def _state(self) -> State:
        state = await self._store.read_state(self._agent_id)
        if self._uid is not None:
            check_identity(state, self._uid)
        return state


def take_timer(asks: Instructed, what: TimerSet, now: int) -> Input:
    """Take a timer that somebody sets, unless nobody can read its schedule.

    Raises:
        NotBoundError: Schedules cannot be read in this process.
    """
    if what.schedule is None:
        return asks
    try:
        next_time(what.schedule, now)
    except UsageError as error:
        if error.code == "no_cron":
            raise
        return Noted((Event("input_rejected", preview=preview(error.message), data={"item": asks.item}),))
    return asks


def time_passed(state: State, arrived: Iterable[Input], now: int) -> TimePassed:
    """Say that time has passed, and when the schedules that are due, or arrive just now, come again.

    Raises:
        NotBoundError: This process cannot read a schedule; the agent is left to one that can.
    """
    # The clock may have been set back behind what was done already; what has fired must not be armed for then.
    now = max(now, state.updated_at)
    timers: list[Timer | TimerSet] = [*state.timers]
    timers += [one.what for one in arrived if isinstance(one, Instructed) and isinstance(one.what, TimerSet)]
    found = {
        timer.id: _again(timer.schedule, now)
        for timer in timers
        if timer.schedule is not None and timer.due_at is not None and timer.due_at <= now
    }
    return TimePassed(tuple(found.items()))


def _again(schedule: str, now: int) -> int | None:
    try:
        return next_time(schedule, now)
    except NotBoundError:
        raise
    except UsageError:  # what read it when it was set knew more; it fires for the last time
        return None


def _moment(when: datetime | int) -> int:
    if isinstance(when, datetime) and when.utcoffset() is not None:
        return (when - EPOCH) // _MICROSECOND
    if isinstance(when, int) and not isinstance(when, bool) and abs(when) < LAST_MOMENT:
        return when
    raise _bad(f"when is {when!r:.100}; give a datetime with a time zone, or microseconds since the epoch")


def _microseconds(name: str, seconds: float, least: float) -> int:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not least <= seconds <= 1e10:
        raise _bad(f"{name} is {seconds!r:.50}; give a number from {least:g} to 1e10")
    return round(seconds * 1_000_000)


def _check_id(id: str) -> None:
    if not isinstance(id, str) or not 0 < len(id) <= MAX_TIMER_WORDS or id.startswith(RESERVED):
        raise _bad(f"the id is {id!r:.50}; give 1 to {MAX_TIMER_WORDS} characters that do not begin with {RESERVED!r}")


def _bad(why: str) -> UsageError:
    return UsageError(f"The timer cannot be set: {why}.", code="bad_timer")
