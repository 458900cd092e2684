"""Finds tools by name.

Those registered in this process, and those that installed wheels bring (``kode.tool``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from kode.core.errors import NotBoundError, UsageError
from kode.core.lazy import entry_points
from kode.core.tools.base import Tool

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

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
        self._installed = installed
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
        points = tuple(entry_points(group=GROUP, name=name)) if self._installed else ()
        if not points:
            known = ", ".join(self.names()) or "none"
            raise NotBoundError(
                f"There is no tool {name!r} in this process. Register it, or install the wheel that "
                f"brings it. Known are: {known}.",
                tool=name,
            )
        return self.register(_load(name, points))

    def names(self) -> tuple[str, ...]:
        """Return all known names, sorted; nothing is loaded."""
        installed = {point.name for point in entry_points(group=GROUP)} if self._installed else set()
        return tuple(sorted(installed | set(self._tools)))


def _load(name: str, points: tuple[EntryPoint, ...]) -> Tool:
    # The same distribution may be seen twice (a source tree beside its installation); its claim is one.
    if len({point.value for point in points}) > 1:
        claims = ", ".join(sorted(f"{point.value} ({_owner(point)})" for point in points))
        raise UsageError(f"Two wheels claim the tool {name!r}: {claims}. Uninstall one.", code="tool_claimed_twice")
    try:
        found = points[0].load()
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"The tool {name!r} of {_owner(points[0])} cannot be loaded: {error}.", code="tool_not_loaded"
        ) from error
    if not isinstance(found, Tool) or found.name != name:
        raise UsageError(f"{points[0].value!r} of {_owner(points[0])} is no tool named {name!r}.", code="bad_tool")
    return found


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unknown wheel"


default_tools = ToolRegistry()
"""The process's own: what is registered here is found by every agent that was not given another registry."""
