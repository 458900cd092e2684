"""Write a ``ModelRequest`` as the body of a chat completion: https://platform.openai.com/docs/api-reference/chat/create.

Messages are written, never changed. What the API has no place for is left out (another vendor's reasoning) or stands
in the text as a note (media it does not take), so that a history from any provider can go on here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

from kode.core.jsontext import parse
from kode.core.kernel.message import Block, MediaBlock, Message, ReasoningBlock, ToolResultBlock, ToolUseBlock
from kode.core.provider.base import Effort, ModelRequest, ToolChoice, ToolSpec
from kode.core.provider.openai.strict import schema_of
from kode.core.provider.wire.body import encode, overlaid, stops
from kode.core.provider.wire.wording import (
    FOLLOWS,
    as_error,
    effort_of,
    in_loop,
    legal_id,
    legal_name,
    set_apart,
    texts,
)

__all__ = ["Dialect", "dialect_of", "request_body", "write_messages"]


@dataclass(frozen=True, slots=True)
class Dialect:
    """What differs from model to model, and from server to server, in this one API."""

    window_tokens: int = 32_768
    """What most models that call tools have at least; the name of one that anybody serves does not tell what this
    server gives it."""
    max_tokens_field: str = "max_tokens"
    sampling: bool = True
    """Whether it takes ``temperature``, ``top_p`` and ``stop``; reasoning models refuse them."""
    reasoning: bool = False
    thinking: Literal["effort", "switch", "toggle", "enable_thinking", "reasoning"] | None = "effort"
    """How it is told how much to think; see ``_THINKING``."""
    reasoning_field: str | None = None
    """Where it wants its own reasoning back; None: nowhere."""
    schemas: bool = True
    """Whether it holds answers and arguments to a schema; else it is told of the schema and asked for JSON."""
    short_ids: bool = False
    """Whether ids of calls have exactly nine letters and digits."""
    asks_usage: bool = True
    """Whether usage comes only if asked for; who sends it anyway may refuse the question."""
    seed_field: str = "seed"


_REASONS = "max_completion_tokens", False, True
_DIALECTS = {
    # The vendor's own, by the longest beginning. Where a beginning stands for models of several windows it has the
    # smaller: what is compacted too early still goes on, what is too long is refused.
    "gpt-3.5": Dialect(16_385),
    "gpt-4": Dialect(8_192),
    "gpt-4-turbo": Dialect(128_000),
    "gpt-4o": Dialect(128_000, "max_completion_tokens"),
    "gpt-4.1": Dialect(1_047_576, "max_completion_tokens"),
    "gpt-5": Dialect(400_000, *_REASONS),
    "gpt-5-chat": Dialect(128_000, "max_completion_tokens"),
    "gpt-5.1-chat": Dialect(128_000, *_REASONS),
    "gpt-5.2-chat": Dialect(128_000, *_REASONS),
    "gpt-6": Dialect(400_000, *_REASONS),
    "chatgpt-4o": Dialect(128_000, "max_completion_tokens"),
    "o1": Dialect(128_000, *_REASONS),
    "o3": Dialect(200_000, *_REASONS),
    "o4": Dialect(200_000, *_REASONS),
}
_BY_LENGTH = sorted(_DIALECTS.items(), key=lambda item: -len(item[0]))


def dialect_of(model: str) -> Dialect:
    """Look a model up by the beginning of its name; a front's ``vendor/`` before it does not count."""
    name = model.rpartition("/")[2].lower()
    return next((found for beginning, found in _BY_LENGTH if name.startswith(beginning)), Dialect())


def request_body(request: ModelRequest, dialect: Dialect, *, official: bool = False, name: str = "openai") -> bytes:
    """Write the whole body.

    Args:
        request: What to ask.
        dialect: Of its model.
        official: Whether it goes to the vendor itself: other servers refuse, or stumble over, what is its alone.
        name: The provider's: whose reasoning is its own.

    Raises:
        UsageError: ``extra_body`` or a tool's schema is no JSON object, or there are too many stop sequences.
    """
    body: dict[str, Any] = {"model": request.model, "messages": write_messages(request, dialect, name)}
    body.update(_tools(request.tools, request.tool_choice, dialect))
    body["stream"] = True
    if dialect.asks_usage:
        body["stream_options"] = {"include_usage": True}
    given: dict[str, Any] = {
        dialect.max_tokens_field: request.max_tokens,
        dialect.seed_field: request.seed,
        "prompt_cache_key": request.cache_key if official else None,
    }
    if dialect.sampling:
        given |= {
            "temperature": request.temperature,
            "top_p": request.top_p,
            "stop": stops(request, 4 if official else None),
        }
    body.update((field, value) for field, value in given.items() if value is not None)
    effort = None if request.reasoning is None else effort_of(request.reasoning)
    if effort is not None and dialect.thinking is not None and request.reasoning is not None:
        body.update(_THINKING[dialect.thinking](effort, request.reasoning.budget_tokens))
    wanted = request.output_schema
    if wanted is not None and not dialect.schemas:
        body["response_format"] = {"type": "json_object"}
    elif wanted is not None:
        schema, strict = schema_of(wanted.schema, wanted.strict)
        shape = {"name": legal_name(wanted.name), "schema": schema, "strict": strict}
        body["response_format"] = {"type": "json_schema", "json_schema": shape}
    return encode(overlaid(body, request))


