"""The agent's tools: the built-in ones, two of them changed for the show, and one that watches a file grow."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from kode.cli.demo.settings import LEDGER, Settings
from kode.core import Tool, ToolContext, tool
from kode.core.errors import SandboxError
from kode.core.tools.base import ToolFunction
from kode.core.tools.builtin import bash_run, fs_glob, fs_grep, fs_read, fs_write

__all__ = ["demo_tools"]


@tool(readonly=True)
async def file_follow(
    path: str,
    context: ToolContext,
    until: str = "end",
    idle_s: Annotated[float, Field(gt=0, le=60)] = 1.5,
) -> dict[str, Any]:
    """Watch a text file grow until one of its lines is `until`, or until it has not grown for some time.

    Args:
        path: File to watch; it may not be there yet.
        until: Line that ends it.
        idle_s: Seconds without growth after which it is given up.
        context: Where and for whom it runs; not shown to the model.
    """
    clock, box = context.clock, context.need_sandbox()
    text, grown_at = "", clock.monotonic()
    while True:
        try:
            now = (await box.read(path)).decode("utf-8", "replace")
        except SandboxError:
            now = ""
        if len(now) != len(text):
            text, grown_at = now, clock.monotonic()
        lines = text.splitlines()
        ended = until in lines
        if ended or clock.monotonic() - grown_at > idle_s:
            return {"path": path, "ended": ended, "lines": len(lines), "last": lines[-1] if lines else ""}
        await clock.sleep(idle_s / 20)


def demo_tools(settings: Settings) -> list[Tool]:
    """All tools of the agent."""
    write = replace(fs_write, function=_held_up(fs_write.function, settings.write_s))
    run = replace(bash_run, function=_in_the_ledger(bash_run.function, settings))
    return [fs_glob, fs_grep, fs_read, write, run, file_follow]


def _held_up(work: ToolFunction, seconds: float) -> ToolFunction:
    """Make a tool take its time, before its work and after it."""

    async def function(context: ToolContext, arguments: dict[str, Any]) -> Any:
        await context.clock.sleep(seconds / 2)
        result = await work(context, arguments)
        await context.clock.sleep(seconds / 2)
        return result

    return function


def _in_the_ledger(work: ToolFunction, settings: Settings) -> ToolFunction:
    """Have each command note its own start, so that what really ran can be counted without asking the agent.

    The planner's command is slow; that of a model is made slow, so that it can be killed in the middle.
    """
    ledger = shlex.quote(str(settings.work / LEDGER))
    pause = f"sleep {settings.count_s:.4f}\n" if settings.model else ""

    async def function(context: ToolContext, arguments: dict[str, Any]) -> Any:
        note = f"printf '%s pid=%s\\n' {context.call_id} \"$$\" >> {ledger}\n"
        return await work(context, {**arguments, "cmd": note + pause + arguments["cmd"]})

    return function
