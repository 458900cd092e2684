"""Sub-agents: how one is made for a call of its parent, and the bounds that it cannot get out of.

A sub-agent is an ordinary agent with a parent. Its id is made of the parent's identity and the call, and its task lies
in its inbox under the call's idempotency key, so that a second try after a crash at any point finds what the first one
did. The call is suspended; the sub-agent's first run ends with the effect that answers it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

from kode.core.config import AgentConfig, Dependencies
from kode.core.errors import (
    AgentExistsError,
    DuplicateIdError,
    NotFoundError,
    RecordCorruptError,
    SchemaTooNewError,
    UsageError,
)
from kode.core.jsontext import dump
from kode.core.kernel.inputs import CallResolved
from kode.core.kernel.limits import Limits, narrower
from kode.core.kernel.message import Json, TextBlock
from kode.core.kernel.state import Parent, State
from kode.core.kernel.toolcall import CallStatus
from kode.core.runtime.binding import bind
from kode.core.runtime.birth import create_agent
from kode.core.runtime.lease import check_identity
from kode.core.runtime.resident import Resident
from kode.core.runtime.sending import enqueue, message_of
from kode.core.store.base import Store
from kode.core.template import AgentTemplate
from kode.core.tools.base import Suspended

__all__ = ["Household", "Spawner", "answer_for", "at_work", "delegated", "remove"]


LEAST_TOKENS = 1_000
"""With a smaller share of a budget than this, none of several sub-agents gets anywhere."""


@dataclass(frozen=True, slots=True)
class Household:
    """What a new sub-agent's bounds depend on: its parent as it is now."""

    state: State
    recipe: AgentTemplate
    limits: Limits
    """In force: the agent's, within those of its run and its pool."""
    deps: Dependencies


async def delegated(
    house: Household, template: str | AgentTemplate, model: str | None, tools: Collection[str] | None
) -> str:
    """Make a sub-agent that works for no call; its id. Nobody waits for its answer, so it counts as answered."""
    found = template if isinstance(template, AgentTemplate) else house.deps.template_registry().get(template)
    state = house.state
    id = _child_id(state.uid, f"d-{house.deps.ids.uid()}")
    parent = Parent(state.agent_id, state.uid, "", _depth(house), answered=True)
    await _make_child(house, id, found, parent, model=model, tools=None if tools is None else tuple(tools))
    return id


async def at_work(store: Store, agent_id: str) -> dict[str, int]:
    """The sub-agents that an agent waits for, and those that they wait for, each with its last cursor."""
    found: dict[str, int] = {}
    waits = [call.wait for call in (await store.read_state(agent_id)).calls if call.status is CallStatus.WAITING]
    for child in (wait.child for wait in waits if wait is not None and wait.child is not None):
        with suppress(NotFoundError):
            found[child] = (await store.read_state(child)).next_cursor - 1
            found |= await at_work(store, child)
    return found


@dataclass(frozen=True, slots=True)
class Spawner:
    """``ToolContext.subagents`` of one call."""

    resident: Resident
    recipe: AgentTemplate
    limits: Limits
    deps: Dependencies
    call: str

    async def start(
        self,
        template: str,
        prompt: str,
        *,
        model: str | None = None,
        tools: Sequence[str] | None = None,
        limits: Limits | None = None,
    ) -> Suspended:
        """See ``Subagents.start``."""
        state, store = self.resident.state, self.deps.store
        run = state.run
        task = message_of(
            f"{state.uid}:{self.call}", prompt, sender=state.agent_id, context=None if run is None else run.context
        )
        id = _child_id(state.uid, self.call)
        # Whoever is there already was judged when it was made; what is left of the budget is another sum by now.
        child = await _there(id, state, self.call, self.deps)
        if child is None:
            house = Household(state, self.recipe, self.limits, self.deps)
            config = _allowed(house, template)
            parent = Parent(state.agent_id, state.uid, self.call, _depth(house))
            with suppress(AgentExistsError):
                await _make_child(house, id, config, parent, model=model, tools=tools, limits=limits)
            child = await _there(id, state, self.call, self.deps)
        if child is None:
            raise UsageError(f"The sub-agent {id!r} was deleted before it could begin.", code="subagent_gone")
        if child.next_run == 1:  # it has not begun: after 7 days an inbox does not know a task that was taken any more
            with suppress(DuplicateIdError):
                await enqueue(store, id, task, uid=child.uid)
        return Suspended(child=id, child_uid=child.uid)


