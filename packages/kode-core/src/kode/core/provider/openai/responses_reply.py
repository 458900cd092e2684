"""Read a response as it streams: frames of JSON in, chunks out. Pure.

A response is a list of items, each of which may stream beside the others. A message's parts become text, a call a tool
use, a thought reasoning. An item that the vendor wants back whole (a thought with what is encrypted in it, the work of
one of its own tools) is kept in the opaque part of a reasoning block, where no other vendor is shown it.

When is it complete? At ``response.completed`` or ``response.incomplete``. A stream that ends before was cut.

Format: https://platform.openai.com/docs/api-reference/responses-streaming.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from kode.core.kernel.message import MediaBlock, Usage
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
)
from kode.core.provider.wire.frames import load, number
from kode.core.provider.wire.reading import Reading, kept, text_in
from kode.core.provider.wire.refusal import understood

__all__ = ["ResponsesReply", "read_usage"]

_STOPS = {"completed": StopReason.END_TURN, "content_filter": StopReason.CONTENT_FILTER}
"""All other words say that the reply is not whole: some bound was reached."""
_POLICY = re.compile(r"invalid_prompt|\w*policy\w*")
_FAULT = re.compile(r"(invalid|image|empty|unsupported|failed_to_download|data_residency)_\w+")
"""Words for a request that fails the same way again, whenever the server came to say so."""


@dataclass(slots=True)
class _Part:
    """A block in the making."""

    place: int
    open: bool = True
    grown: bool = False
    chapter: tuple[str, int] | None = None
    """Of thoughts, which come in several: the one that goes on."""


@dataclass(slots=True)
class _Item:
    """An item of the output and the blocks it becomes, by the index of its parts."""

    kind: str
    id: str = ""
    parts: dict[int, _Part] = field(default_factory=dict)
    done: bool = False


class ResponsesReply(Reading):
    """Fed with the data of each event, gives chunks; see ``Reading`` for its arguments."""

    __slots__ = ("_ids", "_items", "_refuses")

    def __init__(self, who: str = "openai", *more: Any, **named: Any) -> None:
        super().__init__(who, *more, **named)
        self._items: dict[int | str, _Item] = {}
        self._ids: dict[str, int | str] = {}  # the same items, as the vendor names them
        self._refuses = False

    def feed(self, data: str) -> list[Chunk]:
        """Read one frame. What cannot be read is a ``ReplyError``, code ``protocol``."""
        if self.over:
            return []
        if data.startswith("[DONE]"):
            self.over = True
            return self.end()
        frame = load(data)
        if frame is None:
            return self._no_json(data, retryable=bool(self._items) or self._head != (None, None))
        kind = frame.get("type", frame.get("object"))
        out: list[Chunk] = []
        handler = self._READERS.get(kind) if isinstance(kind, str) else None
        if handler is not None:  # signs of life, and what the vendor may add, have none
            handler(self, frame, out)
        elif frame.get("error") and kind is None:
            self._error(frame, out)
        return out

    def end(self) -> list[Chunk]:
        """The stream is over: close what is open, and end the reply if it is complete."""
        if self._stop is None:
            return []  # without ReplyEnd it counts as cut
        unclosed = sorted(part.place for item in self._items.values() for part in item.parts.values() if part.open)
        stop = _STOPS.get(self._stop, StopReason.LENGTH)
        if self._refuses and stop is StopReason.END_TURN:
            stop = StopReason.REFUSAL
        id, model = self._head
        return [*map(BlockStop, unclosed), ReplyEnd(stop, self._shown(self._stop), model, id)]

    # ---- items

    def _added(self, frame: dict[str, Any], out: list[Chunk]) -> None:
        raw = frame.get("item")
        if isinstance(raw, dict):
            self._begin(self._key(frame), raw, out)

    def _key(self, frame: dict[str, Any]) -> int | str:
        """Tell which item a frame is of: by its place in the output or, where that is not said, by its id."""
        at, item = frame.get("output_index"), frame.get("item")
        id = text_in(frame, "item_id") or (text_in(item, "id") if isinstance(item, dict) else "")
        known = self._ids.get(id) if id else None
        if not isinstance(at, int):
            return id if known is None else known
        return known if isinstance(known, str) and at not in self._items else at

    def _begin(self, at: int | str, raw: dict[str, Any], out: list[Chunk]) -> _Item:
        """Note an item; a block begins here, where it is sure to become one."""
        item = self._items[at] = _Item(text_in(raw, "type"), text_in(raw, "id"))
        if item.id:
            self._ids[item.id] = at
        if item.kind == "function_call":
            place = self._next()
            item.parts[0] = _Part(place)
            out.append(
                BlockStart(place, "tool_use", text_in(raw, "call_id") or text_in(raw, "id"), text_in(raw, "name"))
            )
        elif item.kind not in _LATER:
            self._open(item, 0, "reasoning", out)
        return item

    def _open(self, item: _Item, index: int, kind: BlockKind, out: list[Chunk]) -> _Part:
        part = item.parts[index] = _Part(self._next())
        out.append(BlockStart(part.place, kind, redacted=kind == "reasoning" != item.kind))
        return part

    def _part(self, frame: dict[str, Any], kind: str, index: int, out: list[Chunk]) -> _Part | None:
        """Find the block that a delta is for; None, and a failure, if there is none that could take it."""
        at = self._key(frame)
        item = self._items.get(at)
        if item is None and kind != "function_call":  # a server that does not say what begins
            item = self._begin(at, {"type": kind}, out)
        part = None if item is None or item.kind != kind else item.parts.get(index)
        if part is None and item is not None and item.kind == kind == "message":
            part = self._open(item, index, "text", out)
        if part is None or not part.open:
            what = f"sent more of {kind} {at}, which it had not begun, or had ended; ask again."
            out += self._fail("protocol", what, retryable=True)
            return None
        return part

    def _done(self, frame: dict[str, Any], out: list[Chunk]) -> None:
        raw, at = frame.get("item"), self._key(frame)
        if isinstance(raw, dict):
            self._finish(self._items.get(at) or self._begin(at, raw, out), raw, out)

    def _finish(self, item: _Item, raw: dict[str, Any], out: list[Chunk]) -> None:
        """Read an item that is whole."""
        if item.done:
            return
        item.done = True
        close = self._CLOSERS.get(item.kind)
        if close is not None:
            close(self, item, raw, out)
        else:
            self._foreign(item, raw, out)

    def _call_done(self, item: _Item, raw: dict[str, Any], out: list[Chunk]) -> None:
        part = item.parts[0]
        self._whole(part, InputDelta, raw.get("arguments"), out)
        part.open = False
        out.append(BlockStop(part.place, kept({name: raw[name] for name in raw if name not in _CALLS_OWN})))

    def _thought_done(self, item: _Item, raw: dict[str, Any], out: list[Chunk]) -> None:
        part = item.parts[0]
        self._whole(part, ReasoningDelta, "\n\n".join(_texts(raw.get("summary")) or _texts(raw.get("content"))), out)
        part.open = False
        out.append(BlockStop(part.place, kept(raw)))

    def _message_done(self, item: _Item, raw: dict[str, Any], out: list[Chunk]) -> None:
        content = raw.get("content")
        content = content if isinstance(content, list) else []
        if any(index >= len(content) for index in item.parts):  # servers exist that count them from 1
            item.parts = dict(enumerate(item.parts.values()))
        for index, said in enumerate(content):
            if not isinstance(said, dict):
                continue
            self._refuses = self._refuses or said.get("type") == "refusal"
            part = item.parts.get(index) or self._open(item, index, "text", out)
            self._whole(part, TextDelta, said.get("text") or said.get("refusal"), out)
            part.open = False
            out.append(BlockStop(part.place, kept(dict([*_told(raw, "id", "phase"), *_told(said, "annotations")]))))

    def _image_done(self, item: _Item, raw: dict[str, Any], out: list[Chunk]) -> None:
        """What was drawn is media; what is left of the item goes with it."""
        data = raw.get("result")
        if not isinstance(data, str) or not data:
            self._foreign(item, raw, out)
            return
        kind = f"image/{text_in(raw, 'output_format') or 'png'}"
        rest = kept({name: value for name, value in raw.items() if name != "result"})
        out.append(BlockWhole(self._next(), MediaBlock("image", kind, data=data, opaque=rest)))

    def _foreign(self, item: _Item, raw: dict[str, Any], out: list[Chunk]) -> None:
        """An item that KODE has no type for: nothing to be shown, but the vendor wants it back in its place."""
        part = item.parts.get(0) or self._open(item, 0, "reasoning", out)
        part.open = False
        out.append(BlockStop(part.place, kept(raw)))

    def _whole(self, part: _Part, delta: Callable[[int, str], Chunk], text: Any, out: list[Chunk]) -> None:
        """Give what came in one piece only."""
        if text and isinstance(text, str) and not part.grown:
            part.grown = True
            out.append(delta(part.place, text))

    # ---- deltas

    def _all_said(self, frame: dict[str, Any], out: list[Chunk]) -> None:
        """A text in one piece, from a server that sends no deltas; behind deltas it says nothing new."""
        item, index = self._items.get(self._key(frame)), _index(frame, "content_index")
        if item is None or not (item.done or item.parts):
            part = self._part(frame, "message", index, out)
        else:
            part = item.parts.get(index)
        if part is not None and part.open:
            self._whole(part, TextDelta, frame.get("text") or frame.get("refusal"), out)

    def _all_argued(self, frame: dict[str, Any], out: list[Chunk]) -> None:
        """The same for arguments."""
        item = self._items.get(self._key(frame))
        if item is not None and item.kind == "function_call" and item.parts[0].open:
            self._whole(item.parts[0], InputDelta, frame.get("arguments"), out)

    def _said(self, frame: dict[str, Any], out: list[Chunk]) -> None:
        delta = frame.get("delta")
        part = self._part(frame, "message", _index(frame, "content_index"), out)
        if part is not None and delta and isinstance(delta, str):
            part.grown = True
            out.append(TextDelta(part.place, delta))

    def _declined(self, frame: dict[str, Any], out: list[Chunk]) -> None:
        self._refuses = True
        self._said(frame, out)

    def _argued(self, frame: dict[str, Any], out: list[Chunk]) -> None:
        delta = frame.get("delta")
        part = self._part(frame, "function_call", 0, out)
        if part is not None and delta and isinstance(delta, str):
            part.grown = True
            out.append(InputDelta(part.place, delta))

    def _thought(self, frame: dict[str, Any], out: list[Chunk]) -> None:
        delta = frame.get("delta")
        part = self._part(frame, "reasoning", 0, out)
        if part is None or not delta or not isinstance(delta, str):
            return
        name = "summary_index" if "summary_index" in frame else "content_index"
        chapter = name, _index(frame, name)
        if part.grown and chapter != part.chapter:
            delta = f"\n\n{delta}"
        part.grown, part.chapter = True, chapter
        out.append(ReasoningDelta(part.place, delta))

    # ---- the response

    def _begun(self, frame: dict[str, Any], out: list[Chunk]) -> None:
        response = frame.get("response")
        if isinstance(response, dict):
            self._name(response.get("id"), response.get("model"))

    def _ended(self, frame: dict[str, Any], out: list[Chunk]) -> None:
        response = frame.get("response")
        self._settle(response if isinstance(response, dict) else {}, text_in(frame, "type").rpartition(".")[2], out)

    def _document(self, frame: dict[str, Any], out: list[Chunk]) -> None:
        """A response in one piece, from a server that does not stream."""
        self._settle(frame, text_in(frame, "status"), out)

    def _settle(self, response: dict[str, Any], status: str, out: list[Chunk]) -> None:
        self._name(response.get("id"), response.get("model"))
        usage = response.get("usage")
        if isinstance(usage, dict):
            out.append(self._used(read_usage(usage)))
        if status not in ("completed", "incomplete"):
            error = response.get("error")
            told = f"gave up ({self._shown(status) or 'no status'}) and said no more"
            self._error({"error": error if isinstance(error, dict) else {"message": told}}, out)
            return
        output = response.get("output")
        self._complete(output if isinstance(output, list) else [], out)
        details = response.get("incomplete_details")
        why = text_in(details, "reason") if isinstance(details, dict) else ""
        stop = status if status == "completed" else why or status
        if stop == "completed" and (lost := self._lost()):
            out += self._fail("protocol", f"said that the reply is complete, but {lost}; ask again.", retryable=True)
            return
        self._stop = stop
        self.over = True
        out += self.end()

    def _complete(self, output: list[Any], out: list[Chunk]) -> None:
        """Read what only the end of the response says: a server may send items there that it did not stream, or end.

        Places and ids need not be those of the stream. An item that has no equal there is the first of its kind left.
        """
        free = dict(self._items)
        for at, raw in enumerate(output):
            if not isinstance(raw, dict):
                continue
            kind, id = text_in(raw, "type"), text_in(raw, "id")
            same = [key for key, item in free.items() if item.kind == kind]
            key = next((key for key in same if id and free[key].id == id), next(iter(same), None))
            item = self._begin(f"output {at}", raw, out) if key is None else free.pop(key)
            self._finish(item, raw, out)

    def _lost(self) -> str:
        """Say what is missing of a reply that should be complete."""
        for item in self._items.values():
            if item.kind == "function_call" and item.parts[0].open and not item.parts[0].grown:
                return "not with which arguments it calls a tool"
        return "" if self._count else "sent nothing of it"

    def _error(self, frame: dict[str, Any], out: list[Chunk]) -> None:
        self.over = True
        found = understood(200, frame, self._hide)
        inner = frame.get("error", frame)
        word = str(inner.get("code")) if isinstance(inner, dict) else ""
        if found.code == "overloaded" and (_POLICY.fullmatch(word) or _FAULT.fullmatch(word)):
            found = replace(found, code="content_filtered" if _POLICY.fullmatch(word) else "bad_request")
        out.append(ReplyError(found.error(self.who, model=self.model or None)))

    _CLOSERS: ClassVar[dict[str, Callable[[ResponsesReply, _Item, dict[str, Any], list[Chunk]], None]]] = {
        "function_call": _call_done,
        "image_generation_call": _image_done,
        "message": _message_done,
        "reasoning": _thought_done,
    }
    _READERS: ClassVar[dict[str, Callable[[ResponsesReply, dict[str, Any], list[Chunk]], None]]] = {
        "response.output_text.delta": _said,
        "response.output_text.done": _all_said,
        "response.refusal.done": _all_said,
        "response.function_call_arguments.done": _all_argued,
        "response.function_call_arguments.delta": _argued,
        "response.reasoning_summary_text.delta": _thought,
        "response.reasoning_text.delta": _thought,
        "response.refusal.delta": _declined,
        "response.output_item.added": _added,
        "response.output_item.done": _done,
        "response.created": _begun,
        "response.in_progress": _begun,
        "response.completed": _ended,
        "response.incomplete": _ended,
        "response.failed": _ended,
        "response.cancelled": _ended,
        "response": _document,
        "error": _error,
    }


_LATER = frozenset({"message", "image_generation_call"})
"""Items that begin no block before something of them is there."""
_CALLS_OWN = frozenset({"type", "call_id", "name", "arguments"})
"""What a tool-use block holds of a call; the rest of the item goes with it."""


def read_usage(usage: dict[str, Any]) -> Usage:
    """Read what was used; a number that is missing or odd is 0."""
    asked, input = usage.get("input_tokens_details"), number(usage, "input_tokens")
    read = min(number(asked, "cached_tokens"), input)
    return Usage(
        input=input,
        output=number(usage, "output_tokens"),
        cache_read=read,
        cache_write=min(number(asked, "cache_write_tokens"), input - read),
        reasoning=number(usage.get("output_tokens_details"), "reasoning_tokens"),
    )


def _index(frame: dict[str, Any], name: str) -> int:
    found = frame.get(name)
    return found if isinstance(found, int) else 0


def _texts(parts: Any) -> list[str]:
    return [text_in(part, "text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []


def _told(value: dict[str, Any], *names: str) -> Iterator[tuple[str, Any]]:
    return ((name, found) for name in names if (found := value.get(name)))
