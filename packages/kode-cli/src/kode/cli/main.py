"""The command `kode`: a thin shell around commands that are found by entry point.

Every command, built in or from another wheel, registers in the group `kode.command`:

    [project.entry-points."kode.command"]
    demo = "kode.cli.demo:demo"     # a function with typer annotations, or a `typer.Typer`

Only the command that is called is imported, so `kode --help` stays fast however many there are. That is why it
knows what our own commands do from a table here, and of others only the wheel that brings them.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import EntryPoint, entry_points, version
from io import TextIOWrapper
from typing import Annotated

import typer

__all__ = ["GROUP", "SUMMARIES", "build", "main", "run"]

GROUP = "kode.command"
"""Entry-point group that commands register in."""
SUMMARIES = {
    "agents": "List the agents of a store.",
    "decide": "Allow or deny a call that waits.",
    "demo": "See an agent killed in mid-work and resumed.",
    "events": "Show an agent's events, past and coming.",
    "interrupt": "End an agent's run for good.",
    "limits": "Show an agent's limits, or change some.",
    "resume": "Go on where an agent was.",
    "run": "Run an agent on a task in a folder.",
    "send": "Put a message into an agent's inbox.",
    "show": "Show an agent's timeline as a tree.",
    "store": "Check, count, prune and copy a store, or move to it.",
}
"""What our own commands do."""
_OWN = "kode.cli."
"""Beginning of the modules of our own commands: a command of another wheel never borrows their help."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; errors are said on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # what it cannot write is a question mark, not a traceback
    code = _called(arguments)
    try:
        sys.stdout.flush()
    except OSError as error:
        from kode.cli.failing import lost_output

        return lost_output(error)
    return code


def _called(arguments: Sequence[str]) -> int:
    try:
        build(arguments)(arguments, prog_name="kode")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001 - sorted into what a person can mend, and bugs
        from kode.cli.failing import explain

        return explain(error)
    return 0


def main() -> None:
    """Run the command line of this process and exit."""
    _stand_in()
    _hide_environment()
    sys.exit(run(sys.argv[1:]))


def _stand_in() -> None:
    """Put something in the place of streams that were closed before we began (`>&-`)."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))


def _hide_environment() -> None:
    """Keep our keys from the commands an agent runs as the same user: `/proc/PID/environ` is root's alone then."""
    if sys.platform == "linux":
        import ctypes

        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE; a program we start begins anew


def build(arguments: Sequence[str]) -> typer.Typer:
    """Build the application for one command line: the command it names, and a line of help for each other.

    Raises:
        SystemExit: Two wheels claim the command that is called.
    """
    app = typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        rich_markup_mode=None,  # importing rich for its help would double the time to the first line
        pretty_exceptions_enable=False,  # they would show local variables, keys among them
        help="KODE: a durable runtime for LLM agents.",
        epilog="`kode COMMAND --help` says how to use a command.",
    )
    app.callback()(_options)
    # No option before the command takes a value, so the first word that is not an option is the command.
    called = next((word for word in arguments if not word.startswith("-")), None)
    for name, points in sorted(_commands().items()):
        if name == called:
            _add(app, name, points)
        else:
            app.command(name, help=_summary(name, points))(_not_called)
    return app


def _commands() -> dict[str, list[EntryPoint]]:
    named: defaultdict[str, list[EntryPoint]] = defaultdict(list)
    for point in entry_points(group=GROUP):
        # One wheel may be found twice, where the path lists its folder twice.
        if all(known.value != point.value for known in named[point.name]):
            named[point.name].append(point)
    return named


def _add(app: typer.Typer, name: str, points: Sequence[EntryPoint]) -> None:
    if len(points) > 1:
        typer.echo(f"The command {name!r} is claimed by {_wheels(points)}; uninstall all but one.", err=True)
        raise SystemExit(2)
    loaded: typer.Typer | Callable[..., object] = points[0].load()
    if isinstance(loaded, typer.Typer):
        app.add_typer(loaded, name=name)
    else:
        app.command(name)(loaded)


def _summary(name: str, points: Sequence[EntryPoint]) -> str:
    ours = all(point.value.startswith(_OWN) for point in points)
    return SUMMARIES[name] if ours and name in SUMMARIES else f"From {_wheels(points)}."


def _wheels(points: Sequence[EntryPoint]) -> str:
    return " and ".join(sorted(point.dist.name if point.dist else point.value for point in points))


def _not_called() -> None:
    """Stand in for a command that this command line does not call."""


def _print_version(asked: bool) -> None:
    if asked:
        for wheel in ("kode-cli", "kode-core"):
            typer.echo(f"{wheel} {version(wheel)}")
        raise typer.Exit


def _options(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show versions and exit."),
    ] = False,
) -> None:
    """Declare the options that come before any command."""