def _switch(effort: Effort, budget: int | None) -> dict[str, Any]:
    return _toggle(effort, budget) | ({} if effort == "none" else {"reasoning_effort": effort})


def _toggle(effort: Effort, budget: int | None) -> dict[str, Any]:
    return {"thinking": {"type": "disabled" if effort == "none" else "enabled"}}


def _enable_thinking(effort: Effort, budget: int | None) -> dict[str, Any]:
    return {"enable_thinking": effort != "none"} | ({"thinking_budget": budget} if budget else {})


def _reasoning(effort: Effort, budget: int | None) -> dict[str, Any]:
    return {"reasoning": {"max_tokens": budget} if budget else {"effort": effort}}


_THINKING: Mapping[str, Callable[[Effort, int | None], dict[str, Any]]] = {
    "effort": lambda effort, budget: {"reasoning_effort": effort},
    "switch": _switch,
    "toggle": _toggle,
    "enable_thinking": _enable_thinking,
    "reasoning": _reasoning,
}


def _tools(tools: Sequence[ToolSpec], choice: ToolChoice | None, dialect: Dialect) -> Iterator[tuple[str, Any]]:
    if not tools:
        return
    yield "tools", [{"type": "function", "function": dict(_function(tool, dialect))} for tool in tools]
    if choice is None:
        return
    if choice.mode == "tool":
        yield "tool_choice", {"type": "function", "function": {"name": choice.tool or ""}}
    else:
        yield "tool_choice", choice.mode
    if choice.parallel is not None:
        yield "parallel_tool_calls", choice.parallel


def _function(tool: ToolSpec, dialect: Dialect) -> Iterator[tuple[str, Any]]:
    yield "name", tool.name
    yield "description", tool.description
    schema, strict = schema_of(tool.input_schema, tool.strict and dialect.schemas)
    yield "parameters", schema
    if strict:
        yield "strict", True


# ---- messages ----------------------------------------------------------------------------------------------


def write_messages(request: ModelRequest, dialect: Dialect, name: str = "openai") -> list[dict[str, Any]]:
    """Write system prompt and history; neighbours of one role become one message."""
    out: list[dict[str, Any]] = []
    system = "\n\n".join([part.text for part in request.system_parts if part.text] + [*_told(request, dialect)])
    if system:
        out.append({"role": "system", "content": system})
    retain = request.reasoning is None or request.reasoning.retain
    since = in_loop(request.messages)
    field = dialect.reasoning_field
    for at, message in enumerate(set_apart(request.messages)):
        for entry in _ROLES[message.role](message):
            # Vendors that want reasoning back refuse a message with calls that has lost its own.
            if field and message.provider == name and (retain or at >= since or "tool_calls" in entry):
                entry.update(_thoughts(message, field))
            if dialect.short_ids:
                _shorten(entry)
            if not _joined(out, entry, field):
                out.append(entry)
    return out


def _told(request: ModelRequest, dialect: Dialect) -> Iterator[str]:
    if request.output_schema is not None and not dialect.schemas:
        yield f"Answer with nothing but JSON that fits this JSON schema:\n{request.output_schema.schema}"


def _thoughts(message: Message, field: str) -> Iterator[tuple[str, Any]]:
    """Write its reasoning: as a vendor has given it in detail, or else the text."""
    thoughts = [block for block in message.blocks if isinstance(block, ReasoningBlock)]
    if not thoughts or message.role != "assistant":
        return
    kept = [parse(block.opaque) for block in thoughts if block.opaque is not None]
    details = [each for opaque in kept if isinstance(opaque, dict) for each in opaque.get("reasoning_details", ())]
    text = "".join(block.text for block in thoughts)
    if details:
        yield "reasoning_details", details
    elif text:
        yield field, text


