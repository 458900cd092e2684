"""`kode demo [DIR]`: prepares the files, runs and kills the agent, and checks what came of it."""

from __future__ import annotations

import contextlib
import io
import json
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import anyio
import typer
from rich.console import Console

from kode.cli.demo.agent import provider as make_provider
from kode.cli.demo.deciding import Ask, LeftOpenError, by_itself, person
from kode.cli.demo.moments import STAGES, Moment
from kode.cli.demo.recount import Check
from kode.cli.demo.settings import AGENT_ID, FILES, Settings
from kode.cli.demo.show import Timeline
from kode.cli.demo.verify import verify
from kode.cli.demo.watch import Kill, Watcher
from kode.cli.demo.workspace import CannotStartError, copy_files, default_source, held, make_work, remove_files
from kode.cli.recipe import without_secret
from kode.core import KodeError, SqliteStore

__all__ = ["demo"]

Option = typer.Option


class _EndedError(KeyboardInterrupt):
    """A signal that ends us, taken as Ctrl-C is: the agent's process is ours to end."""

    def __init__(self, number: int) -> None:
        self.code = 128 + number


def demo(
    context: typer.Context,
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR", show_default=False, help="What to survey; a copy is used. Default: KODE's own source."
        ),
    ] = None,
    work: Annotated[
        Path | None, Option(help="Work folder: a new one, or that of a demo that was stopped, which then goes on.")
    ] = None,
    keep: Annotated[bool, Option("--keep", help="Also keep the copy of the files.")] = False,
    decide: Annotated[
        str | None,
        Option(metavar="HOW", help="ask, allow or deny what the agent asks; default: ask, if a terminal is there."),
    ] = None,
    yes: Annotated[bool, Option("--yes", "-y", help="Like --decide allow.")] = False,
    kill_at: Annotated[
        list[str] | None,
        Option(metavar="WHEN", help=f"{', '.join(STAGES)}, random, seconds, or never; again for another kill."),
    ] = None,
    seed: Annotated[int | None, Option(help="Choose the moments by chance, the same for the same number.")] = None,
    speed: Annotated[float, Option(min=0.1, max=100, help="How many times faster the slow parts are.")] = 1.0,
    provider: Annotated[str | None, Option(help="Let a real model do it: its vendor, such as openai.")] = None,
    model: Annotated[
        str | None, Option(help="Its name, alone or as provider:model. Its key: in the environment.")
    ] = None,
    base_url: Annotated[str | None, Option(help="Its server, if not the vendor's own.")] = None,
    as_json: Annotated[bool, Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Run an agent on real files, kill its process in mid-work, resume it from SQLite, and check everything.

    No network, no keys: an offline planner stands in for the model, unless --provider or --model names one.
    Exit code 1: a check failed.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show an arrow shows a question mark
    console = Console(highlight=False, quiet=as_json, emoji=False)
    timeline = Timeline(console, time.monotonic())
    context.with_resource(_heard(signal.SIGTERM, signal.SIGHUP))
    try:
        stages = _moments(kill_at, seed)
        wanted = Wanted(folder, work, speed, _model_name(provider, model, base_url), base_url)
        ask = _decider("allow" if yes else decide, wanted.model, as_json, timeline)
        settings, moments = _prepare(wanted, stages, timeline, context)
    except (CannotStartError, KodeError, OSError) as error:
        raise _refuse(str(error)) from None
    except KeyboardInterrupt as end:
        raise typer.Exit(_code(end)) from None  # while copying: nothing is left of it
    try:
        told = anyio.run(_run, settings, moments, ask, timeline)
    except (KeyboardInterrupt, LeftOpenError) as end:
        timeline.stopped(settings)
        raise typer.Exit(_code(end)) from None
    except (KodeError, OSError) as error:
        raise _refuse(f"The demo stopped: {error} Its work folder is {str(settings.work)!r}.") from None
    good = all(check["ok"] for check in told["checks"])
    if good and not keep:
        remove_files(settings)
    if as_json:
        typer.echo(json.dumps(told, ensure_ascii=True, indent=2))
    raise typer.Exit(0 if good else 1)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line says of the scene."""

    folder: Path | None
    work: Path | None
    speed: float
    model: str
    base_url: str | None


@contextlib.contextmanager
def _heard(*numbers: int) -> Iterator[None]:
    def end(number: int, _: object) -> None:
        raise _EndedError(number)

    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _code(end: BaseException) -> int:
    return end.code if isinstance(end, _EndedError) else 130


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


def _model_name(provider: str | None, model: str | None, base_url: str | None) -> str:
    """Name the model as ``provider:model``; empty for the planner."""
    if model is None and provider is None:
        if base_url is not None:
            raise CannotStartError("--base-url is the server of a model; give --model too.")
        return ""
    if model is None:
        return str(provider)
    if provider is None:
        return model if ":" in model else f"openai:{model}"
    return model if model.startswith(f"{provider}:") else f"{provider}:{model}"


def _decider(how: str | None, model: str, as_json: bool, timeline: Timeline) -> Ask:
    """Find out who answers the agent: the person at the terminal, or nobody."""
    terminal = sys.stdin.isatty() and sys.stdout.isatty() and not as_json
    match how:
        case None if model and not terminal:
            raise CannotStartError(
                f"{model} may run any command on this machine, and there is no terminal to ask you about each; "
                "give --yes to allow all, or --decide deny."
            )
        case None if not terminal:
            return by_itself("allow", "no terminal to ask at")
        case "allow" | "deny":
            return by_itself(how, "--yes" if how == "allow" else "--decide deny")
        case None | "ask" if terminal:
            timeline.asking = True
            return person(timeline.prompt)
        case "ask":
            raise CannotStartError("--decide ask needs a terminal to ask you; leave it away, or give allow or deny.")
    raise CannotStartError(f"--decide does not know {how!r}; give ask, allow or deny.")


def _prepare(
    wanted: Wanted, moments: list[Moment], timeline: Timeline, context: typer.Context
) -> tuple[Settings, list[Moment]]:
    """Make the work folder and copy the files; or go on in one in which a demo was stopped, without another kill.

    The folder is ours until the command ends.
    """
    stored = None if wanted.work is None else Settings.load(wanted.work.resolve())
    if stored is not None:
        if wanted.folder is not None or wanted.model:
            raise CannotStartError(
                f"{str(wanted.work)!r} holds a demo of {stored.source!r}; leave DIR and the model away to go on."
            )
        if not (stored.work / FILES).is_dir():
            raise CannotStartError(f"The demo in {str(wanted.work)!r} is finished; its report is {stored.report}.")
        context.with_resource(held(stored.work))
        timeline.opening(stored, None)
        return stored, []
    source = wanted.folder or default_source()
    if not source.is_dir():
        what = "is a file" if source.exists() else "does not exist"
        raise CannotStartError(f"{str(source)!r} {what}; give a folder.")
    name = "KODE's own source" if wanted.folder is None else str(wanted.folder)
    settings = Settings(Path(), name, wanted.speed, wanted.model, wanted.base_url and without_secret(wanted.base_url))
    make_provider(settings)  # what is missing is said before anything is made
    settings = replace(settings, work=make_work(wanted.work))
    context.with_resource(held(settings.work))
    copied = copy_files(source, settings)
    settings.save()
    timeline.opening(settings, copied)
    return settings, moments


async def _run(settings: Settings, moments: Sequence[Moment], ask: Ask, timeline: Timeline) -> dict[str, Any]:
    """Run the processes, then check."""
    async with SqliteStore(settings.database, durability="power") as store:
        watcher = Watcher(settings, store, timeline, ask)
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
        "report": str(settings.report) if settings.report.exists() else None,
        "database": str(settings.database),
        "model": settings.model or None,
        "kills": [_kill_told(kill) for kill in watcher.kills],
        "decisions": [
            {"call": one.question.call, "tool": one.question.tool, **asdict(one.answer)} for one in watcher.decisions
        ],
        "timeline": timeline.lines,
        "checks": [asdict(check) for check in checks],
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
