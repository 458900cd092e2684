"""Shows what a call would do, exactly: a command whole, a write as the difference it makes."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable
from typing import Any

from rich.text import Text

from kode.cli.visible import exact, inline
from kode.core import KodeError
from kode.core.kernel.message import Json
from kode.core.sandbox.base import Sandbox

__all__ = ["preview"]

MAX_BYTES = 1_000_000
"""Of a file that is compared."""
_STYLES = {"+": "green", "-": "red", "@": "cyan"}


async def preview(tool: str, input: Json, sandbox: Sandbox) -> list[Text]:
    """Give the rows that show a call whole. A tool that is not known shows its arguments."""
    arguments = json.loads(input)
    if not isinstance(arguments, dict):
        return _plain(input)
    if tool == "fs_write" and isinstance(arguments.get("content"), str):
        return await _write(str(arguments.get("path")), arguments["content"], sandbox)
    draw = _DRAWN.get(tool)
    return _rest(arguments, ()) if draw is None else draw(arguments)


def _command(arguments: dict[str, Any]) -> list[Text]:
    return [*_plain(str(arguments.get("cmd", "")), "$ "), *_rest(arguments, ("cmd",))]


def _edit(arguments: dict[str, Any]) -> list[Text]:
    rows = _change(arguments, "old_string", "new_string")
    return [*rows, *_rest(arguments, ("path", "old_string", "new_string"))]


def _multi_edit(arguments: dict[str, Any]) -> list[Text]:
    rows: list[Text] = []
    for edit in arguments.get("edits") or ():
        if isinstance(edit, dict):
            rows += [*_change(edit, "find", "replace"), *_rest(edit, ("path", "find", "replace"))]
    return rows or _rest(arguments, ())


_DRAWN: dict[str, Callable[[dict[str, Any]], list[Text]]] = {
    "bash_run": _command,
    "fs_edit": _edit,
    "fs_multi_edit": _multi_edit,
}


async def _write(path: str, content: str, sandbox: Sandbox) -> list[Text]:
    """A whole file: as the difference to what is there now."""
    try:
        stat = await sandbox.stat(path)
        old = await sandbox.read(path, size=MAX_BYTES + 1) if stat.kind == "file" else None
    except KodeError as error:
        if error.code != "file_not_found":
            return [Text(f"  {inline(path)}: {inline(error.message)}", "bold red"), *_lines("+", content)]
        return [Text(f"  {inline(path)} (a new file)", "bold"), *_lines("+", content)]
    if old is None or len(old) > MAX_BYTES or b"\0" in old:
        return [Text(f"  {inline(path)} replaces what is there, whole:", "bold"), *_lines("+", content)]
    before = old.decode("utf-8", "replace").splitlines(keepends=True)
    changes = list(difflib.unified_diff(before, content.splitlines(keepends=True)))[2:]
    head = Text(f"  {inline(path)}" + ("" if changes else " (nothing changes)"), "bold")
    return [head, *(_row(line[:1], line[1:].removesuffix("\n")) for line in changes)]


def _change(edit: dict[str, Any], old: str, new: str) -> list[Text]:
    head = Text(f"  {inline(str(edit.get('path')))}", "bold")
    return [head, *_lines("-", str(edit.get(old, ""))), *_lines("+", str(edit.get(new, "")))]


def _lines(sign: str, text: str) -> Iterable[Text]:
    return [_row(sign, line) for line in text.removesuffix("\n").split("\n")]


def _row(sign: str, line: str) -> Text:
    return Text(f"  {sign}{exact(line)}", _STYLES.get(sign, ""))


def _plain(text: str, first: str = "") -> list[Text]:
    lines = text.split("\n")
    return [Text(f"  {first if not n else ' ' * len(first)}{exact(line)}", "bold") for n, line in enumerate(lines)]


def _rest(arguments: dict[str, Any], shown: tuple[str, ...]) -> list[Text]:
    """The arguments that are not shown already, one a line; long texts over several."""
    rows = []
    for name, value in arguments.items():
        if name not in shown:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            first, *more = text.split("\n")
            rows.append(Text.assemble((f"  {inline(name)}: ", "dim"), exact(first)))
            rows += [Text(f"    {exact(line)}") for line in more]
    return rows
