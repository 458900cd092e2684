"""Planning: before the kernel hears of a reply, each call in it is looked up, checked and judged.

What planning finds rides in the input, so that what is unknown, invalid, denied or answered by a hook has its result
in the same commit. Rules judge first; hooks are asked about what the rules let through or put to a person.
"""

from __future__ import annotations

from dataclasses import replace

import anyio

from kode.core.hook.base import ToolUse
from kode.core.hook.chain import Chain, Ruling
from kode.core.jsontext import parse
from kode.core.kernel.inputs import PlannedCall
from kode.core.kernel.message import Json, ToolUseBlock
from kode.core.kernel.permission import PolicyRules, judge
from kode.core.kernel.state import State
from kode.core.kernel.toolcall import Plan, Verdict
from kode.core.provider.assemble import Reply
from kode.core.runtime.binding import Binding
from kode.core.tools.base import Tool

__all__ = ["plan_calls", "plan_input"]

MAX_SHOWN = 500
"""Characters of arguments, and of a name that is no tool's, in a reason."""


async def plan_calls(binding: Binding, reply: Reply, chain: Chain, state: State) -> tuple[PlannedCall, ...]:
    """Plan every tool use of a reply, in its order. About different calls the gates are asked side by side."""
    bad = {one.block: one for one in reply.bad_inputs}
    planned: list[PlannedCall] = []
    late: set[str] = set()

    async def ask(place: int, use: ToolUse) -> None:
        planned[place] = _ruled(binding, use.tool, planned[place], await chain.gate(use, late))

    asked = []
    for index, block in enumerate(reply.blocks):
        if not isinstance(block, ToolUseBlock):
            continue
        tool = binding.tools.get(block.name)
        if tool is not None and index in bad:
            why, raw = bad[index].reason, bad[index].raw[:500]
            reason = f"The arguments of {block.name} cannot be read: {why}. They were: {raw}"
            planned.append(PlannedCall(index, _plan(tool, "invalid", reason)))
            continue
        call = PlannedCall(index, plan_input(binding, block.name, block.input))
        if tool is not None and call.plan.verdict in ("allow", "ask") and chain.of("pre_tool_use", tool):
            asked.append((len(planned), ToolUse(state.agent_id, state.uid, tool, block.input)))
        planned.append(call)
    if len(asked) == 1:
        await ask(*asked[0])
    elif asked:
        async with anyio.create_task_group() as tasks:
            for one in asked:
                tasks.start_soon(ask, *one)
    return tuple(planned)


def plan_input(binding: Binding, name: str, input: Json) -> Plan:
    """Plan one call: look-up, schema, permission, in this order."""
    tool = binding.tools.get(name)
    if tool is None:
        known = ", ".join(sorted(binding.tools)) or "none"
        asked = name if len(name) <= MAX_SHOWN else f"{name[:MAX_SHOWN]}…"
        return Plan("unknown", reason=f"There is no tool {asked!r}. The tools are: {known}.")
    problem = tool.check(input)
    if isinstance(problem, str):
        return _plan(tool, "invalid", problem)
    verdict, reason = _judge(binding, tool, input)
    return _plan(tool, verdict, reason)


def _ruled(binding: Binding, tool: Tool, call: PlannedCall, ruling: Ruling) -> PlannedCall:
    """Lay what the gates said over what the rules said; the stricter word counts."""
    plan = call.plan
    if ruling.verdict == "deny":
        return replace(call, plan=replace(plan, verdict="deny", reason=ruling.reason), answer=ruling.result)
    asked = [plan.reason] if plan.verdict == "ask" else []
    changed = f"Hook {ruling.by!r} changed the arguments"
    if ruling.input is not None:
        plan = plan_input(binding, tool.name, ruling.input)
        call = replace(call, input=ruling.input)
        if plan.verdict not in ("allow", "ask"):
            return replace(call, plan=replace(plan, reason=f"{changed}. {plan.reason}"))
        asked = asked or ([plan.reason] if plan.verdict == "ask" else [])
    if ruling.verdict == "ask":
        asked.append(ruling.reason)
    if asked:
        if ruling.input is not None:
            asked.append(f"{changed} to {ruling.input[:MAX_SHOWN]}.")
        return replace(call, plan=replace(plan, verdict="ask", reason=" ".join(filter(None, asked))))
    return replace(call, plan=replace(plan, verdict=ruling.verdict), answer=ruling.result)


def _judge(binding: Binding, tool: Tool, input: Json) -> tuple[Verdict, str | None]:
    """The strictest word of the agent's own policy and of those that it lies within."""
    judged = [_judge_link(binding, link, tool, input) for link in binding.policy.links]
    verdict, reason = max(judged, key=lambda one: ("allow", "ask", "deny").index(one[0]))
    if verdict == "allow" and tool.needs_approval:
        return "ask", f"{tool.name} always asks."
    return verdict, reason


def _judge_link(binding: Binding, link: PolicyRules, tool: Tool, input: Json) -> tuple[Verdict, str | None]:
    judged = judge(link, tool.name, readonly=tool.readonly, input=input)
    if judged.verdict != "custom":
        return judged.verdict, judged.reason
    mode = link.mode
    try:
        verdict = binding.modes[mode](tool, parse(input), link)
    except Exception as error:  # noqa: BLE001 - a broken mode allows nothing
        return "deny", f"Permission mode {mode!r} failed ({type(error).__name__}), so the call is denied."
    if verdict not in ("allow", "ask", "deny"):
        return "deny", f"Permission mode {mode!r} gave no verdict, so the call is denied."
    return verdict, f"Mode {mode} says {verdict}."


def _plan(tool: Tool, verdict: Verdict, reason: str | None) -> Plan:
    return Plan(verdict, tool.digest[:16], tool.readonly, tool.recovery, tool.timeout_s, reason, tool.spawns)
