"""Leases: who may drive an agent, until when, and under which fence.

A lease's record is never removed while its agent lives, for it holds the last fence given: a commit is
compared with that, whether the lease is held, lapsed or given back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import anyio

from kode.core.clock import Clock
from kode.core.errors import (
    KodeError,
    LeaseLostError,
    NotFoundError,
    RecordCorruptError,
    SchemaTooNewError,
    StoreUnavailableError,
)
from kode.core.store import lookups
from kode.core.store import records as rec
from kode.core.store.contract import Condition, Footing, Item, Lease, Record
from kode.core.store.layers.watch import WatchSupport
from kode.core.store.liveness import named
from kode.core.store.lookups import Get, Lookup, header_key, integer, lease_key, uid_of
from kode.core.store.primitives import check_agent_id, check_name

__all__ = ["Leasing", "unchanged"]

TRIES = 50
"""Lost races in a row before a call gives up; each means that somebody else got on."""
MAX_HOLDER = 500
"""Bytes of a holder's name."""


class Leasing(WatchSupport):
    """The right to drive."""

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self._retaken: dict[str, Lease] = {}
        """Leases given out here that count take-overs, by uid: what `answered` must reset."""

    async def acquire(self, agent_id: str, holder: str, ttl_s: float) -> Lease:
        """Take the right to drive an agent. The fence rises every time, the same holder's too.

        A lease that was not given back counts a take-over (`Lease.takes`): it lapsed, its process is dead, or
        its own holder lost it. One that was given back keeps the count; a commit with `answered` sets it to
        0.

        Raises:
            NotFoundError: No such agent.
            LeaseLostError: ``held``: another holder's lease lives; `fields` name `holder` and `until`.
        """
        check_agent_id(agent_id)
        check_name("holder", holder, most=MAX_HOLDER)
        for _ in range(TRIES):
            now = await self._time()
            header, old = await self._header_and_lease(agent_id)
            held = self._live_lease(old, header, now)
            if held is not None and held.holder != holder:
                raise _held(agent_id, held)
            on = Footing(agent_id, uid_of(header), integer(header.columns["version"]), 0, old, now)
            lease, conditions = _claim(on, holder, ttl_s)
            if await self.apply(agent_id, conditions, [rec.lease_record(lease)], ()) is None:
                self._remember(lease)
                return lease
        raise _busy(agent_id)

    async def acquire_on(self, footing: Footing, holder: str, ttl_s: float) -> tuple[Lease, tuple[Item, ...]] | None:
        """Do `acquire` in one write, on what `load` has just found; None: something has changed since then.

        The term counts from that `load` on. Also gives items that wait; none if the store did not look.
        """
        check_name("holder", holder, most=MAX_HOLDER)
        lease, conditions = _claim(footing, holder, ttl_s)
        failed, waiting = await self.apply_and_look(
            lease.agent_id, conditions, [rec.lease_record(lease)], (), uid=lease.uid, after=rec.int_key(footing.seen)
        )
        if failed is not None:
            return None
        self._remember(lease)
        return lease, tuple(rec.read_item(row) for row in waiting)

    async def renew(self, lease: Lease, ttl_s: float) -> Lease:
        """Hold a lease longer; the fence stays. A lapsed one that nobody took may be renewed.

        Raises:
            LeaseLostError: It was given back or somebody took it: stop.
        """
        now = await self._time()
        until = now + micros(ttl_s)
        kept = replace(lease, until=until, takes=self._takes(lease))
        for _ in range(TRIES):
            conditions = [
                *_same(lease),
                Condition("equals", lease_key(lease.uid), "takes", kept.takes),
            ]
            failed = await self.apply(lease.agent_id, conditions, [rec.lease_record(kept)], ())
            if failed is None:
                self._remember(kept)
                return kept
            if failed < len(conditions) - 1:
                break
            # An answer was committed meanwhile, which set the count to 0.
            (record,) = await self.get(lease.agent_id, [lease_key(lease.uid)])
            kept = replace(kept, takes=0 if record is None else integer(record.columns["takes"]))
        self._retaken.pop(lease.uid, None)
        raise LeaseLostError(
            f"The lease of {lease.holder!r} on {lease.agent_id!r} (fence {lease.fence}) is lost; stop driving.",
            agent_id=lease.agent_id,
            holder=lease.holder,
            fence=lease.fence,
        )

    async def release(self, lease: Lease, *, failed: bool = False) -> None:
        """Give a lease back. Does nothing when it is somebody else's by now, or the agent is gone.

        The count of take-overs stays; `failed` adds one, for a drive that broke down instead of ending.
        """
        takes = self._takes(lease)
        for _ in range(TRIES):
            given = rec.released_record(replace(lease, until=0, takes=takes + failed))
            conditions = [*_same(lease), Condition("equals", lease_key(lease.uid), "takes", takes)]
            lost = await self.apply(lease.agent_id, conditions, [given], ())
            if lost is None or lost < len(conditions) - 1:
                break
            (record,) = await self.get(lease.agent_id, [lease_key(lease.uid)])
            takes = 0 if record is None else integer(record.columns["takes"])
        self._retaken.pop(lease.uid, None)

    async def lease_of(self, agent_id: str) -> Lease | None:
        """Tell who drives an agent now; None when nobody does.

        Raises:
            NotFoundError: No such agent.
        """
        check_agent_id(agent_id)
        header, record = await self._header_and_lease(agent_id)
        return self._live_lease(record, header, await self.now())

    async def leases_of(self, agent_ids: Sequence[str]) -> dict[str, Lease | None]:
        """Do `lease_of` for many, asked all at once, so that a store may read them together; in the order given.

        Who is not there, or cannot be read, is not in the answer: nobody can drive it.
        """
        found: dict[str, Lease | None] = {}
        errors: list[KodeError] = []

        async def look(agent_id: str) -> None:
            try:
                found[agent_id] = await self.lease_of(agent_id)
            except (NotFoundError, RecordCorruptError, SchemaTooNewError):
                pass
            except KodeError as error:
                errors.append(error)

        async with anyio.create_task_group() as tasks:
            for agent_id in agent_ids:
                tasks.start_soon(look, agent_id)
        if errors:
            raise errors[0]
        return {agent_id: found[agent_id] for agent_id in agent_ids if agent_id in found}

    # ---- inside --------------------------------------------------------------------------------------------

    async def _header_and_lease(self, agent_id: str) -> tuple[Record, Record | None]:
        return await self._settled(agent_id, lambda: _read_both(agent_id))

    def _remember(self, lease: Lease) -> None:
        if lease.takes:
            self._retaken[lease.uid] = lease
        else:
            self._retaken.pop(lease.uid, None)

    def _takes(self, lease: Lease) -> int:
        known = self._retaken.get(lease.uid)
        return known.takes if known is not None and known.fence == lease.fence else lease.takes


