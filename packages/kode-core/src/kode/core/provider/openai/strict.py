"""JSON Schema as OpenAI's strict mode takes it: https://platform.openai.com/docs/guides/structured-outputs.

Every object is closed and has all of its fields, and of the many words of JSON Schema only some may stand in it. The
model is told of the others. What strict mode has no way to say is sent without it.
"""

from __future__ import annotations

from typing import Any

from kode.core.jsontext import parse
from kode.core.kernel.message import Json
from kode.core.provider.wire.schema import tell

__all__ = ["schema_of"]

_KEPT = frozenset(
    {
        "type", "enum", "const", "title", "description", "pattern", "multipleOf", "minimum", "maximum",
        "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems",
    }
)  # fmt: skip
_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
_NAMED = frozenset({"properties", "$defs", "definitions"})
_EACH = frozenset({"anyOf", "oneOf"})
_SILENT = frozenset({"additionalProperties", "required", "discriminator", "$schema", "$id"})
"""Said otherwise, or of no use to a model."""
_BEYOND = frozenset(
    {"allOf", "not", "if", "then", "else", "patternProperties", "prefixItems", "dependentRequired", "dependentSchemas"}
)


class _BeyondError(Exception):
    """Strict mode has no way to say it."""


def schema_of(schema: Json, strict: bool) -> tuple[dict[str, Any], bool]:
    """Read a schema, rewritten for strict mode if that is wanted and can be; and whether it was.

    Raises:
        UsageError: It is no JSON.
    """
    plain = parse(schema)
    try:
        written = _strict(_rooted(plain)) if strict else {}
    except (_BeyondError, RecursionError):
        written = {}
    return (written, True) if written.get("type") == "object" else (plain, False)


def _rooted(schema: Any) -> Any:
    """Write out what the root refers to, as the schema of something that holds itself does."""
    at = schema.get("$ref") if isinstance(schema, dict) else None
    named = schema.get("$defs") if at else None
    name = str(at).removeprefix("#/$defs/")
    schema = {**named[name], "$defs": named} if isinstance(named, dict) and name in named else schema
    rooted = isinstance(schema, dict) and schema.get("type") == "object"
    return {**schema, "properties": schema.get("properties", {})} if rooted else schema


def _strict(schema: Any) -> dict[str, Any]:
    if not isinstance(schema, dict):
        raise _BeyondError
    alone = schema.get("allOf")
    if isinstance(alone, list) and len(alone) == 1 and isinstance(alone[0], dict):
        schema = {**alone[0], **{name: value for name, value in schema.items() if name != "allOf"}}
    if "$ref" in schema:
        return {"$ref": schema["$ref"]}  # nothing may stand beside it
    if not _BEYOND.isdisjoint(schema) or schema.keys() >= _EACH:
        raise _BeyondError
    out: dict[str, Any] = {}
    told: dict[str, Any] = {}
    for name, value in schema.items():
        written = _word(name, value)
        out.update(written)
        if not written and name not in _SILENT and (name, value) != ("default", None):
            told[name] = value
    tell(out, told)
    return _closed(out, schema)


def _word(name: str, value: Any) -> dict[str, Any]:
    """Write one word of a schema; nothing, if strict mode does not know it."""
    if name in _KEPT or (name == "format" and value in _FORMATS):
        return {name: value}
    if name in _NAMED and isinstance(value, dict):
        return {name: {key: _strict(each) for key, each in value.items()}}
    if name in _EACH and isinstance(value, list):
        return {"anyOf": [_strict(each) for each in value]}
    return {name: _strict(value)} if name == "items" else {}


def _closed(out: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    kinds = out.get("type", ())
    kinds = {kinds} if isinstance(kinds, str) else {*kinds}
    if not kinds and "anyOf" not in out:
        raise _BeyondError  # anything at all
    if "object" in kinds:
        if "properties" not in out or schema.get("additionalProperties", False) is not False:
            raise _BeyondError  # a mapping: its keys may have any name
        out["required"] = [*out["properties"]]
        out["additionalProperties"] = False
    if ("array" in kinds) != ("items" in out) or ("properties" in out and "object" not in kinds):
        raise _BeyondError
    return out
