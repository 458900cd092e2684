"""Reading and writing files in the agent's sandbox."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from pydantic import Field

from kode.core.sandbox.base import Sandbox, shown
from kode.core.tools.base import ToolContext, ToolError, ToolOutcome
from kode.core.tools.builtin import freshness
from kode.core.tools.builtin.answer import answer, budget, count_lines
from kode.core.tools.builtin.text import PROBE
from kode.core.tools.builtin.window import Window
from kode.core.tools.define import tool
from kode.core.tools.threads import in_thread

__all__ = ["fs_read", "fs_write"]

PIECE = 1 << 20
"""Bytes read at once."""
MAX_BEYOND = 67_108_864
"""Bytes behind the last line returned in which lines are still counted."""
NOT_UTF8 = "not UTF-8; U+FFFD stands for bytes that are none"


@tool(readonly=True, prompt="Read a file before you change it. Read large files in parts, by offset and limit.")
async def fs_read(
    path: Annotated[str, Field(min_length=1)],
    context: ToolContext,
    offset: Annotated[int, Field(ge=1)] = 1,
    limit: Annotated[int | None, Field(ge=1)] = None,
) -> ToolOutcome:
    """Read a text file, or some of its lines.

    Returns a JSON object: path, offset, limit (lines returned), truncated (whether lines follow), totalLines (null:
    too many to count), content; encoding if not all of its bytes could be shown.

    Args:
        path: File to read, relative to the working folder.
        offset: First line to return, counted from 1.
        limit: Most lines to return; all that fit by default.
        context: Where and for whom it runs; not shown to the model.
    """
    sandbox, window = context.need_sandbox(), Window(offset, limit, budget(context))
    key = await freshness.key_of(sandbox, path)
    before = await freshness.known(context, key)
    whole = await _scan(sandbox, path, window)
    # If it is not as before, a call beside this one wrote it, and knows better.
    if whole is not None and await freshness.known(context, key) == before:
        size, digest = whole
        seen = freshness.Seen(size, digest, _unseen(window, before if before and before[:2] == whole else None))
        await freshness.learn(context, key, seen)
    value = {
        "path": shown(path),
        "offset": offset,
        "limit": len(window.taken),
        "truncated": whole is None or window.total > offset - 1 + len(window.taken) or window.cut > 0,
        "totalLines": None if whole is None else window.total,
        "content": "\n".join(window.taken),
    }
    if window.mended:
        value["encoding"] = NOT_UTF8
    return answer(value, window.cut)


def _unseen(window: Window, before: freshness.Seen | None) -> int:
    """Count the lines that the model was not shown yet: those behind the first gap.

    A file that is read in parts, one behind the other, is known as a whole in the end.
    """
    top = 0 if before is None else window.total - before.unseen
    if window.first <= top + 1:
        top = max(top, window.first - 1 + window.exact)
    return window.total - top


async def _scan(sandbox: Sandbox, path: str, window: Window) -> tuple[int, str] | None:
    """Show a window the file, in bounded memory. Returns size and digest; None if it was left before the end."""
    size, beyond, found = 0, 0, freshness.digest()
    while piece := await sandbox.read(path, offset=size, size=PIECE):
        if size == 0 and b"\0" in piece[:PROBE]:
            raise ToolError(
                f"{shown(path)!r} is a binary file.",
                code="binary_file",
                hints=("Use bash_run with a program that knows the format.",),
            )
        size += len(piece)
        beyond += len(piece) if window.done else 0
        found.update(piece)
        await in_thread(partial(window.feed, piece))
        if len(piece) < PIECE:
            break
        if beyond >= MAX_BEYOND:
            return None
    window.finish()
    return size, found.hexdigest()


@tool(
    recovery="retry",
    prompt="fs_write replaces the whole file. Give the complete content. A file that is there must be read before.",
)
async def fs_write(path: Annotated[str, Field(min_length=1)], content: str, context: ToolContext) -> ToolOutcome:
    """Write a text file, whole; what was there is replaced. Missing folders are made.

    Refused if the file is there and you have not read the whole of it, or someone else changed it since.
    Returns a JSON object: ok, path, bytes, lines.

    Args:
        path: File to write, relative to the working folder.
        content: The file's whole new content.
        context: Where and for whom it runs; not shown to the model.
    """
    sandbox, data = context.need_sandbox(), content.encode()
    await freshness.check(context, path, data)
    await sandbox.write(path, data)
    seen = freshness.Seen(len(data), freshness.digest(data).hexdigest(), 0)
    await freshness.learn(context, await freshness.key_of(sandbox, path), seen)
    return answer({"ok": True, "path": shown(path), "bytes": len(data), "lines": count_lines(content)})
