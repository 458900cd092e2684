"""`kode agents`: what lives in a store."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import anyio
import typer
from rich.text import Text

from kode.cli.moments import moment
from kode.cli.opening import AsJson, StoreUrl, store_at
from kode.cli.screen import plain_console
from kode.cli.telling import called
from kode.cli.visible import inline
from kode.core.errors import RecordCorruptError, SchemaTooNewError, StoreError
from kode.core.kernel.state import State
from kode.core.kernel.toolcall import CallStatus
from kode.core.store.base import Store
from kode.core.store.contract import AgentInfo

__all__ = ["agents"]

Option = typer.Option


def agents(
    prefix: Annotated[str, typer.Argument(metavar="PREFIX", help="Only ids that begin so.", show_default=False)] = "",
    limit: Annotated[int, Option(min=1, max=1_000, metavar="N", help="At most so many.")] = 50,
    after: Annotated[str, Option(metavar="ID", help="Only those behind this one: the next page.")] = "",
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """List the agents of a store.

    Of each: its id, status, what it is at, its template, when it last changed, and what it waits for.
    """
    rows, more, damaged = anyio.run(_list, store, prefix, after, limit)
    following = rows[-1]["agent_id"] if more else None
    if as_json:
        typer.echo(json.dumps({"agents": rows, "next": following, "damaged": damaged}))
        return
    for what in damaged:
        typer.echo(f"not listed: {inline(what)}", err=True)
    if not rows:
        typer.echo("No agents." if not prefix + after else "No agents match.", err=True)
        return
    console = plain_console(sys.stdout)
    cells = [
        (row["agent_id"], _stands(row), inline(row["template"]), moment(row["updated_at"], "%Y-%m-%d %H:%M:%S"))
        for row in rows
    ]
    widths = [max(len(cell[column]) for cell in cells) for column in range(4)]
    for row, cell in zip(rows, cells, strict=True):
        line = "  ".join(f"{text:<{width}}" for text, width in zip(cell, widths, strict=True))
        console.print(Text(line.rstrip(), "bold" if row["waits_for"] else ""), soft_wrap=True)
        if row["waits_for"]:
            console.print(Text(f"    waits for {inline(row['waits_for'])}", "yellow"), soft_wrap=True)
    if following is not None:
        typer.echo(f"There are more: --after {following}", err=True)


def _stands(row: dict[str, Any]) -> str:
    return row["status"] if row["at"] == row["status"] else f"{row['status']} {row['at']}"


async def _list(url: str | None, prefix: str, after: str, limit: int) -> tuple[list[dict[str, Any]], bool, list[str]]:
    """Rows, whether there are more, and why some that are there cannot be listed."""
    async with store_at(url) as store:
        infos = await store.list_agents(prefix, after, limit + 1)
        rows = [await _row(store, info) for info in infos[:limit]]
        return rows, len(infos) > limit, await store.find_damage()


async def _row(store: Store, info: AgentInfo) -> dict[str, Any]:
    try:
        state = await store.read_state(info.agent_id)
    except (RecordCorruptError, SchemaTooNewError) as error:
        return _unreadable(info, error)
    driven = state.status == "WORKING" and await store.lease_of(info.agent_id) is not None
    return {
        "agent_id": info.agent_id,
        "uid": info.uid,
        "status": state.status.value,
        "at": state.breakpoint.value,
        "driven": driven,
        "template": info.template,
        "created_at": info.created_at,
        "updated_at": info.updated_at,
        "pending": [call.id for call in state.calls if call.approval is not None],
        "waits_for": _waits_for(state, driven),
        "parked": None if state.parked is None else state.parked.value,
    }


def _unreadable(info: AgentInfo, error: StoreError) -> dict[str, Any]:
    """The row of an agent whose state cannot be read: what the listing knows, and why. The others are listed too."""
    return {
        "agent_id": info.agent_id,
        "uid": info.uid,
        "status": info.status,
        "at": "UNREADABLE",
        "driven": False,
        "template": info.template,
        "created_at": info.created_at,
        "updated_at": info.updated_at,
        "pending": [],
        "waits_for": f"somebody who mends it: {error.message}",
        "parked": None,
    }


def _waits_for(state: State, driven: bool) -> str:
    """What it needs to go on, in words."""
    if state.parked is not None:
        return f"a resume by hand: {state.parked.value}"
    asked = [f"a decision: {c.id} {called(c)}" for c in state.calls if c.approval]
    waits = [f"an answer: {c.id} {c.tool}" for c in state.calls if c.status is CallStatus.WAITING]
    if asked or waits:
        return "; ".join(asked + waits)
    if state.status == "WORKING" and not driven:
        return "a process: kode resume"
    return ""
