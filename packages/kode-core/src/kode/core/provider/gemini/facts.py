"""What differs from model to model in the Gemini API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["GeminiFacts", "facts_of"]


@dataclass(frozen=True, slots=True)
class GeminiFacts:
    """One model, as its API wants to be asked."""

    window_tokens: int = 128_000
    output_tokens: int = 8_192
    """The most it answers with."""
    thinking: Literal["budget", "level"] | None = None
    """How it is told how much to think."""
    least_budget: int = 0
    """Where it cannot be told not to think."""
    signs: bool = False
    """Of the third generation or later: its calls are signed and go back with that, and it can hold an answer to a
    schema beside tools."""


_FACTS = {
    # By the longest beginning. A name that is newer than this table is taken for a new model.
    "gemini-1": GeminiFacts(1_048_576, 8_192),
    "gemini-2.0": GeminiFacts(1_048_576, 8_192),
    "gemini-2.5": GeminiFacts(1_048_576, 65_536, "budget"),
    "gemini-2.5-pro": GeminiFacts(1_048_576, 65_536, "budget", 128),
    "gemini-": GeminiFacts(1_048_576, 65_536, "level", signs=True),
}
_BY_LENGTH = sorted(_FACTS.items(), key=lambda item: -len(item[0]))


def facts_of(model: str) -> GeminiFacts:
    """Look a model up by the beginning of its name; ``models/`` before it does not count."""
    name = model.rpartition("/")[2].lower()
    return next((found for beginning, found in _BY_LENGTH if name.startswith(beginning)), GeminiFacts())