async def answer_for(store: Store, parent: Parent | None, child: str, why: str) -> None:
    """Answer the call that waits for a sub-agent which will not answer it, or the parent waits for ever.

    Harmless twice, and for one that has answered: the first answer counts.
    """
    if parent is None or parent.answered:
        return
    text = TextBlock(f"The sub-agent {child} {why} before it answered.")
    answer = CallResolved(f"gone:{parent.uid}:{parent.call}", parent.call, (text,), True)
    with suppress(NotFoundError, DuplicateIdError):
        await enqueue(store, parent.agent_id, answer, uid=parent.uid)


async def remove(store: Store, agent_id: str, uid: str | None = None) -> None:
    """Delete an agent, or only the one of that ``uid``; whoever waits for its answer is told."""
    parent = None
    with suppress(RecordCorruptError, SchemaTooNewError):  # what cannot be read can be removed all the same
        state = await store.read_state(agent_id)
        if uid is not None:
            check_identity(state, uid)
        parent = state.parent
    await store.delete(agent_id, uid=uid)
    await answer_for(store, parent, agent_id, "was deleted")


def _child_id(uid: str, part: str) -> str:
    """Name the sub-agent that works for a call of that identity."""
    return f"{uid}/{part}"


async def _there(id: str, parent: State, call: str, deps: Dependencies) -> State | None:
    """The sub-agent, if it was made.

    Raises:
        UsageError: Somebody else's agent has that id.
    """
    try:
        state = await deps.store.read_state(id)
    except NotFoundError:
        return None
    if state.parent is None or (state.parent.uid, state.parent.call) != (parent.uid, call):
        raise UsageError(f"The id {id!r} is taken by an agent that is no sub-agent of this call.", code="id_taken")
    return state


def _allowed(house: Household, name: str) -> AgentTemplate:
    """The template of that name, if the parent's tasks may use it."""
    allowed = house.recipe.subagents
    if name not in allowed:
        known = ", ".join(allowed) or "none"
        raise UsageError(f"There is no sub-agent {name!r} for this agent; there is: {known}.", code="unknown_subagent")
    return house.deps.template_registry().get(name)


async def _make_child(
    house: Household,
    id: str,
    template: AgentTemplate,
    parent: Parent,
    *,
    model: str | None = None,
    tools: Sequence[str] | None = None,
    limits: Limits | None = None,
) -> None:
    """Store a new sub-agent.

    Raises:
        AgentExistsError: The id is taken.
        NotBoundError: Its template names something that is not registered here; nothing was stored.
        UsageError: A bound of the parent forbids it, or a tool is not the template's.
    """
    state, deps = house.state, house.deps
    bounds = _bounds(house, parent.depth)
    own = template.limits if limits is None else narrower(template.limits, limits)
    above = house.recipe
    sandbox, options = _sandbox(template, above)
    recipe = template.changed(
        model=model or template.model or above.model,
        tools=_tools(template, tools, deps),
        sandbox=sandbox,
        sandbox_options=options,
        # Whoever watches over the parent watches over those that it lets work for it.
        hooks=tuple(dict.fromkeys((*above.hooks, *template.hooks))),
        plugins=tuple(dict.fromkeys((*above.plugins, *template.plugins))),
        permission=template.permission.bounded(above.permission),
        limits=narrower(own, bounds),
    )
    bind(recipe, deps)
    left_us = None if state.expires_at is None else max(state.expires_at - deps.clock.now(), 1)
    config = AgentConfig(
        recipe, tenant=state.tenant, parent=parent, expires_in_s=None if left_us is None else left_us / 1e6
    )
    await create_agent(id, deps.ids.uid(), recipe, config, deps)


