"""`copy_store` and `verify_copy`: agents from one store to another, byte for byte, and the proof of it."""

from __future__ import annotations

from collections.abc import Iterable

from kode.core.errors import NotFoundError, StoreError, UsageError
from kode.core.store.base import Store
from kode.core.store.contract import Record
from kode.core.store.copying.contents import Contents, Pages, frame, read_contents
from kode.core.store.copying.placing import Placing
from kode.core.store.copying.report import Copied, Outcome, Verified, What
from kode.core.store.copying.work import Job, OnProgress, each_agent
from kode.core.store.lookups import header_key, integer, uid_of

__all__ = ["copy_store", "verify_copy"]

TRIES = 5
"""How often an agent is read that changes meanwhile."""


async def copy_store(
    source: Store,
    target: Store,
    *,
    concurrency: int = 16,
    agents: Iterable[str] | None = None,
    prefix: str = "",
    since: int | None = None,
    replace: bool = False,
    dry_run: bool = False,
    on_progress: OnProgress | None = None,
) -> Copied:
    """Copy agents, each whole or not at all, with everything they have: history, inbox, snapshots, documents, blobs.

    An agent is the same one in both stores, identity and all, so end what drives it in the source before anything
    drives it in the target. Leases stay behind; the fences that the target gives out go on above those of the source.
    An agent that is at work is copied as it was at one moment; if no such moment can be caught, it is reported.

    Killed at any point, it is called again: agents that are there and equal are passed over, half-copied ones are
    cleared away and copied. Nothing in the target that differs is overwritten unless `replace` says so. Where another
    identity has the name, it goes in the act in which the new one comes; where the same one is there in another
    state, it is gone from the target until it is copied.

    Args:
        source: Where from; only a commit that is still to be brought to its place is settled there.
        target: Where to; open, like the source.
        concurrency: Agents copied at once.
        agents: Only these.
        prefix: Only those whose ids begin so, where `agents` is not given.
        since: Only those changed at or after this moment (microseconds since the epoch), likewise.
        replace: Put the source's agent in place of what differs in the target.
        dry_run: Only tell what would be done.
        on_progress: Told of each page that was read, and of each agent's end.

    Returns: What became of them; errors of single agents are in its `problems`.

    Raises:
        UsageError: ``bad_concurrency``, ``same_store``.
        StoreUnavailableError: A store does not answer any more; call it again.
    """
    if source is target:
        raise UsageError("Source and target are one store; open another to copy to.", code="same_store")
    report = Copied(dry_run=dry_run)
    job = Job(report, on_progress)

    async def work(agent_id: str, listed: Record | None) -> Outcome:
        return await _copy_agent(source, target, agent_id, listed, job, replace=replace, dry_run=dry_run)

    await each_agent(source, work, job, concurrency=concurrency, agents=agents, prefix=prefix, since=since)
    return report


async def verify_copy(
    source: Store,
    target: Store,
    *,
    concurrency: int = 16,
    agents: Iterable[str] | None = None,
    prefix: str = "",
    since: int | None = None,
    on_progress: OnProgress | None = None,
) -> Verified:
    """Read agents in both stores and compare all that is there; changes nothing. See `copy_store` for the arguments.

    Agents that only the target has are not looked at.
    """
    report = Verified()
    job = Job(report, on_progress)

    async def work(agent_id: str, listed: Record | None) -> Outcome:
        for _ in range(TRIES):
            header, listed = await _header(source, agent_id, listed), None
            (there,) = await target.get(agent_id, [header_key(agent_id)])
            if there is None:
                return Outcome(agent_id, "missing", "It is not in the target.", uid_of(header))
            outcome = await _compare(source, target, header, there, job)
            if outcome.ok or await _unchanged(source, header):
                return outcome
        return _changing(agent_id, uid_of(header))

    await each_agent(source, work, job, concurrency=concurrency, agents=agents, prefix=prefix, since=since)
    return report


# ---- one agent ---------------------------------------------------------------------------------------------


