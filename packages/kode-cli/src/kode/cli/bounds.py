"""Limits as people write them on a command line: ``NAME=VALUE``, and ``none`` for no limit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from kode.core import Limits
from kode.core.errors import UsageError

__all__ = ["RunLimits", "fields_of", "run_limits"]

RunLimits = Annotated[
    list[str] | None,
    typer.Option("--limit", metavar="NAME=VALUE", help="Bound of this run, within the agent's; may be repeated."),
]


def fields_of(words: Sequence[str]) -> dict[str, Any]:
    """Read ``max_steps_per_run=20`` and the like.

    Raises:
        UsageError: One has another shape, or there is no limit of that name, or a value is out of range.
    """
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name not in Limits.__dataclass_fields__:
            raise UsageError(
                f"{word[:100]!r} is no limit; give NAME=VALUE, NAME one of {', '.join(Limits.__dataclass_fields__)}.",
                code="bad_limit",
            )
        found[name] = _value(value)
    Limits(**found)
    return found


def _value(text: str) -> Any:
    if text.lower() == "none":
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text  # which is refused with the name and what is allowed


def run_limits(words: Sequence[str] | None) -> Limits | None:
    """What a run is to be bound by; None: nothing was said.

    Raises:
        UsageError: As ``fields_of``.
    """
    return Limits(**fields_of(words)) if words else None
