"""Read a chat completion as it streams: frames of JSON in, chunks out. Pure.

The many servers that speak this API differ in what they leave out and repeat; whatever still has one meaning is read:
tool calls whole or in fragments, with or without index and id, arguments as text or as object, usage in any frame or
never, reasoning under either name, a whole completion instead of a stream.

When is it complete? When the model said why it stopped (``finish_reason``): all of the reply stands before that, and
servers exist that send no ``[DONE]`` behind it. Or at ``[DONE]`` behind at least one block: others never say why. A
stream that ends before either was cut.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from kode.core.kernel.message import Usage
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
    TextDelta,
)
from kode.core.provider.openai.chat_media import Made
from kode.core.provider.wire.frames import load, number
from kode.core.provider.wire.reading import Reading, kept

__all__ = ["ChatReply", "read_usage"]

_STOPS = {
    "length": StopReason.LENGTH,
    "max_tokens": StopReason.LENGTH,
    "content_filter": StopReason.CONTENT_FILTER,
    "refusal": StopReason.REFUSAL,
}
"""All other words mean the end of a turn: ``stop`` is also said, by some, of a reply with tool calls."""
_GROWS = {"reasoning.text": "text", "reasoning.summary": "summary"}
"""Details of reasoning that come in fragments, and the field that grows."""
_CALLING = frozenset({"tool_calls", "function_call"})


@dataclass(slots=True)
class _Call:
    """A tool call in the making. It becomes a block when its name is known."""

    id: str = ""
    block: int | None = None
    early: list[str] = field(default_factory=list)
    """Arguments that came before the name."""


class ChatReply(Reading):
    """Fed with the data of each event, gives chunks; see ``Reading`` for its arguments."""

    __slots__ = ("_at", "_by_id", "_calls", "_declined", "_details", "_made", "_open", "_open_kind")

    def __init__(self, who: str = "openai", *more: Any, **named: Any) -> None:
        super().__init__(who, *more, **named)
        self._open: int | None = None  # the block of text or reasoning that goes on
        self._open_kind: BlockKind = "text"
        self._calls: list[_Call] = []
        self._at: dict[int | str, _Call] = {}  # the call that an index means now
        self._by_id: dict[str, _Call] = {}  # the last call that was given an id
        self._made = Made()
        self._declined = False
        self._details: list[dict[str, Any]] = []  # of its reasoning, as the vendor wants them back

    def feed(self, data: str) -> list[Chunk]:
        """Read one frame. What cannot be read is a ``ReplyError``, code ``protocol``.

        Behind a complete reply nothing can fail any more: what else is said there, in whatever form, was not needed.
        """
        if self.over:
            return []
        if data.startswith("[DONE]"):
            self.over = True
            return self.end()
        frame = load(data)
        if self.finished and (frame is None or _is_error(frame)):
            self.over = True
            return self.end()
        if frame is None:
            # Behind good frames it is some accident on the way; at the beginning it is another protocol.
            return self._no_json(data, retryable=self._head[0] is not None)
        out: list[Chunk] = []
        choice = _choice_of(frame)
        if _is_error(frame):
            return self._refused(frame)
        self._name(frame.get("id"), frame.get("model"))
        if isinstance(choice, dict) and not choice.get("index"):
            self._choice(choice, out)
            if self._stop == "error":
                return self._fail("overloaded", "gave up in the middle of the reply; ask again.")
        usage = frame.get("usage") or (choice.get("usage") if isinstance(choice, dict) else None)
        if isinstance(usage, dict):
            out.append(self._used(read_usage(usage)))
        return out

    def end(self) -> list[Chunk]:
        """The stream is over: close what is open, and end the reply if it is complete."""
        if self._stop is None and not (self.over and self._count):
            return []  # without ReplyEnd it counts as cut
        if any(call.block is None for call in self._calls):
            return self._fail("protocol", "sent a tool call without a name; ask again.", retryable=True)
        out: list[Chunk] = [BlockWhole(self._next(), made) for made in self._made.blocks()]
        if self._stop in _CALLING and not self._count:
            return self._fail("protocol", f"stopped with {self._stop!r}, but sent no call; ask again.", retryable=True)
        self._close(out)
        out += map(BlockStop, sorted(call.block for call in self._calls if call.block is not None))
        out += [*self._reasoning(), *self._rest()]
        stop = _STOPS.get(self._stop or "", StopReason.END_TURN)
        if self._declined and stop is StopReason.END_TURN:
            stop = StopReason.REFUSAL
        id, model = self._head
        return [*out, ReplyEnd(stop, self._shown(self._stop or ""), model, id)]

    def _choice(self, choice: dict[str, Any], out: list[Chunk]) -> None:
        # A whole completion has a ``message``, which reads like one large delta; behind deltas it says all of it again.
        whole = None if "delta" in choice and self._count else choice.get("message")
        delta = choice.get("delta") or whole
        if isinstance(delta, dict):
            self._delta(delta, out)
        stop = choice.get("finish_reason")
        if stop and isinstance(stop, str):
            self._stop = stop

    def _delta(self, delta: dict[str, Any], out: list[Chunk]) -> None:
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if thought and isinstance(thought, str):
            out.append(ReasoningDelta(self._block("reasoning", out), thought))
        if "reasoning_details" in delta:
            self._detail(delta["reasoning_details"])
        said = _text(delta.get("content")) + self._made.take(delta)
        if said:
            out.append(TextDelta(self._block("text", out), said))
        if delta.get("annotations") and isinstance(delta["annotations"], list):
            self._notes["annotations"] = [*self._notes.get("annotations", ()), *delta["annotations"]]
        refusal = _text(delta.get("refusal"))
        if refusal:
            self._declined = True
            out.append(TextDelta(self._block("text", out), refusal))
        self._calls_of(delta, out)

    def _calls_of(self, delta: dict[str, Any], out: list[Chunk]) -> None:
        calls = delta.get("tool_calls")
        if calls:
            for entry in calls if isinstance(calls, list) else [calls]:
                if isinstance(entry, dict):
                    self._call(entry, out)
        single = delta.get("function_call")  # the form before there were several; it has no id
        if isinstance(single, dict) and not calls:
            self._call({"index": "function_call", "function": single}, out)

    def _block(self, kind: BlockKind, out: list[Chunk]) -> int:
        """Give the block that text of this kind goes to, beginning one where another kind came between."""
        if self._open is not None and self._open_kind == kind:
            return self._open
        self._close(out)
        self._open, self._open_kind = self._next(), kind
        out.append(BlockStart(self._open, kind))
        return self._open

    def _close(self, out: list[Chunk]) -> None:
        if self._open is not None:
            out.append(BlockStop(self._open, self._noted() if self._open_kind == "text" else None))
            self._open = None

    def _detail(self, details: Any) -> None:
        """Keep what OpenRouter wants back of a model's reasoning, fragments of one text put together."""
        for each in details if isinstance(details, list) else ():
            if not isinstance(each, dict):
                continue
            last = self._details[-1] if self._details else {}
            field = _GROWS.get(_text(each.get("type")))
            if field and "index" in each and all(each.get(name) == last.get(name) for name in ("type", "index")):
                grown = _text(last.get(field)) + _text(each.get(field))
                last.update({name: value for name, value in each.items() if value is not None} | {field: grown})
            else:
                self._details.append(dict(each))

    def _reasoning(self) -> list[Chunk]:
        """Give the details a block of their own: they come late, and some stand for no text at all."""
        if not self._details:
            return []
        place = self._next()
        opaque = kept({"reasoning_details": self._details})
        return [BlockStart(place, "reasoning", opaque=opaque, redacted=True), BlockStop(place)]

    def _call(self, entry: dict[str, Any], out: list[Chunk]) -> None:
        function = entry.get("function")
        function = function if isinstance(function, dict) else {}
        name, id = _text(function.get("name")), _text(entry.get("id"))
        call = self._which(entry.get("index"), id, name)
        call.id = call.id or id
        if call.id:
            self._by_id[call.id] = call
        arguments = function.get("arguments")
        if arguments is not None and not isinstance(arguments, str):
            arguments = json.dumps(arguments)
        if call.block is None:
            if arguments:
                call.early.append(arguments)
            if name:
                self._close(out)
                call.block = self._next()
                out.append(BlockStart(call.block, "tool_use", call.id, name))
                out.extend(InputDelta(call.block, each) for each in call.early)
        elif arguments:
            out.append(InputDelta(call.block, arguments))

    def _which(self, index: Any, id: str, name: str) -> _Call:
        """Find the call that an entry goes on with, or begin one.

        The index decides, unless a name comes with another id: servers exist that number every call 0. Without an
        index an id that is known decides, else a name begins a call, else it is more of the last one.
        """
        known = self._by_id.get(id)
        if isinstance(index, (int, str)):
            found = self._at.get(index)
            if found is None:
                pass  # a new one, whatever its id: ids come twice
            elif not (id and name and found.id and found.id != id):
                return found
            elif known is not None:
                return known
        elif known is not None:
            return known
        elif not name and not id and self._calls:
            return self._calls[-1]
        call = _Call(id)
        self._calls.append(call)
        if isinstance(index, (int, str)):
            self._at[index] = call
        return call


def _choice_of(frame: dict[str, Any]) -> Any:
    choices = frame.get("choices")
    return choices[0] if isinstance(choices, list) and choices else None


def _is_error(frame: dict[str, Any]) -> bool:
    return bool(frame.get("error")) or (frame.get("object") == "error" and _choice_of(frame) is None)


def read_usage(usage: dict[str, Any]) -> Usage:
    """Read what was used; a number that is missing or odd is 0."""
    asked, said = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    # DeepSeek's and Moonshot's own names come second.
    cached = number(asked, "cached_tokens") or number(usage, "prompt_cache_hit_tokens", "cached_tokens")
    input = number(usage, "prompt_tokens")
    return Usage(
        input=input,
        output=number(usage, "completion_tokens"),
        cache_read=min(cached, input),
        reasoning=number(said, "reasoning_tokens"),
    )


def _text(value: Any) -> str:
    """Give text that is a string, or a list of parts; anything else is none."""
    if isinstance(value, str):
        return value
    return "".join(_pieces(value)) if isinstance(value, list) else ""


def _pieces(parts: list[Any]) -> Iterator[str]:
    for part in parts:
        text = part.get("text") if isinstance(part, dict) else part
        if isinstance(text, str):
            yield text