def _shorten(entry: dict[str, Any]) -> None:
    for call in entry.get("tool_calls", ()):
        call["id"] = _nine(call["id"])
    if "tool_call_id" in entry:
        entry["tool_call_id"] = _nine(entry["tool_call_id"])


def _nine(id: str) -> str:
    return id if len(id) == 9 and id.isascii() and id.isalnum() else sha256(id.encode()).hexdigest()[:9]


def _joined(out: list[dict[str, Any]], entry: dict[str, Any], field: str | None) -> bool:
    """Put an entry into the one before it, where the two are of one role that speaks and not answers to a call."""
    last = out[-1] if out else {}
    role = entry["role"]
    if last.get("role") != role or role not in ("user", "assistant") or "tool_calls" in last:
        return False
    if role == "assistant":
        last["content"] = "\n\n".join(text for text in (last["content"], entry["content"]) if text) or None
        last.update((name, value) for name, value in entry.items() if name == "tool_calls")
        if field in entry:
            last[field] = "\n\n".join(filter(None, (last.get(field), entry[field])))
        if "reasoning_details" in entry:
            last["reasoning_details"] = [*last.get("reasoning_details", ()), *entry["reasoning_details"]]
        return True
    a, b = last["content"], entry["content"]
    last["content"] = f"{a}\n\n{b}" if isinstance(a, str) and isinstance(b, str) else [*_parts(a), *_parts(b)]
    return True


def _parts(content: Any) -> list[Any]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _system(message: Message) -> Iterator[dict[str, Any]]:
    text = "\n\n".join(texts(message.blocks))
    if text:
        yield {"role": "system", "content": text}


def _assistant(message: Message) -> Iterator[dict[str, Any]]:
    # What a model said aloud stands beside it in words.
    told = (block for block in message.blocks if block.type != "audio")
    content = "\n\n".join(texts(told)) or None
    calls = [
        {
            "id": _id(block.id),
            "type": "function",
            "function": {"name": legal_name(block.name), "arguments": block.input},
        }
        for block in message.blocks
        if isinstance(block, ToolUseBlock)
    ]
    if calls:
        yield {"role": "assistant", "content": content, "tool_calls": calls}
    elif content:
        yield {"role": "assistant", "content": content}


def _user(message: Message) -> Iterator[dict[str, Any]]:
    """Results first, each a message of its own; what they hold beside text follows as the user's."""
    rest: list[Block] = []
    for block in message.blocks:
        if not isinstance(block, ToolResultBlock):
            rest.append(block)
            continue
        shown = [each for each in block.content if _media(each) is not None]
        said = [*texts(each for each in block.content if _media(each) is None)]
        if shown:
            said.append(FOLLOWS)
            rest.extend(shown)
        text = "\n\n".join(said)
        content = as_error(text) if block.is_error else text
        yield {"role": "tool", "tool_call_id": _id(block.tool_use_id), "content": content}
    media = any(_media(block) is not None for block in rest)
    if not media:
        text = "\n\n".join(texts(rest))
        if text:
            yield {"role": "user", "content": text}
        return
    parts = [part for block in rest if (part := _media(block) or _text_part(block)) is not None]
    yield {"role": "user", "content": parts}


_ROLES: Mapping[str, Any] = {"system": _system, "assistant": _assistant, "user": _user}


def _text_part(block: Block) -> dict[str, Any] | None:
    text = "\n\n".join(texts((block,)))
    return {"type": "text", "text": text} if text else None


def _media(block: Block) -> dict[str, Any] | None:
    """Write media as the API takes it, or None where it has no form for it."""
    if not isinstance(block, MediaBlock):
        return None
    url = block.url
    if block.data is not None:
        url = f"data:{block.media_type or _GUESS.get(block.type, 'application/octet-stream')};base64,{block.data}"
    if block.type == "image" and url is not None:
        return {"type": "image_url", "image_url": {"url": url}}
    if block.type == "audio" and block.data is not None and (form := _AUDIO.get(block.media_type or "")):
        return {"type": "input_audio", "input_audio": {"data": block.data, "format": form}}
    if block.type == "file" and block.file_id is not None:
        return {"type": "file", "file": {"file_id": block.file_id}}
    if block.type == "file" and block.data is not None and block.media_type == "application/pdf":
        return {"type": "file", "file": {"filename": block.name or "file.pdf", "file_data": url}}
    return None


_GUESS = {"image": "image/png"}
_AUDIO = {"audio/wav": "wav", "audio/x-wav": "wav", "audio/wave": "wav", "audio/mpeg": "mp3", "audio/mp3": "mp3"}


def _id(id: str) -> str:
    return legal_id(id, 40, ".:")
