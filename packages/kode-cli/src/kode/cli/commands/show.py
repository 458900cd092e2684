"""`kode show ID`: what an agent did, as a tree of runs, steps, and what happened in them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated, Any

import anyio
import typer
from rich.text import Text
from rich.tree import Tree

from kode.cli.opening import AgentId, AsJson, StoreUrl, command, store_at, store_option
from kode.cli.screen import SIGNS, glyph, plain_console, speaks_utf8
from kode.cli.telling import Line, Story, called, tokens
from kode.cli.visible import inline
from kode.core.kernel.events import Event, preview
from kode.core.kernel.message import Message, TextBlock
from kode.core.kernel.state import RunRecord, State
from kode.core.kernel.toolcall import Call, CallStatus
from kode.core.store.base import Store

__all__ = ["show"]

Option = typer.Option
BROUGHT = 6
"""Messages shown of an agent of whose runs nothing is told: it was imported or forked, or its events were pruned."""


def show(
    agent: AgentId,
    last: Annotated[int, Option(min=1, metavar="N", help="Only the last N runs.")] = 10,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show an agent's timeline as a tree.

    Runs, their steps, and in them texts, calls with results in short, approvals, recoveries; and what was used.
    """
    anyio.run(_show, agent, last, store, as_json)


async def _show(agent_id: str, last: int, url: str | None, as_json: bool) -> None:
    async with store_at(url) as store:
        state = await store.read_state(agent_id)
        first = max(state.next_run - last, 1)
        if as_json:
            print(json.dumps(await _told(store, state, first)))
            return
        events = await _events(store, state, first)
        brought = await _brought(store, state, events)
    utf8 = speaks_utf8(sys.stdout)
    tree = _tree(state, events, utf8, store_option(url))
    if first > 1:
        tree.add(Text(f"{first - 1} earlier runs: --last {state.next_run - 1} shows all", "dim"))
    if brought:
        branch = tree.add(Text(f"{state.next_seq} messages, of whose making no events are kept; the last ones:", "dim"))
        for line in brought:
            branch.add(Text(line))
    plain_console(sys.stdout).print(tree)


async def _brought(store: Store, state: State, events: Iterable[Event]) -> list[str]:
    """The end of a history of whose making no events are left to tell, a line a message."""
    if not state.next_seq or any(event.type == "run_started" for event in events):
        return []
    page = await store.read_messages(state.agent_id, limit=BROUGHT, backwards=True)
    return [inline(preview(f"{message.role}: {_said(message)}")) for message in reversed(page.items)]


def _said(message: Message) -> str:
    """What a message says, or what kinds of blocks it has."""
    texts = [block.text for block in message.blocks if isinstance(block, TextBlock)]
    return " ".join(texts) or ", ".join(getattr(block, "name", block.type) for block in message.blocks)


# ---- the tree -----------------------------------------------------------------------------------------------------


async def _events(store: Store, state: State, first: int) -> list[Event]:
    """The events from that run on."""
    after = 0
    if first > 1:
        record = await store.read_run(state.agent_id, first)
        after = record.first_cursor - 1 if record is not None else 0
    found: list[Event] = []
    while True:
        page = await store.read_events(state.agent_id, after=found[-1].cursor if found else after)
        found += page.items
        if page.next is None:
            return found


def _tree(state: State, events: Iterable[Event], utf8: bool, store: str) -> Tree:
    """Fold the story into a tree: each line goes below the last one of the level above, a detail below its call."""
    story = Story()
    root = Tree(_head(state), guide_style="dim")
    at: dict[str, Tree] = {"agent": root}
    calls: dict[str | None, Tree] = {}
    for event in events:
        for line in story.tell(event):
            node = _parent(line, at, calls).add(_text(line, utf8))
            if line.level in ("run", "step"):
                at[line.level] = node
                if line.level == "run":
                    at.pop("step", None)
            if line.sign == "call":
                calls[line.call] = node
    for call in state.calls:
        if call.approval is not None:
            decide = command("decide", state.agent_id, call.id, "allow", store=store)
            root.add(Text(f"waits for a decision: {called(call)}  ({decide})", "yellow"))
        elif call.status is CallStatus.WAITING and call.wait is not None and call.wait.child is not None:
            root.add(Text(f"waits for sub-agent {inline(call.wait.child)}", "yellow"))
    return root


def _parent(line: Line, at: dict[str, Tree], calls: dict[str | None, Tree]) -> Tree:
    if line.level in ("agent", "run"):
        return at["agent"]
    if line.level == "step":
        return at.get("run", at["agent"])
    if line.level == "detail" and line.call in calls:
        return calls[line.call]
    return at.get("step") or at.get("run") or at["agent"]


def _text(line: Line, utf8: bool) -> Text:
    return Text.assemble((glyph(line.sign, utf8), SIGNS[line.sign][2]), " ", line.text)


def _head(state: State) -> Text:
    where = state.breakpoint.value if state.status != "READY" else ""
    parts = [inline(state.template), state.status.value, where, tokens(state.usage_total)]
    if state.parked is not None:
        parts.append(f"parked: {state.parked.value}")
    return Text.assemble((inline(state.agent_id), "bold"), "  ", "  ".join(part for part in parts if part))


# ---- for programs -------------------------------------------------------------------------------------------------


async def _told(store: Store, state: State, first: int) -> dict[str, Any]:
    records: list[RunRecord] = []
    after: int | None = first - 1
    while after is not None:
        page = await store.read_runs(state.agent_id, after=after)
        records += page.items
        after = page.next
    runs = [{**_run(record), "calls": await _calls(store, state, record.number)} for record in records]
    if state.run is not None and all(record.number != state.run.number for record in records):
        runs.append(
            {"number": state.run.number, "status": "working", "calls": await _calls(store, state, state.run.number)}
        )
    return {
        "agent_id": state.agent_id,
        "uid": state.uid,
        "template": state.template,
        "status": state.status.value,
        "at": state.breakpoint.value,
        "parked": None if state.parked is None else state.parked.value,
        "cursor": state.next_cursor - 1,
        "messages": state.next_seq,
        "usage": asdict(state.usage_total),
        "pending": [call.id for call in state.calls if call.approval is not None],
        "runs": runs,
    }


def _run(record: RunRecord) -> dict[str, Any]:
    return {
        "number": record.number,
        "status": record.status,
        "stop_reason": record.stop_reason,
        "started_at": record.started_at,
        "ended_at": record.ended_at,
        "steps": record.steps,
        "usage": asdict(record.usage),
        "error": None if record.error is None else asdict(record.error),
    }


async def _calls(store: Store, state: State, run: int) -> list[dict[str, Any]]:
    found: dict[str, Call] = {}
    after = ""
    while True:
        page = await store.read_calls(state.agent_id, run=run, after=after)
        found.update((call.id, call) for call in page.items)
        if page.next is None:
            break
        after = page.next
    found.update((call.id, call) for call in state.calls if call.run == run)
    return [_call(call) for call in found.values()]


def _call(call: Call) -> dict[str, Any]:
    return {
        "id": call.id,
        "step": call.step,
        "tool": call.tool,
        "status": call.status.value,
        "asked_at": call.asked_at,
        "started_at": call.started_at,
        "finished_at": call.finished_at,
        "attempts": len(call.attempts),
        "recovery": call.plan.recovery,
        "child": None if call.wait is None else call.wait.child,
        "is_error": call.is_error,
        "sealed": call.seal_reason if call.status is CallStatus.SEALED else None,
        "approvals": [
            {"kind": one.kind, "state": one.state, "by": one.by, "note": one.note, "at": one.at}
            for one in call.approvals
        ],
    }
