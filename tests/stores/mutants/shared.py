"""Wrong where several processes share a store, or one is killed: wrong `SqliteStore`s."""

from __future__ import annotations

from typing import Any

import anyio
from tests.stores.mutants.table import Mutant

from kode.core.store import Changes, Lease, SqliteStore


class ChecksThenActs(SqliteStore):
    """Conditions are judged in one transaction, and acted on in the next."""

    async def apply(self, agent_id, conditions, puts, deletes):  # type: ignore[no-untyped-def]
        failed = await super().apply(agent_id, conditions, (), ())
        await anyio.sleep(0.005)  # long enough for another process, however busy the machine is
        return failed if failed is not None else await super().apply(agent_id, (), puts, deletes)

    async def apply_and_look(self, agent_id, conditions, puts, deletes, **look):  # type: ignore[no-untyped-def]
        return await self.apply(agent_id, conditions, puts, deletes), []


class LeasesOfItsOwn(SqliteStore):
    """It knows the leases that it gave, and no others."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self._given: set[tuple[str, int]] = set()
        self._live_lease = self._own_lease  # type: ignore[method-assign]

    async def acquire(self, agent_id: str, holder: str, ttl_s: float) -> Lease:
        lease = await super().acquire(agent_id, holder, ttl_s)
        self._given.add((lease.uid, lease.fence))
        return lease

    def _own_lease(self, *given: Any) -> Lease | None:
        held = super()._live_lease(*given)
        return held if held is not None and (held.uid, held.fence) in self._given else None


class AcknowledgesTooEarly(SqliteStore):
    """What it acknowledged is written with the next call."""

    async def apply_and_look(self, agent_id, conditions, puts, deletes, **look):  # type: ignore[no-untyped-def]
        failed = await super().apply(agent_id, conditions, (), ())
        if failed is None:
            self._behind = agent_id, puts, deletes
        return failed, []

    async def look_up(self, agent_id, lookup):  # type: ignore[no-untyped-def]
        behind, self._behind = getattr(self, "_behind", None), None
        if behind is not None:
            agent_id, puts, deletes = behind
            await super().apply(agent_id, (), puts, deletes)
        return await super().look_up(agent_id, lookup)


class LocksWhatIsThere(SqliteStore):
    """It locks the rows that it judges; an inbox where nothing new waits has none, and an item may still come."""

    async def apply(self, agent_id, conditions, puts, deletes):  # type: ignore[no-untyped-def]
        failed = await super().apply(agent_id, conditions, (), ())
        locked = [each for each in conditions if each.op != "no_inbox_after"]
        return failed if failed is not None else await super().apply(agent_id, locked, puts, deletes)

    async def apply_and_look(self, agent_id, conditions, puts, deletes, **look):  # type: ignore[no-untyped-def]
        return await self.apply(agent_id, conditions, puts, deletes), []


class SaysItIsAlone(SqliteStore):
    """Nobody else writes, it says, so nothing is looked for."""

    alone = True


class LooksAtVersions(SqliteStore):
    """An agent has changed when its version has: an item that came is none."""

    async def look(self, agent_id: str | None) -> object:
        found = [(row.key, row.columns["version"]) for row in await self.agents(agent_id or "", "", 1_000)]
        return found


class _LooksAnew(Changes):
    async def wait(self) -> None:
        self._seen = await self._look(self.agent_id)
        await super().wait()


class LooksWhenItWaits(SqliteStore):
    """What is new is told from what was there when the wait began, not from what its caller has read."""

    def watch(self, agent_id: str | None = None, **given: Any) -> Changes:
        changes = super().watch(agent_id, **given)
        changes.__class__ = _LooksAnew
        return changes


SHARED = (
    Mutant(SaysItIsAlone, "watch", "what_another_object_writes_wakes_within_an_interval"),
    Mutant(LooksAtVersions, "watch", "what_another_object_writes_wakes_within_an_interval"),
    Mutant(LooksWhenItWaits, "watch", "what_another_object_writes_before_the_wait"),
    Mutant(ChecksThenActs, "processes", "conditions_are_judged_on_what_all_wrote"),
    Mutant(LeasesOfItsOwn, "processes", "a_lease_binds_all"),
    Mutant(LocksWhatIsThere, "races", "no_item_slips_in_between_a_judgement_and_its_write"),
    Mutant(AcknowledgesTooEarly, "kill", "what_was_acknowledged_a_moment_before"),
)
"""Held to the clauses that are meant for them alone: files and processes take their time."""
