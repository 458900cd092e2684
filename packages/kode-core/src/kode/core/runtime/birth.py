"""How an agent comes to be, and how its recipe is read back."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from kode.core.config import AgentConfig, Dependencies
from kode.core.errors import RecordCorruptError, UsageError
from kode.core.kernel.events import Event
from kode.core.kernel.limits import Limits
from kode.core.kernel.message import Json
from kode.core.kernel.state import Document, State
from kode.core.runtime.resident import Resident
from kode.core.store.contract import Bounds, Commit, DocumentBody, Footing, Loaded
from kode.core.template import AgentTemplate, decode_template, encode_template

__all__ = [
    "check_dependencies",
    "create_agent",
    "given",
    "inbox_bounds",
    "read_template",
    "recipe_digest",
    "stored_recipe",
]

LONGEST = 1e11
"""Seconds that an agent may be kept for: some 3,000 years."""


async def create_agent(id: str, uid: str, recipe: AgentTemplate, config: AgentConfig, deps: Dependencies) -> Resident:
    """Store a new agent: its header, its recipe, its first event, in one commit that expects absence.

    Raises:
        AgentExistsError: The id is taken.
        UsageError: ``bad_expiry``.
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
        expires_at=_expiry(config.expires_in_s, at),
    )
    commit = Commit(
        state=state,
        commit_id=deps.ids.commit_id(),
        version=None,
        fence=None,
        at=at,
        bounds=inbox_bounds(recipe.limits),
        events=(Event("agent_created", at, 1, data={"template": recipe.label}),),
        documents=(DocumentBody("template", "", text),),
    )
    done = await deps.store.commit(commit)
    loaded = Loaded(state, done.version, 0, commit.bounds, window=(), inbox=(), lease=None)
    return Resident(loaded, Footing(id, uid, done.version, 0, None))


def _expiry(in_s: float | None, at: int) -> int | None:
    if in_s is None:
        return None
    if not 0 < in_s <= LONGEST:
        raise UsageError(
            f"expires_in_s is {in_s}; give seconds above 0 and up to {LONGEST:,.0f}, or None to keep the agent.",
            code="bad_expiry",
        )
    return at + round(in_s * 1_000_000)


def inbox_bounds(limits: Limits) -> Bounds:
    """The bounds that a store checks by itself."""
    # Columns hold plain numbers; a default is a kind of its own (`Limits`).
    return Bounds(int(limits.max_inbox), int(limits.max_message_bytes), float(limits.dedupe_for_s))


async def read_template(agent_id: str, deps: Dependencies) -> tuple[str, AgentTemplate, str]:
    """The uid of an agent, its recipe, and that one's digest.

    Raises:
        NotFoundError: No such agent.
        RecordCorruptError: It has no recipe.
    """
    state = await deps.store.read_state(agent_id)
    document = await deps.store.read_document(agent_id, "template", "")
    template = stored_recipe(agent_id, None if document is None else document.data)
    return state.uid, template, recipe_digest(state)


def stored_recipe(agent_id: str, text: Json | None) -> AgentTemplate:
    """Decode an agent's template, as its document was read.

    Raises:
        RecordCorruptError: It has none.
    """
    if text is None:
        raise RecordCorruptError(f"Agent {agent_id!r} has no template stored.", agent_id=agent_id, raw=b"")
    return _decoded(text)


@lru_cache(maxsize=64)
def _decoded(text: Json) -> AgentTemplate:
    """The few templates that a process meets are decoded once."""
    return decode_template(text)


def recipe_digest(state: State) -> str:
    """The digest of the recipe an agent has now; "" if it has none."""
    return next((d.digest for d in state.documents if d.kind == "template"), "")


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
    _check_kinds(config, dependencies)
    config_names = set(AgentConfig.__dataclass_fields__)
    deps_names = {name for name, field in Dependencies.__dataclass_fields__.items() if field.init}
    strange = sorted(set(bound) - config_names - deps_names)
    if strange:
        raise UsageError(
            f"Agent.create knows no {', '.join(map(repr, strange))}; "
            f"it takes {', '.join(sorted(config_names | deps_names))}.",
            code="bad_argument",
        )
    loose: dict[str, Any] = {}
    for kind in ("tools", "hooks", "plugins"):
        if kind in bound and dependencies is None and config is None:
            # Things themselves are bound and used; names are looked up among the installed ones.
            listed = list(bound.pop(kind))
            bound[kind] = [one for one in listed if not isinstance(one, str)] or None
            loose[kind] = tuple(one if isinstance(one, str) else one.name for one in listed)
    loose |= {name: bound[name] for name in bound if name in config_names - deps_names}
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


def _check_kinds(config: object, dependencies: object) -> None:
    if config is not None:
        _check(config, AgentConfig, "AgentConfig(template, agent_id=…), or template=… and store=…")
    if dependencies is not None:
        check_dependencies(dependencies)


def check_dependencies(given: object) -> None:
    """Refuse what stands where an agent's surroundings must.

    Raises:
        UsageError: ``bad_argument``.
    """
    _check(given, Dependencies, "Dependencies(store, tools=…, providers=…)")


def _check(given: object, kind: type, example: str) -> None:
    if not isinstance(given, kind):
        found = "None" if given is None else type(given).__name__
        raise UsageError(f"{kind.__name__} is needed here, not {found}; give {example}.", code="bad_argument")
