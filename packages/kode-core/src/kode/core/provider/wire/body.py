"""What every request's body is made with: stop sequences, what was kept for the vendor, fields of the user's own."""

from __future__ import annotations

import json
from typing import Any

from kode.core.errors import UsageError
from kode.core.jsontext import parse
from kode.core.kernel.message import Block, Json
from kode.core.provider.base import ModelRequest

__all__ = ["encode", "opaque_of", "overlaid", "stops"]


def overlaid(body: dict[str, Any], request: ModelRequest) -> dict[str, Any]:
    """Lay a request's ``extra_body`` over a body; its fields win.

    Raises:
        UsageError: It is no JSON object.
    """
    extra = {} if request.extra_body is None else parse(request.extra_body)
    if not isinstance(extra, dict):
        raise UsageError("ModelRequest.extra_body is no JSON object; give one.", code="bad_extra_body")
    return body | extra


def stops(request: ModelRequest, most: int | None = None) -> list[str] | None:
    """Give the stop sequences that say anything, None if there are none.

    Args:
        request: What to ask.
        most: The API takes; None: it does not tell.

    Raises:
        UsageError: There are more. A reply that runs past one which was left out would be wrong, and nobody would know.
    """
    found = [each for each in request.stop if each]
    if most is not None and len(found) > most:
        said = f"ModelRequest.stop has {len(found)} sequences, and the API takes {most} at the most; leave some out."
        raise UsageError(said, code="too_many_stops")
    return found or None


def opaque_of(block: Block) -> dict[str, Any]:
    """Give what a block keeps for the vendor that made it; nothing if it keeps no object."""
    opaque: Json | None = getattr(block, "opaque", None)
    found = parse(opaque) if opaque is not None else None
    return found if isinstance(found, dict) else {}


def encode(body: dict[str, Any]) -> bytes:
    """Write a body as bytes."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