async def _copy_agent(
    source: Store, target: Store, agent_id: str, listed: Record | None, job: Job, *, replace: bool, dry_run: bool
) -> Outcome:
    placing: Placing | None = None
    what: What = "copied"
    uid = ""
    for _ in range(TRIES):
        header, listed = await _header(source, agent_id, listed), None
        uid = uid_of(header)
        placing = Placing(target, header)
        there = await placing.look()
        if there is not None:
            found = await _compare(source, target, header, there, job)
            if found.ok:
                return found
            if not await _unchanged(source, header):
                continue
            if not replace:
                return Outcome(agent_id, "conflict", found.why, uid)
            what = "replaced"
        if dry_run:
            return Outcome(agent_id, what, uid=uid)
        await placing.begin(there)
        pages = Pages(source, agent_id, uid)
        contents = await read_contents(pages, job.lane, job.read, placing.put)
        if pages.header is None or not _equal(header, pages.header):
            continue
        await placing.flush()
        written = await read_contents(Pages(target, agent_id, uid), job.lane, placing.keep)
        if written.digest(header) != contents.digest(header):
            raise StoreError(
                f"What was written of {agent_id!r} reads back otherwise: {contents.difference(written)}. "
                "Nothing of it shows in the target; copy it again.",
                code="not_verified",
                agent_id=agent_id,
            )
        await placing.finish(pages.lease)
        return _outcome(header, what, contents)
    if placing is not None:
        await placing.abandon()
    return _changing(agent_id, uid)


async def _header(source: Store, agent_id: str, listed: Record | None) -> Record:
    """Read an agent's header with nothing left to settle; the listed one will do, for what changed shows later."""
    if listed is not None and listed.columns["staged"] is None:
        return listed
    for _ in range(TRIES):
        (header,) = await source.get(agent_id, [header_key(agent_id)])
        if header is None:
            raise NotFoundError(f"There is no agent {agent_id!r} in the source.", agent_id=agent_id)
        if header.columns["staged"] is None:
            return header
        await source.settle(agent_id, header)
    raise StoreError(f"The staged commit of {agent_id!r} cannot be settled.", agent_id=agent_id)


async def _unchanged(source: Store, header: Record) -> bool:
    (now,) = await source.get(header.key, [header.address])
    return now is not None and _equal(header, now)


def _equal(one: Record, other: Record) -> bool:
    return frame(one) == frame(other) and one.body == other.body


async def _compare(source: Store, target: Store, header: Record, there: Record, job: Job) -> Outcome:
    """Say whether an agent is the same in both stores, and if not, why."""
    agent_id, uid = header.key, uid_of(header)
    if uid_of(there) != uid:
        return Outcome(agent_id, "differs", f"Another agent of that id is in the target ({uid_of(there)}).", uid)
    here_version, there_version = integer(header.columns["version"]), integer(there.columns["version"])
    if here_version != there_version:
        behind = "an older state" if there_version < here_version else "a newer state"
        why = f"The target has {behind} of it (version {there_version}, here {here_version})."
        return Outcome(agent_id, "differs", why, uid)
    ours = await read_contents(Pages(source, agent_id, uid), job.lane, job.read)
    theirs = await read_contents(Pages(target, agent_id, uid), job.lane)
    if _equal(header, there) and ours.digest(header) == theirs.digest(there):
        return _outcome(header, "same", ours)
    where = ours.difference(theirs) or "header"
    return Outcome(agent_id, "differs", f"They differ at the same version: {where}.", uid)


def _outcome(header: Record, what: What, contents: Contents) -> Outcome:
    return Outcome(
        header.key,
        what,
        uid=uid_of(header),
        records=1 + contents.counts.total(),
        messages=contents.counts["message"],
        size=len(header.body) + contents.size,
        digest=contents.digest(header),
    )


def _changing(agent_id: str, uid: str) -> Outcome:
    why = f"It changed {TRIES} times while it was read; try again when it rests."
    return Outcome(agent_id, "changing", why, uid)
