"""Fold a stream of chunks into a reply. Pure: the same chunks, cut however, give the same reply.

``Assembler`` is fed chunk by chunk, O(1) each, and keeps pieces per block, so that who attaches in mid-stream
can be given the text so far. ``fold`` does a whole stream at once. A cut stream never becomes a ``Reply``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from kode.core.errors import KodeError, ProviderError
from kode.core.jsontext import canonical, well_formed
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

__all__ = ["MAX_COUNT", "Assembler", "BadInput", "Reply", "Shown", "count", "fold"]

MAX_COUNT: Final = 2**53 - 1
"""What one number of a usage may be: every reader of JSON, and every store, holds sums of such exactly."""


@dataclass(frozen=True, slots=True)
class BadInput:
    """Arguments of a call that are no JSON object; its block carries ``{}``. For the verdict ``invalid``."""

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


_Kind: TypeAlias = BlockKind | Literal["whole"]


class _Part:
    """A block in the making."""

    __slots__ = ("held", "kind", "length", "open", "pieces", "signature", "start", "whole")

    def __init__(self, kind: _Kind, start: BlockStart | None, whole: Block | None) -> None:
        self.kind = kind
        self.start = start
        self.whole = whole
        self.open = whole is None
        self.pieces: list[str] = []
        if isinstance(whole, (TextBlock, ReasoningBlock)):
            self.pieces.append(whole.text)
        self.length = 0  # code points in `pieces`
        self.held = ""  # half of a surrogate pair, waiting for the other
        self.signature: list[str] = []

    def add(self, text: str) -> str:
        """Append text and return it as it was appended: well-formed, pairs joined."""
        if self.held or not text.isascii():
            text, self.held = _mend(self.held + text)
        if text:
            self.pieces.append(text)
            self.length += len(text)
        return text

    def close(self) -> str:
        """End the block and return what that adds: a half pair stays half and becomes U+FFFD."""
        self.open = False
        rest = "\ufffd" if self.held else ""
        if rest:
            self.held = ""
            self.pieces.append(rest)
            self.length += 1
        return rest

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
        self.usage = _NOTHING
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
        if self.ended:
            raise self._broken(f"sent {type(chunk).__name__} after the end of the reply")
        # The most frequent first: this runs once per token.
        if isinstance(chunk, TextDelta):
            return self._grow(chunk.index, "text", chunk.text)
        if isinstance(chunk, ReasoningDelta):
            return self._think(chunk)
        if isinstance(chunk, InputDelta):
            self._grow(chunk.index, "tool_use", chunk.json)
        elif isinstance(chunk, BlockStart):
            return self._begin(chunk.index, _Part(chunk.kind, chunk, None))
        elif isinstance(chunk, BlockWhole):
            return self._begin(chunk.index, _Part("whole", None, _well_formed(chunk.block)))
        elif isinstance(chunk, BlockStop):
            return self._stop(chunk)
        else:
            self._settle(chunk)
        return None

    def so_far(self) -> tuple[Shown, ...]:
        """Everything a watcher has been shown, one entry per block: for who attaches now."""
        shown = (_shown(index, part, part.text, 0, True) for index, part in enumerate(self._parts))
        return tuple(entry for entry in shown if entry is not None)

    def finish(self) -> Reply:
        """Give the reply, once the stream has ended.

        Raises:
            ProviderError: What the vendor reported, or ``truncated``: the stream ended before the reply.
        """
        if self._error is not None:
            raise self._error
        end = self._end
        if end is None:
            raise self._failed(
                "truncated",
                f"The stream of {self.provider or 'the provider'} ended in the middle of the reply, after"
                f" {len(self._parts)} blocks. What came of it was dropped; ask again.",
            )
        blocks, bad = _blocks(self._parts, end.stop)
        return Reply(
            blocks,
            end.stop,
            self.usage,
            end.provider or self.provider,
            end.model or self.model,
            end.raw,
            end.id,
            bad,
        )

    def _begin(self, index: int, part: _Part) -> Shown | None:
        if index != len(self._parts):
            raise self._broken(
                f"began block {index} where block {len(self._parts)} comes next: blocks are numbered from 0"
                " without gaps"
            )
        self._parts.append(part)
        return _shown(index, part, part.text, 0, True)

    def _part(self, index: int, kind: BlockKind | None) -> _Part:
        """Find the open block that a chunk is for."""
        parts = self._parts
        if not 0 <= index < len(parts):
            raise self._broken(f"sent a part of block {index}, which was never begun")
        part = parts[index]
        if not part.open:
            raise self._broken(f"sent more of block {index}, which was complete")
        if kind is not None and part.kind != kind:
            raise self._broken(f"sent {kind} for block {index}, which is {part.kind}")
        return part

    def _grow(self, index: int, kind: BlockKind, text: str) -> Shown | None:
        part = self._part(index, kind)
        offset = part.length
        added = part.add(text)
        return _shown(index, part, added, offset, False) if added else None

    def _think(self, chunk: ReasoningDelta) -> Shown | None:
        if chunk.signature is not None:
            self._part(chunk.index, "reasoning").signature.append(chunk.signature)
        return self._grow(chunk.index, "reasoning", chunk.text)

    def _stop(self, chunk: BlockStop) -> Shown | None:
        part = self._part(chunk.index, None)
        offset = part.length
        rest = part.close()
        if chunk.opaque is not None and part.start is not None:
            part.start = replace(part.start, opaque=chunk.opaque)
        return _shown(chunk.index, part, rest, offset, False) if rest else None

    def _settle(self, chunk: UsageReport | ReplyEnd | ReplyError) -> None:
        if isinstance(chunk, UsageReport):
            self.usage = _larger(self.usage, chunk.usage)
        elif isinstance(chunk, ReplyEnd):
            self._end = chunk
        elif isinstance(chunk, ReplyError):
            self._error = chunk.error
        else:
            raise self._broken(f"sent {type(chunk).__name__}, which is no chunk")

    def _broken(self, what: str) -> ProviderError:
        self._error = self._failed(
            "protocol", f"{self.provider or 'The provider'} {what}. Report it to the author of the provider."
        )
        return self._error

    def _failed(self, code: str, message: str) -> ProviderError:
        return provider_error(code, message, provider=self.provider or None, model=self.model or None)


def fold(chunks: Iterable[Chunk], *, provider: str = "", model: str = "") -> Reply:
    """Fold a whole stream.

    Raises:
        ProviderError: As ``Assembler.feed`` and ``Assembler.finish``.
    """
    assembler = Assembler(provider, model)
    for chunk in chunks:
        assembler.feed(chunk)
    return assembler.finish()


# ---- pieces ---------------------------------------------------------------------------------------------


def _shown(index: int, part: _Part, text: str, offset: int, opens: bool) -> Shown | None:
    kind = part.kind
    if kind == "text" or (kind == "whole" and isinstance(part.whole, TextBlock)):
        return Shown("text", index, offset, text, opens)
    if kind == "reasoning" or (kind == "whole" and isinstance(part.whole, ReasoningBlock)):
        return Shown("think", index, offset, text, opens)
    return None


def count(value: object) -> int:
    """Read a number that a provider counted, from 0 to ``MAX_COUNT``; what is none, or no whole one, is 0.

    Usage is stored, and added up: a number with thousands of digits could be written but not read back.
    """
    if type(value) is not int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            return 0
    return min(max(value, 0), MAX_COUNT)


def _larger(a: Usage, b: Usage) -> Usage:
    return Usage(
        max(a.input, count(b.input)),
        max(a.output, count(b.output)),
        max(a.cache_read, count(b.cache_read)),
        max(a.cache_write, count(b.cache_write)),
        max(a.reasoning, count(b.reasoning)),
        max(a.cost_nanos, count(b.cost_nanos)),
    )


_NOTHING = Usage()


def _mend(text: str) -> tuple[str, str]:
    """Join surrogate pairs, replace lone halves; a half at the very end is given back, to wait for more.

    Vendors cut JSON strings at UTF-16 units, so that the halves of one character come in two chunks.
    """
    held = text[-1] if "\ud800" <= text[-1] <= "\udbff" else ""
    return well_formed(text[:-1] if held else text), held


def _well_formed(block: Block) -> Block:
    if isinstance(block, (TextBlock, ReasoningBlock)) and not block.text.isascii():
        return replace(block, text=well_formed(block.text))
    return block


def _blocks(parts: list[_Part], stop: StopReason) -> tuple[tuple[Block, ...], tuple[BadInput, ...]]:
    blocks: list[Block] = []
    bad: list[BadInput] = []
    ids: set[str] = set()
    last = len(parts) - 1
    for index, part in enumerate(parts):
        block = part.whole
        if block is None:
            part.close()
            block, reason = _block(part, cut=stop is StopReason.LENGTH and index == last)
            if reason is not None:
                bad.append(BadInput(index, part.text, reason))
        if isinstance(block, ToolUseBlock):
            block = _own_id(block, index, ids)
        blocks.append(block)
    return tuple(blocks), tuple(bad)


def _block(part: _Part, *, cut: bool) -> tuple[Block, str | None]:
    """Finish a block; with a reason if it is a call whose arguments cannot be used."""
    start = part.start
    assert start is not None
    if start.kind == "text":
        return TextBlock(part.text, start.opaque), None
    if start.kind == "reasoning":
        signature = "".join(part.signature) or None
        return ReasoningBlock(part.text, signature, start.redacted, start.opaque), None
    arguments, reason = _arguments(part.text)
    if cut and (reason is not None or not part.text):
        # Without this a call cut before its arguments would look like one that needs none.
        arguments, reason = _EMPTY, "The reply reached its length limit in the middle of the arguments."
    return ToolUseBlock(start.id, start.name, arguments, start.opaque), reason


_EMPTY = Json("{}")


def _arguments(raw: str) -> tuple[Json, str | None]:
    """Bring arguments into canonical form. Nothing at all, or ``null``, means a call without arguments."""
    if not raw.strip():
        return _EMPTY, None
    try:
        text = canonical(raw)
    except KodeError as error:
        return _EMPTY, error.message
    if text == "null":
        return _EMPTY, None
    if not text.startswith("{"):
        return _EMPTY, "The arguments are JSON, but not an object."
    return text, None


def _own_id(block: ToolUseBlock, index: int, ids: set[str]) -> ToolUseBlock:
    """Keep the vendor's id if it tells this call from the others of the reply, else make one that does."""
    own = block.id
    while not own or own in ids:
        own = f"{own or 'call'}-{index}"
    ids.add(own)
    return block if own == block.id else replace(block, id=own)
