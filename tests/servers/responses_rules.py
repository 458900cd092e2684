"""What the Responses API refuses: the documented fields and their types, and which item may follow which."""

from __future__ import annotations

from typing import Any

from .chat_rules import Check, _bool, _fields, _list, _name, _number, _object, _one_of, _string, _tags, _whole

__all__ = ["problem"]


def problem(body: Any) -> str | None:
    """Say what is wrong with a request's body; None: nothing."""
    if not isinstance(body, dict):
        return "We could not parse the JSON body of your request."
    for name in ("model", "input"):
        if name not in body:
            return f"Missing required parameter: '{name}'."
    return _fields(body, _BODY, "") or _items(body["input"], body.get("store", True)) or _tools(body)


def _enforced(schema: Any) -> bool:
    """Every object is closed and has all of its fields, and nothing is said that strict mode does not know."""
    if not isinstance(schema, dict):
        return True
    if {"minLength", "maxLength", "oneOf", "allOf", "prefixItems", "uniqueItems"} & set(schema):
        return False
    if "$ref" in schema and len(schema) > 1:
        return False
    kinds = schema.get("type", ())
    kinds = {kinds} if isinstance(kinds, str) else {*kinds}
    if not kinds and not {"$ref", "anyOf"} & set(schema):
        return False
    if ("array" in kinds) != ("items" in schema) or ("properties" in schema) != ("object" in kinds):
        return False
    if "object" in kinds and (
        schema.get("additionalProperties") is not False or sorted(schema["required"]) != sorted(schema["properties"])
    ):
        return False
    named = [each for name in ("properties", "$defs") for each in schema.get(name, {}).values()]
    return all(map(_enforced, [*named, *schema.get("anyOf", []), schema.get("items")]))


def _text(value: Any) -> bool:
    form: Any = value.get("format") if _object(value) else None
    if not _object(form) or set(value) - {"format", "verbosity"}:
        return False
    if form["type"] != "json_schema":
        return bool(form["type"] in ("text", "json_object") and len(form) == 1)
    return (
        set(form) <= {"type", "name", "schema", "strict", "description"}
        and _name(form.get("name"))
        and _object(form.get("schema"))
        and (not form.get("strict") or (form["schema"].get("type") == "object" and _enforced(form["schema"])))
    )


def _choice(value: Any) -> bool:
    if isinstance(value, str):
        return value in ("none", "auto", "required")
    return _object(value) and (set(value) == {"type", "name"} and value["type"] == "function" and _name(value["name"]))


def _reasoning(value: Any) -> bool:
    return (
        _object(value)
        and set(value) <= {"effort", "summary"}
        and value.get("effort", "low") in ("none", "minimal", "low", "medium", "high", "xhigh")
        and value.get("summary", "auto") in ("auto", "concise", "detailed")
    )


_BODY: dict[str, Check] = {
    "model": lambda value: _string(value) and bool(value),
    "input": _list,
    "instructions": _string,
    "tools": _list,
    "tool_choice": _choice,
    "parallel_tool_calls": _bool,
    "max_output_tokens": _whole(16),
    "temperature": _number(0, 2),
    "top_p": _number(0, 1),
    "reasoning": _reasoning,
    "text": _text,
    "metadata": _tags,
    "prompt_cache_key": _string,
    "safety_identifier": _string,
    "service_tier": _string,
    "store": _bool,
    "include": lambda value: _list(value) and all(map(_string, value)),
    "stream": _bool,
    "truncation": _one_of("auto", "disabled"),
}

# ---- items -------------------------------------------------------------------------------------------------

_INPUT: dict[str, dict[str, Check]] = {
    "input_text": {"type": _string, "text": _string},
    "input_image": {
        "type": _string,
        "detail": _one_of("auto", "low", "high"),
        "image_url": lambda value: _string(value) and value.startswith(("http://", "https://", "data:image/")),
        "file_id": _string,
    },
    "input_file": {"type": _string, "filename": _string, "file_data": _string, "file_id": _string, "file_url": _string},
}
_OUTPUT: dict[str, dict[str, Check]] = {
    "output_text": {"type": _string, "text": _string, "annotations": lambda value: isinstance(value, list)},
    "refusal": {"type": _string, "refusal": _string},
}


def _parts(value: Any, known: dict[str, dict[str, Check]]) -> bool:
    return _list(value) and all(
        _object(part) and part.get("type") in known and _fields(part, known[part["type"]], "") is None for part in value
    )


