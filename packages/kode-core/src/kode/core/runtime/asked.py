"""What was asked of an agent and not done yet: so that who asked reads back what they said, before anybody drives."""

from __future__ import annotations

from contextlib import suppress

from kode.core.errors import IllegalInputError, RecordCorruptError
from kode.core.kernel.inputs import ApprovalDecided, Instructed, Instruction
from kode.core.kernel.state import State
from kode.core.store.base import Store
from kode.core.store.records import item_input

__all__ = ["asked", "check_in_time"]


async def asked(store: Store, agent_id: str, uid: str) -> list[Instruction]:
    """Return the instructions that wait in an agent's inbox, oldest first.

    Ask before the state is read: what is taken in between is then seen twice, and not missed.
    """
    found: list[Instruction] = []
    for item in await store.read_inbox(agent_id, uid):
        with suppress(IllegalInputError, RecordCorruptError):  # the driver says what it thinks of it
            input = item_input(item)
            if isinstance(input, Instructed):
                found.append(input.what)
    return found


def check_in_time(state: State, decision: ApprovalDecided, at: int) -> None:
    """Check that a decision came before its question's deadline; how late the driver looks does not matter.

    Raises:
        IllegalInputError: It came too late; the question expires.
    """
    call = state.call(decision.call)
    asked = None if call is None else call.approval
    if asked is not None and asked.n == decision.n and asked.due_at is not None and asked.due_at <= at:
        raise IllegalInputError(
            f"The decision about call {decision.call} came after the deadline of question {asked.n}; it has expired.",
            code="expired",
        )
