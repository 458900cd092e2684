"""`kode store copy`, `verify`, `import`: from one store to another."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import anyio
import typer

from kode.cli.failing import FAILED
from kode.cli.opening import AsJson, store_at
from kode.cli.store.looking import every_id
from kode.cli.store.times import read_moment
from kode.cli.visible import inline
from kode.core import AgentTemplate
from kode.core.errors import NotFoundError
from kode.core.store import MemoryStore, Store, redact
from kode.core.store.copying import Progress, Verified, What, copy_store, verify_copy
from kode.core.store.predecessor import Imported, ImportedAgent, Origin, Recipe, import_predecessor
from kode.core.template import encode_template

__all__ = ["copy", "import_", "verify"]

Option = typer.Option
Source = Annotated[str, typer.Argument(metavar="SRC", help="The store to read, such as json:./.kode.")]
Target = Annotated[str, typer.Argument(metavar="DST", help="The store to write, such as sqlite:///agents.db.")]
Agents = Annotated[
    list[str] | None, Option("--agent", metavar="ID", help="Only this one; may be repeated.", show_default=False)
]
Prefix = Annotated[str, Option(metavar="TEXT", help="Only ids that begin so.", show_default=False)]
Since = Annotated[
    str | None, Option(metavar="WHEN", help="Only those changed since: 7d, 12h, or a date.", show_default=False)
]
Concurrency = Annotated[int, Option(min=1, max=64, metavar="N", help="Agents at a time.")]
DryRun = Annotated[bool, Option("--dry-run", help="Only show what would be done.")]
Replace = Annotated[bool, Option("--replace", help="Put the source's agents in place of what differs in DST.")]


def copy(
    source: Source,
    target: Target,
    agents: Agents = None,
    prefix: Prefix = "",
    since: Since = None,
    concurrency: Concurrency = 16,
    replace: Replace = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Copy agents from one store to another, each whole or not at all, and prove it.

    Stop what drives them first: an agent is the same one in both stores. When it is stopped in the middle, say it
    again: what is there and equal is passed over. What differs in DST stays as it is unless you say --replace.
    """

    async def work(show: Callable[[Progress], None], total: Callable[[int], None]) -> Verified:
        async with store_at(source) as one, _target(target, dry_run) as other:
            wanted: Any = {"agents": agents, "prefix": prefix, "since": read_moment(since), "concurrency": concurrency}
            total(len(agents or await every_id(one, prefix)))
            return await copy_store(one, other, replace=replace, dry_run=dry_run, on_progress=show, **wanted)

    _end(_run(work, as_json), as_json, dry_run, source, target)


def verify(
    source: Source,
    target: Target,
    agents: Agents = None,
    prefix: Prefix = "",
    since: Since = None,
    concurrency: Concurrency = 16,
    as_json: AsJson = False,
) -> None:
    """Compare all that two stores hold of the agents in SRC, byte for byte. Exit code 1: they differ."""

    async def work(show: Callable[[Progress], None], total: Callable[[int], None]) -> Verified:
        async with store_at(source) as one, store_at(target) as other:
            wanted: Any = {"agents": agents, "prefix": prefix, "since": read_moment(since), "concurrency": concurrency}
            total(len(agents or await every_id(one, prefix)))
            return await verify_copy(one, other, on_progress=show, **wanted)

    _end(_run(work, as_json), as_json, False, source, target)


