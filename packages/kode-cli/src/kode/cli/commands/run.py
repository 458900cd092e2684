"""`kode run "TASK"`: makes an agent in a store and sees a task through; or gives one that is there another task."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import anyio
import typer

from kode.cli.attending import Options, attend
from kode.cli.bounds import RunLimits, run_limits
from kode.cli.opening import AsJson, BaseUrl, StoreUrl, Yes, bound, store_at, stored_template
from kode.cli.recipe import Choices
from kode.core import Agent, AgentConfig, Limits, RunResult
from kode.core.errors import UsageError

__all__ = ["run"]

Option = typer.Option


def run(
    task: Annotated[str, typer.Argument(metavar="TASK", help="What to do; - reads it from stdin.")],
    folder: Annotated[
        Path | None, Option("--dir", metavar="DIR", help="Folder to work in. Default: this one.", show_default=False)
    ] = None,
    agent: Annotated[
        str | None, Option("--agent", metavar="ID", help="Name of the agent; one that is there gets another task.")
    ] = None,
    model: Annotated[
        str | None, Option("--model", metavar="PROVIDER:NAME", envvar="KODE_MODEL", help="Such as openai:NAME.")
    ] = None,
    provider: Annotated[str | None, Option("--provider", help="Provider, where --model gives only a name.")] = None,
    base_url: BaseUrl = None,
    template: Annotated[Path | None, Option("--template", metavar="FILE", help="TOML or JSON with a template.")] = None,
    tools: Annotated[
        str | None, Option("--tools", metavar="A,B", help="Tools it may use; * for all there are.")
    ] = None,
    mode: Annotated[
        Literal["auto", "approval", "readonly"] | None,
        Option(
            "--mode",
            help="approval: ask before what may change things (default). auto: ask nothing. readonly: only readers.",
        ),
    ] = None,
    yes: Yes = False,
    timeout: Annotated[float | None, Option(min=0.1, metavar="SECONDS", help="Then it rests, and can go on.")] = None,
    max_steps: Annotated[int | None, Option(min=1, metavar="N", help="Model calls at most.")] = None,
    limit: RunLimits = None,
    isolation: Annotated[
        str | None, Option("--isolation", metavar="KIND", help="bwrap: commands see no network and change only DIR.")
    ] = None,
    store: StoreUrl = None,
    quiet: Annotated[bool, Option("--quiet", "-q", help="Show only the answer and what must be done.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run an agent on a task in a folder.

    What it does is shown as it happens. The answer goes to stdout, everything else to stderr. Exit codes: 0 done,
    1 failed, 2 wrong usage, 3 waits for a decision, 4 not finished, 130 stopped by Ctrl-C. What did not finish goes on
    with `kode resume ID`.
    """
    work = (folder or Path.cwd()).absolute()
    if not work.is_dir():
        raise UsageError(f"--dir is {str(work)!r}, which is no folder.", code="bad_dir")
    choices = Choices(work, model, provider, base_url, template, tools, mode, max_steps, isolation)
    options = Options(store, work, yes, timeout, quiet, as_json)
    raise typer.Exit(anyio.run(_run, _task(task), agent, choices, options, run_limits(limit)))


def _task(task: str) -> str:
    text = sys.stdin.read() if task == "-" else task
    if not text.strip():
        raise UsageError("The task is empty; say what is to be done.", code="no_task")
    return text


async def _run(task: str, agent_id: str | None, choices: Choices, options: Options, bounds: Limits | None) -> int:
    async with store_at(options.store, choices.folder, make=True) as store:
        known = agent_id if agent_id is not None and await store.exists(agent_id) else None
        if known is not None:
            _check_no_recipe(known, choices)
        template = choices.made() if known is None else await stored_template(store, known)
        if known is None and not template.tools and not options.quiet:
            typer.echo("kode: the template names no tools, so the agent has none; --tools names some.", err=True)
        async with bound(store, template, choices.base_url) as code:
            if known is None:
                agent = await Agent.create(AgentConfig(template, agent_id), code.deps)
            else:
                agent = await Agent.open(known, code.deps)
            item = code.deps.ids.item_id()

            async def leg(left: float | None) -> RunResult:
                return await agent.run(task, item_id=item, timeout_s=left, limits=bounds)

            return await attend(agent, code, leg, options)


def _check_no_recipe(agent_id: str, choices: Choices) -> None:
    """An agent that is there keeps the recipe it was made with."""
    given = choices.given()
    if choices.model is not None and choices.model == os.environ.get("KODE_MODEL"):
        given.remove("--model")
    if choices.base_url is not None:
        given.remove("--base-url")  # may be said again, see ``bound``
    if given:
        raise UsageError(
            f"Agent {agent_id!r} is there and keeps the recipe it was made with; leave out {', '.join(given)}, or name "
            "another agent.",
            code="agent_exists",
        )