def _sandbox(template: AgentTemplate, above: AgentTemplate) -> tuple[str, Json]:
    """Where a sub-agent works: beside its parent, unless its template names another kind of sandbox.

    What its template says of the same kind is laid over what the parent's says; the root and the isolation stay.
    """
    if template.sandbox_options == "{}" and template.sandbox in (above.sandbox, "local"):
        return above.sandbox, above.sandbox_options
    if template.sandbox != above.sandbox:
        return template.sandbox, template.sandbox_options
    outer = json.loads(above.sandbox_options)
    kept = {name: value for name, value in outer.items() if name in ("root", "isolation") and value != "none"}
    return template.sandbox, Json(dump({**outer, **json.loads(template.sandbox_options), **kept}))


def _tools(template: AgentTemplate, wanted: Sequence[str] | None, deps: Dependencies) -> tuple[str, ...]:
    own = tuple(deps.tool_registry().names()) if template.tools == ("*",) else template.tools
    if wanted is None:
        return own
    strange = [name for name in wanted if name not in own]
    if strange:
        raise UsageError(
            f"Sub-agent {template.id!r} has no tool {strange[0]!r}; it has: {', '.join(own) or 'none'}.",
            code="unknown_tool",
        )
    return tuple(wanted)


def _depth(house: Household) -> int:
    parent = house.state.parent
    return 1 if parent is None else parent.depth + 1


def _bounds(house: Household, depth: int) -> Limits:
    """What the parent's bounds leave for one more sub-agent.

    Raises:
        UsageError: Nothing.
    """
    limits = house.limits
    if depth > limits.max_subagent_depth:
        raise UsageError(
            f"This would be a sub-agent at depth {depth}, and max_subagent_depth is {limits.max_subagent_depth}; "
            "do this task without another sub-agent.",
            code="too_deep",
        )
    tokens, cost = _left(house)
    return Limits(
        # Spoken out, so that a template's own number cannot widen it.
        max_subagent_depth=int(limits.max_subagent_depth),
        max_tool_result_bytes=int(limits.max_tool_result_bytes),
        max_tokens_per_run=None if tokens is None else max(int(tokens), 1),
        max_cost_per_run=cost,
        approval_deadline_s=limits.approval_deadline_s,
    )


def _left(house: Household) -> tuple[float | None, float | None]:
    """The share of tokens and cost for one of the sub-agents that work side by side; together they keep the bound.

    Each sub-agent of a step has its share when it starts: what is left by what was counted until then, divided by how
    many have not answered.
    """
    state, limits = house.state, house.limits
    run = None if state.run is None else state.run.usage
    total = state.usage_total
    mates = sum(call.plan.child and not call.status.final for call in state.calls) or 1
    tokens = _share(
        mates,
        LEAST_TOKENS,
        "tokens",
        (limits.max_tokens_per_run, None if run is None else run.tokens),
        (limits.max_tokens_per_agent, total.tokens),
    )
    cost = _share(
        mates,
        0,
        "cost",
        (limits.max_cost_per_run, None if run is None else run.cost_nanos / 1e9),
        (limits.max_cost_per_agent, total.cost_nanos / 1e9),
    )
    return tokens, cost


def _share(mates: int, least: int, what: str, *bounds: tuple[float | None, float | None]) -> float | None:
    left = min((bound - used for bound, used in bounds if bound is not None and used is not None), default=None)
    if left is not None and left <= 0:
        raise UsageError(f"The budget of {what} is spent, so no sub-agent was started.", code="budget_spent")
    if left is not None and mates > 1 and left / mates < least:
        raise UsageError(
            f"No sub-agent was started: {left:,.0f} {what} are left for {mates} of them, and each needs "
            f"at least {least:,}. Start fewer at a time, or do this task yourself.",
            code="share_too_small",
        )
    return None if left is None else left / mates
