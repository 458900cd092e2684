"""Read a reply as it streams: frames of JSON in, chunks out. Pure.

When is it complete? When a ``finishReason`` came: there is no other mark of the end. A stream that ends before was cut.

A signature belongs to the part it comes with and goes back with it: a call's and a text's stand in the block's opaque
part, a thought's is its signature. One that comes with no text of its own signs the text before it.
"""

from __future__ import annotations

import json
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
    ReasoningDelta,
    ReplyEnd,
    TextDelta,
)
from kode.core.provider.wire.frames import number
from kode.core.provider.wire.reading import Reading, text_in

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


class ContentReply(Reading):
    """Fed with the data of each event, gives chunks; see ``Reading`` for its arguments."""

    __slots__ = ("_kind", "_open", "_told", "_usage")

    def __init__(self, who: str = "gemini", *more: Any, **named: Any) -> None:
        super().__init__(who, *more, **named)
        self._open: int | None = None  # the block of text or reasoning that goes on
        self._kind: BlockKind = "text"
        self._usage: dict[str, Any] | None = None  # the latest
        self._told = ""  # what the vendor says of how it stopped

    def feed(self, data: str) -> list[Chunk]:
        """Read one frame, or a list of them. What cannot be read is a ``ReplyError``, code ``protocol``."""
        out: list[Chunk] = []
        frames = _frames(data)
        if frames is None and not self.finished:
            return self._no_json(data, retryable=self._head != (None, None) or self._count > 0)
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
            text = f"stopped with {self._shown(stop)!r}, but said nothing."
            return [*out, *self._fail("protocol", text, retryable=True)]
        self._close(out)
        id, model = self._head
        return [*out, *self._rest(), ReplyEnd(reason, self._shown(stop), model, id)]

    def _frame(self, frame: dict[str, Any], out: list[Chunk]) -> None:
        if "error" in frame:
            if not self.finished:
                out += self._refused(frame)
            return
        self._name(frame.get("responseId"), frame.get("modelVersion"))
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
            out.append(self._used(read_usage(self._usage)))

    def _blocked(self, feedback: Any, out: list[Chunk]) -> None:
        reason = text_in(feedback, "blockReason") if isinstance(feedback, dict) else ""
        if reason:
            told = self._shown(text_in(feedback, "blockReasonMessage") or reason)
            out += self._fail("content_filtered", f"refused the request: {told}. Change what is asked.")

    def _candidate(self, candidate: dict[str, Any], out: list[Chunk]) -> None:
        # Before the parts: the last of them may end the text that they are about.
        self._notes |= {name: candidate[name] for name in _SOURCES if candidate.get(name)}
        content = candidate.get("content")
        parts = content.get("parts") if isinstance(content, dict) else None
        for part in parts if isinstance(parts, list) else []:
            if isinstance(part, dict):
                self._part(part, out)
        stop = text_in(candidate, "finishReason")
        if stop and stop != "FINISH_REASON_UNSPECIFIED":
            self._stop = stop
            self._told = self._shown(text_in(candidate, "finishMessage")).rstrip(".")

    # ---- parts

    def _part(self, part: dict[str, Any], out: list[Chunk]) -> None:
        signature = text_in(part, "thoughtSignature")
        call, media = part.get("functionCall"), part.get("inlineData")
        if isinstance(call, dict):
            self._call(call, signature, out)
        elif isinstance(media, dict):
            self._media(media, signature, out)
        elif isinstance(part.get("text"), str):
            self._say(part["text"], "reasoning" if part.get("thought") is True else "text", signature, out)

    def _call(self, call: dict[str, Any], signature: str, out: list[Chunk]) -> None:
        self._close(out)
        id, arguments = text_in(call, "id"), call.get("args")
        opaque = {key: value for key, value in (("thoughtSignature", signature), ("id", id)) if value}
        place = self._next()
        out.append(BlockStart(place, "tool_use", id, text_in(call, "name"), dump(opaque) if opaque else None))
        if arguments is not None:
            out.append(InputDelta(place, json.dumps(arguments)))
        out.append(BlockStop(place))

    def _media(self, media: dict[str, Any], signature: str, out: list[Chunk]) -> None:
        self._close(out)
        kind = text_in(media, "mimeType")
        opaque = dump({"thoughtSignature": signature}) if signature else None
        first: MediaKind = _MEDIA.get(kind.partition("/")[0], "file")
        block = MediaBlock(first, kind or None, data=text_in(media, "data"), opaque=opaque)
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
            out.append(BlockStop(place, self._noted(thoughtSignature=signature)))
        elif signature:
            out.append(ReasoningDelta(place, "", signature))
            self._close(out)

    def _close(self, out: list[Chunk]) -> None:
        if self._open is not None:
            out.append(BlockStop(self._open, self._noted() if self._kind == "text" else None))
            self._open = None


_SOURCES = ("groundingMetadata", "citationMetadata", "urlContextMetadata")
"""What a candidate says of where its text comes from; kept with it."""
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
