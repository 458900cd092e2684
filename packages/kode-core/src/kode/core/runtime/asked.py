"""What was asked of an agent and not done yet: so that who asked reads back what they said, before anybody drives."""

from __future__ import annotations

from contextlib import suppress

from kode.core.errors import IllegalInputError, RecordCorruptError
from kode.core.kernel.inputs import Instructed, Instruction
from kode.core.store.base import Store
from kode.core.store.records import item_input

__all__ = ["read_instructions"]


async def read_instructions(store: Store, agent_id: str, uid: str) -> list[Instruction]:
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
