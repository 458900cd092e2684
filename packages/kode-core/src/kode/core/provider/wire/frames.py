"""What all readers of replies do with a frame."""

from __future__ import annotations

import json
from typing import Any

from kode.core.provider.assemble import count
from kode.core.provider.base import ReplyError
from kode.core.provider.failure import provider_error

__all__ = ["failed", "load", "number"]


def load(data: str) -> dict[str, Any] | None:
    """Read a frame; None if it is no JSON object."""
    try:
        frame = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return frame if isinstance(frame, dict) else None


def number(value: Any, *names: str) -> int:
    """Give the first of these fields that counts anything; 0 if none does."""
    found = [count(value.get(name)) for name in names] if isinstance(value, dict) else []
    return next((each for each in found if each), 0)


def failed(who: str, model: str, code: str, what: str, *, retryable: bool | None = None) -> ReplyError:
    """Say that a reply is lost.

    Not raised: the frames of a traceback would hold what the server sent, and servers echo keys.
    """
    return ReplyError(provider_error(code, f"{who} {what}", retryable=retryable, provider=who, model=model or None))
