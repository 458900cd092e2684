"""A recording of what a model was asked and what streamed back, in a file that reads well in a review.

Version 1, JSON lines in UTF-8. Fields that have their default are left out.

* The first line is the head: ``{"kode": "recording", "version": 1}`` and who was recorded: ``provider``, ``model``,
  ``window_tokens``, ``capabilities``.
* ``{"ask": {...}}`` is a request, as the difference to the one before it in the file: fields that changed (null: gone),
  ``keep``, how many messages are those of before, and ``messages``, those that follow them.
* The lines up to the next ``ask`` are its reply: ``{"chunk": "TextDelta", ...}`` for each chunk, by the names of
  ``kode.core.provider``, or at its end ``{"error": code, "message", "retryable", "fields"}``.

Of a request stands there what a reply depends on: no ids of ours and no times, so that the next run asks the same; no
headers, of ``extra_body`` only a digest, and of long media only one as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from enum import Enum
from functools import cache
from hashlib import sha256
from itertools import takewhile
from typing import Any, Final

from pydantic import TypeAdapter

from kode.core.errors import ProviderError, UsageError
from kode.core.kernel.message import Message
from kode.core.provider.base import (
    BlockStart,
    BlockStop,
    BlockWhole,
    Capabilities,
    Chunk,
    InputDelta,
    ModelRequest,
    Provider,
    ReasoningDelta,
    ReplyEnd,
    ReplyError,
    TextDelta,
    UsageReport,
)
from kode.core.provider.failure import FAILURES, provider_error

__all__ = ["VERSION", "Ask", "Exchange", "Head", "asked", "head_line", "lines", "read", "same_messages"]

VERSION: Final = 1
Ask = dict[str, Any]
"""A request as plain data: what a reply depends on."""


@dataclass(frozen=True, slots=True)
class Head:
    """Who was recorded."""

    provider: str
    model: str
    window_tokens: int
    capabilities: Capabilities

    @classmethod
    def of(cls, provider: Provider) -> Head:
        """That of a provider."""
        return cls(provider.name, provider.model, provider.window_tokens, provider.capabilities)


@dataclass(slots=True)
class Exchange:
    """A request and its reply, or how that failed."""

    ask: Ask
    chunks: list[Chunk] = field(default_factory=list)
    error: ProviderError | None = None


# ---- a request ---------------------------------------------------------------------------------------------

_FIELDS = ("model", "tool_choice", "max_tokens", "temperature", "top_p", "stop", "seed", "output_schema", "reasoning")
_LONG = 500
"""Characters of media that are shown."""


def asked(request: ModelRequest, mask: Callable[[str], str] | None = None) -> Ask:
    """Give what the reply to a request depends on.

    Args:
        request: As it came.
        mask: Put over each text in it.
    """
    ask: Ask = {name: _plain(value) for name in _FIELDS if (value := getattr(request, name)) not in (None, ())}
    if request.system_parts:
        ask["system"] = [part.text for part in request.system_parts]
    if request.tools:
        kept = ("name", "description", "input_schema", "strict")
        ask["tools"] = [{name: value for name, value in _plain(each).items() if name in kept} for each in request.tools]
    if request.extra_body is not None:
        ask["extra_body"] = _digest(request.extra_body)
    ask["messages"] = [_message(each) for each in request.messages]
    return _masked(ask, mask) if mask is not None else ask


def _message(message: Message) -> dict[str, Any]:
    blocks = _plain(message.blocks)
    for block in blocks:
        block.pop("call", None)  # our own id
        for each in (block, *block.get("content", ())):
            _shorten(each)
    told = {"role": message.role, "blocks": blocks}
    return {**told, "provider": message.provider} if message.provider else told


def _shorten(block: dict[str, Any]) -> None:
    for name in ("data", "url"):
        value = block.get(name, "")
        if len(value) > _LONG:
            block[name] = _digest(value)


def _digest(text: str) -> str:
    return f"sha256:{sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"


def _masked(value: Any, mask: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, list):
        return [_masked(each, mask) for each in value]
    if isinstance(value, dict):
        return {name: _masked(each, mask) for name, each in value.items()}
    return value


_JSON = ("input", "opaque", "schema", "input_schema")
"""Fields that hold JSON text: of a request they are shown as what they mean."""


def _plain(value: Any, read: bool = True) -> Any:
    """Make plain data of ours; fields that have their default are left out, but for a block's type."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, tuple | list):
        return [_plain(each, read) for each in value]
    if isinstance(value, Mapping):
        return {name: _plain(each, read) for name, each in value.items()}
    if not is_dataclass(value):
        return value
    plain = {}
    for each in fields(value):
        held = getattr(value, each.name)
        default = each.default_factory() if each.default_factory is not MISSING else each.default
        if each.name == "type" or held != default:
            plain[each.name] = _parsed(held) if read and each.name in _JSON else _plain(held, read)
    return plain


