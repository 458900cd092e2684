"""JSON Schema in the part of it that vendors who enforce one can enforce."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["enforceable"]

_PLAIN = frozenset({"type", "enum", "const", "title", "description", "default", "$ref", "required", "format"})
_WITHIN = frozenset({"items", "additionalItems"})
_EACH = frozenset({"anyOf", "allOf"})
_NAMED = frozenset({"properties", "$defs", "definitions"})


def enforceable(schema: Any) -> Any:
    """Close every object, and move what cannot be enforced (bounds, patterns) into the description.

    Who reads the answer checks it against the whole schema; the model is still told all of it.
    """
    if not isinstance(schema, dict):
        return schema
    out: dict[str, Any] = {}
    told: list[str] = []
    for name, value in schema.items():
        if name in _NAMED and isinstance(value, dict):
            out[name] = {key: enforceable(each) for key, each in value.items()}
        elif name in _EACH or name == "oneOf":
            out["anyOf" if name == "oneOf" else name] = [enforceable(each) for each in value]
        elif name in _WITHIN:
            out[name] = enforceable(value)
        elif name in _PLAIN:
            out[name] = value
        elif name != "additionalProperties" or isinstance(value, dict):
            told.append(f"{name}: {json.dumps(value, ensure_ascii=False)}")
    if out.get("type") == "object" or "properties" in out:
        out["additionalProperties"] = False
    if told:
        out["description"] = "\n\n".join(filter(None, (str(out.get("description", "")), "; ".join(told))))
    return out
