"""How many tokens something is, where nobody counted it: a stated estimate.

* Text: nine ASCII letters or blanks are two tokens, seven digits or signs are four, and of everything else three bytes
  in UTF-8 are one: a Chinese or Japanese character is one token, a Cyrillic one two thirds of one.
* A tool call is its name and its arguments, a result what is in it, a tool's description its text and its schema.
* An image, a recording or a file is ``MEDIA_TOKENS``, a message ``MESSAGE_TOKENS`` beside its blocks.

How far it is off is in ``docs/guides/context.md``. It only has to hold for what came since the provider counted last.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from kode.core.kernel.message import (
    BlobBlock,
    Block,
    ReasoningBlock,
    ResultContent,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from kode.core.provider.base import ModelRequest, SystemPart, ToolSpec

__all__ = ["MEDIA_TOKENS", "Size", "fixed_tokens", "request_tokens", "size_of", "sum_of", "text_tokens", "tokens_of"]

MEDIA_TOKENS = 1_500
MESSAGE_TOKENS = 4
MARKER_TOKENS = 25
"""Of the line that stands for media which is not shown any more."""
_LETTERS = (string.ascii_letters + " \n").encode()
_HIGH = bytes(range(128, 256))


class Size(NamedTuple):
    """Of a message: its text in tokens, and how many media blocks are in it."""

    text: int = 0
    media: int = 0

    def tokens(self, keep_media: int) -> int:
        """All of it, when so many media blocks are shown."""
        shown = min(self.media, keep_media)
        return self.text + shown * MEDIA_TOKENS + (self.media - shown) * MARKER_TOKENS


def text_tokens(text: str) -> int:
    """Estimate a text."""
    data = text.encode(errors="replace")
    letters = len(data) - len(data.translate(None, _LETTERS))
    high = 0 if text.isascii() else len(data) - len(data.translate(None, _HIGH))
    return -(-(letters * 14 + (len(data) - letters - high) * 36 + high * 21) // 63)


def size_of(blocks: Iterable[Block | ResultContent]) -> Size:
    """Estimate the blocks of a message, or the content of a result."""
    text = media = 0
    for block in blocks:
        if isinstance(block, (TextBlock, ReasoningBlock)):
            text += text_tokens(block.text) + (len(block.opaque or "") // 4 if block.type == "reasoning" else 0)
        elif isinstance(block, ToolUseBlock):
            text += text_tokens(block.input) + text_tokens(block.name) + 8
        elif isinstance(block, ToolResultBlock):
            inner = size_of(block.content)
            text, media = text + inner.text + 8, media + inner.media
        elif isinstance(block, BlobBlock) and block.media_type.startswith("text/"):
            text += block.size // 4
        else:
            media += 1
    return Size(text, media)


def tokens_of(blocks: Iterable[Block | ResultContent]) -> int:
    """Estimate blocks, all media shown."""
    size = size_of(blocks)
    return size.tokens(size.media)


def sum_of(sizes: Iterable[Size]) -> Size:
    """Add sizes of messages up."""
    text = media = 0
    for size in sizes:
        text += size.text + MESSAGE_TOKENS
        media += size.media
    return Size(text, media)


def fixed_tokens(system: str | tuple[SystemPart, ...], tools: Sequence[ToolSpec]) -> int:
    """Estimate what every request begins with."""
    parts = [system] if isinstance(system, str) else [part.text for part in system]
    described = (text_tokens(t.name) + text_tokens(t.description) + text_tokens(t.input_schema) + 8 for t in tools)
    return sum(map(text_tokens, parts)) + sum(described)


def request_tokens(request: ModelRequest) -> int:
    """Estimate a whole request."""
    size = sum_of(size_of(message.blocks) for message in request.messages)
    return size.tokens(size.media) + fixed_tokens(request.system, request.tools)
