"""What an agent remembers of its media, in one document.

What the vendor calls what was uploaded, what it refused, and what was made of media that a model could not take.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final

from kode.core import jsontext

__all__ = ["Remembered"]

MAX_FILES: Final = 128
"""Uploads, refusals, and things made of media; the oldest go."""
MAX_BYTES: Final = 200_000
"""Of the document; a document may have more, but it is written as a whole whenever it changes."""


@dataclass(slots=True)
class Remembered:
    """The document, version 1."""

    account: str = ""
    """Of whom; what another one keeps or refused is forgotten."""
    uploads: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By SHA-256."""
    refused: dict[str, dict[str, Any]] = field(default_factory=dict)
    """``upload:`` or ``request:`` with the SHA-256; why, and until when nobody tries again."""
    made: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """By how, and SHA-256."""

    @classmethod
    def read(cls, text: str | None, account: str) -> Remembered:
        """Read it, as far as it is about this account."""
        found = jsontext.parse(text) if text is not None else {}
        own = found if found.get("account") == account else {}
        return cls(account, own.get("uploads", {}), own.get("refused", {}), found.get("made", {}))

    def text(self) -> str:
        """Write it, within its bounds."""
        parts: tuple[dict[str, Any], ...] = (self.uploads, self.refused, self.made)
        for each in parts:
            while len(each) > MAX_FILES:
                _drop_oldest(each)
        while len(text := self._json()) > MAX_BYTES:
            _drop_oldest(max(parts, key=lambda each: len(json.dumps(each))))
        return text

    def _json(self) -> str:
        named = {"uploads": self.uploads, "refused": self.refused, "made": self.made}
        return json.dumps({"v": 1, "account": self.account, **named})


def _drop_oldest(each: dict[str, Any]) -> None:
    del each[next(iter(each))]