def micros(seconds: float) -> int:
    """Write a duration as the store counts it."""
    return round(seconds * 1_000_000)


def _read_both(agent_id: str) -> Lookup[tuple[Record, Record | None]]:
    found, *more = yield Get((header_key(agent_id),), lease=True)
    header = lookups.checked_header(agent_id, found)
    (lease,) = more or (yield from lookups.get(lease_key(uid_of(header))))
    return header, lease


def _claim(on: Footing, holder: str, ttl_s: float) -> tuple[Lease, list[Condition]]:
    """The next lease, and what must still hold for it to be given."""
    fence, takes = 1, 0
    conditions = [
        Condition("equals", header_key(on.agent_id), "uid", on.uid),
        Condition("equals", header_key(on.agent_id), "version", on.version),
    ]
    if on.lease is None:
        conditions.append(Condition("absent", lease_key(on.uid)))
    else:
        fence = integer(on.lease.columns["fence"]) + 1
        takes = integer(on.lease.columns["takes"]) + (on.lease.columns["holder"] is not None)
        conditions += unchanged(on.lease)
    return Lease(on.agent_id, on.uid, holder, fence, on.at + micros(ttl_s), on.version, takes), conditions


def unchanged(record: Record) -> list[Condition]:
    """Say that a lease is as it was read: nobody took it, renewed it, or answered."""
    key = record.address
    return [Condition("equals", key, name, record.columns[name]) for name in ("fence", "holder", "until", "takes")]


def _same(lease: Lease) -> list[Condition]:
    key = lease_key(lease.uid)
    return [Condition("equals", key, "fence", lease.fence), Condition("equals", key, "holder", lease.holder)]


def _held(agent_id: str, held: Lease) -> LeaseLostError:
    return LeaseLostError(
        f"{agent_id!r} is driven by {named(held.holder)!r} just now. What is sent to it is taken up there; "
        "for anything else try again when it rests.",
        code="held",
        agent_id=agent_id,
        holder=held.holder,
        until=held.until,
    )


def _busy(agent_id: str) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"The lease of {agent_id!r} changed {TRIES} times while it was being taken; try again.",
        code="contended",
        agent_id=agent_id,
    )
