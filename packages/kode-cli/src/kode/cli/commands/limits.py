"""`kode limits`: show what bounds an agent, or change it, also while it runs."""

from __future__ import annotations

import json
from typing import Annotated, Any

import anyio
import typer

from kode.cli.bounds import fields_of
from kode.cli.commands.steering import put
from kode.cli.opening import AgentId, AsJson, StoreUrl, store_at
from kode.core import Agent, Dependencies, Limits
from kode.core.kernel.limits import named
from kode.core.runtime.birth import read_template
from kode.core.runtime.sending import Sent

__all__ = ["limits"]


def limits(
    agent: AgentId,
    changes: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME=VALUE …", help="What to change; none takes a limit away.", show_default=False),
    ] = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show an agent's limits, or change some.

    A change is durable like a message: who drives the agent goes by it from the next step on, else the next
    `kode resume` does. What nobody named is shown as a default.
    """
    if not changes:
        _show(agent, anyio.run(_read, agent, store), as_json)
        return
    fields = fields_of(changes)

    async def act(handle: Agent) -> Sent:
        return await handle.set_limits(**fields)

    put(agent, store, as_json, " ".join(changes), act)


async def _read(agent_id: str, url: str | None) -> Limits:
    async with store_at(url) as store:
        _, template, _ = await read_template(agent_id, Dependencies(store))
        return template.limits


def _show(agent_id: str, found: Limits, as_json: bool) -> None:
    spoken = named(found)
    values: dict[str, Any] = {name: getattr(found, name) for name in Limits.__dataclass_fields__}
    if as_json:
        typer.echo(json.dumps({"agent_id": agent_id, "limits": values, "named": spoken}))
        return
    for name, value in values.items():
        shown = "none" if value is None else f"{value:,}"
        typer.echo(f"{name:<22}  {shown:>13}{'' if name in spoken else '  (default)'}")
