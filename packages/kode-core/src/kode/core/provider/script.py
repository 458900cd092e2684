"""What a scripted provider answers: turns, made by a few constructors.

say("Hello")                          one text
call("fs_read", {"path": "a"})        one tool call
calls(("fs_read", {...}), ...)        several at once
fail("rate_limited", retry_after_s=2) an error instead of a reply
delay(0.05, say("Late"))              the same turn, later
cut(say("Half", chunk=1), 3)          the stream breaks off after 3 chunks
broken(say("Half", chunk=1), 3, fail("overloaded"))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import anyio

from kode.core.errors import ProviderError, UsageError
from kode.core.jsontext import dump
from kode.core.kernel.message import (
    Block,
    Json,
    ReasoningBlock,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
    Usage,
)
from kode.core.kernel.words import StopReason
from kode.core.provider.base import (
    BlockStart,
    BlockStop,
    BlockWhole,
    Chunk,
    InputDelta,
    ModelRequest,
    ReasoningDelta,
    ReplyEnd,
    ReplyError,
    TextDelta,
    UsageReport,
)
from kode.core.provider.failure import provider_error

__all__ = [
    "Expect",
    "Gate",
    "Turn",
    "broken",
    "call",
    "calls",
    "cut",
    "delay",
    "fail",
    "last_text",
    "say",
    "text_of",
    "unmet",
]

Expect: TypeAlias = str | int | Callable[[ModelRequest], object] | Sequence[Any]
"""What a turn wants to be asked: a part of the last message's text, tool results included; a number of
messages; a function that returns False or raises AssertionError if it is not content; or several of these."""


class Gate:
    """Holds a stream at a chunk until let go: ``await gate.reached()``, look, ``gate.release()``."""

    def __init__(self) -> None:
        self._reached = anyio.Event()
        self._released = anyio.Event()

    async def reached(self) -> None:
        """Wait until a stream stands at the gate."""
        await self._reached.wait()

    def release(self) -> None:
        """Let it go on, and whoever comes later."""
        self._released.set()

    async def pause(self) -> None:
        """Stand at the gate. Called by the stream."""
        self._reached.set()
        await self._released.wait()


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer of a script."""

    blocks: tuple[Block, ...] = ()
    stop: StopReason = StopReason.END_TURN
    usage: Usage | None = None
    """None: what the provider gives for every reply."""
    chunk: int | None = None
    """Characters per delta of text, reasoning and arguments; None: one delta of text, and all else whole."""
    burst: int = 1
    """Deltas that come together."""
    delay_s: float = 0.0
    """Before the first chunk."""
    gap_s: float = 0.0
    """Between bursts."""
    error: ProviderError | None = None
    end_at: int | None = None
    """Chunks before the stream ends with ``error`` or, without one, breaks off."""
    gate: Gate | None = None
    gate_at: int = 0
    """Chunks before the gate."""
    expect: Expect | None = None
    raw: bool = False
    """Send arguments in fragments as they are written, so that wrong ones are judged by the fold."""
    _made: dict[Usage, tuple[Chunk, ...]] = field(init=False, default_factory=dict, repr=False, compare=False)

    @property
    def paced(self) -> bool:
        """Whether something lies between its chunks."""
        return self.chunk is not None or self.gap_s > 0 or self.gate is not None

    def chunks(self, usage: Usage) -> tuple[Chunk, ...]:
        """Give the whole stream, reporting ``usage``. Made once: a turn may be given a thousand times."""
        made = self._made.get(usage)
        if made is None:
            made = self._make(usage)
            if self.error is None:
                self._made[usage] = made
        return made

    def _make(self, usage: Usage) -> tuple[Chunk, ...]:
        chunks: list[Chunk] = []
        if self.error is None or self.end_at is not None:
            for index, block in enumerate(self.blocks):
                chunks += _stream(index, block, self.chunk, self.raw)
            chunks += (UsageReport(usage), ReplyEnd(self.stop, self.stop.value))
        if self.end_at is not None:
            del chunks[self.end_at :]
        if self.error is not None:
            # A fresh one each time: an exception that is raised again and again gathers tracebacks.
            chunks.append(ReplyError(copy(self.error)))
        return tuple(chunks)


def say(text: str, *, think: str | None = None, **options: Any) -> Turn:
    """Answer with text, after ``think`` if given. ``options`` are fields of ``Turn``, here and below."""
    thought = () if think is None else (ReasoningBlock(think),)
    return Turn((*thought, TextBlock(text)), **options)


def call(
    tool: str,
    input: Any = None,
    *,
    id: str = "call-0",
    text: str | None = None,
    **options: Any,
) -> Turn:
    """Call one tool, after ``text`` if given. A ``str`` as input is sent as it is: arguments may be wrong."""
    return calls((tool, input, id), text=text, **options)


