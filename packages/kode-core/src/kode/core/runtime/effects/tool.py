"""A tool is run, with the hooks around it and the bounds of its result."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import anyio

from kode.core.errors import UsageError
from kode.core.hook.base import ToolUse
from kode.core.kernel.effects import RunTool
from kode.core.kernel.events import Event
from kode.core.kernel.inputs import Input, ToolFinished, ToolSuspended
from kode.core.kernel.message import Json, ResultContent, TextBlock
from kode.core.kernel.toolcall import Call
from kode.core.runtime.effects.cap import cap
from kode.core.runtime.effects.worker import Worker
from kode.core.runtime.subagent import Spawner
from kode.core.tools.base import Suspended, ToolContext, ToolOutcome, ToolResult

__all__ = ["run_tool"]

MAX_EMIT = 16_384
"""Characters of an event that a tool emits: events are for watchers, not for data."""


async def run_tool(worker: Worker, effect: RunTool) -> Input | None:
    """Run a tool and bound its result; None when the effect was dropped before it ended."""
    call = worker.resident.state.call(effect.id)
    tool = None if call is None else worker.binding.tools.get(call.tool)
    if call is None or tool is None:
        return ToolFinished(effect.id, (TextBlock("This tool is not there any more; it was not run."),), True)
    input = call.changed_input or call.input or Json("{}")
    arguments = tool.check(input)
    if isinstance(arguments, str):
        return ToolFinished(effect.id, (TextBlock(arguments),), True)
    use = ToolUse(worker.resident.agent_id, worker.resident.state.uid, tool, input, call.id)
    outcome: ToolResult | None = None
    if call.approvals:
        with anyio.CancelScope() as scope:
            worker.enter(effect.id, scope)
            refused = await _refused(worker, call, use)
            if refused is not None:
                return refused
        if scope.cancel_called:
            return None
    with worker.clock.move_on_after(effect.timeout_s) as scope:
        worker.enter(effect.id, scope)
        run = partial(tool.call, _context(worker, call, effect, scope), arguments)
        outcome = await worker.chain.run_tool(use, run)
    if isinstance(outcome, Suspended):
        return ToolSuspended(effect.id, outcome.due_at, outcome.child, outcome.child_uid)
    if outcome is None:
        if effect.id in worker.dropped:
            return None
        outcome = ToolOutcome.of(
            f"{call.tool} did not end within {effect.timeout_s} s and was stopped; it may have had part of its effect.",
            is_error=True,
        )
    if worker.chain.of("post_tool_use", tool):
        with anyio.CancelScope() as scope:
            worker.enter(effect.id, scope)
            return await _stowed(worker, _finished(worker, effect.id, await worker.chain.after_tool(use, outcome)))
        # Whoever is interrupted here has its result all the same.
    return await _stowed(worker, _finished(worker, effect.id, worker.chain.cut_off(use, outcome)))


async def _refused(worker: Worker, call: Call, use: ToolUse) -> ToolFinished | None:
    """Ask the gates again about a call that somebody approved, perhaps a month later and with other arguments.

    What they deny or answer counts; what they ask has been answered, and what was approved is not replaced.
    """
    ruling = await worker.chain.gate_again(use)
    if ruling.verdict not in ("deny", "answer"):
        return None
    content = ruling.result or (TextBlock(ruling.reason or f"{call.tool} was denied."),)
    denied = ruling.verdict == "deny"
    return replace(_finished(worker, call.id, ToolOutcome(content, denied)), denied=denied)


def _context(worker: Worker, call: Call, effect: RunTool, scope: anyio.CancelScope) -> ToolContext:
    state = worker.resident.state

    def emit(event_type: str, data: Json) -> None:
        if len(data) + len(event_type) > MAX_EMIT:
            raise UsageError(
                f"emit({event_type[:50]!r}) has {len(data):,} characters; give at most {MAX_EMIT:,}, or a reference.",
                code="event_too_big",
            )
        told = {"tool": call.tool, "event": event_type, "json": data}
        worker.note(Event("tool_custom_event", call=call.id, data=told))

    def progress(text: str) -> None:
        worker.live("tool_progress", str(effect.attempt), call.id, text)

    tool = worker.binding.tools[call.tool]
    parts = (worker.resident, worker.binding.template, worker.limits, worker.deps, call.id)
    return ToolContext(
        agent_id=state.agent_id,
        uid=state.uid,
        call_id=call.id,
        fence=effect.attempt.fence,
        attempt=str(effect.attempt),
        clock=worker.clock,
        limits=worker.limits,
        sandbox=worker.binding.sandbox,
        services=worker.deps.services,
        documents=worker.documents,
        subagents=Spawner(*parts) if tool.spawns else None,
        cancel_scope=scope,
        timeout_s=effect.timeout_s,
        on_emit=emit,
        on_progress=progress,
    )


def _finished(worker: Worker, id: str, outcome: ToolOutcome) -> ToolFinished:
    content, cut = cap(outcome.content, worker.limits.max_tool_result_bytes)
    return ToolFinished(id, content, outcome.is_error, outcome.cut_bytes + cut, outcome.usage)


async def _stowed(worker: Worker, finished: ToolFinished) -> ToolFinished:
    """Keep large media of a result apart from it."""
    kept = await worker.media.kept(finished.result)
    if kept is finished.result:
        return finished
    return replace(finished, result=tuple(block for block in kept if isinstance(block, ResultContent)))
