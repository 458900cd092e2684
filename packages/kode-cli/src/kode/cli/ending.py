"""Ends `kode run` and `kode resume`: the answer on stdout, what can be done next on stderr, and the exit code."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict
from typing import Any

from kode.cli.approving import undecided
from kode.cli.failing import EXITS, lost_output
from kode.cli.following import Outcome
from kode.cli.opening import command
from kode.cli.screen import Screen
from kode.cli.telling import called
from kode.cli.visible import block, inline
from kode.core import Agent, RunResult
from kode.core.jsontext import parse
from kode.core.kernel.toolcall import Call
from kode.core.kernel.words import StopReason
from kode.core.store.base import Store

__all__ = ["end"]


async def end(outcome: Outcome, agent: Agent, store: Store, screen: Screen, *, store_option: str, as_json: bool) -> int:
    """Say how it went and what can be done next; returns the exit code."""
    result = outcome.result
    stopped = outcome.signal is not None and (result is None or not result.ok)
    code = 128 + outcome.signal if stopped and outcome.signal is not None else EXITS[result.status if result else "ok"]
    waiting = [call for call, _ in await undecided(store, agent.agent_id)]
    lines = _next(result, agent.agent_id, waiting, store_option, stopped)
    if result is not None and result.status in ("queued", "deadline") and await _untaken(agent, store):
        lines.insert(0, "The task waits in the inbox; who drives the agent takes it.")
    try:
        if as_json:
            print(json.dumps(_told(result, agent.agent_id, waiting, code, stopped), ensure_ascii=True))
        elif result is not None and result.text and not stopped:
            _answer(result.text, shown=outcome.answer_shown and not screen.quiet and screen.console.is_terminal)
        sys.stdout.flush()
    except OSError as error:
        code = lost_output(error)
        lines = lines or ["The answer is kept; to see it again:", command("resume", agent.agent_id, store=store_option)]
    for line in lines:
        if line.startswith("kode "):
            screen.command(line)
        else:
            screen.say(line)
    return code


async def _untaken(agent: Agent, store: Store) -> bool:
    """Whether a message waits that no run has taken."""
    inbox = await store.read_inbox(agent.agent_id, agent.uid)
    return any(item.kind == "message" for item in inbox)


def _answer(text: str, *, shown: bool) -> None:
    """Write the answer, unless it stands on this very terminal already."""
    terminal = sys.stdout.isatty()
    if not (terminal and shown):
        print(block(text) if terminal else text)


def _told(result: RunResult | None, agent_id: str, waiting: list[Call], code: int, stopped: bool) -> dict[str, Any]:
    if result is None:
        result = RunResult(agent_id, "queued")
    return {
        "agent_id": agent_id,
        "status": "stopped" if stopped else result.status,
        "stop_reason": result.stop_reason,
        "run": result.run,
        "steps": result.steps,
        "text": result.text,
        "output": result.output,
        "usage": asdict(result.usage),
        "error": None if result.error is None else asdict(result.error),
        "pending": [
            {"call": c.id, "tool": c.tool, "input": parse(c.changed_input or c.input or "{}")} for c in waiting
        ],
        "cursor": result.cursor,
        "exit_code": code,
    }


def _next(result: RunResult | None, agent_id: str, waiting: list[Call], store: str, stopped: bool) -> list[str]:
    """What a person is told at the end."""
    resume = command("resume", agent_id, store=store)
    if waiting and (stopped or result is None or result.status == "paused"):
        return _decisions(agent_id, waiting, store)
    if stopped or result is None:
        return ["Stopped. Everything is in the store; to go on where it was:", resume]
    if result.status == "paused":
        return ["It waits for an answer from outside; once that is there:", resume]
    if result.status == "deadline":
        return ["The time is up. To go on where it was:", resume]
    if result.status == "queued":
        return ["Not finished: another process is at work on it, or it is parked. To go on or follow:", resume]
    if result.ok:
        return []
    if result.stop_reason is StopReason.CRASH_LOOP:
        return ["Its processes died again and again before it got anywhere. To go on where it was, by hand:", resume]
    why = inline(result.error.text) if result.error is not None else f"it ended with {result.stop_reason}"
    named = f"{'=' if agent_id.startswith('-') else ' '}{shlex.quote(agent_id)}"
    again = f'kode run --agent{named}{store} "Go on."'
    return [f"The run did not succeed: {why}", "The agent keeps its history; to go on from here:", again]


def _decisions(agent_id: str, waiting: list[Call], store: str) -> list[str]:
    lines = ["It waits for a decision, on no process at all. Decide, then go on:"]
    for call in waiting:
        lines.append(f"# {call.id}: {called(call)}")
        lines.append(command("decide", agent_id, call.id, "allow", store=store))
    return [*lines, command("resume", agent_id, store=store)]
