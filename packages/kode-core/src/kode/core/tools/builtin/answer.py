"""Answers that fit into a result: JSON objects no larger than ``Limits.max_tool_result_bytes``."""

from __future__ import annotations

from typing import Any

from kode.core import jsontext
from kode.core.sandbox.output import HeadTail, join_cut
from kode.core.tools.base import ToolContext, ToolOutcome

__all__ = ["answer", "answer_text", "budget", "count_lines", "size_of"]

ROOM = 512
"""Bytes left for what is beside the large field, at most half of the whole."""


def budget(context: ToolContext) -> int:
    """Bytes that the large field of an answer may take, as JSON text."""
    whole = context.limits.max_tool_result_bytes
    return whole - min(ROOM, whole // 2)


def size_of(value: Any) -> int:
    """Bytes of a value as JSON text."""
    return len(jsontext.dump(value).encode())


def count_lines(text: str) -> int:
    """Count the lines of a file's text; the last one may lack its line end."""
    return text.count("\n") + (bool(text) and not text.endswith("\n"))


def answer(value: dict[str, Any], cut_bytes: int = 0, *, is_error: bool = False) -> ToolOutcome:
    """Answer with a JSON object."""
    return ToolOutcome.of(jsontext.dump(value), is_error=is_error, cut_bytes=cut_bytes)


def answer_text(context: ToolContext, value: dict[str, Any], name: str, cut_bytes: int = 0) -> ToolOutcome:
    """Answer with a JSON object whose field ``name`` is cut in the middle until the whole fits.

    It is an error if it has a field ``error``. ``truncated`` is set if anything is missing. Quotes and control
    characters grow when written as JSON, so the room is found by halving.
    """
    value = {**value, "truncated": bool(value.get("truncated")) or cut_bytes > 0}
    data = value[name].encode("utf-8", "replace")
    room, missing = budget(context), 0
    limit = room
    while limit > 64 and size_of(value[name]) > room:
        kept = HeadTail(limit)
        kept.write(data)
        text, missing = join_cut(*kept.parts())
        value |= {name: text.decode("utf-8", "replace"), "truncated": True}
        limit //= 2
    return answer(value, cut_bytes + missing, is_error="error" in value)