def _parsed(text: Any) -> Any:
    with suppress(ValueError, TypeError, RecursionError):
        return json.loads(text)
    return text


# ---- the file ----------------------------------------------------------------------------------------------

_CHUNKS = {
    kind.__name__: kind
    for kind in (
        BlockStart, TextDelta, ReasoningDelta, InputDelta, BlockStop, BlockWhole, UsageReport, ReplyEnd,
    )
}  # fmt: skip


def head_line(head: Head) -> str:
    """Write the first line of a file."""
    return _line({"kode": "recording", "version": VERSION, **_plain(head, read=False)})


def lines(exchange: Exchange, before: Ask) -> Iterator[str]:
    """Write the lines of an exchange behind one that asked ``before``."""
    yield _line({"ask": _difference(exchange.ask, before)})
    error = exchange.error
    for chunk in exchange.chunks:
        if isinstance(chunk, ReplyError):
            error = chunk.error
        else:
            yield _line({"chunk": type(chunk).__name__, **_plain(chunk, read=False)})
    if error is not None:
        told = {"error": error.code, "message": error.message, "retryable": error.retryable}
        yield _line({**told, "fields": error.fields} if error.fields else told)


def read(text: str, where: str) -> tuple[Head, list[Exchange]]:
    """Read a file.

    Raises:
        UsageError: It is no recording, or of another version (``bad_recording``).
    """
    head: Head | None = None
    found: list[Exchange] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            if head is None:
                head = _head(value)
            elif "ask" in value:
                found.append(Exchange(_whole(value["ask"], found[-1].ask if found else {})))
            elif "error" in value:
                found[-1].error = _error(value)
            else:
                found[-1].chunks.append(_adapter(value.pop("chunk")).validate_python(value))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, UsageError) as error:
            raise UsageError(
                f"{where}, line {number}, cannot be read as a recording of version {VERSION}: {_first(error)}."
                " Delete the file and record again.",
                code="bad_recording",
            ) from error
    if head is None:
        raise UsageError(f"{where} is empty. Delete it and record again.", code="bad_recording")
    return head, found


def _head(value: Any) -> Head:
    if value.get("kode") != "recording" or value.get("version") != VERSION:
        raise ValueError(f"the first line says {str(value)[:100]}")
    names = ("provider", "model", "window_tokens", "capabilities")
    return TypeAdapter(Head).validate_python({"capabilities": {}, **{n: value[n] for n in names if n in value}})


@cache
def _adapter(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(_CHUNKS[name])


def _error(value: Any) -> ProviderError:
    code = value["error"] if value["error"] in FAILURES else "protocol"
    return provider_error(code, value["message"], retryable=bool(value["retryable"]), **value.get("fields", {}))


def _difference(ask: Ask, before: Ask) -> Ask:
    same = same_messages(ask, before)
    changed = {name: value for name, value in ask.items() if name != "messages" and not _alike(value, before.get(name))}
    gone = {name: None for name in before if name not in ask}
    kept = {"keep": same} if same else {}
    return {**changed, **gone, **kept, "messages": ask["messages"][same:]}


def _whole(change: Ask, before: Ask) -> Ask:
    kept = before.get("messages", [])[: change.pop("keep", 0)]
    merged = {**before, **change, "messages": [*kept, *change["messages"]]}
    return {name: value for name, value in merged.items() if value is not None}


def same_messages(a: Ask, b: Ask) -> int:
    """Count the messages that two requests begin with alike."""
    pairs = zip(a.get("messages", ()), b.get("messages", ()), strict=False)
    return sum(1 for _ in takewhile(lambda pair: _alike(*pair), pairs))


def _alike(a: Any, b: Any) -> bool:
    """Compare as JSON: to Python 1 and true are one."""
    return bool(a == b) and json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


def _line(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        # Half of a surrogate pair: vendors cut there, and the other half comes with the next chunk.
        text = json.dumps(value)
    return f"{text}\n"


def _first(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".") or type(error).__name__
