"""Wrong where one request follows another: wrong `SqliteStore`s, held to the clauses of that group alone."""

from __future__ import annotations

from typing import Any

from tests.stores.mutants.table import Mutant

from kode.core.store import Lease, Record, SqliteStore
from kode.core.store.records import read_lease


class ForgetsWhatWasConsumed(SqliteStore):
    """An item that was taken is removed, and nothing says that it was there."""

    async def apply_and_look(self, agent_id, conditions, puts, deletes, **look):  # type: ignore[no-untyped-def]
        kept = [put for put in puts if put.kind != "consumed"]
        return await super().apply_and_look(agent_id, conditions, kept, deletes, **look)


class HeldForEver(SqliteStore):
    """A lease is over when it is given back, and not before."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self._live_lease = self._held  # type: ignore[method-assign]

    def _held(self, record: Record | None, header: Record, now: int) -> Lease | None:
        return None if record is None else read_lease(record, header.key, 0)


class KeepsTheLease(SqliteStore):
    """What is released is kept until its term ends, as if that would cost nobody anything."""

    async def release(self, lease: Lease, *, failed: bool = False) -> None:
        return


MUTANTS = (
    Mutant(ForgetsWhatWasConsumed, "requests", "a_request_that_two_processes_are_given_runs_once"),
    Mutant(HeldForEver, "requests", "what_a_killed_request_began_the_next_one_ends"),
    Mutant(KeepsTheLease, "requests", "what_ran_out_of_time_the_next_one_ends"),
)
