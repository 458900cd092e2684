"""Looking at what was compacted, and taking it back."""

from __future__ import annotations

from kode.core.config import Dependencies
from kode.core.errors import NotFoundError, UsageError
from kode.core.kernel.inputs import Reverted
from kode.core.kernel.limits import Limits
from kode.core.kernel.state import Document, State
from kode.core.kernel.window import Compaction, Range, Window
from kode.core.runtime.lease import check_identity
from kode.core.runtime.once import apply_once
from kode.core.store.base import Store
from kode.core.store.contract import Key, Scan
from kode.core.store.records import read_compaction

__all__ = ["compactions_of", "revert"]

PAGE = 1_000


async def compactions_of(store: Store, agent_id: str, uid: str) -> tuple[Compaction, ...]:
    """All compactions of an agent that are stored, the oldest first."""
    found: list[Compaction] = []
    after = ""
    while True:
        rows = await store.scan(agent_id, Scan("compaction", uid, after=after, limit=PAGE))
        found += map(read_compaction, rows)
        if len(rows) < PAGE:
            return tuple(sorted(found, key=lambda one: (one.at, one.stop)))
        after = rows[-1].key


async def revert(agent_id: str, uid: str, id: str, deps: Dependencies, limits: Limits) -> None:
    """Show the model again what it was shown before a compaction, or at a snapshot.

    Nothing is lost by it: every message stays, numbers go on rising, and what was said since a compaction stays in the
    window. What was said since a snapshot leaves it, and the documents are those of the snapshot again.

    Raises:
        NotFoundError: There is no compaction and no snapshot of that id; or no such agent, or not of that ``uid``.
        UsageError: ``pruned``: messages that it would show were removed. ``not_safe``: a run is in progress.
        LeaseLostError: ``held``: somebody drives the agent just now.
    """
    state = await deps.store.read_state(agent_id)
    check_identity(state, uid)
    back = await _before(deps.store, state, id) or await _at(deps.store, state, id)
    if back is None:
        raise NotFoundError(
            f"Agent {agent_id!r} has no compaction and no snapshot {id!r}; see compactions() and its snapshots.",
            agent_id=agent_id,
            id=id,
        )
    await _check(deps.store, state, back.window, id)
    await apply_once(agent_id, uid, back, deps, limits)


async def _before(store: Store, state: State, id: str) -> Reverted | None:
    """Before a compaction: its documents are those of now. What came since is shown too, so the size is not known."""
    (row,) = await store.get(state.agent_id, [Key("compaction", state.uid, id)])
    if row is None:
        return None
    compaction = read_compaction(row)
    return Reverted(compaction.window_before, state.documents, id, 0)


async def _at(store: Store, state: State, id: str) -> Reverted | None:
    snapshot = await store.load_snapshot(state.agent_id, id)
    if snapshot is None:
        return None
    ranges = (*Window(None, (), snapshot.window.ranges).bounded(snapshot.seq), Range(state.next_seq))
    window = Window(snapshot.window.compaction, snapshot.window.pinned, ranges)
    return Reverted(window, tuple(Document(*one) for one in snapshot.documents), id, snapshot.tokens)


async def _check(store: Store, state: State, window: Window, id: str) -> None:
    """Refuse to show what is not there any more."""
    first = min((*window.pinned, *(r.start for r in window.ranges)))
    gone = first < state.first_seq
    if window.compaction is not None and not gone:
        (row,) = await store.get(state.agent_id, [Key("compaction", state.uid, window.compaction)])
        gone = row is None
    if gone:
        raise UsageError(
            f"{id!r} shows messages from {first} on, but those below {state.first_seq} were pruned; "
            "it cannot be gone back to.",
            code="pruned",
            agent_id=state.agent_id,
        )
