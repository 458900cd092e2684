"""Read a reply as it streams: frames of JSON in, chunks out. Pure.

When is it complete? When a ``finishReason`` came: there is no other mark of the end. A stream that ends before was cut.

A signature belongs to the part it comes with and goes back with it: a call's and a text's stand in the block's opaque
part, a thought's is its signature. One that comes with no text of its own signs the text before it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from kode.core.jsontext import dump
from kode.core.kernel.message import MediaBlock, Usage
from kode.core.kernel.words import StopReason
from kode.core.provider.assemble import count
from kode.core.provider.base import (
    BlockKind,
    BlockStart,
    BlockStop,
    BlockWhole,
    Chunk,
    InputDelta,
    MediaKind,
    Prices,
    ReasoningDelta,
    ReplyEnd,
    ReplyError,
    TextDelta,
    UsageReport,
)
from kode.core.provider.wire.frames import failed, number
from kode.core.provider.wire.refusal import excerpt, understood

__all__ = ["ContentReply", "read_usage"]

_STOPS = {
    "STOP": StopReason.END_TURN,
    "MAX_TOKENS": StopReason.LENGTH,
    "CONTINUATION": StopReason.LENGTH,
    **dict.fromkeys(
        ("SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY",
         "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "MODEL_ARMOR", "ESCALATION", "PUP_LIMITED_DISABLED"),
        StopReason.CONTENT_FILTER,
    ),
}  # fmt: skip
_FAULTS = {
    # The model went wrong; it may not the next time.
    **dict.fromkeys(
        ("MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "MALFORMED_RESPONSE", "OTHER",
         "IMAGE_OTHER", "NO_IMAGE"),
        ("protocol", True),
    ),
    "MISSING_THOUGHT_SIGNATURE": ("bad_request", False),
}  # fmt: skip
"""Reasons that leave no answer. All other words that are not known mean the end of a turn."""


class ContentReply:
    """Fed with the data of each event, gives chunks. One per attempt.

    Args:
        who: The provider's name, for errors.
        model: The one asked, for errors.
        prices: Give usage its cost.
        hide: Blots out secrets in what the server says of an error.
    """

    __slots__ = (
        "_count", "_head", "_hide", "_kind", "_open", "_prices", "_stop", "_told", "_usage", "model", "over",
        "who",
    )  # fmt: skip

    def __init__(
        self,
        who: str = "gemini",
        model: str = "",
        prices: Prices | None = None,
        hide: Callable[[str], str] = str,
    ) -> None:
        self.who = who
        self.model = model
        self.over = False
        """Nothing more is wanted: an error came."""
        self._prices = prices
        self._hide = hide
        self._count = 0  # blocks begun
        self._open: int | None = None  # the block of text or reasoning that goes on
        self._kind: BlockKind = "text"
        self._stop: str | None = None
        self._usage: dict[str, Any] | None = None  # the latest
        self._told = ""  # what the vendor says of how it stopped
        self._head: tuple[str | None, str | None] = (None, None)

    @property
    def finished(self) -> bool:
        """Whether the reply is complete, so that only usage can follow."""
        return self._stop is not None

    def feed(self, data: str) -> list[Chunk]:
        """Read one frame, or a list of them. What cannot be read is a ``ReplyError``, code ``protocol``."""
        out: list[Chunk] = []
        frames = _frames(data)
        if frames is None and not self.finished:
            text = f"sent a frame that is no JSON object: {excerpt(data, self._hide)!r}."
            return self._fail("protocol", text, retryable=self._head != (None, None) or self._count > 0)
        for frame in frames or ():
            if not self.over:
                self._frame(frame, out)
        return out

    def end(self) -> list[Chunk]:
        """The stream is over: close what is open, and end the reply if it is complete."""
        out: list[Chunk] = []
        self._tell_usage(out)
        stop = self._stop
        if stop is None:
            return out  # without ReplyEnd it counts as cut
        if stop in _FAULTS:
            code, again = _FAULTS[stop]
            text = f"gave up with {stop!r}: {self._told or 'it said no more'}."
            return [*out, *self._fail(code, text, retryable=again)]
        reason = _STOPS.get(stop, StopReason.END_TURN)
        if not self._count and reason is StopReason.END_TURN:
            text = f"stopped with {excerpt(stop, self._hide)!r}, but said nothing."
            return [*out, *self._fail("protocol", text, retryable=True)]
        self._close(out)
        id, model = self._head
        return [*out, ReplyEnd(reason, excerpt(stop, self._hide), model, id)]

    def _frame(self, frame: dict[str, Any], out: list[Chunk]) -> None:
        if "error" in frame:
            if not self.finished:
                self.over = True
                out.append(ReplyError(understood(200, frame, self._hide).error(self.who, model=self.model or None)))
            return
        if self._head == (None, None):
            id, model = (excerpt(_text(frame, name), self._hide) or None for name in ("responseId", "modelVersion"))
            self._head = id, model
        usage = frame.get("usageMetadata")
        if isinstance(usage, dict):
            # It stands in every frame and grows; told are the first, for a stream that breaks, and the last.
            early = self._usage is None
            self._usage = usage
            if early:
                self._tell_usage(out)
        candidates = frame.get("candidates")
        if isinstance(candidates, list) and candidates:
            first = next((each for each in candidates if isinstance(each, dict) and not each.get("index")), None)
            if first is not None:
                self._candidate(first, out)
        elif not self.finished:
            self._blocked(frame.get("promptFeedback"), out)

    def _tell_usage(self, out: list[Chunk]) -> None:
        if self._usage is not None:
            found = read_usage(self._usage)
            out.append(UsageReport(self._prices.priced(found) if self._prices is not None else found))

    def _blocked(self, feedback: Any, out: list[Chunk]) -> None:
        reason = _text(feedback, "blockReason") if isinstance(feedback, dict) else ""
        if reason:
            told = excerpt(_text(feedback, "blockReasonMessage") or reason, self._hide)
            out += self._fail("content_filtered", f"refused the request: {told}. Change what is asked.")

    def _candidate(self, candidate: dict[str, Any], out: list[Chunk]) -> None:
        content = candidate.get("content")
        parts = content.get("parts") if isinstance(content, dict) else None
        for part in parts if isinstance(parts, list) else []:
            if isinstance(part, dict):
                self._part(part, out)
        stop = _text(candidate, "finishReason")
        if stop and stop != "FINISH_REASON_UNSPECIFIED":
            self._stop = stop
            self._told = excerpt(_text(candidate, "finishMessage"), self._hide).rstrip(".")

    # ---- parts

    def _part(self, part: dict[str, Any], out: list[Chunk]) -> None:
        signature = _text(part, "thoughtSignature")
        call, media = part.get("functionCall"), part.get("inlineData")
        if isinstance(call, dict):
            self._call(call, signature, out)
        elif isinstance(media, dict):
            self._media(media, signature, out)
        elif isinstance(part.get("text"), str):
            self._say(part["text"], "reasoning" if part.get("thought") is True else "text", signature, out)

    def _call(self, call: dict[str, Any], signature: str, out: list[Chunk]) -> None:
        self._close(out)
        id, arguments = _text(call, "id"), call.get("args")
        opaque = {key: value for key, value in (("thoughtSignature", signature), ("id", id)) if value}
        place = self._next()
        out.append(BlockStart(place, "tool_use", id, _text(call, "name"), dump(opaque) if opaque else None))
        if arguments is not None:
            out.append(InputDelta(place, json.dumps(arguments)))
        out.append(BlockStop(place))

    def _media(self, media: dict[str, Any], signature: str, out: list[Chunk]) -> None:
        self._close(out)
        kind = _text(media, "mimeType")
        opaque = dump({"thoughtSignature": signature}) if signature else None
        first: MediaKind = _MEDIA.get(kind.partition("/")[0], "file")
        block = MediaBlock(first, kind or None, data=_text(media, "data"), opaque=opaque)
        out.append(BlockWhole(self._next(), block))

    def _say(self, text: str, kind: BlockKind, signature: str, out: list[Chunk]) -> None:
        if not text and not signature:
            return
        place = self._open if self._open is not None and self._kind == kind else None
        if place is None:
            self._close(out)
            place = self._open = self._next()
            self._kind = kind
            out.append(BlockStart(place, kind))
        if text:
            out.append(TextDelta(place, text) if kind == "text" else ReasoningDelta(place, text))
        if signature and kind == "text":
            self._open = None
            out.append(BlockStop(place, dump({"thoughtSignature": signature})))
        elif signature:
            out.append(ReasoningDelta(place, "", signature))
            self._close(out)

    def _next(self) -> int:
        self._count += 1
        return self._count - 1

    def _close(self, out: list[Chunk]) -> None:
        if self._open is not None:
            out.append(BlockStop(self._open))
            self._open = None

    def _fail(self, code: str, what: str, *, retryable: bool | None = None) -> list[Chunk]:
        self.over = True
        return [failed(self.who, self.model, code, what, retryable=retryable)]


_MEDIA: dict[str, MediaKind] = {"image": "image", "audio": "audio", "video": "video"}


def _frames(data: str) -> list[dict[str, Any]] | None:
    """Read a frame; a server that does not stream sends all of them as one list."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    values = value if isinstance(value, list) else [value]
    return values if all(isinstance(each, dict) for each in values) else None


def read_usage(usage: dict[str, Any]) -> Usage:
    """Read what was used; a number that is missing or odd is 0. Thoughts are counted apart there."""
    input = number(usage, "promptTokenCount") + number(usage, "toolUsePromptTokenCount")
    thoughts = number(usage, "thoughtsTokenCount")
    return Usage(
        input=count(input),
        output=count(number(usage, "candidatesTokenCount") + thoughts),
        cache_read=min(number(usage, "cachedContentTokenCount"), count(input)),
        reasoning=thoughts,
    )


def _text(value: dict[str, Any], name: str) -> str:
    found = value.get(name)
    return found if isinstance(found, str) else ""
