"""What an agent remembers of its media, in one document.

What the vendor calls what was uploaded, and what was made of media that a model could not take.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final

from kode.core import jsontext

__all__ = ["Remembered"]

MAX_FILES: Final = 128
"""Uploads, and things made of media; the oldest go."""


@dataclass(slots=True)
class Remembered:
    """The document, version 1."""

    account: str = ""
    """Of whom; another one's files are forgotten."""
    uploads: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By SHA-256."""
    made: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """By how, and SHA-256."""

    @classmethod
    def read(cls, text: str | None, account: str) -> Remembered:
        """Read it, as far as it is about this account."""
        found = jsontext.parse(text) if text is not None else {}
        uploads = found.get("uploads", {}) if found.get("account") == account else {}
        return cls(account, uploads, found.get("made", {}))

    def text(self) -> str:
        """Write it."""
        for each in (self.uploads, self.made):
            while len(each) > MAX_FILES:
                del each[next(iter(each))]
        return json.dumps({"v": 1, "account": self.account, "uploads": self.uploads, "made": self.made})
