"""The hooks of one agent in their order, and what comes of it when several speak.

Order: the agent's, as its template names them, then its plugins', then those of the tool itself. Each is shown what
those before it made of it; of the ``around_…`` hooks the first is the outermost.

**Gates** (``pre_tool_use``) are all asked, whatever the ones before said, and the strictest word counts:

    deny > ask > answer > replace > allow

A gate that failed denies. Of several denials or answers the first counts; replacements follow one another. Rules come
before hooks and bind them: no hook lifts what the policy denies or asks, and new arguments are judged anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from kode.core.errors import ProviderError
from kode.core.hook.asking import Asker, HookFailed, Wrapping
from kode.core.hook.base import Answer, Ask, Decision, Deny, Hooks, NextModel, NextTool, Replace, ToolUse
from kode.core.hook.reading import outcome_of, read_decision, read_outcome, read_reply, read_request
from kode.core.kernel.message import Json, ResultContent
from kode.core.provider.assemble import Reply
from kode.core.provider.base import ModelRequest
from kode.core.tools.base import Tool, ToolOutcome, ToolResult

__all__ = ["Chain", "Ruling"]


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the gates said about one call, merged."""

    verdict: Literal["allow", "deny", "ask", "answer"] = "allow"
    reason: str | None = None
    result: tuple[ResultContent, ...] | None = None
    """Of a denial or an answer."""
    input: Json | None = None
    """The arguments, if they were replaced."""
    by: str = ""
    """Who replaced them last."""


