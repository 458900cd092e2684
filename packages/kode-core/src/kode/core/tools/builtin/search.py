"""Finding files, and lines in files, in the agent's sandbox."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from kode.core.sandbox.base import shown
from kode.core.tools.base import ToolContext, ToolOutcome
from kode.core.tools.builtin.answer import answer, budget, size_of
from kode.core.tools.define import tool

__all__ = ["fs_glob", "fs_grep"]

MAX_RESULTS = 10_000


@tool(readonly=True)
async def fs_glob(
    pattern: Annotated[str, Field(min_length=1)],
    context: ToolContext,
    cwd: Annotated[str, Field(min_length=1)] = ".",
    dot: bool = False,
    limit: Annotated[int, Field(ge=1, le=MAX_RESULTS)] = 200,
) -> ToolOutcome:
    """Find files by a pattern such as `src/**/*.py` or `*.{md,txt}`; `**` stands for any folders.

    Folders such as .git, node_modules, __pycache__ and .venv are passed by unless the pattern names them.
    Returns a JSON object: ok, pattern, cwd, truncated, count, matches (paths relative to the working folder,
    sorted).

    Args:
        pattern: Matched against paths relative to cwd.
        cwd: Folder to search in.
        dot: Also match names that start with a dot.
        limit: Most paths to return.
        context: Where and for whom it runs; not shown to the model.
    """
    found = await context.need_sandbox().glob(pattern, cwd=cwd, dot=dot, limit=limit)
    matches, fits = _fitting([shown(path) for path in found.paths], budget(context) - size_of([pattern, cwd]))
    value = {
        "ok": True,
        "pattern": pattern,
        "cwd": cwd,
        "truncated": found.truncated or not fits,
        "count": len(matches),
        "matches": matches,
        **_unnamable(found.paths[: len(matches)], matches),
    }
    return answer(value)


def _unnamable(paths: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    """Say of names that are not UTF-8 that they do not open what they stand for."""
    if tuple(paths) == tuple(names):
        return {}
    return {"hints": [r"In names with \ufffd bytes are lost; bash_run can reach them, for instance by a wildcard."]}


@tool(readonly=True)
async def fs_grep(
    pattern: Annotated[str, Field(min_length=1)],
    context: ToolContext,
    path: Annotated[str, Field(min_length=1)] = ".",
    regex: bool = False,
    case_sensitive: bool = True,
    max_results: Annotated[int, Field(ge=1, le=MAX_RESULTS)] = 200,
) -> ToolOutcome:
    """Search text files line by line. Binary files and folders such as .git and node_modules are passed by.

    Returns a JSON object: ok, pattern, path, matches (each with path, line, column, preview), truncated.

    Args:
        pattern: Plain text, or a Python regular expression if regex is true.
        path: A file, a folder, or a glob such as `src/**/*.py`.
        regex: Read the pattern as a regular expression.
        case_sensitive: If false, letters match in both cases.
        max_results: Most matches to return.
        context: Where and for whom it runs; not shown to the model.
    """
    found = await context.need_sandbox().grep(
        pattern, path=path, regex=regex, case_sensitive=case_sensitive, limit=max_results
    )
    matches, fits = _fitting(
        [
            {"path": shown(match.path), "line": match.line, "column": match.column, "preview": match.preview}
            for match in found.matches
        ],
        budget(context) - size_of([pattern, path]),
    )
    value = {
        "ok": True,
        "pattern": pattern,
        "path": shown(path),
        "matches": matches,
        "truncated": found.truncated or not fits,
    }
    return answer(value)


def _fitting(items: list[Any], room: int) -> tuple[list[Any], bool]:
    """Return as many of the first items as fit, and whether these are all."""
    for index, item in enumerate(items):
        room -= size_of(item) + 1
        if room < 0:
            return items[:index], False
    return items, True
