"""Reading and writing files in the agent's sandbox."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from kode.core.sandbox.base import Sandbox, shown
from kode.core.tools.base import ToolContext, ToolError, ToolOutcome
from kode.core.tools.builtin import freshness
from kode.core.tools.builtin.answer import answer, budget, count_lines, size_of
from kode.core.tools.builtin.text import PROBE
from kode.core.tools.define import tool

__all__ = ["fs_read", "fs_write"]

PIECE = 1 << 20
"""Bytes read at once."""
MAX_LINE = PIECE
"""Bytes kept of one line."""


@tool(readonly=True, prompt="Read a file before you change it. Read large files in parts, by offset and limit.")
async def fs_read(
    path: Annotated[str, Field(min_length=1)],
    context: ToolContext,
    offset: Annotated[int, Field(ge=1)] = 1,
    limit: Annotated[int | None, Field(ge=1)] = None,
) -> ToolOutcome:
    """Read a text file, or some of its lines.

    Returns a JSON object: path, offset, limit (lines returned), truncated (whether lines follow), totalLines,
    content.

    Args:
        path: File to read, relative to the working folder.
        offset: First line to return, counted from 1.
        limit: Most lines to return; all that fit by default.
        context: Where and for whom it runs; not shown to the model.
    """
    window = _Window(offset, limit, budget(context))
    before = await freshness.known(context, path)
    seen = await _lines(context.need_sandbox(), path, window)
    if await freshness.known(context, path) == before:  # else a call beside this one wrote it, and knows better
        await freshness.learn(context, path, seen)
    value = {
        "path": shown(path),
        "offset": offset,
        "limit": len(window.taken),
        "truncated": window.total > offset - 1 + len(window.taken) or window.cut > 0,
        "totalLines": window.total,
        "content": "\n".join(window.taken),
    }
    return answer(value, window.cut)


@dataclass(slots=True)
class _Window:
    """Takes the lines from ``first`` on while they fit, and counts them all."""

    first: int
    limit: int | None
    room: int
    taken: list[str] = field(default_factory=list)
    total: int = 0
    cut: int = 0
    """Bytes of the lines that were wanted and did not fit."""
    full: bool = False

    def line(self, raw: bytes, lost: int = 0) -> None:
        """Take a line, of which ``lost`` bytes were not kept."""
        self.total += 1
        if self.total < self.first or (self.limit is not None and self.total >= self.first + self.limit):
            return
        if lost:
            lost += max(0, len(raw) - MAX_LINE)
            raw = raw[:MAX_LINE]
        self.cut += lost
        if self.full:
            self.cut += len(raw)
            return
        text = raw.decode("utf-8", "replace")
        size = size_of(text) + 2
        if size <= self.room:
            self.taken.append(text)
            self.room -= size
            return
        self.full = True
        self.cut += len(raw)
        if not self.taken:  # one line that is too long is shown in part, else nobody could see it
            part = text[: self.room // 6]  # JSON writes a character in at most six bytes
            self.taken.append(part)
            self.cut -= len(part.encode())


async def _lines(sandbox: Sandbox, path: str, window: _Window) -> str:
    """Feed a window with all lines, in bounded memory. Returns the digest of the file."""
    offset, rest, lost, seen = 0, b"", 0, freshness.digest()
    while piece := await sandbox.read(path, offset=offset, size=PIECE):
        if offset == 0 and b"\0" in piece[:PROBE]:
            raise ToolError(
                f"{shown(path)!r} is a binary file.",
                code="binary_file",
                hints=("Use bash_run with a program that knows the format.",),
            )
        offset += len(piece)
        seen.update(piece)
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            window.line(line, lost)
            lost = 0
        lost += max(0, len(rest) - MAX_LINE)  # no line break for long: do not keep it all
        rest = rest[:MAX_LINE]
        if len(piece) < PIECE:
            break
    if rest:
        window.line(rest, lost)
    return seen.hexdigest()


@tool(recovery="retry", prompt="fs_write replaces the whole file. Give the complete content.")
async def fs_write(path: Annotated[str, Field(min_length=1)], content: str, context: ToolContext) -> ToolOutcome:
    """Write a text file, whole; what was there is replaced. Missing folders are made.

    Refused if someone else changed the file since you last read or wrote it.
    Returns a JSON object: ok, path, bytes, lines.

    Args:
        path: File to write, relative to the working folder.
        content: The file's whole new content.
        context: Where and for whom it runs; not shown to the model.
    """
    data = content.encode()
    digest = freshness.digest(data).hexdigest()
    await freshness.check(context, path, digest)
    await context.need_sandbox().write(path, data)
    await freshness.learn(context, path, digest)
    return answer({"ok": True, "path": shown(path), "bytes": len(data), "lines": count_lines(content)})
