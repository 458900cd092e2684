"""What the Messages API refuses: the documented fields and their types, and which block may stand where."""

from __future__ import annotations

import re
from typing import Any

from .chat_rules import Check, _bool, _fields, _list, _number, _object, _one_of, _string, _whole

__all__ = ["count_problem", "problem"]


def problem(body: Any) -> str | None:
    """Say what is wrong with a request's body; None: nothing."""
    if not isinstance(body, dict):
        return "The request body is not valid JSON."
    for name in ("model", "messages", "max_tokens"):
        if name not in body:
            return f"{name}: Field required"
    return _fields(body, _BODY, "") or _messages(body["messages"]) or _tools(body) or _thinking(body) or _marks(body)


def count_problem(body: Any) -> str | None:
    """The same for counting."""
    extra = {"max_tokens", "stream", "temperature", "top_p", "stop_sequences", "metadata"} & set(body)
    return f"{extra}: Extra inputs are not permitted" if extra else problem({**body, "max_tokens": 100_000})


def _name(value: Any) -> bool:
    return _string(value) and re.fullmatch(r"[a-zA-Z0-9_-]{1,128}", value) is not None


def _id(value: Any) -> bool:
    return _string(value) and re.fullmatch(r"[a-zA-Z0-9_-]+", value) is not None


def _filled(value: Any) -> bool:
    return _string(value) and bool(value.strip())


def _mark(value: Any) -> bool:
    return value in ({"type": "ephemeral"}, {"type": "ephemeral", "ttl": "5m"}, {"type": "ephemeral", "ttl": "1h"})


def _output(value: Any) -> bool:
    return (
        _object(value)
        and set(value) <= {"effort", "format"}
        and value.get("effort", "low") in ("low", "medium", "high", "xhigh", "max")
        and ("format" not in value or (value["format"]["type"] == "json_schema" and _closed(value["format"]["schema"])))
    )


def _closed(schema: Any) -> bool:
    """Every object says that it has no other fields, and nothing is asked that is not enforced."""
    if not isinstance(schema, dict):
        return True
    if {"minimum", "maximum", "minLength", "maxLength", "multipleOf"} & set(schema):
        return False
    if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
        return False
    named = [each for name in ("properties", "$defs") for each in schema.get(name, {}).values()]
    return all(map(_closed, [*named, *schema.get("anyOf", []), schema.get("items")]))


_BODY: dict[str, Check] = {
    "model": lambda value: _string(value) and bool(value),
    "messages": _list,
    "max_tokens": _whole(1),
    "system": _list,
    "stream": _bool,
    "temperature": _number(0, 1),
    "top_p": _number(0, 1),
    "stop_sequences": lambda value: _list(value) and all(map(_filled, value)),
    "metadata": lambda value: _object(value) and set(value) <= {"user_id"},
    "thinking": _object,
    "output_config": _output,
    "tools": _list,
    "tool_choice": _object,
    "service_tier": _one_of("auto", "standard_only"),
}

# ---- messages ----------------------------------------------------------------------------------------------

_SOURCES: dict[str, dict[str, Check]] = {
    "base64": {
        "type": _string,
        "media_type": _one_of("image/jpeg", "image/png", "image/gif", "image/webp", "application/pdf"),
        "data": _string,
    },
    "url": {"type": _string, "url": lambda value: _string(value) and value.startswith(("http://", "https://"))},
    "file": {"type": _string, "file_id": _string},
    "text": {"type": _string, "media_type": _one_of("text/plain"), "data": _filled},
}


def _source(value: Any) -> bool:
    return _object(value) and value.get("type") in _SOURCES and _fields(value, _SOURCES[value["type"]], "") is None


def _content(value: Any) -> bool:
    return isinstance(value, list) and all(
        each.get("type") in ("text", "image", "document") and _fields(each, _BLOCKS[each["type"]], "") is None
        for each in value
    )


_BLOCKS: dict[str, dict[str, Check]] = {
    "text": {"type": _string, "text": _filled, "cache_control": _mark},
    "image": {"type": _string, "source": _source, "cache_control": _mark},
    "document": {"type": _string, "source": _source, "title": _string, "cache_control": _mark},
    "tool_use": {"type": _string, "id": _id, "name": _name, "input": _object, "cache_control": _mark},
    "tool_result": {
        "type": _string,
        "tool_use_id": _id,
        "content": _content,
        "is_error": _bool,
        "cache_control": _mark,
    },
    "thinking": {"type": _string, "thinking": _string, "signature": _filled},
    "redacted_thinking": {"type": _string, "data": _filled},
    "server_tool_use": {"type": _string, "id": _id, "name": _name, "input": _object},
    "web_search_tool_result": {"type": _string, "tool_use_id": _id, "content": _list},
}
_OF = {
    "user": {"text", "image", "document", "tool_result"},
    "assistant": {
        "text", "tool_use", "thinking", "redacted_thinking", "server_tool_use", "web_search_tool_result",
    },
}  # fmt: skip


