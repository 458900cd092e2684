"""What can be seen of an agent from outside, as stored."""

from __future__ import annotations

from dataclasses import dataclass

from kode.core.kernel.words import Breakpoint, Status
from kode.core.runtime.result import Question, open_of
from kode.core.store.contract import Loaded

__all__ = ["AgentView", "view_of"]


@dataclass(frozen=True, slots=True)
class AgentView:
    """What an agent is at, as stored."""

    agent_id: str
    uid: str
    status: Status
    breakpoint: Breakpoint
    run: int | None
    step: int
    messages: int
    cursor: int
    version: int
    driven: bool
    """Whether somebody's lease on it lives."""
    pending: tuple[str, ...]
    """Calls that wait for a decision."""
    waiting: int
    """Items in the inbox."""
    template: str
    parked: str | None = None
    questions: tuple[Question, ...] = ()
    """What is asked about the calls in ``pending``."""


def view_of(loaded: Loaded) -> AgentView:
    """Sum up what is stored."""
    state = loaded.state
    return AgentView(
        agent_id=state.agent_id,
        uid=state.uid,
        status=state.status,
        breakpoint=state.breakpoint,
        run=None if state.run is None else state.run.number,
        step=state.step,
        messages=state.next_seq,
        cursor=state.next_cursor - 1,
        version=loaded.version,
        driven=loaded.lease is not None,
        pending=tuple(c.id for c in state.calls if c.approval is not None),
        waiting=len(loaded.inbox),
        template=state.template,
        parked=None if state.parked is None else state.parked.value,
        questions=open_of(state)[0],
    )
