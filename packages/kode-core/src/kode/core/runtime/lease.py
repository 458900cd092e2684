"""Holding a lease: acquired by this process, renewed while it lives, let go at the end."""

from __future__ import annotations

from kode.core.config import Dependencies
from kode.core.errors import KodeError, LeaseLostError, NotFoundError
from kode.core.kernel.limits import Limits
from kode.core.store.contract import Lease
from kode.core.store.liveness import holder_name

__all__ = ["Holding"]


class Holding:
    """A lease and the moment it runs out by our own clock.

    That clock counts suspension and is read before the store is asked, so we never think it lasts longer than it does.
    """

    __slots__ = ("_deps", "_read_at", "ends", "lease", "lost", "term")

    def __init__(self, deps: Dependencies, lease: Lease, term: float, asked_at: float) -> None:
        self._deps = deps
        self.term = term
        self.lost = False
        """It is not ours any more, or was given back with a commit."""
        self._set(lease, asked_at)

    def _set(self, lease: Lease, asked_at: float) -> None:
        self.lease = lease
        self.ends = asked_at + self.term
        self._read_at = self._deps.clock.monotonic()

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
        try:
            lease = await deps.store.acquire(agent_id, holder, limits.lease_s)
        except (LeaseLostError, NotFoundError):
            raise
        except BaseException:
            # Cancelled, or no answer: it may be ours all the same, and nobody else could drive for its whole term.
            await _give_back(deps, agent_id, holder)
            raise
        return cls(deps, lease, limits.lease_s, asked_at)

    def left(self) -> float:
        """Seconds until it runs out."""
        return self.ends - self._deps.clock.monotonic()

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
        with self._deps.clock.move_on_after(2.0, shield=True):
            try:
                await self._deps.store.release(self.lease, failed=failed)
            except KodeError:
                return


async def _give_back(deps: Dependencies, agent_id: str, holder: str) -> None:
    """Release a lease that was perhaps given to us, without an answer that said so."""
    with deps.clock.move_on_after(2.0, shield=True):
        try:
            lease = await deps.store.lease_of(agent_id)
            if lease is not None and lease.holder == holder:
                await deps.store.release(lease)
        except KodeError:
            return
