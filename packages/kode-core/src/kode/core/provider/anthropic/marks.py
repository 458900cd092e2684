"""Where the Messages API is told to cache: https://platform.claude.com/docs/en/build-with-claude/prompt-caching.

What is read up to a mark (tools, then system, then messages) is kept, and found again by a request that begins with the
same. A request may hold four. The history is marked at its end, and once more a turn before that: there lies the mark
of the last request, which is thus found again however much has come since. So the marks move with the history.
"""

from __future__ import annotations

from typing import Any

from kode.core.provider.base import CacheHint, ModelRequest

__all__ = ["MOST", "place_marks"]

MOST = 4
"""Marks that a request may hold."""

_Spot = tuple[dict[str, Any], CacheHint]


def place_marks(body: dict[str, Any], request: ModelRequest, cache: CacheHint | None) -> None:
    """Mark a body that is otherwise complete.

    Args:
        body: As it will be sent.
        request: Its own hints come first.
        cache: For a request that gives no hint for its history.
    """
    hint = request.cache or cache
    tools, system = body.get("tools", []), body.get("system", [])
    parts = [part for part in request.system_parts if part.text.strip()]
    fixed: list[_Spot] = [
        *((tool, spec.cache) for tool, spec in zip(tools, request.tools, strict=False) if spec.cache),
        *((block, part.cache) for block, part in zip(system, parts, strict=False) if part.cache),
    ]
    moving: list[_Spot] = []
    if hint is not None:
        turns = [message for message in body["messages"] if message["role"] == "user"]
        moving = [(turn["content"][-1], hint) for turn in turns[-2:]]
        last = (system or tools)[-1:]
        if last and not fixed:
            fixed = [(last[0], hint)]
    room = MOST - len(moving)
    _mark([*fixed[-room:], *moving])


def _mark(spots: list[_Spot]) -> None:
    """Mark from the end: one that is kept for long must not come behind one that is not."""
    longest: CacheHint = "short"
    for block, hint in reversed(spots):
        longest = "long" if "long" in (longest, hint) else "short"
        block["cache_control"] = {"type": "ephemeral", **({"ttl": "1h"} if longest == "long" else {})}
