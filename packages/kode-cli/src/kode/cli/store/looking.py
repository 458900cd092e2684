"""`kode store check`, `stats`, `conformance`: looking at a store without changing it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from typing import Annotated, Any, Final

import anyio
import typer

from kode.cli.failing import FAILED
from kode.cli.opening import AsJson, StoreUrl, store_at
from kode.cli.visible import inline
from kode.core.errors import KodeError, UsageError
from kode.core.store import Consistency, Health, Store
from kode.core.store.open import redact

__all__ = ["Ids", "check", "conformance", "every_id", "stats"]

PAGE = 500
PATIENCE_S: Final = 15.0
"""Longer than stores repeat what fails (10 s): then they say why."""
_LOSSES: Final = {"power": "loss of power", "process": "kill -9, not loss of power"}


def _no_url(given: Any) -> Any:
    """Refuse a store where ids are wanted: counted as an id it would be an agent that is not there."""
    for text in [given] if isinstance(given, str) else given or ():
        if "://" in text or text.startswith(("json:.", "json:/")):
            raise UsageError(f"{redact(text)!r} is a store and no agent; give it as --store URL.", code="bad_agent_id")
    return given


Ids = Annotated[
    list[str] | None,
    typer.Argument(metavar="ID", help="Only these agents; none: all.", show_default=False, callback=_no_url),
]


async def every_id(store: Store, prefix: str = "") -> list[str]:
    """All agents of a store."""
    found: list[str] = []
    while page := await store.agents(prefix, found[-1] if found else "", PAGE):
        found += (header.key for header in page)
    return found


# ---- check -------------------------------------------------------------------------------------------------


def check(ids: Ids = None, store: StoreUrl = None, as_json: AsJson = False) -> None:
    """Check that a store works, and that what it holds of its agents fits together.

    It reads everything there is of them, and the files of a local store whole; it changes nothing (but for one small
    record, written and removed to see whether writing works). Exit code 1 if anything is wrong.
    """
    health, found, failed = anyio.run(_check, store, ids)
    bad = [one for one in found if not one.ok]
    if as_json:
        told = {
            "health": {**asdict(health), "healthy": health.healthy},
            "agents": len(found),
            "records": sum(one.records for one in found),
            "problems": [{"agent_id": one.agent_id, **asdict(p)} for one in bad for p in one.problems],
            "errors": failed,
        }
        typer.echo(json.dumps(told))
    else:
        _say_health(health)
        for one in bad:
            typer.echo(f"{one.agent_id}  version {one.version}: {len(one.problems)} problems")
            for problem in one.problems:
                typer.echo(f"  {problem.code:<10} {inline(problem.record)}: {inline(problem.what)}")
        for agent_id, why in failed.items():
            typer.echo(f"{agent_id}  cannot be checked: {inline(why)}")
        records = sum(one.records for one in found)
        ok = len(found) - len(bad)
        typer.echo(f"{ok} of {len(found) + len(failed)} agents are sound; {records:,} records were read.")
    if bad or failed or not health.healthy:
        raise typer.Exit(FAILED)


async def _check(url: str | None, ids: list[str] | None) -> tuple[Health, list[Consistency], dict[str, str]]:
    found: list[Consistency] = []
    failed: dict[str, str] = {}
    async with store_at(url) as store:
        health = await store.check_health(timeout_s=PATIENCE_S, thorough=True)
        # What cannot be counted cannot be listed, and `health` says why.
        for agent_id in ids or ([] if health.agents is None else await every_id(store)):
            try:
                found.append(await store.check_consistency(agent_id))
            except KodeError as error:
                failed[agent_id] = error.message
    return health, found, failed


def _say_health(health: Health) -> None:
    works = "reads and writes" if health.writable else "reads" if health.reachable else "does not answer"
    took = " · ".join(
        f"{what} {seconds * 1e3:.1f} ms"
        for what, seconds in (("read", health.read_s), ("write", health.write_s))
        if seconds is not None
    )
    typer.echo(f"{health.store} {works} · durable against {_LOSSES[health.durability]} · {took}")
    for problem in health.problems:
        typer.echo(f"  {inline(problem)}")


# ---- stats -------------------------------------------------------------------------------------------------


def stats(
    prefix: Annotated[
        str, typer.Argument(metavar="PREFIX", help="Only ids that begin so.", show_default=False, callback=_no_url)
    ] = "",
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Count agents, messages, calls, runs, time and tokens."""
    found = anyio.run(_stats, store, prefix)
    if as_json:
        typer.echo(json.dumps(found))
        return
    rows = [
        ("agents", _parts(found["agents"], found["agents_by_status"])),
        ("messages", f"{found['messages']:,}"),
        ("runs", _parts(sum(found["runs"].values()), found["runs"])),
        ("stopped by", _parts(None, found["stop_reasons"])),
        ("time at work", f"{found['used_seconds']:,.1f} s"),
        ("tokens", f"{found['usage']['input']:,} in, {found['usage']['output']:,} out"),
    ]
    for tool, statuses in sorted(found["calls"].items()):
        took = found["call_seconds"].get(tool, {})
        mean = f" · {took['seconds'] / took['count']:.3f} s each" if took.get("count") else ""
        rows.append((f"tool {inline(tool)}", _parts(sum(statuses.values()), statuses) + mean))
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        if text:
            typer.echo(f"{name:<{width}}  {text}")
    for damaged in found["damaged"]:
        typer.echo(f"not counted: {inline(damaged)}", err=True)


async def _stats(url: str | None, prefix: str) -> dict[str, Any]:
    async with store_at(url) as store:
        found = await (store.aggregate_stats(prefix=prefix) if prefix else store.aggregate_stats())
        unlisted = await store.find_damage()
    return {
        "agents": found.agents,
        "agents_by_status": found.agents_by_status,
        "messages": found.messages,
        "runs": found.runs,
        "stop_reasons": found.stop_reasons,
        "run_seconds": asdict(found.run_seconds),
        "used_seconds": found.used_seconds,
        "usage": asdict(found.usage),
        "calls": found.calls,
        "call_seconds": {tool: asdict(tally) for tool, tally in found.call_seconds.items()},
        "damaged": [*(error.message for error in found.damaged), *unlisted],
    }


def _parts(total: int | None, counts: dict[str, int]) -> str:
    parts = ", ".join(f"{count:,} {inline(name)}" for name, count in sorted(counts.items()))
    if total is None:
        return parts
    return f"{total:,} ({parts})" if parts else f"{total:,}"


# ---- conformance ---------------------------------------------------------------------------------------------


def conformance(
    context: typer.Context,
    url: Annotated[str, typer.Argument(metavar="URL", help="A store to try: an EMPTY one.")],
) -> None:
    """Run the conformance kit over a store; what stands behind URL is handed over to `kode-conformance`."""
    kit = "import sys; from kode.core.testing.conformance.start import main; sys.exit(main())"
    raise typer.Exit(subprocess.run([sys.executable, "-c", kit, url, *context.args], check=False).returncode)