def calls(*which: tuple[str, Any] | tuple[str, Any, str], text: str | None = None, **options: Any) -> Turn:
    """Call several tools in one reply, each ``(tool, input)`` or ``(tool, input, id)``."""
    said = () if text is None else (TextBlock(text),)
    blocks = [_tool_use(one[2] if len(one) == 3 else f"call-{n}", one[0], one[1]) for n, one in enumerate(which)]
    if any(isinstance(one[1], str) for one in which):
        options["raw"] = True
    return Turn((*said, *blocks), **options)


def fail(
    code: str,
    message: str | None = None,
    *,
    retryable: bool | None = None,
    retry_after_s: float | None = None,
    **options: Any,
) -> Turn:
    """Fail with a code of ``FAILURES`` before anything is said; ``broken`` does it later."""
    text = message or f"The script says that this request fails ({code})."
    error = provider_error(code, text, retryable=retryable, retry_after_s=retry_after_s)
    return Turn(error=error, **options)


def delay(seconds: float, turn: Turn) -> Turn:
    """Answer the same, that much later."""
    return replace(turn, delay_s=turn.delay_s + seconds)


def cut(turn: Turn, after: int) -> Turn:
    """Break the stream off after so many chunks, without an end."""
    return replace(turn, end_at=after, error=None)


def broken(turn: Turn, after: int, failure: Turn) -> Turn:
    """Report the error of ``failure`` in mid-stream, after so many chunks.

    Raises:
        UsageError: ``failure`` was not made by `fail`.
    """
    if failure.error is None:
        raise UsageError("broken() needs a turn made by fail() as its failure.", code="bad_script")
    return replace(turn, end_at=after, error=failure.error)


def last_text(request: ModelRequest) -> str:
    """Give the text of the last message, that of tool results included."""
    if not request.messages:
        return ""
    return text_of(request.messages[-1].blocks)


def text_of(blocks: Iterable[Block]) -> str:
    """Give all text in blocks, that of tool results included, a line each."""
    return "\n".join(_texts(blocks))


def unmet(expect: Expect, request: ModelRequest) -> str | None:
    """Tell what of an expectation a request does not meet, or None."""
    if isinstance(expect, str):
        text = last_text(request)
        return None if expect in text else f"{expect!r} is not in its last message: {text[:300]!r}"
    if isinstance(expect, int):
        count = len(request.messages)
        return None if count == expect else f"it holds {count} messages, not {expect}"
    if callable(expect):
        try:
            fine = expect(request) is not False
        except AssertionError as error:
            return f"{getattr(expect, '__name__', 'expect')} says: {error}"
        return None if fine else f"{getattr(expect, '__name__', 'expect')} returned False"
    return next((problem for one in expect if (problem := unmet(one, request)) is not None), None)


def _texts(blocks: Iterable[Any]) -> Iterable[str]:
    for block in blocks:
        if isinstance(block, TextBlock):
            yield block.text
        elif isinstance(block, ToolResultBlock):
            yield from _texts(block.content)


def _tool_use(own: str, tool: str, value: Any) -> ToolUseBlock:
    if isinstance(value, str):
        return ToolUseBlock(own, tool, Json(value))
    return ToolUseBlock(own, tool, dump({} if value is None else value))


def _stream(index: int, block: Block, size: int | None, raw: bool) -> list[Chunk]:
    """Cut one block into chunks."""
    if isinstance(block, TextBlock):
        texts: list[Chunk] = [TextDelta(index, piece) for piece in _pieces(block.text, size)]
        return [BlockStart(index, "text", opaque=block.opaque), *texts, BlockStop(index)]
    if isinstance(block, ReasoningBlock) and size is not None:
        thoughts: list[Chunk] = [ReasoningDelta(index, piece) for piece in _pieces(block.text, size)]
        if block.signature is not None:
            thoughts.append(ReasoningDelta(index, signature=block.signature))
        start = BlockStart(index, "reasoning", opaque=block.opaque, redacted=block.redacted)
        return [start, *thoughts, BlockStop(index)]
    if isinstance(block, ToolUseBlock) and (size is not None or raw):
        inputs: list[Chunk] = [InputDelta(index, piece) for piece in _pieces(block.input, size)]
        return [BlockStart(index, "tool_use", block.id, block.name, block.opaque), *inputs, BlockStop(index)]
    return [BlockWhole(index, block)]


def _pieces(text: str, size: int | None) -> list[str]:
    if size is None:
        return [text]
    return [text[at : at + size] for at in range(0, len(text), size)]
