"""Reads cron lines, through the library that the extra ``kode-core[cron]`` brings (cronsim, as Debian's cron does).

A schedule is stored as one text: five fields and the name of a time zone, ``0 9 * * MON-FRI Europe/Berlin``.

Where clocks are set forward or back:

* A line whose minute and hour both do not begin with ``*`` means times of the clock on the wall. One that is skipped
  comes right after the gap; one that comes twice counts the first time.
* Any other line means time that passes: it comes at each real moment that it fits, so twice in an hour that comes
  twice, and not in an hour that does not come.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from kode.core.errors import NotBoundError, UsageError
from kode.core.kernel.history import MAX_TIMER_WORDS

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from cronsim import CronSim

__all__ = ["EPOCH", "first_time", "next_time"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def first_time(line: str, zone: str, after: int) -> tuple[str, int]:
    """Check a cron line; give the schedule to store, and its first moment.

    Raises:
        UsageError: ``bad_cron``: it is none, or never comes. ``bad_timezone``.
        NotBoundError: ``no_cron``: the extra is not installed here.
    """
    if not isinstance(line, str) or len(line.split()) != 5:
        raise _bad(line, "it needs five fields: minute, hour, day of the month, month, day of the week")
    if not isinstance(zone, str) or len(zone.split()) != 1:
        raise _bad_zone(zone)
    schedule = " ".join([*line.split(), zone])
    if len(schedule) > MAX_TIMER_WORDS:
        raise _bad(line, f"it has more than {MAX_TIMER_WORDS} characters with its time zone")
    first = next_time(schedule, after)
    if first is None:
        raise _bad(line, "it does not come in the next 50 years")
    return schedule, first


def next_time(schedule: str, after: int) -> int | None:
    """Say when a schedule comes next, in microseconds; None: not in the next 50 years.

    Raises:
        UsageError: ``bad_cron``: it is none.
        NotBoundError: ``no_cron``, ``bad_timezone``: this process cannot read it; another one may.
    """
    *fields, zone = schedule.split() or [""]
    for moment in _moments(" ".join(fields), (EPOCH + after * _MICROSECOND).astimezone(_zone(zone))):
        at = (moment - EPOCH) // _MICROSECOND
        if at > after:  # of an hour that comes twice, the library may give the first
            return at
    return None


def _moments(line: str, start: datetime) -> CronSim:
    try:
        from cronsim import CronSim, CronSimError
    except ImportError:
        raise NotBoundError(
            "Cron lines are read by the extra 'cron', which is not installed here: pip install 'kode-core[cron]'.",
            code="no_cron",
        ) from None
    try:
        return CronSim(line, start)
    except CronSimError as error:
        raise _bad(line, f"{error}, or such a date never comes") from None


def _zone(name: str) -> ZoneInfo:
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise _bad_zone(name) from None


def _bad(line: object, why: str) -> UsageError:
    return UsageError(
        f"The cron line {line!r:.100} cannot be used: {why}. An example is '30 9 * * MON-FRI'.", code="bad_cron"
    )


def _bad_zone(name: object) -> NotBoundError:
    return NotBoundError(
        f"There is no time zone {name!r:.100} on this machine; give a name such as 'Europe/Berlin' or 'UTC'.",
        code="bad_timezone",
    )
