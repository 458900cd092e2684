"""`kode store prune`: removing what is old, after showing what that would be."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import Annotated, Any

import anyio
import typer

from kode.cli.failing import FAILED
from kode.cli.opening import AsJson, StoreUrl, store_at
from kode.cli.store.looking import Ids, every_id
from kode.cli.store.times import read_moment
from kode.cli.visible import inline
from kode.core.errors import KodeError, StoreUnavailableError, UsageError
from kode.core.store import MemoryStore, Store
from kode.core.store.copying import copy_store

__all__ = ["prune"]

Option = typer.Option


def prune(
    ids: Ids = None,
    older_than: Annotated[
        str | None, Option(metavar="AGE", help="What is older: 30d, 12h, or a date.", show_default=False)
    ] = None,
    keep_events: Annotated[int, Option(min=0, metavar="N", help="The last N events stay.")] = 0,
    keep_runs: Annotated[int, Option(min=0, metavar="N", help="The last N run records stay.")] = 0,
    keep_snapshots: Annotated[
        int | None, Option(min=0, metavar="N", help="The last N snapshots stay; not given: all.", show_default=False)
    ] = None,
    keep_messages: Annotated[
        int | None, Option(min=0, metavar="N", help="The last N messages stay; not given: all.", show_default=False)
    ] = None,
    yes: Annotated[bool, Option("--yes", help="Do it; without this it only shows what would go.")] = False,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Remove old events, run records and, if said, snapshots and messages.

    Without --yes nothing is removed: each agent is copied into memory and pruned there, so the numbers are exact.
    What an agent's window or a snapshot still shows stays in any case.
    """
    if older_than is None and not keep_events and not keep_runs and keep_snapshots is None and keep_messages is None:
        raise UsageError("Say what may go: --older-than 30d, or how much to keep (--keep-events N …).", code="no_bound")
    bounds = {
        "before": read_moment(older_than),
        "keep_events": keep_events,
        "keep_runs": keep_runs,
        "keep_snapshots": keep_snapshots,
        "keep_messages": keep_messages,
    }
    removed, failed = anyio.run(_prune, store, ids, bounds, yes)
    total = sum((Counter(counts) for counts in removed.values()), Counter[str]())
    if as_json:
        typer.echo(json.dumps({"dry_run": not yes, "total": dict(total), "agents": removed, "failed": failed}))
    else:
        for agent_id, counts in removed.items():
            if counts:
                typer.echo(f"{agent_id}  {_told(counts)}")
        for agent_id, why in failed.items():
            typer.echo(f"{agent_id}  was left alone: {inline(why)}", err=True)
        verb = "Removed from" if yes else "This would remove from"
        typer.echo(f"{verb} {len(removed)} agents: {_told(total) or 'nothing'}.")
        if not yes and total:
            typer.echo("Nothing was changed; add --yes to do it.", err=True)
    if failed:
        raise typer.Exit(FAILED)


def _told(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)


async def _prune(
    url: str | None, ids: list[str] | None, bounds: dict[str, Any], really: bool
) -> tuple[dict[str, dict[str, int]], dict[str, str]]:
    removed: dict[str, dict[str, int]] = {}
    failed: dict[str, str] = {}
    async with store_at(url) as store:
        for agent_id in ids or await every_id(store):
            try:
                removed[agent_id] = await _one(store, agent_id, bounds, really)
            except StoreUnavailableError:
                raise
            except KodeError as error:
                failed[agent_id] = error.message
    return removed, failed


async def _one(store: Store, agent_id: str, bounds: dict[str, Any], really: bool) -> dict[str, int]:
    if really:
        gone = await store.prune(agent_id, **bounds)
    else:
        async with MemoryStore() as scratch:
            copied = await copy_store(store, scratch, agents=[agent_id])
            if not copied.ok:
                raise KodeError(copied.problems[0].why)
            gone = await scratch.prune(agent_id, **bounds)
    return {name: count for name, count in asdict(gone).items() if count}
