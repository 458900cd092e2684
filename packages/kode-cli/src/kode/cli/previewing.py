"""Shows what a call would do, exactly: a command whole, a write as the difference it makes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from anyio.to_thread import run_sync
from rich.text import Text

from kode.cli.comparing import changes
from kode.cli.visible import exact, inline
from kode.core import KodeError
from kode.core.kernel.message import Json
from kode.core.sandbox.base import Sandbox
from kode.core.tools.builtin.text import decode, replace_text

__all__ = ["preview"]

MAX_BYTES = 1_000_000
"""Of a file that is compared."""
_EDIT = ("old_string", "new_string")
_MULTI = ("find", "replace")
_STYLES = {"+": "green", "-": "red", "@": "cyan"}


async def preview(tool: str, input: Json, sandbox: Sandbox) -> list[Text]:
    """Give the rows that show a call whole. A tool that is not known shows its arguments."""
    arguments = json.loads(input)
    if not isinstance(arguments, dict):
        return _plain(input)
    if tool == "bash_run":
        return _command(arguments)
    if tool == "fs_write" and isinstance(arguments.get("content"), str):
        return await _write(str(arguments.get("path")), arguments["content"], sandbox)
    if tool == "fs_edit":
        return await _edits([arguments], _EDIT, sandbox)
    edits = arguments.get("edits")
    if tool == "fs_multi_edit" and isinstance(edits, list) and all(isinstance(edit, dict) for edit in edits):
        return [*await _edits(edits, _MULTI, sandbox), *_rest(arguments, ("edits",))]
    return _rest(arguments, ())


def _command(arguments: dict[str, Any]) -> list[Text]:
    return [*_plain(str(arguments.get("cmd", "")), "$ "), *_rest(arguments, ("cmd",))]


async def _edits(edits: list[dict[str, Any]], names: tuple[str, str], sandbox: Sandbox) -> list[Text]:
    """Edits, file by file: what they change there now, or the bare texts and why that cannot be told."""
    files: dict[str, list[dict[str, Any]]] = {}
    for edit in edits:
        files.setdefault(str(edit.get("path")), []).append(edit)
    rows: list[Text] = []
    for path, mine in files.items():
        try:
            data = await sandbox.read(path, size=MAX_BYTES + 1)
            if len(data) > MAX_BYTES:
                rows += _bare(path, "too large to show in its place", mine, names)
            else:
                rows += await run_sync(_edited, path, data, mine, names)
        except KodeError as error:
            rows += _bare(path, f"as things are this fails: {inline(error.message)}", mine, names)
        for edit in mine:
            rows += _rest(edit, ("path", *names, "replace_all"))
    return rows


def _edited(path: str, data: bytes, edits: list[dict[str, Any]], names: tuple[str, str]) -> list[Text]:
    before = after = decode(data, path)
    for edit in edits:
        old, new = (str(edit.get(name, "")) for name in names)
        after, _ = replace_text(after, old, new, everywhere=bool(edit.get("replace_all")))
    return _difference(path, before, after)


def _bare(path: str, why: str, edits: list[dict[str, Any]], names: tuple[str, str]) -> list[Text]:
    """Edits as they were asked for."""
    rows = [Text(f"  {inline(path)}: {why}", "bold red")]
    for edit in edits:
        rows += [Text("  wherever it is:", "bold red")] if edit.get("replace_all") else []
        for sign, name in zip("-+", names, strict=True):
            rows += _lines(sign, str(edit.get(name, "")))
    return rows


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
    return await run_sync(_difference, path, old.decode("utf-8", "replace"), content)


def _difference(path: str, before: str, after: str) -> list[Text]:
    rows = [_row(sign, line) for sign, line in changes(before, after)]
    return [Text(f"  {inline(path)}" + ("" if rows else " (nothing changes)"), "bold"), *rows]


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
