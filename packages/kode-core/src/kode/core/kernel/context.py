"""How much of its history a model is shown: the policy as data, stored with the agent's template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kode.core.errors import UsageError

__all__ = ["ContextPolicy"]

_METHODS = ("model", "digest", "off")
# field: lowest value
_COUNTS = {"max_tokens": 100, "target_tokens": 50, "keep_media": 0, "max_message_tokens": 50}


@dataclass(frozen=True, slots=True)
class ContextPolicy:
    """When the history is compacted, and how; what it bounds is the request, never what is stored.

    Raises:
        UsageError: A value is out of range; the message names the field, the value and what is allowed.
    """

    max_tokens: int | None = None
    """Above this the older part is summed up before the next model call. None: 80 % of the model's window, less what
    its answer needs."""
    target_tokens: int | None = None
    """What a compaction aims at. None: half of ``max_tokens``."""
    method: Literal["model", "digest", "off"] = "model"
    """Who writes the summary: the model, or nobody (a digest line by line). ``off``: only when somebody asks."""
    model: str | None = None
    """``provider:model`` that writes it. None: the agent's own."""
    prompt: str | None = None
    """What that model is told instead of the usual words."""
    keep_media: int = 3
    """So many images, recordings and files are shown, the newest; a line stands for each older one."""
    max_message_tokens: int | None = None
    """Of a longer message its head and tail are shown. None: half of ``max_tokens``."""

    def __post_init__(self) -> None:
        if self.method not in _METHODS:
            raise _bad("method", self.method, f"one of {', '.join(_METHODS)}")
        for name in ("model", "prompt"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value.strip()):
                raise _bad(name, value, "a text or None")
        for name, lowest in _COUNTS.items():
            value = getattr(self, name)
            if value is None and name != "keep_media":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value < 2**53:
                raise _bad(name, value, f"a whole number from {lowest}")
        if self.max_tokens is not None and (self.target_tokens or 0) >= self.max_tokens:
            raise _bad("target_tokens", self.target_tokens, f"less than max_tokens ({self.max_tokens})")


def _bad(name: str, value: object, allowed: str) -> UsageError:
    text = f"ContextPolicy.{name} is {repr(value)[:100]}; give {allowed}."
    return UsageError(text, code="bad_context", field=name)
