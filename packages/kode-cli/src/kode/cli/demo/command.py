"""`kode demo [DIR]`: prepares the files, runs and kills the agent, and checks what came of it."""

from __future__ import annotations

import io
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import anyio
import typer
from rich.console import Console

from kode.cli.demo.settings import AGENT_ID, FILES, Settings
from kode.cli.demo.show import Timeline
from kode.cli.demo.verify import Check, verify
from kode.cli.demo.watch import Kill, Moment, Watcher
from kode.cli.demo.workspace import CannotStartError, copy_files, default_source, make_work, remove_files
from kode.core import KodeError, SqliteStore

__all__ = ["demo"]

Option = typer.Option


def demo(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DIR]", show_default=False, help="What to survey; a copy is used. Default: KODE's own source."
        ),
    ] = None,
    work: Annotated[
        Path | None, Option(help="Work folder: a new one, or that of a demo that was stopped, which then goes on.")
    ] = None,
    keep: Annotated[bool, Option("--keep", help="Also keep the copy of the files.")] = False,
    kill_at: Annotated[
        list[str] | None,
        Option(
            metavar="WHEN",
            help="start, model, read, command, write, random, seconds, or never; again for another kill.",
        ),
    ] = None,
    seed: Annotated[int | None, Option(help="Choose the moments by chance, the same for the same number.")] = None,
    speed: Annotated[float, Option(min=0.1, max=100, help="How many times faster the slow parts are.")] = 1.0,
    as_json: Annotated[bool, Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Run an agent on real files, kill its process in mid-work, resume it from SQLite, and check everything.

    No network, no keys: an offline planner stands in for the model. Exit code 1: a check failed.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show an arrow shows a question mark
    console = Console(highlight=False, quiet=as_json, emoji=False)
    timeline = Timeline(console, time.monotonic())
    try:
        stages = _moments(kill_at, seed)
        settings, moments = _prepare(folder, work, speed, stages, timeline)
    except CannotStartError as error:
        raise _refuse(str(error)) from None
    try:
        told = anyio.run(_run, settings, moments, timeline)
    except KeyboardInterrupt:
        timeline.stopped(settings)
        raise typer.Exit(130) from None
    except (KodeError, OSError) as error:
        raise _refuse(f"The demo stopped: {error} Its work folder is {settings.work}.") from None
    good = all(check["ok"] for check in told["checks"])
    if good and not keep:
        remove_files(settings)
    if as_json:
        typer.echo(json.dumps(told, ensure_ascii=True, indent=2))
    raise typer.Exit(0 if good else 1)


def _refuse(text: str) -> typer.Exit:
    typer.echo(f"kode demo: {text}", err=True)
    return typer.Exit(2)


def _moments(kill_at: list[str] | None, seed: int | None) -> list[Moment]:
    """Turn what was asked for into moments; without a seed they lie in the middle of their stages."""
    dice = random.Random(seed)
    wanted = kill_at or ["command" if seed is None else "random"]
    try:
        return [Moment.choose(text, dice, middle=seed is None) for text in wanted if text != "never"]
    except ValueError as error:
        raise CannotStartError(
            f"--kill-at does not know {str(error)!r}; give a stage, random, never, or seconds."
        ) from None


def _prepare(
    folder: Path | None, work: Path | None, speed: float, moments: list[Moment], timeline: Timeline
) -> tuple[Settings, list[Moment]]:
    """Make the work folder and copy the files; or go on in one in which a demo was stopped, without another kill."""
    stored = None if work is None else Settings.load(work.resolve())
    if stored is not None:
        if folder is not None:
            raise CannotStartError(f"{str(work)!r} holds a demo of {stored.source!r}; leave DIR away to go on with it.")
        if not (stored.work / FILES).is_dir():
            raise CannotStartError(f"The demo in {str(work)!r} is finished; its report is {stored.report}.")
        timeline.opening(stored, None)
        return stored, []
    source = folder or default_source()
    if not source.is_dir():
        what = "is a file" if source.exists() else "does not exist"
        raise CannotStartError(f"{str(source)!r} {what}; give a folder.")
    settings = Settings(make_work(work), "KODE's own source" if folder is None else str(folder), speed)
    copied = copy_files(source, settings)
    settings.save()
    timeline.opening(settings, copied)
    return settings, moments


async def _run(settings: Settings, moments: Sequence[Moment], timeline: Timeline) -> dict[str, Any]:
    """Run the processes, then check."""
    async with SqliteStore(settings.database, durability="power") as store:
        watcher = Watcher(settings, store, timeline.show, timeline.began, timeline.killed)
        await watcher.catch_up()
        code = await watcher.run(moments)
        if code == 0:
            checks = await verify(settings, store, watcher)
        else:
            why = (watcher.said.splitlines() or [f"exit code {code}"])[-1]
            checks = [Check("the last process ended in order", False, why)]
    missed = len(moments) - len(watcher.kills)
    if missed and code == 0:
        checks.append(Check("killed as asked", False, f"{missed} of {len(moments)} moments never came"))
    timeline.closing(checks, settings, unfinished=code != 0)
    return {
        "ok": all(check.ok for check in checks),
        "agent_id": AGENT_ID,
        "seconds": round(time.monotonic() - timeline.origin, 3),
        "work": str(settings.work),
        "report": str(settings.report),
        "database": str(settings.database),
        "kills": [_kill_told(kill) for kill in watcher.kills],
        "timeline": timeline.lines,
        "checks": [{"name": check.name, "ok": check.ok, "detail": check.detail} for check in checks],
    }


def _kill_told(kill: Kill) -> dict[str, Any]:
    state = kill.state
    return {
        "stage": kill.moment.stage,
        "after_s": round(kill.after_s, 3),
        "breakpoint": None if state is None else state.breakpoint.value,
        "open_calls": [] if state is None else [f"{c.id} {c.tool} {c.status.value}" for c in state.calls],
        "messages": len(kill.messages),
        "events": kill.events,
        "processes_left": kill.left,
        "gone_s": round(kill.gone_s, 3),
    }
