"""What a caller hands in to be sent, checked at the door: a wrong value is refused here, not found in a driver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kode.core.errors import UsageError
from kode.core.jsontext import canonical
from kode.core.kernel.message import Block, Json, TextBlock

__all__ = ["Content", "check_text", "content_blocks", "json_option", "whole_number"]

Content = str | Sequence[Block]
"""What a caller may send: text, or content blocks."""

_ALLOWED = ("text", "image", "audio", "video", "file", "blob")


def content_blocks(message: Content) -> tuple[Block, ...]:
    """Content blocks of what a caller sends.

    Raises:
        UsageError: It is empty or holds something else.
    """
    if isinstance(message, str):
        blocks: tuple[Any, ...] = (TextBlock(message),) if message.strip() else ()
    else:
        blocks = tuple(message) if isinstance(message, Sequence) else (message,)
    strange = [b for b in blocks if getattr(b, "type", None) not in _ALLOWED]
    if not blocks or strange:
        shown = f"has {type(strange[0]).__name__}" if strange else "is empty"
        raise UsageError(
            f"The message {shown}; send text, or TextBlock, MediaBlock and BlobBlock values.", code="bad_message"
        )
    return blocks


def check_text(**given: str | None) -> None:
    """Check that options are texts or absent.

    Raises:
        UsageError: ``bad_option``.
    """
    for name, value in given.items():
        if value is not None and not isinstance(value, str):
            raise UsageError(f"{name} is {value!r}; give a text or None.", code="bad_option", option=name)


def json_option(name: str, value: Json | None) -> Json | None:
    """JSON text as it is stored.

    Raises:
        UsageError: It is no JSON text.
    """
    if value is None:
        return None
    check_text(**{name: value})
    try:
        return canonical(value)
    except UsageError as error:
        raise UsageError(f"{name} is no JSON text: {error.message}", code="bad_option", option=name) from None


def whole_number(name: str, value: int | None) -> None:
    """Check that an option is a whole number or absent.

    Raises:
        UsageError: ``bad_option``.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**63):
        raise UsageError(f"{name} is {value!r}; give a whole number.", code="bad_option", option=name)
