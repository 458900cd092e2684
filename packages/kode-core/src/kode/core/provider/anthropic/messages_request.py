"""Write a ``ModelRequest`` for the Messages API: https://platform.claude.com/docs/en/api/messages.

Messages are written, never changed. What the API has no place for is left out (another vendor's reasoning) or stands
in the text as a note (media it does not take), so that a history from any provider can go on here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from kode.core.jsontext import parse
from kode.core.kernel.message import (
    Block,
    MediaBlock,
    Message,
    ReasoningBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from kode.core.provider.anthropic.facts import ModelFacts
from kode.core.provider.anthropic.marks import place_marks
from kode.core.provider.base import CacheHint, Effort, ModelRequest, ToolChoice, ToolSpec
from kode.core.provider.media import bytes_of
from kode.core.provider.wire.body import overlaid
from kode.core.provider.wire.schema import enforceable
from kode.core.provider.wire.wording import effort_of, in_loop, legal_id, legal_name, set_apart, texts, unpacked

__all__ = ["FIRST_VERSION", "output_tool", "request_body", "write_messages"]

FIRST_VERSION = "2023-06-01"
"""The version of the API that everybody who speaks it knows. Later ones take no ``temperature`` and no ``top_p``."""


def request_body(
    request: ModelRequest,
    facts: ModelFacts,
    *,
    name: str = "anthropic",
    cache: CacheHint | None = None,
    version: str = FIRST_VERSION,
) -> dict[str, Any]:
    """Write the whole body.

    Args:
        request: What to ask.
        facts: Of its model.
        name: The provider's: whose reasoning is its own.
        cache: Where the request does not say.
        version: Of the API.

    Raises:
        UsageError: ``extra_body`` or a tool's schema is no JSON object.
    """
    body: dict[str, Any] = {
        "model": request.model,
        "max_tokens": request.max_tokens or facts.output_tokens,
        "messages": write_messages(request, name),
        "stream": True,
    }
    system = [_text(part.text) for part in request.system_parts if part.text.strip()]
    wanted = request.output_schema
    held = enforceable(parse(wanted.schema)) if wanted is not None and facts.output_schema else None
    if wanted is not None and held is None and output_tool(request, facts) is None:
        system.append(_text(f"Answer with nothing but JSON that fits this JSON schema:\n{wanted.schema}"))
    if system:
        body["system"] = system
    body.update(_tools(request, facts))
    body.update(_thinking(request, facts, body))
    if facts.sampling and version == FIRST_VERSION and body.get("thinking", _OFF) == _OFF:
        given = {"temperature": request.temperature, "top_p": request.top_p}
        body.update((key, value) for key, value in given.items() if value is not None)
    stop = [each for each in request.stop if each.strip()]
    if stop:
        body["stop_sequences"] = stop
    if request.metadata and "user_id" in request.metadata:
        body["metadata"] = {"user_id": request.metadata["user_id"]}
    if held is not None:
        shape = {"type": "json_schema", "schema": held}
        body["output_config"] = {**body.get("output_config", {}), "format": shape}
    place_marks(body, request, cache)
    return overlaid(body, request)


# ---- tools -------------------------------------------------------------------------------------------------


def output_tool(request: ModelRequest, facts: ModelFacts) -> str | None:
    """Name the tool whose arguments are the answer, for a model that holds its text to no schema.

    Only where there are no tools of the agent's own: a model that must call this one could call no other.
    """
    wanted = request.output_schema
    return legal_name(wanted.name) if wanted is not None and not facts.output_schema and not request.tools else None


def _tools(request: ModelRequest, facts: ModelFacts) -> Iterator[tuple[str, Any]]:
    name = output_tool(request, facts)
    if name is not None and request.output_schema is not None:
        schema = parse(request.output_schema.schema)
        yield "tools", [{"name": name, "description": "Give the answer.", "input_schema": schema}]
        yield "tool_choice", {"type": "tool", "name": name}
    if request.tools:
        yield "tools", [dict(_tool(tool)) for tool in request.tools]
        choice = _choice(request.tool_choice)
        if choice is not None:
            yield "tool_choice", choice


def _tool(tool: ToolSpec) -> Iterator[tuple[str, Any]]:
    schema = parse(tool.input_schema)
    yield "name", legal_name(tool.name, 128)
    yield "description", tool.description
    held = enforceable(schema) if tool.strict else None
    yield "input_schema", schema if held is None else held
    if held is not None:
        yield "strict", True


def _choice(choice: ToolChoice | None) -> dict[str, Any] | None:
    if choice is None:
        return None
    out: dict[str, Any] = {"type": _MODES[choice.mode]}
    if choice.mode == "tool":
        out["name"] = legal_name(choice.tool or "", 128)
    if choice.parallel is not None and choice.mode != "none":
        out["disable_parallel_tool_use"] = not choice.parallel
    return out


_MODES = {"auto": "auto", "none": "none", "required": "any", "tool": "tool"}

# ---- thinking ----------------------------------------------------------------------------------------------

_OFF = {"type": "disabled"}
_LEAST = 1_024
_BUDGETS: dict[Effort, int] = {"minimal": 1_024, "low": 2_048, "medium": 8_192, "high": 16_384, "xhigh": 32_768}


def _thinking(request: ModelRequest, facts: ModelFacts, body: dict[str, Any]) -> dict[str, Any]:
    """Ask for thoughts in the form the model knows.

    A call that must be made rules them out in this API, and a wish gives way to what must be.
    """
    wanted = request.reasoning
    if wanted is None or facts.thinking is None or body.get("tool_choice", {}).get("type") in ("any", "tool"):
        return {}
    effort = effort_of(wanted)
    display = "summarized" if wanted.show else "omitted"
    if facts.thinking == "budget":
        return _budget(wanted.budget_tokens or _BUDGETS.get(effort or "none", 0), body)
    if effort is None:
        # Whether to think is left to the model then; one that does anyway is asked to show it.
        return {"thinking": {"type": "adaptive", "display": display}} if facts.thinking == "always" else {}
    if effort == "none" and facts.thinking == "adaptive":
        return {"thinking": _OFF}
    level = "low" if effort in ("none", "minimal") else "high" if effort == "xhigh" and facts.sampling else effort
    return {"thinking": {"type": "adaptive", "display": display}, "output_config": {"effort": level}}


def _budget(budget: int, body: dict[str, Any]) -> dict[str, Any]:
    budget = min(max(budget, _LEAST) if budget else 0, body["max_tokens"] - _LEAST)
    if budget < _LEAST or not _may_think(body["messages"]):
        return {}
    return {"thinking": {"type": "enabled", "budget_tokens": budget}}


def _may_think(messages: Sequence[dict[str, Any]]) -> bool:
    """Whether a model with a budget may think here: in a tool loop only if it did so from the beginning."""
    if len(messages) < 2 or messages[-1]["content"][0]["type"] != "tool_result":
        return True
    return str(messages[-2]["content"][0]["type"]) in ("thinking", "redacted_thinking")


# ---- messages ----------------------------------------------------------------------------------------------


def write_messages(request: ModelRequest, name: str) -> list[dict[str, Any]]:
    """Write the history; neighbours of one role become one message, and the user is first and last."""
    out: list[dict[str, Any]] = []
    retain = request.reasoning is None or request.reasoning.retain
    since = in_loop(request.messages)
    for at, message in enumerate(set_apart(request.messages)):
        own = message.provider == name and (retain or at >= since)
        role = "assistant" if message.role == "assistant" else "user"
        blocks = [*_said(message, own)] if role == "assistant" else [*_shown(message.blocks)]
        if blocks and out and out[-1]["role"] == role:
            out[-1]["content"] += blocks
        elif blocks:
            out.append({"role": role, "content": blocks})
    for each in out:
        # Answers to calls come first in their message, whatever else the user says.
        each["content"].sort(key=lambda block: block["type"] != "tool_result")
    if not out or out[0]["role"] != "user":
        out.insert(0, {"role": "user", "content": [_text("(What was said before is left out.)")]})
    if out[-1]["role"] != "user":
        out.append({"role": "user", "content": [_text("(Go on.)")]})
    return out


def _said(message: Message, own: bool) -> Iterator[dict[str, Any]]:
    """Write what a model said. Thoughts go back only to the vendor that has signed them, and never come last."""
    thoughts: list[dict[str, Any]] = []
    for block in message.blocks:
        if isinstance(block, ReasoningBlock):
            thought = _thought(block) if own else None
            if thought is not None:
                thoughts.append(thought)
            continue
        if isinstance(block, ToolUseBlock):
            written = [
                {
                    "type": "tool_use",
                    "id": legal_id(block.id),
                    "name": legal_name(block.name, 128),
                    "input": parse(block.input),
                }
            ]
        else:
            written = [_text(text) for text in texts((block,)) if text.strip()]
        if written:
            yield from thoughts
            thoughts.clear()
            yield from written


def _thought(block: ReasoningBlock) -> dict[str, Any] | None:
    if block.redacted:
        opaque = parse(block.opaque) if block.opaque is not None else None
        data = opaque.get("data") if isinstance(opaque, dict) else None
        return {"type": "redacted_thinking", "data": data} if isinstance(data, str) else None
    if block.signature is None:
        return None
    return {"type": "thinking", "thinking": block.text, "signature": block.signature}


def _shown(blocks: Sequence[Block]) -> Iterator[dict[str, Any]]:
    """Write what a model is shown."""
    for block in blocks:
        if isinstance(block, ToolResultBlock):
            yield _result(block)
        else:
            media = _media(block) if isinstance(block, MediaBlock) else None
            yield from [media] if media is not None else [_text(text) for text in texts((block,)) if text.strip()]


def _result(block: ToolResultBlock) -> dict[str, Any]:
    out: dict[str, Any] = {"type": "tool_result", "tool_use_id": legal_id(block.tool_use_id)}
    content = [*_shown(block.content)]
    if block.is_error:
        out["is_error"] = True
        content = content or [_text("The tool failed and said nothing.")]
    if content:
        out["content"] = content
    return out


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


_IMAGES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})


def _media(block: MediaBlock) -> dict[str, Any] | None:
    """Write media as the API takes it, or None where it has no form for it."""
    source = _source(unpacked(block)) if block.type in ("image", "file") else None
    if source is None:
        return None
    out: dict[str, Any] = {"type": "image" if block.type == "image" else "document", "source": source}
    if block.type == "file" and block.name:
        out["title"] = block.name[:200]
    return out


def _source(block: MediaBlock) -> dict[str, Any] | None:
    if block.file_id is not None:
        return {"type": "file", "file_id": block.file_id}
    kind = block.media_type or ("image/png" if block.type == "image" else "application/pdf")
    if block.type == "file" and kind == "text/plain" and block.data is not None:
        text = bytes_of(block.data).decode("utf-8", "replace")
        return {"type": "text", "media_type": kind, "data": text} if text.strip() else None
    if kind not in _IMAGES and kind != "application/pdf":
        return None
    if block.url is not None:
        return {"type": "url", "url": block.url}
    return {"type": "base64", "media_type": kind, "data": block.data} if block.data is not None else None
