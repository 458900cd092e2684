"""Holding a lease: acquired by this process, renewed while it lives, let go at the end."""

from __future__ import annotations

from collections.abc import Sequence

from kode.core.config import Dependencies
from kode.core.errors import KodeError, LeaseLostError, NotFoundError
from kode.core.kernel.limits import Limits
from kode.core.runtime.resident import Resident
from kode.core.store.contract import Item, Lease
from kode.core.store.liveness import holder_name

__all__ = ["Holding"]

LETTING_GO_S = 2.0, 0.2
"""How long the store may take to have a lease back: at most, and at least where a request's time is over."""


class Holding:
    """A lease and the moment it runs out by our own clock.

    That clock counts suspension and is read before the store is asked, so we never think it lasts longer than it does.
    """

    __slots__ = ("_deps", "_read_at", "_until", "ends", "lease", "lost", "term", "waiting")

    def __init__(
        self, deps: Dependencies, lease: Lease, term: float, asked_at: float, until: float | None = None
    ) -> None:
        self._deps = deps
        self._until = until
        self.term = term
        self.lost = False
        """It is not ours any more, or was given back with a commit."""
        self.waiting: Sequence[Item] = ()
        """What the store said of the inbox with the lease; it need not have looked."""
        self._set(lease, asked_at)

    def _set(self, lease: Lease, asked_at: float) -> None:
        self.lease = lease
        self.ends = asked_at + self.term
        self._read_at = self._deps.clock.monotonic()

    @classmethod
    async def acquire(
        cls,
        deps: Dependencies,
        agent_id: str,
        limits: Limits,
        resident: Resident | None = None,
        until: float | None = None,
    ) -> Holding:
        """Get the right to drive; in one write, if the agent was loaded just now and nothing has changed since.

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
        """Take the lease on what was found when the agent was loaded. Once: the next time that is an old story."""
        footing, resident.footing = resident.footing, None
        if footing is None or deps.clock.monotonic() - resident.asked_at > limits.lease_s / 4:
            return None
        found = await deps.store.acquire_on(footing, holder, limits.lease_s)
        if found is None:
            return None
        holding = cls(deps, found[0], limits.lease_s, resident.asked_at, until)
        holding._read_at, holding.waiting = resident.read_at, found[1]
        return holding

    def left(self) -> float:
        """Seconds until it runs out."""
        return self.ends - self._deps.clock.monotonic()

    def patience(self) -> float:
        """Seconds until it should be renewed: half of its term before it runs out; 0 or less: now."""
        return self.left() - self.term / 2

    def now(self) -> int:
        """The time by the store's clock, microseconds: what one driver writes down agrees with what others wait for."""
        granted = self.lease.until - round(self.term * 1_000_000)
        return granted + round((self._deps.clock.monotonic() - self._read_at) * 1_000_000)

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
        if self.lost:
            return
        self.lost = True
        with self._deps.clock.move_on_after(_seconds(self._deps, self._until), shield=True):
            try:
                await self._deps.store.release(self.lease, failed=failed)
            except KodeError:
                return


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
