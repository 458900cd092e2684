"""Holding a lease: acquired by this process, renewed while it lives, let go at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kode.core.clock import Reading
from kode.core.config import Dependencies
from kode.core.errors import KodeError, LeaseLostError, NotFoundError
from kode.core.kernel.limits import Limits
from kode.core.kernel.state import State
from kode.core.runtime.resident import Resident
from kode.core.store.contract import Footing, Item, Lease
from kode.core.store.liveness import holder_name
from kode.core.store.records import released_record

__all__ = ["Holding", "check_identity"]

LETTING_GO_S = 2.0, 0.2
"""How long the store may take to have a lease back: at most, and at least where a request's time is over."""


class Holding:
    """A lease and the moment it runs out by our own clock.

    That clock counts suspension and is read before the store is asked, so we never think it lasts longer than it does.
    """

    __slots__ = ("_deps", "_reading", "_until", "ends", "lease", "over", "term", "waiting")

    def __init__(
        self,
        deps: Dependencies,
        lease: Lease,
        term: float,
        asked_at: float,
        until: float | None = None,
        reading: Reading | None = None,
    ) -> None:
        self._deps = deps
        self._until = until
        self.term = term
        self.over = False
        """There is nothing to give back: it went back, or it is not ours any more."""
        self.waiting: Sequence[Item] = ()
        """What the store said of the inbox with the lease; it need not have looked."""
        self._set(lease, asked_at, reading)

    def _set(self, lease: Lease, asked_at: float, reading: Reading | None = None) -> None:
        self.lease = lease
        self.ends = asked_at + self.term
        granted = lease.until - round(self.term * 1_000_000)
        self._reading = reading or Reading(granted, asked_at, self._deps.clock.monotonic())

    @classmethod
    async def acquire(
        cls,
        deps: Dependencies,
        agent_id: str,
        limits: Limits,
        resident: Resident | None = None,
        until: float | None = None,
    ) -> Holding:
        """Get the right to drive; in one write, if we know how it stood a moment ago and nothing has changed since.

        ``until``: ``clock.monotonic()`` when whoever asks has no more time, so that giving it back must be quick.

        Raises:
            LeaseLostError: ``held`` by someone else who lives.
            NotFoundError: No such agent.
        """
        asked_at = deps.clock.monotonic()
        # Each drive is a holder of its own: two tasks of one process must not take the lease from each other.
        holder = holder_name(f"{deps.holder or 'kode'}-{deps.ids.commit_id()}")
        try:
            if resident is not None:
                holding = await cls._on(resident, deps, holder, limits, until)
                if holding is not None:
                    return holding
            lease = await deps.store.acquire(agent_id, holder, limits.lease_s)
        except (LeaseLostError, NotFoundError):
            raise
        except BaseException:
            # Cancelled, or no answer: it may be ours all the same, and nobody else could drive for its whole term.
            await _give_back(deps, agent_id, holder, until)
            raise
        return cls(deps, lease, limits.lease_s, asked_at, until)

    @classmethod
    async def _on(
        cls, resident: Resident, deps: Dependencies, holder: str, limits: Limits, until: float | None
    ) -> Holding | None:
        """Take the lease on what was found when the agent was loaded, or left by the last drive. Once.

        The term must not end by the store's clock before it ends by ours, hence the latest that may be there now; and
        what a clock said long ago tells little of it, so it is asked again.
        """
        footing, reading, resident.footing = resident.footing, resident.reading, None
        if footing is None:
            return None
        asked_at = deps.clock.monotonic()
        if reading is None or asked_at - reading.asked_at > limits.lease_s / 4:
            reading = Reading(await deps.store.now(), asked_at, deps.clock.monotonic())
        found = await deps.store.acquire_on(replace(footing, at=reading.most(asked_at)), holder, limits.lease_s)
        if found is None:
            return None
        holding = cls(deps, found[0], limits.lease_s, asked_at, until, reading)
        holding.waiting = found[1]
        return holding

    def gave_back(self, resident: Resident) -> None:
        """It went back with a commit: nobody has to release it, and the next drive may begin on what that left."""
        self.over = True
        left = released_record(replace(self.lease, until=0, takes=0))
        resident.footing = Footing(resident.agent_id, self.lease.uid, resident.version, resident.seen, left)
        resident.reading = self._reading

    def left(self) -> float:
        """Seconds until it runs out."""
        return self.ends - self._deps.clock.monotonic()

    @property
    def renew_at(self) -> float:
        """When it should be renewed, half of its term before it runs out; by ``clock.monotonic()``."""
        return self.ends - self.term / 2

    def patience(self) -> float:
        """Seconds until it should be renewed; 0 or less: now."""
        return self.renew_at - self._deps.clock.monotonic()

    def now(self) -> int:
        """The time by the store's clock, microseconds: what one driver writes down agrees with what others wait for."""
        return self._reading.least(self._deps.clock.monotonic())

    async def renew(self) -> None:
        """Have it for another term; the fence stays.

        Raises:
            LeaseLostError: Someone else has it.
        """
        asked_at = self._deps.clock.monotonic()
        self._set(await self._deps.store.renew(self.lease, self.term), asked_at)

    async def let_go(self, *, failed: bool = False) -> None:
        """Give it back, if we still have it; it runs out by itself if that does not work.

        ``failed``: this drive broke down; it counts as a take-over, so that an agent that breaks every driver is
        parked in the end.
        """
        if self.over:
            return
        self.over = True
        with self._deps.clock.move_on_after(_seconds(self._deps, self._until), shield=True):
            try:
                await self._deps.store.release(self.lease, failed=failed)
            except KodeError:
                return


def check_identity(found: Lease | State, uid: str) -> None:
    """Refuse to act on an agent that was made again under the id of another.

    Raises:
        NotFoundError: ``replaced``: what was found is not of that ``uid``.
    """
    if found.uid != uid:
        raise NotFoundError(
            f"Agent {found.agent_id!r} was deleted and made again; open it again to use the new one.",
            code="replaced",
            agent_id=found.agent_id,
            uid=uid,
        )


def _seconds(deps: Dependencies, until: float | None) -> float:
    """How long to wait for the store to have a lease back."""
    most, least = LETTING_GO_S
    return most if until is None else max(min(most, until - deps.clock.monotonic()), least)


async def _give_back(deps: Dependencies, agent_id: str, holder: str, until: float | None) -> None:
    """Release a lease that was perhaps given to us, without an answer that said so.

    The write that was cut off may still be on its way, and a look at the store would not see it. Writes are done in
    the order in which they were begun, so first comes one that changes nothing: behind it, all is as it will be.
    """
    with deps.clock.move_on_after(_seconds(deps, until), shield=True):
        try:
            await deps.store.release(Lease(agent_id, "", holder, 0, 0, 0, 0))
            lease = await deps.store.lease_of(agent_id)
            if lease is not None and lease.holder == holder:
                await deps.store.release(lease)
        except KodeError:
            return
