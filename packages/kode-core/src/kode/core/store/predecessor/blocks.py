"""The predecessor's content blocks as ours. What we have no word for is kept as text that holds its JSON."""

from __future__ import annotations

import json
from typing import Any, Final, cast

from kode.core import jsontext
from kode.core.errors import UsageError
from kode.core.kernel.message import (
    Block,
    Json,
    MediaBlock,
    ReasoningBlock,
    ResultContent,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
)

__all__ = ["as_json", "block_of", "content_of"]

MEDIA: Final = frozenset({"image", "audio", "video", "file"})


def as_json(value: Any) -> Json:
    """Write a value as JSON text; one that our rule does not allow as a string that holds its JSON."""
    try:
        return jsontext.dump(value)
    except UsageError:
        return jsontext.dump(json.dumps(value))


def block_of(raw: Any) -> Block:
    """Read one block."""
    if isinstance(raw, str):
        return TextBlock(raw)
    if not isinstance(raw, dict):
        return TextBlock(as_json(raw))
    kind, meta = raw.get("type"), raw.get("meta")
    opaque = as_json(meta) if meta else None
    if kind == "text" and isinstance(raw.get("text"), str):
        return TextBlock(raw["text"], opaque)
    if kind == "reasoning" and isinstance(raw.get("reasoning"), str):
        signature = meta.get("signature") if isinstance(meta, dict) else None
        return ReasoningBlock(raw["reasoning"], signature if isinstance(signature, str) else None, opaque=opaque)
    if kind == "tool_use" and isinstance(raw.get("name"), str):
        given = raw.get("input")
        # Models are shown arguments as an object.
        arguments = given if isinstance(given, dict) else {} if given is None else {"value": given}
        return ToolUseBlock(_id(raw.get("id")), raw["name"], _object(arguments), opaque)
    if kind == "tool_result" and raw.get("tool_use_id"):
        content = content_of(raw.get("content"))
        return ToolResultBlock(_id(raw["tool_use_id"]), content, raw.get("is_error") is True)
    return _media(raw, opaque) or TextBlock(as_json(raw))


def content_of(value: Any) -> tuple[ResultContent, ...]:
    """Read what a tool gave: text, blocks, or any JSON."""
    if isinstance(value, str):
        return (TextBlock(value),)
    if isinstance(value, list) and value and all(isinstance(one, dict) and "type" in one for one in value):
        blocks = [block_of(one) for one in value]
        if all(isinstance(one, TextBlock | MediaBlock) for one in blocks):
            return cast(tuple[ResultContent, ...], tuple(blocks))
    return () if value is None else (TextBlock(as_json(value)),)


def _media(raw: dict[str, Any], opaque: Json | None) -> MediaBlock | None:
    kind = str(raw.get("type"))
    if kind == "image_url" and isinstance(raw.get("image_url"), dict):
        kind, raw = "image", raw["image_url"]
    if kind not in MEDIA:
        return None
    said = {name: raw[name] for name in ("url", "file_id", "base64", "mime_type", "filename") if raw.get(name)}
    if not said.keys() & {"url", "file_id", "base64"} or not all(isinstance(one, str) for one in said.values()):
        return None
    return MediaBlock(
        cast(Any, kind),
        media_type=said.get("mime_type"),
        url=said.get("url"),
        file_id=said.get("file_id"),
        data=said.get("base64"),
        name=said.get("filename"),
        opaque=opaque,
    )


def _object(arguments: dict[str, Any]) -> Json:
    try:
        return jsontext.dump(arguments)
    except UsageError:
        return jsontext.dump({"value": json.dumps(arguments)})


def _id(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else as_json(value)
