"""What the chat-completions API refuses: the documented fields and their types, and which message may follow which."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

__all__ = ["problem"]

Check = Callable[[Any], bool]


def problem(body: Any) -> str | None:
    """Say what is wrong with a request's body; None: nothing."""
    if not isinstance(body, dict):
        return "We could not parse the JSON body of your request."
    for name in ("model", "messages"):
        if name not in body:
            return f"Missing required parameter: '{name}'."
    return (
        _fields(body, _BODY, "")
        or _messages(body["messages"])
        or _tools(body)
        or ("'max_tokens' and 'max_completion_tokens' exclude each other" if _both_limits(body) else None)
    )


def _both_limits(body: Any) -> bool:
    return "max_tokens" in body and "max_completion_tokens" in body


def _fields(value: Any, allowed: dict[str, Check], where: str, needed: tuple[str, ...] = ()) -> str | None:
    if not isinstance(value, dict):
        return f"{where or 'the body'} must be an object"
    for name in needed:
        if name not in value:
            return f"Missing required parameter: '{where}.{name}'."
    for name, found in value.items():
        check = allowed.get(name)
        if check is None:
            return f"Unrecognized request argument supplied: {where}{'.' if where else ''}{name}"
        if not check(found):
            return f"Invalid value for '{where}{'.' if where else ''}{name}': {found!r:.200}"
    return None


# ---- kinds of values ---------------------------------------------------------------------------------------


def _string(value: Any) -> bool:
    return isinstance(value, str)


def _number(low: float, high: float) -> Check:
    return lambda value: isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _whole(low: int) -> Check:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= low


def _one_of(*words: str) -> Check:
    return lambda value: value in words


def _bool(value: Any) -> bool:
    return isinstance(value, bool)


def _object(value: Any) -> bool:
    return isinstance(value, dict)


def _list(value: Any) -> bool:
    return isinstance(value, list) and bool(value)


def _stop(value: Any) -> bool:
    return _string(value) or (_list(value) and len(value) <= 4 and all(map(_string, value)))


def _tags(value: Any) -> bool:
    return _object(value) and len(value) <= 16 and all(map(_string, value.values()))


def _choice(value: Any) -> bool:
    if isinstance(value, str):
        return value in ("none", "auto", "required")
    return _object(value) and value.get("type") == "function" and _string(value.get("function", {}).get("name"))


def _format(value: Any) -> bool:
    if not _object(value) or value.get("type") not in ("text", "json_object", "json_schema"):
        return False
    if value["type"] != "json_schema":
        return set(value) == {"type"}
    schema = value.get("json_schema")
    return (
        _object(schema)
        and set(schema) <= {"name", "schema", "strict", "description"}
        and _name(schema.get("name"))
        and _object(schema.get("schema", {}))
    )


def _name(value: Any) -> bool:
    return _string(value) and re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", value) is not None


_BODY: dict[str, Check] = {
    "model": lambda value: _string(value) and bool(value),
    "messages": _list,
    "tools": _list,
    "tool_choice": _choice,
    "parallel_tool_calls": _bool,
    "stream": _bool,
    "stream_options": lambda value: _object(value) and set(value) <= {"include_usage", "include_obfuscation"},
    "max_tokens": _whole(1),
    "max_completion_tokens": _whole(1),
    "temperature": _number(0, 2),
    "top_p": _number(0, 1),
    "stop": _stop,
    "seed": lambda value: isinstance(value, int),
    "response_format": _format,
    "reasoning_effort": _one_of("none", "minimal", "low", "medium", "high", "xhigh"),
    "metadata": _tags,
    "prompt_cache_key": _string,
    "prompt_cache_retention": _one_of("in_memory", "24h"),
    "user": _string,
    "safety_identifier": _string,
    "store": _bool,
    "service_tier": _string,
    "n": _whole(1),
    "logprobs": _bool,
    "top_logprobs": _whole(0),
    "presence_penalty": _number(-2, 2),
    "frequency_penalty": _number(-2, 2),
    "logit_bias": _object,
    "verbosity": _one_of("low", "medium", "high"),
    "modalities": _list,
    "audio": _object,
}

# ---- messages ----------------------------------------------------------------------------------------------