def import_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of the predecessor's JSONStore.")],
    target: Target,
    agents: Agents = None,
    model: Annotated[
        str, Option(metavar="PROVIDER:NAME", help="The model they go on with.", envvar="KODE_MODEL", show_default=False)
    ] = "",
    prompt: Annotated[
        Path | None,
        Option(
            "--prompt", metavar="FILE", help="Their system prompt.", show_default=False, exists=True, dir_okay=False
        ),
    ] = None,
    tools: Annotated[
        str, Option(metavar="NAMES", help="Their tools, with commas: fs_read,bash_run.", show_default=False)
    ] = "",
    replace: Replace = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Import the agents of a folder that KODE's predecessor wrote; the folder is never changed.

    It stored neither prompts nor tools, so say what the agents go on with. Say it with --dry-run first: each agent is
    shown with what comes over, what had to be mended, and what stays behind.
    """
    text = "" if prompt is None else prompt.read_text()
    names = tuple(name.strip() for name in tools.split(",") if name.strip())

    def recipe(origin: Origin) -> Recipe:
        found = origin.meta.get("templateId")
        template = AgentTemplate(
            found[:200] if isinstance(found, str) and found.strip() else "imported",
            system_prompt=text,
            model=model or _model(origin.meta),
            tools=names,
        )
        return Recipe(template.label, *encode_template(template))

    def show(one: ImportedAgent) -> None:
        if not as_json:
            _say_imported(one, dry_run)

    async def work() -> Imported:
        async with _target(target, dry_run) as store:
            return await import_predecessor(
                folder, store, recipe, agents=agents, replace=replace, dry_run=dry_run, on_agent=show
            )

    report = anyio.run(work)
    good = sum(one.outcome.ok for one in report.agents)
    if as_json:
        typer.echo(json.dumps({"dry_run": dry_run, "ok": report.ok, "agents": [asdict(one) for one in report.agents]}))
    else:
        typer.echo(f"{'Would import' if dry_run else 'Imported'} {good} of {len(report.agents)} agents.")
    if not report.ok:
        raise typer.Exit(FAILED)


def _target(url: str, dry_run: bool) -> Store:
    """Make the store to write to, which may be new; a dry run makes nothing."""
    try:
        return store_at(url, make=not dry_run)
    except NotFoundError:
        return MemoryStore()


def _model(meta: dict[str, Any]) -> str:
    """The model that an agent used, by our name of it; empty if that is not known."""
    inner = meta.get("metadata")
    config = inner.get("modelConfig") if isinstance(inner, dict) else None
    known = [config.get(name) for name in ("provider", "model")] if isinstance(config, dict) else []
    named = [one for one in known if isinstance(one, str) and one]
    return ":".join(named) if len(named) == 2 else ""


def _say_imported(one: ImportedAgent, dry_run: bool) -> None:
    renamed = f" (was {inline(one.found_as)})" if one.found_as != one.agent_id else ""
    what = f"would be {one.outcome.what}" if dry_run and one.outcome.ok else one.outcome.what
    typer.echo(f"{one.agent_id}{renamed}  {what}{': ' + inline(one.outcome.why) if one.outcome.why else ''}")
    for title, counts in (("took", one.taken), ("mended", one.mended), ("left out", one.left)):
        if counts:
            typer.echo(f"  {title:<8} {'; '.join(f'{inline(name)}: {count:,}' for name, count in counts.items())}")


# ---- a bar while it goes on, and a line at the end -----------------------------------------------------------

Work = Callable[[Callable[[Progress], None], Callable[[int], None]], Any]


def _run(work: Work, as_json: bool) -> Verified:
    with _bar(shown=not as_json and sys.stderr.isatty()) as (show, total):
        try:
            report: Verified = anyio.run(work, show, total)
        except KeyboardInterrupt:
            typer.echo("Stopped. Nothing is half there; say it again to go on.", err=True)
            raise
    return report


@contextmanager
def _bar(shown: bool) -> Iterator[tuple[Callable[[Progress], None], Callable[[int], None]]]:
    """Show how far it is, on stderr."""
    if not shown:
        yield (lambda progress: None), (lambda count: None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("agents · {task.fields[read]}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, read="")

        def show(progress: Any) -> None:
            read = f"{progress.records:,} records, {progress.size / 1e6:,.1f} MB"
            bar.update(task, completed=progress.agents, read=read)

        yield show, lambda count: bar.update(task, total=count)


_WORDS: dict[What, str] = {
    "copied": "copied",
    "replaced": "replaced",
    "same": "the same in both",
    "conflict": "left as they are in DST, for they differ (--replace puts the source's in their place)",
    "missing": "not in DST",
    "differs": "different in DST",
    "changing": "at work all the time; say it again when they rest",
    "failed": "failed",
}
_WOULD: dict[What, str] = {"copied": "would be copied", "replaced": "would be replaced"}


def _end(report: Verified, as_json: bool, dry_run: bool, source: str, target: str) -> None:
    if as_json:
        told = {**asdict(report), "ok": report.ok, "source": redact(source), "target": redact(target)}
        typer.echo(json.dumps(told))
    else:
        for one in report.problems:
            typer.echo(f"{one.agent_id}  {one.what}: {inline(one.why)}", err=True)
        for what, words in _WORDS.items():
            if what in report.counts:
                typer.echo(f"{report.counts[what]:,} {_WOULD.get(what, words) if dry_run else words}")
        if not report.counts:
            typer.echo("No agents.")
        if report.records:
            typer.echo(f"{report.records:,} records, {report.messages:,} messages, {report.size / 1e6:,.1f} MB")
    if not report.ok:
        raise typer.Exit(FAILED)
