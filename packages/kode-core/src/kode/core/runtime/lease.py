"""Holding a lease: acquired by this process, renewed while it lives, let go at the end."""

from __future__ import annotations

from kode.core.config import Dependencies
from kode.core.errors import KodeError
from kode.core.kernel.limits import Limits
from kode.core.store.contract import Lease
from kode.core.store.liveness import holder_name

__all__ = ["Holding"]


class Holding:
    """A lease and the moment it runs out by our own clock.

    That clock counts suspension and is read before the store is asked, so we never think it lasts longer than it does.
    """

    __slots__ = ("_deps", "ends", "lease", "lost", "term")

    def __init__(self, deps: Dependencies, lease: Lease, term: float, asked_at: float) -> None:
        self._deps = deps
        self.lease = lease
        self.term = term
        self.ends = asked_at + term
        self.lost = False
        """It is not ours any more, or was given back with a commit."""

    @classmethod
    async def acquire(cls, deps: Dependencies, agent_id: str, limits: Limits) -> Holding:
        """Get the right to drive.

        Raises:
            LeaseLostError: ``held`` by someone else who lives.
            NotFoundError: No such agent.
        """
        asked_at = deps.clock.monotonic()
        # Each drive is a holder of its own: two tasks of one process must not take the lease from each other.
        holder = holder_name(f"{deps.holder or 'kode'}-{deps.ids.commit_id()}")
        lease = await deps.store.acquire(agent_id, holder, limits.lease_s)
        return cls(deps, lease, limits.lease_s, asked_at)

    def left(self) -> float:
        """Seconds until it runs out."""
        return self.ends - self._deps.clock.monotonic()

    async def renew(self) -> None:
        """Have it for another term; the fence stays.

        Raises:
            LeaseLostError: Someone else has it.
        """
        asked_at = self._deps.clock.monotonic()
        self.lease = await self._deps.store.renew(self.lease, self.term)
        self.ends = asked_at + self.term

    async def let_go(self, *, failed: bool = False) -> None:
        """Give it back, if we still have it; it runs out by itself if that does not work.

        ``failed``: this drive broke down; it counts as a take-over, so that an agent that breaks every driver is
        parked in the end.
        """
        if self.lost:
            return
        self.lost = True
        with self._deps.clock.move_on_after(2.0, shield=True):
            try:
                await self._deps.store.release(self.lease, failed=failed)
            except KodeError:
                return
