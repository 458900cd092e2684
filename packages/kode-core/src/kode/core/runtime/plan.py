"""Planning: before the kernel hears of a reply, each call in it is looked up, checked and judged.

What planning finds rides in the input, so that what is unknown, invalid or denied is answered in the same commit.
"""

from __future__ import annotations

from kode.core.jsontext import parse
from kode.core.kernel.inputs import PlannedCall
from kode.core.kernel.message import Json, ToolUseBlock
from kode.core.kernel.permission import judge
from kode.core.kernel.toolcall import Plan, Verdict
from kode.core.provider.assemble import Reply
from kode.core.runtime.binding import Binding
from kode.core.tools.base import Tool

__all__ = ["plan_calls", "plan_input"]


def plan_calls(binding: Binding, reply: Reply) -> tuple[PlannedCall, ...]:
    """Plan every tool use of a reply, in its order."""
    bad = {one.block: one for one in reply.bad_inputs}
    planned = []
    for index, block in enumerate(reply.blocks):
        if not isinstance(block, ToolUseBlock):
            continue
        tool = binding.tools.get(block.name)
        if tool is not None and index in bad:
            why, raw = bad[index].reason, bad[index].raw[:500]
            reason = f"The arguments of {block.name} cannot be read: {why}. They were: {raw}"
            planned.append(PlannedCall(index, _plan(tool, "invalid", reason)))
        else:
            planned.append(PlannedCall(index, plan_input(binding, block.name, block.input)))
    return tuple(planned)


def plan_input(binding: Binding, name: str, input: Json) -> Plan:
    """Plan one call: look-up, schema, permission, in this order."""
    tool = binding.tools.get(name)
    if tool is None:
        known = ", ".join(sorted(binding.tools)) or "none"
        return Plan("unknown", reason=f"There is no tool {name!r}. The tools are: {known}.")
    problem = tool.check(input)
    if isinstance(problem, str):
        return _plan(tool, "invalid", problem)
    verdict, reason = _judge(binding, tool, input)
    return _plan(tool, verdict, reason)


def _judge(binding: Binding, tool: Tool, input: Json) -> tuple[Verdict, str | None]:
    judged = judge(binding.policy, tool.name, readonly=tool.readonly, input=input)
    verdict, reason = judged.verdict, judged.reason
    if verdict == "custom":
        mode = binding.policy.mode
        try:
            verdict = binding.modes[mode](tool, parse(input), binding.policy)
        except Exception as error:  # noqa: BLE001 - a broken mode allows nothing
            return "deny", f"Permission mode {mode!r} failed ({type(error).__name__}), so the call is denied."
        if verdict not in ("allow", "ask", "deny"):
            return "deny", f"Permission mode {mode!r} gave no verdict, so the call is denied."
        reason = f"Mode {mode} says {verdict}."
    if verdict == "allow" and tool.needs_approval:
        return "ask", f"{tool.name} always asks."
    return verdict, reason


def _plan(tool: Tool, verdict: Verdict, reason: str | None) -> Plan:
    return Plan(verdict, tool.digest[:16], tool.readonly, tool.recovery, tool.timeout_s, reason)
