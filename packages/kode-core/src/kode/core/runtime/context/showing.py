"""The window as a model is shown it: old media as a line of text, giant messages as their head and tail.

The history stays as it is. What a provider signed, and reasoning, is never touched.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from kode.core.kernel.message import (
    BlobBlock,
    Block,
    Json,
    MediaBlock,
    Message,
    ResultContent,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from kode.core.kernel.window import Window
from kode.core.runtime.context.estimate import Size, size_of, text_tokens
from kode.core.runtime.context.shorten import shorten

__all__ = ["Showing", "holds_media", "marker"]


LEAST_SHOWN = 30
"""Tokens of a text below which a part of it says too little."""


@dataclass(slots=True)
class Showing:
    """Looks at each message once, and remembers the few that cannot be shown as they are."""

    keep_media: int
    max_message: int
    """Tokens."""
    _sizes: dict[int, Size] = field(default_factory=dict)
    """By sequence number, whole: those that somebody had to know."""
    _special: list[int] = field(default_factory=list)
    """Messages with media or blobs, or too long; rising."""
    _made: dict[int, tuple[int, Message]] = field(default_factory=dict)
    """How they were shown, and with how many media blocks."""
    _scanned: tuple[Window, int] | None = None
    """The window looked at last, and up to which message."""

    def look(self, window: Window, messages: Sequence[Message]) -> None:
        """Look at what is new in a window."""
        known = self._scanned[1] if self._scanned is not None and self._scanned[0] == window else None
        if known is None:
            # A summary has no number of its own, it is -1: another one may stand in front now.
            known = -2
            seqs = {message.seq for message in messages if message.seq >= 0}
            self._sizes = {seq: size for seq, size in self._sizes.items() if seq in seqs}
            self._made = {seq: made for seq, made in self._made.items() if seq in seqs}
            self._special.clear()
        for message in reversed(messages):
            if message.seq <= known:
                break
            if self._is_special(message):
                self._special.append(message.seq)
        self._special.sort()
        self._scanned = (window, messages[-1].seq if messages else known)

    def _is_special(self, message: Message) -> bool:
        blocks = message.blocks
        if len(blocks) == 1 and isinstance(blocks[0], TextBlock) and 2 * len(blocks[0].text) <= self.max_message:
            return False  # most are such, and there may be thousands; no text has two tokens a character
        return holds_media(message) or self._whole(message).text > self.max_message

    def size(self, message: Message) -> Size:
        """The size of a message of the window, as it is shown."""
        size = self._whole(message)
        return size if size.text <= self.max_message else Size(self.max_message, size.media)

    def _whole(self, message: Message) -> Size:
        found = self._sizes.get(message.seq)
        if found is None:
            found = self._sizes[message.seq] = size_of(message.blocks)
        return found

    def holding(self, messages: Sequence[Message]) -> list[int]:
        """Places among the messages looked at last of those that may hold media or blobs; rising."""
        return [bisect_left(messages, seq, key=lambda message: message.seq) for seq in self._special]

    def shown(self, messages: list[Message]) -> list[Message]:
        """The messages as a model gets them; those that need no change are the same objects.

        Media that came since the last reply were never shown: they are, however many.
        """
        if not self._special:
            return messages
        shown = list(messages)
        left = self.keep_media
        replied = next((message.seq for message in reversed(messages) if message.role == "assistant"), -1)
        for seq in reversed(self._special):
            at = bisect_left(messages, seq, key=lambda message: message.seq)
            media = self.size(messages[at]).media
            keep = media if seq > replied else min(left, media)
            left = max(left - keep, 0)
            shown[at] = self._fit(messages[at], keep)
        return shown

    def _fit(self, message: Message, keep: int) -> Message:
        """One message with its newest ``keep`` media blocks, within the bound."""
        found = self._made.get(message.seq)
        if found is None or found[0] != keep:
            hide = self.size(message).media - keep
            blocks = _hidden(message.blocks, hide)[0] if hide else message.blocks
            size = size_of(blocks).text
            if size > self.max_message:
                blocks = tuple(_all_bounded(blocks, self.max_message, size))
            made = message if blocks is message.blocks else replace(message, blocks=blocks)
            found = self._made[message.seq] = (keep, made)
        return found[1]


def holds_media(message: Message) -> bool:
    """Whether something stands in it that is no text: media, or bytes that lie apart."""
    return any(
        isinstance(block, MediaBlock | BlobBlock)
        or (isinstance(block, ToolResultBlock) and not all(isinstance(one, TextBlock) for one in block.content))
        for block in message.blocks
    )


def _hidden(blocks: Sequence[Block], hide: int) -> tuple[tuple[Block, ...], int]:
    """Blocks with the first ``hide`` media blocks as text, and how many are still to be hidden."""
    made: list[Block] = []
    for block in blocks:
        if isinstance(block, ToolResultBlock):
            content, hide = _hidden(block.content, hide)
            kept: tuple[ResultContent, ...] = tuple(b for b in content if isinstance(b, ResultContent))
            made.append(replace(block, content=kept))
        elif hide and _is_media(block):
            made.append(TextBlock(f"{marker(block)} (not shown any more)"))
            hide -= 1
        else:
            made.append(block)
    return tuple(made), hide


def _is_media(block: Block) -> bool:
    return isinstance(block, MediaBlock) or (isinstance(block, BlobBlock) and not block.media_type.startswith("text/"))


def marker(block: Block) -> str:
    """The line that stands for media."""
    said = [getattr(block, name, None) for name in ("name", "media_type", "url", "file_id")]
    kind = "image" if block.type == "blob" else block.type
    named = ", ".join(shorten(str(one), 40) for one in said if one)
    return f"[{kind}{': ' + named if named else ''}]"


def _all_bounded(blocks: Sequence[Block], allowed: int, size: int) -> list[Block]:
    """Blocks of a message of ``size`` tokens that may have ``allowed``: of many small texts, the first and the last."""
    texts = [i for i, block in enumerate(blocks) if isinstance(block, TextBlock) and block.opaque is None]
    share = size_of(blocks[i] for i in texts).text * allowed // size
    keep = max(share // LEAST_SHOWN, 3)
    if len(texts) <= keep:
        return [_bounded(block, allowed, size) for block in blocks]
    gone = texts[keep * 2 // 3 : len(texts) - keep // 3]
    hidden, stay = set(gone), set(texts).difference(gone)
    left = max(size_of(blocks[i] for i in stay).text, share)
    made: list[Block] = []
    for i, block in enumerate(blocks):
        if i == gone[0]:
            made.append(TextBlock(f"… {len(gone):,} parts not shown …"))
        elif i in stay:
            made.append(_bounded(block, share, left))
        elif i not in hidden:
            made.append(_bounded(block, allowed, size))
    return made


def _bounded(block: Block, allowed: int, size: int) -> Block:
    """One block of a message of ``size`` tokens that may have ``allowed``: each keeps its share."""
    if isinstance(block, TextBlock) and block.opaque is None:
        return TextBlock(shorten(block.text, text_tokens(block.text) * allowed // size))
    if isinstance(block, ToolResultBlock):
        content = _all_bounded(block.content, allowed, size)
        return replace(block, content=tuple(one for one in content if isinstance(one, ResultContent)))
    if isinstance(block, ToolUseBlock) and block.opaque is None and len(block.input) > 1_000:
        text = shorten(block.input, text_tokens(block.input) * allowed // size)
        return block if text == block.input else replace(block, input=Json(json.dumps({"not shown whole": text})))
    return block
