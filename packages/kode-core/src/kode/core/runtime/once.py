"""One input, applied by whoever asks: takes the lease, commits, gives it back. For agents that are at rest."""

from __future__ import annotations

from kode.core.config import Dependencies
from kode.core.errors import IllegalInputError, UsageError
from kode.core.event.hub import switchboard
from kode.core.kernel.inputs import Input
from kode.core.kernel.limits import Limits
from kode.core.kernel.machine import Context, transition
from kode.core.kernel.state import State
from kode.core.runtime.lease import Holding, check_identity
from kode.core.runtime.resident import Resident
from kode.core.store.contract import DocumentBody

__all__ = ["apply_once"]


async def apply_once(
    agent_id: str,
    uid: str,
    input: Input,
    deps: Dependencies,
    limits: Limits,
    *,
    documents: tuple[DocumentBody, ...] = (),
) -> State:
    """Apply an input that starts nothing.

    Raises:
        NotFoundError: No such agent, or not of that ``uid`` (``replaced``).
        UsageError: ``not_safe``: the agent is in the middle of a step.
        LeaseLostError: ``held``: somebody drives it just now.
    """
    holding = await Holding.acquire(deps, agent_id, limits)
    try:
        check_identity(holding.lease, uid)
        resident = await Resident.load(deps.store, agent_id)
        context = Context(holding.now(), holding.lease.fence, limits)
        try:
            done = transition(resident.state, input, context)
        except IllegalInputError as error:
            raise UsageError(
                f"{error.message} Wait until the step is over, or interrupt it first.",
                code="not_safe",
                agent_id=agent_id,
            ) from None
        state = done.state
        committed = await deps.store.commit(
            resident.commit(
                state,
                deps.ids.commit_id(),
                holding.lease.fence,
                events=done.events,
                snapshots=done.snapshots,
                documents=documents,
                seen=resident.seen,
                release=not state.effects,
            )
        )
        holding.over = committed.released
        switchboard(deps.store, agent_id).publish(done.events)
        return state
    finally:
        await holding.let_go()
