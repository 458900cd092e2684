"""How an agent comes to be, and how its recipe is read back."""

from __future__ import annotations

from typing import Any

from kode.core.config import AgentConfig, Dependencies
from kode.core.errors import RecordCorruptError, UsageError
from kode.core.kernel.events import Event
from kode.core.kernel.state import Document, State
from kode.core.store.contract import Bounds, Commit, DocumentBody
from kode.core.template import AgentTemplate, decode_template, encode_template

__all__ = ["create_agent", "given", "read_template"]


async def create_agent(id: str, uid: str, recipe: AgentTemplate, config: AgentConfig, deps: Dependencies) -> State:
    """Store a new agent: its header, its recipe, its first event, in one commit that expects absence.

    Raises:
        AgentExistsError: The id is taken.
    """
    at = deps.clock.now()
    text, digest = encode_template(recipe)
    state = State(
        agent_id=id,
        uid=uid,
        created_at=at,
        updated_at=at,
        next_cursor=2,
        documents=(Document("template", "", digest),),
        template=recipe.label,
        tenant=config.tenant,
        parent=config.parent,
    )
    limits = recipe.limits
    commit = Commit(
        state=state,
        commit_id=deps.ids.commit_id(),
        version=None,
        fence=None,
        at=at,
        bounds=Bounds(limits.max_inbox, limits.max_message_bytes, limits.dedupe_for_s),
        events=(Event("agent_created", at, 1, data={"template": recipe.label}),),
        documents=(DocumentBody("template", "", text),),
    )
    await deps.store.commit(commit)
    return state


async def read_template(agent_id: str, deps: Dependencies) -> tuple[str, AgentTemplate]:
    """The uid of an agent and the recipe that it was made from.

    Raises:
        NotFoundError: No such agent.
        RecordCorruptError: It has no recipe.
    """
    state = await deps.store.read_state(agent_id)
    document = await deps.store.read_document(agent_id, "template", "")
    if document is None:
        raise RecordCorruptError(f"Agent {agent_id!r} has no template stored.", agent_id=agent_id, raw=b"")
    return state.uid, decode_template(document.data)


def given(
    config: AgentConfig | None,
    dependencies: Dependencies | None,
    template: str | AgentTemplate | None,
    agent_id: str | None,
    bound: dict[str, Any],
) -> tuple[AgentConfig, Dependencies]:
    """Sort out the two ways to call ``create``.

    Raises:
        UsageError: Something is missing, given twice, or unknown.
    """
    config_names = set(AgentConfig.__dataclass_fields__)
    deps_names = {name for name, field in Dependencies.__dataclass_fields__.items() if field.init}
    strange = sorted(set(bound) - config_names - deps_names)
    if strange:
        raise UsageError(
            f"Agent.create knows no {', '.join(map(repr, strange))}; "
            f"it takes {', '.join(sorted(config_names | deps_names))}.",
            code="bad_argument",
        )
    if "tools" in bound and dependencies is None and config is None:
        # Tools themselves are bound and used; names are looked up among the installed ones.
        given = list(bound.pop("tools"))
        bound["tools"] = [one for one in given if not isinstance(one, str)] or None
        loose: dict[str, Any] = {"tools": tuple(one if isinstance(one, str) else one.name for one in given)}
    else:
        loose = {}
    loose |= {name: bound[name] for name in bound if name in config_names and name != "tools"}
    if template is not None:
        loose["template"] = template
    if agent_id is not None:
        loose["agent_id"] = agent_id
    if config is not None and loose:
        raise UsageError(f"Give an AgentConfig or {', '.join(sorted(loose))}, not both.", code="bad_argument")
    parts = {name: bound[name] for name in bound if name in deps_names}
    if dependencies is not None and parts:
        raise UsageError(f"Give Dependencies or {', '.join(sorted(parts))}, not both.", code="bad_argument")
    if dependencies is None and "store" not in parts:
        raise UsageError("Agent.create needs Dependencies, or at least store=…", code="bad_argument")
    return config or AgentConfig(**loose), dependencies or Dependencies(**parts)