_TEXT_PART = {"type": _one_of("text"), "text": _string}
_PARTS: dict[str, dict[str, Check]] = {
    "text": _TEXT_PART,
    "refusal": {"type": _string, "refusal": _string},
    "image_url": {
        "type": _string,
        "image_url": lambda value: (
            _object(value) and _string(value.get("url")) and value["url"].startswith(("http://", "https://", "data:"))
        ),
    },
    "input_audio": {
        "type": _string,
        "input_audio": lambda value: (
            _object(value) and _string(value.get("data")) and value.get("format") in ("wav", "mp3")
        ),
    },
    "file": {"type": _string, "file": lambda value: _object(value) and ("file_id" in value or "file_data" in value)},
}
_PARTS_OF = {
    "system": {"text"},
    "developer": {"text"},
    "user": {"text", "image_url", "input_audio", "file"},
    "assistant": {"text", "refusal"},
    "tool": {"text"},
}


def _content(role: str) -> Check:
    def check(value: Any) -> bool:
        if isinstance(value, str):
            return True
        return (
            isinstance(value, list)
            and bool(value)
            and all(
                _object(part)
                and part.get("type") in _PARTS_OF[role]
                and _fields(part, _PARTS[part["type"]], "") is None
                for part in value
            )
        )

    return check


def _content_or_null(value: Any) -> bool:
    return value is None or _content("assistant")(value)


_MESSAGE: dict[str, dict[str, Check]] = {
    "system": {"role": _string, "content": _content("system"), "name": _name},
    "developer": {"role": _string, "content": _content("developer"), "name": _name},
    "user": {"role": _string, "content": _content("user"), "name": _name},
    "assistant": {
        "role": _string,
        "content": _content_or_null,
        "refusal": lambda value: value is None or _string(value),
        "name": _name,
        "tool_calls": _list,
    },
    "tool": {"role": _string, "content": _content("tool"), "tool_call_id": _string},
}
_CALL: dict[str, Check] = {
    "id": lambda value: _string(value) and 0 < len(value) <= 40,
    "type": _one_of("function"),
    "function": _object,
}
_FUNCTION: dict[str, Check] = {"name": _name, "arguments": _string}


def _messages(messages: Any) -> str | None:
    """Hold each message to its role's fields, and every call to exactly one answer right behind it."""
    waiting: list[str] = []
    made: list[str] = []
    for at, message in enumerate(messages):
        where = f"messages[{at}]"
        role = message.get("role") if isinstance(message, dict) else None
        if role not in _MESSAGE:
            return f"Invalid value for '{where}.role': {role!r}"
        needed = ("tool_call_id", "content") if role == "tool" else ("content",)
        found = _fields(message, _MESSAGE[role], where, () if role == "assistant" else needed)
        if found is not None:
            return found
        if role == "tool":
            if message["tool_call_id"] not in waiting:
                return f"{where}: messages with role 'tool' must answer a preceding message with 'tool_calls'."
            waiting.remove(message["tool_call_id"])
            continue
        if waiting:
            return f"{_UNANSWERED}: {waiting}"
        if role == "assistant":
            found, waiting = _calls(message, where)
            made += waiting
            if found is not None or len(set(made)) < len(made):
                return found or f"{where}: duplicate id in {waiting}"
    return f"{_UNANSWERED}: {waiting}" if waiting else None


_UNANSWERED = "An assistant message with 'tool_calls' must be followed by tool messages; not answered"


def _calls(message: Any, where: str) -> tuple[str | None, list[str]]:
    made = message.get("tool_calls") or []
    if not made and message.get("content") is None and message.get("refusal") is None:
        return f"{where}: content may be null only with tool_calls", []
    ids: list[str] = []
    for index, each in enumerate(made):
        place = f"{where}.tool_calls[{index}]"
        found = _fields(each, _CALL, place, ("id", "type", "function")) or _fields(
            each["function"], _FUNCTION, f"{place}.function", ("name", "arguments")
        )
        if found is not None:
            return found, []
        if each["id"] in ids:
            return f"{place}: duplicate id {each['id']!r}", []
        ids.append(each["id"])
    return None, ids


# ---- tools -------------------------------------------------------------------------------------------------


def _tools(body: Any) -> str | None:
    tools = body.get("tools")
    if tools is None:
        for name in ("tool_choice", "parallel_tool_calls"):
            if name in body:
                return f"'{name}' is only allowed when 'tools' are specified."
        return None
    for at, tool in enumerate(tools):
        where = f"tools[{at}]"
        found = _fields(tool, _OUTER, where, ("type", "function"))
        found = found or _fields(tool["function"], _TOOL, f"{where}.function", ("name",))
        if found is not None:
            return found
    return None


def _parameters(value: Any) -> bool:
    return _object(value) and value.get("type") == "object"


_OUTER: dict[str, Check] = {"type": _one_of("function"), "function": _object}
_TOOL: dict[str, Check] = {
    "name": _name,
    "description": _string,
    "parameters": _parameters,
    "strict": lambda value: value is None or _bool(value),
}
