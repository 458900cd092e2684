"""Times as a person reads them, in the zone of this machine."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["moment"]


def moment(micros: int, form: str) -> str:
    """Write a stored time by a form of `strftime`; one that no calendar holds, which only damage brings, as it is."""
    try:
        return datetime.fromtimestamp(micros / 1e6, UTC).astimezone().strftime(form)
    except (ValueError, OverflowError, OSError):
        return f"{micros} µs"