def _shown(value: Any) -> bool:
    return _string(value) or _parts(value, _INPUT)


def _begins(beginning: str) -> Check:
    return lambda value: _string(value) and value.startswith(beginning)


def _call_id(value: Any) -> bool:
    return _string(value) and 0 < len(value) <= 64


_ITEMS: dict[str, dict[str, Check]] = {
    "asked": {"type": _string, "role": _one_of("user", "system", "developer"), "content": _shown},
    "said": {
        "type": _string,
        "role": _one_of("assistant"),
        "id": _begins("msg_"),
        "status": _one_of("completed"),
        "phase": _one_of("commentary", "final_answer"),
        "content": lambda value: _string(value) or _parts(value, _OUTPUT),
    },
    "function_call": {
        "type": _string,
        "id": _begins("fc_"),
        "call_id": _call_id,
        "name": _name,
        "arguments": _string,
        "status": _one_of("completed", "incomplete"),
        "namespace": _string,
    },
    "function_call_output": {"type": _string, "call_id": _call_id, "output": _shown},
    "reasoning": {
        "type": _string,
        "id": _begins("rs_"),
        "summary": lambda value: isinstance(value, list),
        "content": _list,
        "encrypted_content": _string,
    },
    "web_search_call": {"type": _string, "id": _begins("ws_"), "status": _string, "action": _object},
    "image_generation_call": {
        "type": _string, "id": _begins("ig_"), "status": _string, "result": _string, "output_format": _string,
    },
}  # fmt: skip
_MADE = {"said", "function_call", "reasoning", "web_search_call", "image_generation_call"}
"""By a model: what may follow a thought."""


def _kind(item: Any) -> str:
    if item.get("type", "message") != "message":
        return str(item["type"])
    return "said" if item.get("role") == "assistant" else "asked"


def _items(items: Any, stored: bool) -> str | None:
    """Hold each item to its fields, every call to one answer, every thought to something that follows it."""
    waiting: set[str] = set()
    made: set[str] = set()
    ids: set[str] = set()
    kinds = [_kind(item) for item in items]
    for at, (item, kind, following) in enumerate(zip(items, kinds, [*kinds[1:], ""], strict=True)):
        where = f"input[{at}]"
        if kind not in _ITEMS:
            return f"Invalid value: {kind!r} at {where}."
        found = _fields(item, _ITEMS[kind], where) or _follows(item, kind, following, stored)
        if found is not None:
            return found
        if item.get("id") in ids:
            return f"Duplicate item found with id {item['id']}."
        ids |= {item["id"]} if "id" in item else set()
        if kind == "function_call":
            if item["call_id"] in made:
                return f"{where}: call {item['call_id']} was made twice"
            waiting.add(item["call_id"])
            made.add(item["call_id"])
        elif kind == "function_call_output":
            if item["call_id"] not in waiting:
                return f"No tool call found for function call output with call_id {item['call_id']}."
            waiting.remove(item["call_id"])
    return f"No tool output found for function call {waiting}." if waiting else None


def _follows(item: Any, kind: str, following: str, stored: bool) -> str | None:
    if kind != "reasoning":
        return None
    if "id" not in item or (not stored and not (item.get("encrypted_content") or item.get("content"))):
        return f"Item with id '{item.get('id')}' not found. Items are not persisted when `store` is set to false."
    if following not in _MADE:
        return f"Item '{item['id']}' of type 'reasoning' was provided without its required following item."
    return None


# ---- tools -------------------------------------------------------------------------------------------------

_TOOL: dict[str, Check] = {
    "type": _string,
    "name": _name,
    "description": _string,
    "parameters": lambda value: _object(value) and value.get("type") == "object",
    "strict": _bool,
}


def _tools(body: Any) -> str | None:
    tools = body.get("tools")
    if tools is None:
        return "tool_choice without tools" if {"tool_choice", "parallel_tool_calls"} & set(body) else None
    for at, tool in enumerate(tools):
        if tool.get("type") != "function":
            continue  # one of the vendor's own
        found = _fields(tool, _TOOL, f"tools[{at}]", ("name", "parameters"))
        if found is not None:
            return found
        if tool.get("strict", True) and not _enforced(tool["parameters"]):
            return f"Invalid schema for function {tool['name']!r}."
    return None
