"""`kode decide`, `kode send` and `kode interrupt`: put something into an agent's inbox, from any process, at any time.

They need no key and start nothing: a pool that looks after the store goes on by itself, else `kode resume` does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, Literal

import anyio
import typer

from kode.cli.approving import who
from kode.cli.bounds import RunLimits, run_limits
from kode.cli.opening import AgentId, AsJson, StoreUrl, command, letterbox, store_at, store_option
from kode.core import Agent
from kode.core.errors import DuplicateIdError, UsageError
from kode.core.jsontext import canonical
from kode.core.runtime.sending import Sent

__all__ = ["decide", "interrupt", "put", "send"]

Option = typer.Option
By = Annotated[str | None, Option("--by", metavar="NAME", help="Who says so. Default: your user name.")]


def decide(
    agent: AgentId,
    call: Annotated[str, typer.Argument(metavar="CALL", help="The call's id, such as 1.2.1.")],
    decision: Annotated[Literal["allow", "deny"], typer.Argument(metavar="allow|deny", help="The decision.")],
    note: Annotated[str | None, Option("--note", metavar="TEXT", help="Why; stored, and told to the model.")] = None,
    arguments: Annotated[
        str | None, Option("--input", metavar="JSON", help="Other arguments to run it with; its tool checks them.")
    ] = None,
    by: By = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Allow or deny a call that waits.

    Of several deciders exactly one wins. Nothing is started: `kode resume` goes on, or a pool of that store.
    """
    changed = None if arguments is None else canonical(arguments)

    async def act(handle: Agent) -> Sent:
        # Whoever types this means what is asked now; sent again, it answers nothing that is asked later.
        asked = {question.call: question.n for question in (await handle.status()).questions}
        try:
            return await handle.decide(call, decision, by=by or who(), note=note, input=changed, n=asked.get(call))
        except DuplicateIdError:
            text = f"Call {call!r} was decided already, by somebody else or otherwise; that decision stands."
            raise UsageError(text, code="decided", call=call) from None

    put(agent, store, as_json, f"{decision} {call}", act)


def send(
    agent: AgentId,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The message; - reads it from stdin.")],
    limit: RunLimits = None,
    by: By = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Put a message into an agent's inbox.

    It is durable once this returns. Nothing is started: `kode resume` goes on, or a pool of that store.
    """
    message = sys.stdin.read() if text == "-" else text
    bounds = run_limits(limit)

    async def act(handle: Agent) -> Sent:
        return await handle.send(message, sender=by, limits=bounds)

    put(agent, store, as_json, "sent", act)


def interrupt(
    agent: AgentId,
    note: Annotated[str | None, Option("--note", metavar="TEXT", help="Why; stored.")] = None,
    by: By = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """End an agent's run for good.

    Running tools get a moment; what has not answered then is sealed. Takes effect when somebody drives the agent.
    """

    async def act(handle: Agent) -> Sent:
        return await handle.interrupt(note, by=by or who())

    put(agent, store, as_json, "interrupt", act)


def put(agent_id: str, url: str | None, as_json: bool, what: str, act: Callable[[Agent], Awaitable[Sent]]) -> None:
    """Put it in and say what happens next."""
    sent, driven = anyio.run(_act, agent_id, url, act)
    if as_json:
        told = {"agent_id": agent_id, "item_id": sent.item_id, "position": sent.position, "duplicate": sent.duplicate}
        typer.echo(json.dumps({**told, "driven": driven}))
        return
    done = f"Said already, and counts once: {what}." if sent.duplicate else f"In the inbox: {what}."
    if driven:
        typer.echo(f"{done} A process is at work on the agent and takes it up.", err=True)
    else:
        typer.echo(f"{done} To go on: {command('resume', agent_id, store=store_option(url))}", err=True)


async def _act(agent_id: str, url: str | None, act: Callable[[Agent], Awaitable[Sent]]) -> tuple[Sent, bool]:
    async with store_at(url) as store:
        handle = await letterbox(store, agent_id)
        sent = await act(handle)
        return sent, (await handle.status()).driven
