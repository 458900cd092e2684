"""What differs from model to model in the Messages API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["ModelFacts", "facts_of"]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """One model, as its API wants to be asked."""

    window_tokens: int = 128_000
    """The name of a model that anybody serves does not tell what this server gives it."""
    output_tokens: int = 8_192
    """Asked for where a request names no bound; thoughts count too."""
    thinking: Literal["budget", "adaptive", "always"] | None = "budget"
    """How it is asked to think: with a budget of tokens, with an effort, or it does so anyway."""
    sampling: bool = True
    """Whether it takes ``temperature`` and ``top_p``."""
    output_schema: bool = False
    """Whether it holds an answer to a schema itself; others are made to call a tool."""


_NOW = ModelFacts(1_000_000, 64_000, "adaptive", False, True)
_ALWAYS = ModelFacts(1_000_000, 64_000, "always", False, True)
_FACTS = {
    # The vendor's own, by the longest beginning. A name that is newer than this table is taken for a new model.
    "claude-3": ModelFacts(200_000, 4_096, None),
    "claude-3-5": ModelFacts(200_000, 8_192, None),
    "claude-3-7": ModelFacts(200_000, 32_000),
    "claude-opus-4": ModelFacts(200_000, 32_000),
    "claude-sonnet-4": ModelFacts(200_000, 32_000),
    "claude-haiku-4-5": ModelFacts(200_000, 32_000, output_schema=True),
    "claude-sonnet-4-5": ModelFacts(200_000, 32_000, output_schema=True),
    "claude-opus-4-5": ModelFacts(200_000, 32_000, output_schema=True),
    "claude-sonnet-4-6": ModelFacts(1_000_000, 64_000, "adaptive", output_schema=True),
    "claude-opus-4-6": ModelFacts(1_000_000, 64_000, "adaptive", output_schema=True),
    "claude-opus-4-7": _NOW,
    "claude-opus-4-8": _NOW,
    "claude-opus-5-5": _ALWAYS,
    "claude-fable": _ALWAYS,
    "claude-mythos": _ALWAYS,
    "claude-": _NOW,
}
_BY_LENGTH = sorted(_FACTS.items(), key=lambda item: -len(item[0]))


def facts_of(model: str) -> ModelFacts:
    """Look a model up by the beginning of its name; a front's ``vendor/`` or ``vendor.`` before it does not count."""
    name = model.rpartition("/")[2].lower()
    name = name[max(name.find("claude-"), 0) :]
    return next((found for beginning, found in _BY_LENGTH if name.startswith(beginning)), ModelFacts())
