"""How an agent comes to be, and how its recipe is read back."""

from __future__ import annotations

from kode.core.config import AgentConfig, Dependencies
from kode.core.errors import RecordCorruptError
from kode.core.kernel.events import Event
from kode.core.kernel.state import Document, State
from kode.core.store.contract import Bounds, Commit, DocumentBody
from kode.core.template import AgentTemplate, decode_template, encode_template

__all__ = ["create_agent", "read_template"]


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
