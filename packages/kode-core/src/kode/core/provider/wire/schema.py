"""JSON Schema in the part of it that vendors who enforce one can enforce."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["enforceable", "tell"]

_PLAIN = frozenset({"type", "enum", "const", "title", "description", "default", "$ref", "required", "format"})
_WITHIN = frozenset({"items", "additionalItems"})
_EACH = frozenset({"anyOf", "allOf"})
_NAMED = frozenset({"properties", "$defs", "definitions"})


class _MappingError(Exception):
    """An object whose keys may have any name: closed, it could only be empty."""


def enforceable(schema: Any) -> Any:
    """Close every object, and move what cannot be enforced (bounds, patterns) into the description.

    Who reads the answer checks it against the whole schema; the model is still told all of it. None: there is an object
    in it that cannot be closed, a mapping.
    """
    rooted = isinstance(schema, dict) and schema.get("type") == "object"
    try:
        return _closed({**schema, "properties": schema.get("properties", {})} if rooted else schema)
    except _MappingError:
        return None


def tell(schema: dict[str, Any], words: Mapping[str, Any]) -> None:
    """Tell the model of words that nothing enforces: they go into the schema's description."""
    said = "; ".join(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in words.items())
    if said:
        schema["description"] = "\n\n".join(filter(None, (str(schema.get("description", "")), said)))


def _closed(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    _no_mapping(schema)
    out: dict[str, Any] = {}
    told: dict[str, Any] = {}
    for name, value in schema.items():
        if name in _NAMED and isinstance(value, dict):
            out[name] = {key: _closed(each) for key, each in value.items()}
        elif name in _EACH or name == "oneOf":
            out["anyOf" if name == "oneOf" else name] = [_closed(each) for each in value]
        elif name in _WITHIN:
            out[name] = _closed(value)
        elif name in _PLAIN:
            out[name] = value
        elif name != "additionalProperties":
            told[name] = value
    if _is_object(out):
        out["additionalProperties"] = False
    tell(out, told)
    return out


def _no_mapping(schema: dict[str, Any]) -> None:
    opened = "properties" not in schema or schema.get("additionalProperties", False) is not False
    if "patternProperties" in schema or (_is_object(schema) and opened):
        raise _MappingError


def _is_object(schema: dict[str, Any]) -> bool:
    kinds = schema.get("type", ())
    return "properties" in schema or "object" in ([kinds] if isinstance(kinds, str) else kinds)
