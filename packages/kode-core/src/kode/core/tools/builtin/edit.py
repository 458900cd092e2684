"""Changing parts of files in the agent's sandbox."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from kode.core.sandbox.base import shown
from kode.core.tools.base import ToolContext, ToolError, ToolOutcome
from kode.core.tools.builtin import freshness
from kode.core.tools.builtin.answer import answer, budget, count_lines
from kode.core.tools.builtin.text import MAX_FILE, decode, replace_text
from kode.core.tools.define import tool
from kode.core.tools.threads import in_thread

__all__ = ["Edit", "fs_edit", "fs_multi_edit"]

MAX_EDITS = 100


class Edit(BaseModel):
    """One replacement."""

    model_config = ConfigDict(extra="forbid")

    path: Annotated[str, Field(min_length=1, description="File to change.")]
    find: Annotated[str, Field(min_length=1, description="The text to replace, exactly as it is in the file.")]
    replace: Annotated[str, Field(description="What to put in its place.")]
    replace_all: Annotated[bool, Field(description="Replace it wherever it is.")] = False


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
    counts: list[int] = []
    edit = Edit(path=path, find=old_string, replace=new_string, replace_all=replace_all)
    lines = await _edit(context, [edit], counts)
    return answer({"ok": True, "path": shown(path), "replacements": counts[0], "lines": lines})


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
        key = await freshness.key_of(context.need_sandbox(), edit.path)
        files.setdefault(key, []).append(number)
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
    counts: list[int] = []
    try:
        await _edit(context, [edits[number] for number in numbers], counts)
    except Exception as error:  # noqa: BLE001 - other files are written perhaps, and the model must hear of them
        at = numbers[min(len(counts), len(numbers) - 1)]
        for number in numbers:
            why = f"Not made, because edit {at + 1}, of the same file, failed."
            done[number] = _Done(edits[number].path, 0, "skipped", why)
        done[at] = _Done(edits[at].path, 0, "error", _explained(error))
        return
    for number, count in zip(numbers, counts, strict=True):
        done[number].replacements = count


def _explained(error: Exception) -> str:
    hints = error.hints if isinstance(error, ToolError) else ()
    return " ".join((str(error) or type(error).__name__, *hints))


async def _edit(context: ToolContext, edits: list[Edit], counts: list[int]) -> int:
    """Make edits of one file in one write; ``counts`` gets the replacements of each that could be made.

    Returns:
        The lines of the file afterwards.

    Raises:
        ToolError: ``file_changed``, ``file_too_large``, it is no text, or an edit cannot be made.
    """
    sandbox, path = context.need_sandbox(), edits[0].path
    key = await freshness.key_of(sandbox, path)
    data = await sandbox.read(path, size=MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise ToolError(
            f"{shown(path)!r} has more than {MAX_FILE:,} bytes, too many to edit; nothing was changed.",
            code="file_too_large",
            hints=("Use bash_run, for instance with `sed -i`.",),
        )
    before = await freshness.known(context, key)
    if before is not None and not before.is_of(data):
        raise freshness.changed(path)
    data, lines = await in_thread(partial(_replace, data, edits, counts))
    await sandbox.write(path, data)
    unseen = 0 if before is not None and not before.unseen else lines
    await freshness.learn(context, key, freshness.Seen(len(data), freshness.digest(data).hexdigest(), unseen))
    return lines


def _replace(data: bytes, edits: list[Edit], counts: list[int]) -> tuple[bytes, int]:
    """Make edits, in a worker thread: a large file, and a failure that is explained, take their time."""
    text = decode(data, shown(edits[0].path))
    for edit in edits:
        text, count = replace_text(text, edit.find, edit.replace, everywhere=edit.replace_all)
        counts.append(count)
    return text.encode(), count_lines(text)
