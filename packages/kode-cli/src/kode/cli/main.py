"""The command `kode`: a thin shell around commands that are found by entry point.

Every command, built in or from another wheel, registers in the group `kode.command`:

    [project.entry-points."kode.command"]
    demo = "kode.cli.demo:demo"     # a function with typer annotations, or a `typer.Typer`

Only the command that is called is imported, so `kode --help` stays fast however many there are. That is why
it can say which wheel a command comes from, but not what it does: `kode COMMAND --help` says that.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points, version
from typing import Annotated

import typer

GROUP = "kode.command"
"""Entry-point group that commands register in."""


def build(arguments: Sequence[str]) -> typer.Typer:
    """Build the application for one command line: the command it names, and a line of help for each other.

    Raises:
        SystemExit: Two wheels claim the command that is called.
    """
    app = typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        rich_markup_mode=None,  # importing rich for its help would double the time to the first line
        help="KODE: a durable runtime for LLM agents.",
        epilog="`kode COMMAND --help` says what a command does.",
    )
    app.callback()(_options)
    # No option before the command takes a value, so the first word that is not an option is the command.
    called = next((word for word in arguments if not word.startswith("-")), None)
    for name, points in sorted(_commands().items()):
        if name == called:
            _add(app, name, points)
        else:
            app.command(name, help=f"From {_wheels(points)}.")(_not_called)
    return app


def main() -> None:
    """Run the command line of this process and exit."""
    build(sys.argv[1:])(prog_name="kode")


def _commands() -> dict[str, list[EntryPoint]]:
    named: defaultdict[str, list[EntryPoint]] = defaultdict(list)
    for point in entry_points(group=GROUP):
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
