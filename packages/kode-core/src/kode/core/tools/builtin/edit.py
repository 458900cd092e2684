"""Changing parts of files in the agent's sandbox."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from kode.core.sandbox.base import shown
from kode.core.tools.base import ToolContext, ToolError, ToolOutcome
from kode.core.tools.builtin import freshness
from kode.core.tools.builtin.answer import answer, budget, count_lines
from kode.core.tools.builtin.text import decode, replace_text
from kode.core.tools.define import tool

__all__ = ["Edit", "fs_edit", "fs_multi_edit"]

MAX_FILE = 10_485_760
"""Bytes of a file that can be edited: it is held in memory."""
MAX_EDITS = 100


@tool(prompt="Read a file before you edit it, and copy the old text exactly, with enough around it to be unique.")
async def fs_edit(
    path: Annotated[str, Field(min_length=1)],
    old_string: Annotated[str, Field(min_length=1)],
    new_string: str,
    context: ToolContext,
    replace_all: bool = False,
) -> ToolOutcome:
    """Replace text in a file. The text must be there exactly once, unless replace_all is true.

    Nothing in the texts has a special meaning; line ends and all that is not replaced stay as they are.
    Returns a JSON object: ok, path, replacements, lines (of the file afterwards).

    Args:
        path: File to change, relative to the working folder.
        old_string: The text to replace, exactly as it is in the file.
        new_string: What to put in its place.
        replace_all: Replace it wherever it is.
        context: Where and for whom it runs; not shown to the model.
    """
    text = await _open(context, path)
    text, count = replace_text(text, old_string, new_string, everywhere=replace_all)
    await _save(context, path, text)
    return answer({"ok": True, "path": shown(path), "replacements": count, "lines": count_lines(text)})


class Edit(BaseModel):
    """One replacement."""

    model_config = ConfigDict(extra="forbid")

    path: Annotated[str, Field(min_length=1, description="File to change.")]
    find: Annotated[str, Field(min_length=1, description="The text to replace, exactly as it is in the file.")]
    replace: Annotated[str, Field(description="What to put in its place.")]
    replace_all: Annotated[bool, Field(description="Replace it wherever it is.")] = False


@dataclass(slots=True)
class _Done:
    """What came of one edit."""

    path: str
    replacements: int = 0
    status: Literal["ok", "skipped", "error"] = "ok"
    message: str | None = None

    def told(self, most: int) -> dict[str, Any]:
        """Tell the model, in a message of so many characters."""
        value = {"path": shown(self.path), "replacements": self.replacements, "status": self.status}
        return value if self.message is None else {**value, "message": self.message[:most]}


@tool(prompt="Use fs_multi_edit to change several places or files at once. A file is changed by all its edits or none.")
async def fs_multi_edit(
    edits: Annotated[list[Edit], Field(min_length=1, max_length=MAX_EDITS)], context: ToolContext
) -> ToolOutcome:
    """Replace texts in one or more files, in the order given; a later edit of a file sees the earlier ones.

    Each file is written once, with all its edits or with none: if one fails, the file stays as it was, its other
    edits are skipped, and the edits of other files go on.
    Returns a JSON object: ok (whether all were made), results (for each edit: path, replacements, status ok, skipped
    or error, message).

    Args:
        edits: What to change.
        context: Where and for whom it runs; not shown to the model.
    """
    done = [_Done(edit.path) for edit in edits]
    files: dict[str, list[int]] = {}
    for number, edit in enumerate(edits):
        files.setdefault(freshness.key_of(context.need_sandbox(), edit.path), []).append(number)
    for numbers in files.values():
        await _edit_file(context, edits, done, numbers)
    failed = sum(one.status != "ok" for one in done)
    most = budget(context) // len(done) // 2
    value: dict[str, Any] = {"ok": not failed, "results": [one.told(most) for one in done]}
    if failed:
        value["error"] = f"{failed} of {len(done)} edits were not made; see results."
    return answer(value, is_error=failed > 0)


async def _edit_file(context: ToolContext, edits: list[Edit], done: list[_Done], numbers: list[int]) -> None:
    """Make the edits of one file, all or none."""
    at = numbers[0]
    try:
        text = await _open(context, edits[at].path)
        for at in numbers:
            edit = edits[at]
            text, done[at].replacements = replace_text(text, edit.find, edit.replace, everywhere=edit.replace_all)
        await _save(context, edits[at].path, text)
    except Exception as error:  # noqa: BLE001 - other files are written perhaps, and the model must hear of them
        for number in numbers:
            why = f"Not made, because edit {at + 1}, of the same file, failed."
            done[number] = _Done(edits[number].path, 0, "skipped", why)
        done[at] = _Done(edits[at].path, 0, "error", _explained(error))


def _explained(error: Exception) -> str:
    hints = error.hints if isinstance(error, ToolError) else ()
    return " ".join((str(error) or type(error).__name__, *hints))


async def _open(context: ToolContext, path: str) -> str:
    """Read a file that is to be changed.

    Raises:
        ToolError: ``file_changed``, ``file_too_large``, or it is no text.
    """
    data = await context.need_sandbox().read(path, size=MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise ToolError(
            f"{shown(path)!r} has more than {MAX_FILE:,} bytes, too many to edit; nothing was changed.",
            code="file_too_large",
            hints=("Use bash_run, for instance with `sed -i`.",),
        )
    seen = await freshness.known(context, path)
    if seen not in (None, freshness.digest(data).hexdigest()):
        raise freshness.changed(path)
    return decode(data, shown(path))


async def _save(context: ToolContext, path: str, text: str) -> None:
    data = text.encode()
    await context.need_sandbox().write(path, data)
    await freshness.learn(context, path, freshness.digest(data).hexdigest())
