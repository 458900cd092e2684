"""Read a message as it streams: frames of JSON in, chunks out. Pure.

When is it complete? When the model said why it stopped (``stop_reason``): all of the reply stands before that, and
``message_stop`` adds nothing. A stream that ends before was cut. A pause (``pause_turn``: the vendor's own tools take
long) is no end: ``paused`` is then what the model said so far, to be sent back, and the next answer goes on with the
same reply.

Format: https://platform.claude.com/docs/en/build-with-claude/streaming.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from kode.core.jsontext import dump
from kode.core.kernel.message import Usage
from kode.core.kernel.words import StopReason
from kode.core.provider.assemble import count
from kode.core.provider.base import (
    BlockKind,
    BlockStart,
    BlockStop,
    Chunk,
    InputDelta,
    ReasoningDelta,
    ReplyEnd,
    TextDelta,
)
from kode.core.provider.wire.frames import load, number
from kode.core.provider.wire.reading import Reading, kept, text_in

__all__ = ["MAX_PAUSES", "MessagesReply", "read_usage"]

MAX_PAUSES = 20
"""How often one reply may pause."""

_STOPS = {
    "max_tokens": StopReason.LENGTH,
    # The window was full before the model was done: for who reads it the same as a bound on the reply.
    "model_context_window_exceeded": StopReason.LENGTH,
    "refusal": StopReason.REFUSAL,
}
"""All other words mean the end of a turn."""
_KINDS: dict[str, BlockKind] = {
    "text": "text",
    "thinking": "reasoning",
    "redacted_thinking": "reasoning",
    "tool_use": "tool_use",
}
_GROWS = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
    "input_json_delta": "partial_json",
}
"""Where each kind of delta has its text."""
_OF: dict[str, BlockKind] = {
    "text": "text",
    "thinking": "reasoning",
    "signature": "reasoning",
    "partial_json": "tool_use",
}
"""What may grow by it."""


@dataclass(slots=True)
class _Block:
    """A block in the making."""

    raw: dict[str, Any]
    """As it began."""
    place: int | None
    """In our reply; None: KODE has no type for it."""
    as_text: bool = False
    """Arguments of the tool that stands for the answer."""
    open: bool = True
    signature: str = ""
    input_came: bool = False
    citations: list[Any] = field(default_factory=list)
    """Sources of its text, kept with it."""
    pieces: dict[str, list[str]] = field(default_factory=dict)
    """What it grew by, kept only for a reply that may pause."""

    def takes(self, name: str | None) -> bool:
        """Whether it may grow by this."""
        kind = _KINDS.get(text_in(self.raw, "type"))
        return name is None or (self.open and (kind is None or kind == _OF[name]))


class MessagesReply(Reading):
    """Fed with the data of each event, gives chunks.

    Args:
        who: The provider's name, for errors.
        *more: See ``Reading``.
        may_pause: Keep what is needed to go on behind a pause.
        output_tool: The tool whose arguments are read as text.
        **named: See ``Reading``.
    """

    __slots__ = ("_base", "_blocks", "_keep", "_output_tool", "_pauses", "_said", "_seen")

    def __init__(
        self,
        who: str = "anthropic",
        *more: Any,
        may_pause: bool = False,
        output_tool: str | None = None,
        **named: Any,
    ) -> None:
        super().__init__(who, *more, **named)
        self._keep = may_pause
        self._output_tool = output_tool
        self._blocks: dict[Any, _Block] = {}  # by the vendor's index
        self._said: list[dict[str, Any]] = []  # by answers that paused
        self._pauses = 0
        self._base = self._seen = Usage()  # of answers before this one; of this one

    def feed(self, data: str) -> list[Chunk]:
        """Read one frame. What cannot be read is a ``ReplyError``, code ``protocol``.

        Behind a complete reply nothing can fail any more.
        """
        if self.over:
            return []
        frame = load(data)
        if frame is None:
            if self.finished:
                return []
            return self._no_json(data, retryable=bool(self._head[0] or self._blocks))
        kind = frame.get("type")
        if kind == "error" or ("error" in frame and kind is None):
            if self.finished:
                return []
            return self._refused(frame)
        out: list[Chunk] = []
        handler = self._READERS.get(kind) if isinstance(kind, str) else None
        if handler is not None:  # ``ping``, and what the vendor may add, have none
            handler(self, frame, out)
        return out

    def end(self) -> list[Chunk]:
        """The answer is over: close what is open, and end the reply if it is complete."""
        if self._stop is None:
            return []  # without ReplyEnd it counts as cut
        if self._stop == "tool_use" and not any(each.raw.get("type") == "tool_use" for each in self._blocks.values()):
            return self._fail("protocol", "stopped with 'tool_use', but sent no call; ask again.", retryable=True)
        out: list[Chunk] = []
        for block in self._blocks.values():
            if block.open:
                self._stopped(block, out)
        if self.paused is None:
            id, model = self._head
            raw = self._shown(self._stop)
            out.append(ReplyEnd(_STOPS.get(self._stop, StopReason.END_TURN), raw, model, id))
        return out

    @property
    def paused(self) -> list[dict[str, Any]] | None:
        """What the model said so far, if it made a pause that may be ended."""
        if self._stop != "pause_turn" or not self._keep or self._pauses >= MAX_PAUSES:
            return None
        return [*self._said, *(_whole(block) for block in self._blocks.values())]

    def resume(self) -> None:
        """Go on with the answer to a request that ends with ``paused``."""
        self._said = self.paused or []
        self._pauses += 1
        self._base, self._seen = self._base + self._seen, Usage()
        self._blocks.clear()
        self._stop = None
        self.over = False

    # ---- frames

    def _start(self, frame: dict[str, Any], out: list[Chunk]) -> None:
        message = frame.get("message")
        if isinstance(message, dict):
            self._name(message.get("id"), message.get("model"))
            self._usage(message, out)

    def _whole_message(self, frame: dict[str, Any], out: list[Chunk]) -> None:
        """A message in one piece, from a server that does not stream."""
        self._name(frame.get("id"), frame.get("model"))
        content = frame.get("content")
        for index, block in enumerate(content if isinstance(content, list) else []):
            self._begin({"index": index, "content_block": block}, out)
            self._close({"index": index}, out)
        self._delta_of_message({"delta": frame, "usage": frame.get("usage")}, out)
        self._over({}, out)

    def _begin(self, frame: dict[str, Any], out: list[Chunk]) -> None:
        raw, index = frame.get("content_block"), frame.get("index")
        if not isinstance(raw, dict) or not isinstance(index, int):
            return
        kind = _KINDS.get(text_in(raw, "type"))
        block = self._blocks[index] = _Block(raw, None if kind is None else self._count)
        if kind is None:
            return
        block.as_text = kind == "tool_use" and raw.get("name") == self._output_tool
        out.append(_started(raw, self._count, "text" if block.as_text else kind))
        self._count += 1
        for name in ("text", "thinking", "signature"):
            self._grow(block, name, text_in(raw, name), out)

    def _delta(self, frame: dict[str, Any], out: list[Chunk]) -> None:
        delta, block = frame.get("delta"), self._blocks.get(_key(frame))
        if not isinstance(delta, dict):
            return
        name = _GROWS.get(text_in(delta, "type"))
        if block is None or not block.takes(name):
            what = "sent a part of a block that it had not begun, or had ended, or that is of another kind; ask again."
            out += self._fail("protocol", what, retryable=True)
            return
        if "citation" in delta:
            block.citations.append(delta["citation"])
        if name is not None:
            text = text_in(delta, name)
            if self._keep and text:
                block.pieces.setdefault(name, []).append(text)
            self._grow(block, name, text, out)

    def _grow(self, block: _Block, name: str, text: str, out: list[Chunk]) -> None:
        place = block.place
        if place is None or not text:
            return
        if name == "signature":
            block.signature = text  # sent once it is known to be the last
        elif name == "thinking":
            out.append(ReasoningDelta(place, text))
        elif name == "text":
            out.append(TextDelta(place, text))
        else:
            block.input_came = True
            out.append(TextDelta(place, text) if block.as_text else InputDelta(place, text))

    def _close(self, frame: dict[str, Any], out: list[Chunk]) -> None:
        block = self._blocks.get(_key(frame))
        if block is not None and block.open:
            self._stopped(block, out)

    def _stopped(self, block: _Block, out: list[Chunk]) -> None:
        block.open = False
        place, given = block.place, block.raw.get("input")
        if place is None:
            return
        if given and not block.input_came and isinstance(given, dict):
            self._grow(block, "partial_json", json.dumps(given), out)
        if block.signature:
            out.append(ReasoningDelta(place, "", block.signature))
        given = block.raw.get("citations")
        cited = [*(given if isinstance(given, list) else ()), *block.citations]
        out.append(BlockStop(place, kept({"citations": cited}) if cited else None))

    def _delta_of_message(self, frame: dict[str, Any], out: list[Chunk]) -> None:
        delta = frame.get("delta")
        stop = text_in(delta, "stop_reason") if isinstance(delta, dict) else ""
        self._usage(frame, out)
        if stop:
            self._stop = stop

    def _over(self, frame: dict[str, Any], out: list[Chunk]) -> None:
        self.over = True
        out += self.end()

    _READERS: ClassVar[dict[str, Callable[[MessagesReply, dict[str, Any], list[Chunk]], None]]] = {
        "message_start": _start,
        "content_block_start": _begin,
        "content_block_delta": _delta,
        "content_block_stop": _close,
        "message_delta": _delta_of_message,
        "message_stop": _over,
        "message": _whole_message,
    }

    # ---- pieces

    def _usage(self, frame: dict[str, Any], out: list[Chunk]) -> None:
        usage = frame.get("usage")
        if isinstance(usage, dict):
            self._seen = read_usage(usage, self._seen)
            out.append(self._used(self._base + self._seen))


def _key(frame: dict[str, Any]) -> int | None:
    index = frame.get("index")
    return index if isinstance(index, int) else None


def _started(raw: dict[str, Any], place: int, kind: BlockKind) -> BlockStart:
    if raw.get("type") == "redacted_thinking":
        return BlockStart(place, kind, opaque=dump({"data": text_in(raw, "data")}), redacted=True)
    if kind == "tool_use":
        return BlockStart(place, kind, text_in(raw, "id"), text_in(raw, "name"))
    return BlockStart(place, kind)


def _whole(block: _Block) -> dict[str, Any]:
    """Give a block as the vendor wants it back."""
    whole = dict(block.raw)
    for name, pieces in block.pieces.items():
        if name == "partial_json":
            whole["input"] = load("".join(pieces)) or {}
        elif name == "signature":
            whole[name] = pieces[-1]
        else:
            whole[name] = text_in(whole, name) + "".join(pieces)
    return whole


def read_usage(usage: dict[str, Any], before: Usage = Usage()) -> Usage:
    """Read what was used; the numbers are totals, and one that is missing stays what it was before.

    The vendor counts apart what went through its cache; here it is part of the input.
    """
    read = number(usage, "cache_read_input_tokens") or before.cache_read
    write = number(usage, "cache_creation_input_tokens") or before.cache_write
    fresh = number(usage, "input_tokens") or before.input - before.cache_read - before.cache_write
    return Usage(
        input=count(fresh + read + write),
        output=number(usage, "output_tokens") or before.output,
        cache_read=read,
        cache_write=write,
        reasoning=number(usage.get("output_tokens_details"), "thinking_tokens") or before.reasoning,
    )
