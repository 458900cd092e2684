"""Tools: what an agent can do beside talking."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kode.core.lazy import exports

if TYPE_CHECKING:
    from kode.core.tools.base import Subagents, Suspended, Tool, ToolContext, ToolError, ToolOutcome, ToolResult
    from kode.core.tools.catalog import ToolRegistry, default_tools
    from kode.core.tools.define import to_result, tool
    from kode.core.tools.documents import Documents

__getattr__, __dir__ = exports(
    __name__,
    {
        "Documents": "documents",
        "Subagents": "base",
        "Suspended": "base",
        "Tool": "base",
        "ToolContext": "base",
        "ToolError": "base",
        "ToolOutcome": "base",
        "ToolRegistry": "catalog",
        "ToolResult": "base",
        "default_tools": "catalog",
        "to_result": "define",
        "tool": "define",
    },
)

__all__ = [
    "Documents",
    "Subagents",
    "Suspended",
    "Tool",
    "ToolContext",
    "ToolError",
    "ToolOutcome",
    "ToolRegistry",
    "ToolResult",
    "default_tools",
    "to_result",
    "tool",
]
