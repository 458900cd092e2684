"""Finds tools by name.

Those registered in this process, and those that installed wheels bring (``kode.tool``).
"""

from __future__ import annotations

from collections.abc import Iterable

from kode.core.discovery import brought, installed
from kode.core.errors import NotBoundError, UsageError
from kode.core.tools.base import Tool

__all__ = ["ToolRegistry", "default_tools"]

GROUP = "kode.tool"


class ToolRegistry:
    """Names and their tools.

    Args:
        tools: To start with.
        installed: Look for unknown names among the entry points of installed wheels; they are loaded when
            asked for.
    """

    def __init__(self, tools: Iterable[Tool] = (), *, installed: bool = True) -> None:
        self._tools: dict[str, Tool] = {}
        self._group = GROUP if installed else None
        for one in tools:
            self.register(one)

    def register(self, tool: Tool) -> Tool:
        """Add a tool and return it. The same one again is harmless.

        Raises:
            UsageError: It is no tool, or the name stands for another definition (``tool_exists``).
        """
        if not isinstance(tool, Tool):
            raise UsageError(f"{tool!r} is no Tool; make one with @tool.", code="bad_tool")
        known = self._tools.get(tool.name)
        if (
            known is not None
            and known is not tool
            and (known.digest, known.description) != (tool.digest, tool.description)
        ):
            raise UsageError(
                f"The tool {tool.name!r} is registered with another definition. Give one another name.",
                code="tool_exists",
                tool=tool.name,
            )
        self._tools[tool.name] = tool
        return tool

    def get(self, name: str) -> Tool:
        """Return a tool; the first time, one that a wheel brings is loaded.

        Raises:
            NotBoundError: There is none; the message names those that are known.
            UsageError: Two wheels claim the name, or what the wheel brings is no tool.
        """
        if name in self._tools:
            return self._tools[name]
        loaded = brought(self._group, name, "tool")
        if loaded is None:
            known = ", ".join(self.names()) or "none"
            raise NotBoundError(
                f"There is no tool {name!r} in this process. Register it, or install the wheel that "
                f"brings it. Known are: {known}.",
                tool=name,
            )
        found, whose = loaded
        if not isinstance(found, Tool) or found.name != name:
            raise UsageError(f"{whose} is no tool named {name!r}.", code="bad_entry_point")
        return self.register(found)

    def names(self) -> tuple[str, ...]:
        """Return all known names, sorted; nothing is loaded."""
        return tuple(sorted(installed(self._group) | set(self._tools)))


default_tools = ToolRegistry()
"""The process's own: what is registered here is found by every agent that was not given another registry."""
