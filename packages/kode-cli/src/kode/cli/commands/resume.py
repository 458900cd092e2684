"""`kode resume ID`: goes on where an agent was, with the same view."""

from __future__ import annotations

from typing import Annotated

import anyio
import typer

from kode.cli.attending import Options, attend
from kode.cli.opening import AgentId, AsJson, BaseUrl, StoreUrl, Yes, bound, store_at, stored_template
from kode.core import Agent, RunResult
from kode.core.errors import LeaseLostError
from kode.core.runtime.result import queued

__all__ = ["resume"]

Option = typer.Option


def resume(
    agent: AgentId,
    yes: Yes = False,
    base_url: BaseUrl = None,
    timeout: Annotated[float | None, Option(min=0.1, metavar="SECONDS", help="Then it rests, and can go on.")] = None,
    store: StoreUrl = None,
    quiet: Annotated[bool, Option("--quiet", "-q", help="Show only the answer and what must be done.")] = False,
    as_json: AsJson = False,
) -> None:
    """Go on where an agent was.

    After Ctrl-C, a crash or a decision, or with messages that wait. Model, folder and permissions are those it was made
    with; keys come from the environment each time. What a dead process left open is re-run or sealed, each call by what
    its tool says, and shown. Exit codes are those of `kode run`.
    """
    raise typer.Exit(anyio.run(_resume, agent, base_url, Options(store, None, yes, timeout, quiet, as_json)))


async def _resume(agent_id: str, base_url: str | None, options: Options) -> int:
    async with store_at(options.store) as store:
        template = await stored_template(store, agent_id)
        async with bound(store, template, base_url) as code:
            agent = await Agent.open(agent_id, code.deps)

            async def leg(left: float | None) -> RunResult:
                if (await agent.status()).parked is not None and not await _by_hand(agent):
                    return queued(agent_id)
                return await agent.complete(timeout_s=left)

            loaded = await store.load(agent_id)
            if loaded is not None and loaded.state.run is None and not loaded.inbox and not options.quiet:
                typer.echo("Nothing is open; this is how the last run ended.", err=True)
            return await attend(agent, code, leg, options)


async def _by_hand(agent: Agent) -> bool:
    """Drive an agent that is parked after too many crashes; False: it was stopped, or somebody else does."""
    try:
        drive = await agent.drive(by_hand=True)
    except LeaseLostError as error:
        if error.code != "held":
            raise
        return False
    return drive.stop == "idle"
