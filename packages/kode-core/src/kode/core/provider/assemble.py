"""Fold a stream of chunks into a reply. Pure: the same chunks, cut however, give the same reply.

``Assembler`` is fed chunk by chunk, O(1) each, and keeps pieces per block, so that who attaches in mid-stream can be
given the text so far. ``fold`` does a whole stream at once. What is not a complete reply never becomes a ``Reply``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from kode.core.errors import KodeError, ProviderError
from kode.core.jsontext import dump, parse
from kode.core.kernel.message import Block, Json, ReasoningBlock, TextBlock, ToolUseBlock, Usage
from kode.core.kernel.words import StopReason
from kode.core.provider.base import (
    BlockKind,
    BlockStart,
    BlockStop,
    BlockWhole,
    Chunk,
    InputDelta,
    ReasoningDelta,
    ReplyEnd,
    ReplyError,
    TextDelta,
    UsageReport,
)
from kode.core.provider.failure import provider_error

__all__ = ["Assembler", "BadInput", "Reply", "Shown", "fold"]


@dataclass(frozen=True, slots=True)
class BadInput:
    """Arguments of a call that are no JSON object. Its block carries ``{}``; the plan's verdict is ``invalid``."""

    block: int
    raw: str
    """What the model wrote."""
    reason: str


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete reply. Ids of its calls are neither empty nor given twice."""

    blocks: tuple[Block, ...]
    stop: StopReason = StopReason.END_TURN
    usage: Usage = Usage()
    provider: str = ""
    model: str = ""
    raw_stop: str = ""
    id: str | None = None
    bad_inputs: tuple[BadInput, ...] = ()

    @property
    def text(self) -> str:
        """All its text."""
        return "".join(block.text for block in self.blocks if isinstance(block, TextBlock))

    @property
    def calls(self) -> tuple[tuple[int, ToolUseBlock], ...]:
        """Its tool calls, each with the index of its block."""
        return tuple((i, block) for i, block in enumerate(self.blocks) if isinstance(block, ToolUseBlock))


@dataclass(slots=True)
class Shown:
    """What a watcher is shown: text at a place. ``opens``: with this the block begins."""

    kind: Literal["text", "think"]
    block: int
    offset: int
    """Of ``text`` in its block, in code points."""
    text: str
    opens: bool = False


class _Part:
    """A block in the making."""

    __slots__ = ("block", "held", "kind", "length", "open", "pieces", "signature", "start")

    def __init__(self, start: BlockStart) -> None:
        self.start = start
        self.kind: BlockKind = start.kind
        self.open = True
        self.pieces: list[str] = []
        self.length = 0
        """Code points in ``pieces``."""
        self.held = ""
        """Half of a surrogate pair, waiting for the other."""
        self.signature: list[str] = []
        self.block: Block | None = None
        """The finished block, where it came in one piece."""

    def add(self, text: str) -> str:
        """Append text and return it as it was appended: well-formed, pairs joined."""
        if self.held or not text.isascii():
            text, self.held = _mend(self.held + text)
        if text:
            self.pieces.append(text)
            self.length += len(text)
        return text

    def close(self) -> None:
        """No more will come: a half pair stays half and becomes U+FFFD."""
        self.open = False
        if self.held:
            self.held = ""
            self.pieces.append("\ufffd")
            self.length += 1

    @property
    def text(self) -> str:
        """All of it, joined once however often it is asked for."""
        if len(self.pieces) > 1:
            self.pieces[:] = ["".join(self.pieces)]
        return self.pieces[0] if self.pieces else ""


class Assembler:
    """Fold chunks as they come. One per attempt; it cannot be used again.

    Args:
        provider: Name of the provider, for the reply and for errors.
        model: Model that was asked; ``ReplyEnd`` may name it more exactly.
    """

    __slots__ = ("_end", "_error", "_parts", "model", "provider", "usage")

    def __init__(self, provider: str = "", model: str = "") -> None:
        self.provider = provider
        self.model = model
        self.usage = Usage()
        """What was used so far, also by a reply that fails."""
        self._parts: list[_Part] = []
        self._end: ReplyEnd | None = None
        self._error: ProviderError | None = None

    @property
    def ended(self) -> bool:
        """Whether the reply is complete or failed: nothing more may come."""
        return self._end is not None or self._error is not None

    def feed(self, chunk: Chunk) -> Shown | None:
        """Take one chunk and tell what of it a watcher is shown.

        Raises:
            ProviderError: Code ``protocol``: the chunk does not fit what came before. The reply is lost.
        """
        if self._end is not None or self._error is not None:
            raise self._broken(f"sent {type(chunk).__name__} after the end of the reply")
        handler = _HANDLERS.get(type(chunk))
        if handler is None:
            raise self._broken(f"sent {type(chunk).__name__}, which is no chunk")
        return handler(self, chunk)

    def so_far(self) -> tuple[Shown, ...]:
        """Everything a watcher has been shown, one entry per block: for who attaches now."""
        shown = []
        for index, part in enumerate(self._parts):
            if part.kind != "tool_use":
                kind: Literal["text", "think"] = "text" if part.kind == "text" else "think"
                shown.append(Shown(kind, index, 0, part.text, True))
        return tuple(shown)

    def finish(self) -> Reply:
        """Give the reply, once the stream has ended.

        Raises:
            ProviderError: The error that the vendor reported, or ``truncated``: the stream ended before the reply.
        """
        if self._error is not None:
            raise self._error
        end = self._end
        if end is None:
            raise provider_error(
                "truncated",
                f"The stream of {self._who} ended before the reply did, in block {len(self._parts) - 1}"
                " (-1: before the first); what came of it is not a reply.",
                provider=self.provider or None,
                model=self.model or None,
            )
        blocks, bad = _blocks(self._parts)
        model = end.model or self.model
        return Reply(blocks, end.stop, self.usage, self.provider, model, end.raw, end.id, bad)