@dataclass(frozen=True, slots=True)
class Chain:
    """Asks the hooks of one agent, in their order."""

    sets: Sequence[Hooks]
    asker: Asker

    def of(self, stage: str, tool: Tool | None = None) -> list[Hooks]:
        """The sets that have such a hook; a tool's own see that tool's calls only."""
        sets = self.sets if tool is None or tool.hooks is None else (*self.sets, tool.hooks)
        return [one for one in sets if stage in one.stages] if sets else []

    # ---- tools ------------------------------------------------------------------------------------------------

    async def gate(self, use: ToolUse, late: set[str]) -> Ruling:
        """Ask all gates about a call, and merge what they say.

        ``late``: the sets that did not end in time for another call of the same reply; they are not waited for again.
        """
        said: list[Decision] = []
        changed, by = None, ""
        for hooks in self.of("pre_tool_use", use.tool):
            word = await self._word(hooks, use, late)
            if isinstance(word, Replace):
                changed, by = Json(str(word.input)), hooks.name
                use = replace(use, input=changed)
            said.append(word)
        return _merged(said, changed, by)

    async def gate_again(self, use: ToolUse) -> Ruling:
        """Ask the gates about an approved call: each is shown what will run, and replaces nothing of it."""
        said = [await self._word(hooks, use, set()) for hooks in self.of("pre_tool_use", use.tool)]
        return _merged(said, None, "")

    async def _word(self, hooks: Hooks, use: ToolUse, late: set[str]) -> Decision:
        if hooks.name in late:
            return Deny(f"The hook {hooks.name!r} did not end in time for another call, so this one is denied too.")
        try:
            return await self.asker.ask(hooks, "pre_tool_use", read_decision, use, call=use.call_id)
        except HookFailed as failed:
            if failed.late:
                late.add(hooks.name)
            return Deny(f"The {failed}, so the call is denied.")

    async def run_tool(self, use: ToolUse, run: NextTool) -> ToolResult:
        """Run a tool inside its ``around_tool`` hooks."""
        tool = use.tool
        for hooks in reversed(self.of("around_tool", tool)):
            run = partial(self._around_tool, hooks, use, run)
        return await run()

    async def _around_tool(self, hooks: Hooks, use: ToolUse, run: NextTool) -> ToolResult:
        repeatable = use.tool.readonly or use.tool.recovery == "retry"
        wrapping = Wrapping(self.asker, hooks, run, repeatable=repeatable)
        try:
            return await wrapping.run("around_tool", read_outcome, use, call=use.call_id)
        except HookFailed as failed:
            if wrapping.begun:
                text = f"{use.name} was started and then stopped, for the {failed}; it may have had part of its effect."
            elif hooks.strict:
                text = f"{use.name} was not run: the {failed}."
            else:
                return await run()
        return ToolOutcome.of(text, is_error=True)

    async def after_tool(self, use: ToolUse, outcome: ToolOutcome) -> ToolOutcome:
        """Show an outcome to ``post_tool_use``; what they make of it."""
        for hooks in self.of("post_tool_use", use.tool):
            read = partial(outcome_of, outcome)
            try:
                outcome = await self.asker.ask(hooks, "post_tool_use", read, use, outcome, call=use.call_id)
            except HookFailed as failed:
                if hooks.strict:
                    outcome = _withheld(use, outcome, f"the {failed}")
        return outcome

    def cut_off(self, use: ToolUse, outcome: ToolOutcome) -> ToolOutcome:
        """What counts of an outcome that ``post_tool_use`` had no time to look at."""
        strict = next((one for one in self.of("post_tool_use", use.tool) if one.strict), None)
        if strict is None:
            return outcome
        return _withheld(use, outcome, f"hook {strict.name!r} was interrupted before it had looked at it")

    # ---- the model --------------------------------------------------------------------------------------------

    @property
    def withholds(self) -> bool:
        """Whether a strict set must see a reply before anybody else does."""
        return bool(self.sets) and any(one.strict for stage in ("around_model", "post_model") for one in self.of(stage))

    async def before_model(self, request: ModelRequest) -> ModelRequest:
        """Let ``pre_model`` edit a request.

        Raises:
            ProviderError: ``hook_failed``: a strict one could not.
        """
        for hooks in self.of("pre_model"):
            try:
                request = await self.asker.ask(hooks, "pre_model", partial(read_request, request), request)
            except HookFailed as failed:
                _unless_open(hooks, f"The model was not asked: the {failed}.")
        return request

    async def ask_model(self, request: ModelRequest, ask: NextModel) -> Reply:
        """Ask a model inside the ``around_model`` hooks.

        Raises:
            ProviderError: It was given up, or ``hook_failed``.
        """
        for hooks in reversed(self.of("around_model")):
            ask = partial(self._around_model, hooks, ask)
        return await ask(request)

    async def _around_model(self, hooks: Hooks, ask: NextModel, request: ModelRequest) -> Reply:
        wrapping = Wrapping(self.asker, hooks, ask, passing=(ProviderError,))
        try:
            return await wrapping.run("around_model", read_reply, request, call=None)
        except HookFailed as failed:
            _unless_open(hooks, f"The model was not asked, or not heard: the {failed}.")
            return await ask(request)

    async def after_model(self, request: ModelRequest, reply: Reply) -> Reply:
        """Let ``post_model`` edit a reply.

        Raises:
            ProviderError: ``hook_failed``: a strict one could not.
        """
        for hooks in self.of("post_model"):
            read = partial(_reply_or, reply)
            try:
                reply = await self.asker.ask(hooks, "post_model", read, request, reply)
            except HookFailed as failed:
                _unless_open(hooks, f"The model's reply was not taken: the {failed}.")
        return reply


def _withheld(use: ToolUse, outcome: ToolOutcome, why: str) -> ToolOutcome:
    text = f"{use.name} has run, but its result is withheld: {why}."
    return replace(ToolOutcome.of(text, is_error=True), usage=outcome.usage)


def _reply_or(reply: Reply, value: Any) -> Reply:
    return reply if value is None else read_reply(value, reply)


def _unless_open(hooks: Hooks, text: str) -> None:
    if hooks.strict:
        raise ProviderError(f"{text} Mend the hook; the next message goes on from here.", code="hook_failed")


def _merged(said: Sequence[Decision], changed: Json | None, by: str) -> Ruling:
    deny = next((one for one in said if isinstance(one, Deny)), None)
    if deny is not None:
        return Ruling("deny", deny.reason, None if deny.result is None else deny.result.content)
    ruling = Ruling(input=changed, by=by)
    reasons = [one.reason for one in said if isinstance(one, Ask)]
    if reasons:
        return replace(ruling, verdict="ask", reason=" ".join(reasons))
    answer = next((one for one in said if isinstance(one, Answer)), None)
    if answer is not None:
        return replace(ruling, verdict="answer", result=answer.result.content)
    return ruling
