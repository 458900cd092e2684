"""Moments as people give them on a command line."""

from __future__ import annotations

import re
import time
from datetime import datetime
from typing import Final

from kode.core.errors import UsageError

__all__ = ["read_moment"]

SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def read_moment(text: str | None) -> int | None:
    """Read ``30d`` (so long ago) or ``2026-11-22[T18:30]`` (local time unless it says more) as microseconds.

    Raises:
        UsageError: ``bad_moment``.
    """
    if text is None:
        return None
    ago = re.fullmatch(r"(\d{1,9})([smhdw])", text)
    if ago is not None:
        return time.time_ns() // 1_000 - int(ago[1]) * SECONDS[ago[2]] * 1_000_000
    try:
        return round(datetime.fromisoformat(text).timestamp() * 1_000_000)
    except (ValueError, OverflowError):
        raise UsageError(
            f"{text[:60]!r} is no moment; write 30d, 12h, 45m, 2026-11-22 or 2026-11-22T18:30.", code="bad_moment"
        ) from None
