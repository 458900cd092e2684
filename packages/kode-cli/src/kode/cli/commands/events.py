"""`kode events ID`: an agent's durable events, from any point, as they come."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from typing import Annotated, Any, cast

import anyio
import typer
from rich.text import Text

from kode.cli.moments import moment
from kode.cli.opening import AgentId, AsJson, StoreUrl, letterbox, store_at
from kode.cli.screen import plain_console
from kode.cli.visible import inline
from kode.core import Agent, Envelope
from kode.core.event import Subscription
from kode.core.event.base import Position
from kode.core.kernel.events import Channel

__all__ = ["events"]

Option = typer.Option
_STYLES = {"control": "yellow", "monitor": "dim", "progress": ""}


def events(
    agent: AgentId,
    since: Annotated[str, Option(metavar="CURSOR", help="Only events behind this one.")] = "0",
    follow: Annotated[bool, Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    channel: Annotated[
        list[str] | None, Option(metavar="NAME", help="progress, control or monitor; may repeat.")
    ] = None,
    kind: Annotated[list[str] | None, Option("--type", metavar="TYPE", help="Of this type; may repeat.")] = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show an agent's events, past and coming.

    With --json one object a line. Works from any process, also while another one drives the agent.
    """
    anyio.run(
        _events, agent, Position.parse(since), follow, cast("list[Channel] | None", channel), kind, store, as_json
    )


async def _events(
    agent_id: str,
    since: Position,
    follow: bool,
    channels: list[Channel] | None,
    kinds: list[str] | None,
    url: str | None,
    as_json: bool,
) -> None:
    console = plain_console(sys.stdout)
    async with store_at(url) as store:
        agent = await letterbox(store, agent_id)
        subscription = await agent.subscribe(channels, since=since, kinds=kinds)
        async for envelope in _until_idle(agent, subscription, follow):
            if as_json:
                print(json.dumps(_told(envelope)), flush=follow)
            else:
                console.print(_line(envelope), soft_wrap=True)
        sys.stdout.flush()


async def _until_idle(agent: Agent, subscription: Subscription, follow: bool) -> AsyncIterator[Envelope]:
    """All that is there, and with ``follow`` what comes."""
    if not follow:
        last = (await agent.status()).cursor
        subscription.done = lambda: subscription.cursor >= last
    async for envelope in subscription:
        yield envelope


def _told(envelope: Envelope) -> dict[str, Any]:
    """The stable form for programs: times are microseconds since the epoch, UTC."""
    event = envelope.event
    return {
        "agent_id": envelope.agent_id,
        "cursor": envelope.cursor,
        "type": event.type,
        "channel": event.channel,
        "at": event.at,
        "run": event.run,
        "step": event.step,
        "call": event.call,
        "ref": None if event.ref is None else {"seq": event.ref.seq, "block": event.ref.block},
        "preview": event.preview,
        "data": dict(event.data),
    }


def _line(envelope: Envelope) -> Text:
    event = envelope.event
    time = moment(event.at, "%H:%M:%S.%f")[:-3]
    data = [f"{name}={inline(str(value))}" for name, value in event.data.items() if value is not None]
    words = [event.call or "", *data, inline(event.preview or "")]
    return Text.assemble(
        (f"{envelope.cursor:>6} {time} ", "dim"),
        (f"{event.type:<20} ", _STYLES[event.channel]),
        " ".join(word for word in words if word),
    )