def _messages(messages: Any) -> str | None:
    """Hold each block to its fields and its role, and every call to exactly one answer right behind it."""
    waiting: list[str] = []
    made: list[str] = []
    before = "assistant"
    for at, message in enumerate(messages):
        where = f"messages.{at}"
        role = message.get("role")
        if role not in _OF or set(message) != {"role", "content"} or role == before or not _list(message["content"]):
            return f"{where}: odd role {role!r} behind {before!r}, no content, or fields {sorted(message)}"
        before = role
        found = _blocks(message, where) or _answers(message, waiting, where)
        if found is not None:
            return found
        waiting = [block["id"] for block in message["content"] if block["type"] == "tool_use"]
        made += waiting
        if len(set(made)) != len(made):  # anywhere in the request
            return f"{where}: `tool_use` ids must be unique"
    kinds = {block["type"] for block in messages[-1]["content"]}
    if before == "assistant" and "server_tool_use" not in kinds:
        return "This model does not support assistant message prefill."
    return f"not answered: {waiting}" if waiting else None


def _blocks(message: Any, where: str) -> str | None:
    role = message["role"]
    for block in message["content"]:
        if block.get("type") not in _OF[role]:
            return f"{where}: {block.get('type')!r} may not be in a message of {role}"
        found = _fields(block, _BLOCKS[block["type"]], where)
        if found:
            return found
    if role == "assistant" and "thinking" in message["content"][-1]["type"]:
        return f"{where}: The final block in an assistant message cannot be `thinking`."
    return None


def _answers(message: Any, waiting: list[str], where: str) -> str | None:
    kinds = [block["type"] for block in message["content"]]
    answers = [block["tool_use_id"] for block in message["content"] if block["type"] == "tool_result"]
    if sorted(answers) != sorted(waiting):
        return f"{where}: `tool_use` ids were found without `tool_result` blocks immediately after: {waiting}"
    if kinds[: len(answers)] != ["tool_result"] * len(answers):
        return f"{where}: tool_result blocks must come first"
    return None


# ---- the rest ----------------------------------------------------------------------------------------------

_CHOICES: dict[str, dict[str, Check]] = {
    "auto": {"type": _string, "disable_parallel_tool_use": _bool},
    "any": {"type": _string, "disable_parallel_tool_use": _bool},
    "tool": {"type": _string, "name": _name, "disable_parallel_tool_use": _bool},
    "none": {"type": _string},
}
_TOOL: dict[str, Check] = {
    "name": _name,
    "description": _string,
    "input_schema": lambda value: _object(value) and value.get("type") == "object",
    "strict": _bool,
    "cache_control": _mark,
}


def _tools(body: Any) -> str | None:
    tools = body.get("tools")
    choice = body.get("tool_choice")
    if choice is not None:
        kind = choice.get("type")
        if tools is None or kind not in _CHOICES:
            return f"tool_choice: {choice!r} without tools, or unknown"
        found = _fields(choice, _CHOICES[kind], "tool_choice")
        if found:
            return found
    for at, tool in enumerate(tools or []):
        if tool.get("type", "custom") != "custom":
            continue  # one of the vendor's own
        found = _fields(tool, _TOOL, f"tools.{at}", ("name", "input_schema"))
        if found:
            return found
    return None


def _thinking(body: Any) -> str | None:
    thinking = body.get("thinking")
    if thinking is None or thinking == {"type": "disabled"}:
        return None
    kind = thinking.get("type")
    if set(thinking) - {"type", "budget_tokens", "display"} or kind not in ("enabled", "adaptive"):
        return f"thinking: {thinking!r}"
    if kind == "enabled" and not 1_024 <= thinking.get("budget_tokens", 0) < body["max_tokens"]:
        return "thinking.enabled.budget_tokens: must be 1024 or more and less than max_tokens"
    if "temperature" in body or "top_p" in body:
        return "`temperature` may only be set to 1 when thinking is enabled."
    if body.get("tool_choice", {}).get("type") in ("any", "tool"):
        return "Thinking may not be enabled when tool_choice forces tool use."
    last = body["messages"][-1]["content"]
    if kind == "enabled" and last[0]["type"] == "tool_result":
        first = body["messages"][-2]["content"][0]["type"]
        if first not in ("thinking", "redacted_thinking"):
            return f"Expected `thinking` or `redacted_thinking`, but found `{first}`."
    return None


def _marks(body: Any) -> str | None:
    spots = [*body.get("tools", []), *body.get("system", [])]
    spots += [block for message in body["messages"] for block in message["content"]]
    ttls = [spot["cache_control"].get("ttl", "5m") for spot in spots if "cache_control" in spot]
    if len(ttls) > 4:
        return f"A maximum of 4 blocks with cache_control may be provided. Found {len(ttls)}."
    if ttls != sorted(ttls):
        return "a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block."
    return None
