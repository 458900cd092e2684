"""The write door: `commit` and `enqueue`.

A commit is one `apply` in the good case. Its conditions stand in the order of the checks: uid, fence, version
(where a `commit_id` seen before is told from a conflict), then what only calls for another try.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from kode.core.errors import (
    AgentExistsError,
    ConflictError,
    DuplicateIdError,
    FencedError,
    InboxFullError,
    KodeError,
    LeaseLostError,
    NotFoundError,
    StoreUnavailableError,
    UsageError,
)
from kode.core.store import lookups
from kode.core.store import records as rec
from kode.core.store.contract import (
    Appended,
    Commit,
    Committed,
    Condition,
    Enqueued,
    Item,
    Key,
    Lease,
    Record,
)
from kode.core.store.layers.leases import TRIES, micros
from kode.core.store.layers.staging import Staging
from kode.core.store.liveness import named
from kode.core.store.lookups import header_key, integer, lease_key, uid_of
from kode.core.store.primitives import check_agent_id, check_item_id, check_name
from kode.core.store.rules import COUNTED

__all__ = ["Writing"]

_Why = Literal["uid", "exists", "fence", "lease", "version", "snapshot", "wake", "staged", "takes", "inbox"]
_FINAL = ("uid", "exists", "fence", "lease", "version", "snapshot", "wake")
MAX_CONTROL_BYTES = 1_048_576
"""Of a decision, a resolution or an interrupt, which no agent's `max_message_bytes` bounds."""


@dataclass(slots=True)
class _Try:
    """What one try to write a commit has learnt from those before it."""

    release: bool
    waiting: bool = False
    """Items are known to wait beyond `seen`."""
    lease: Record | None = None
    """The lease as it is now; None: as this store gave it out."""
    now: int = 0


@dataclass(frozen=True, slots=True)
class _Rows:
    """Records of a commit besides header and lease."""

    puts: list[Record]
    deletes: list[Key]


class Writing(Staging):
    """Writes."""

    async def commit(self, commit: Commit) -> Committed:
        """Write a transition: all or nothing, durable when it returns. Repeating it is safe.

        `Committed.inbox` holds what waits beyond `seen`: always when a release was asked for and refused,
        else if the store could tell at no cost.

        Raises:
            AgentExistsError: A create found an agent of that id.
            ConflictError: The agent is gone, is another one of that id, or has another version: stop, load
                again.
            FencedError: A newer fence was given out; also when this very commit had landed before that.
            LeaseLostError: No fence was given and a lease lives.
            UsageError: A name in it is none (``bad_name``), or a snapshot of that name exists
                (``snapshot_exists``).
        """
        commit = _checked(commit)
        state = commit.state
        rows = _rows(commit)
        attempt = _Try(release=commit.release and commit.fence is not None)
        for _ in range(TRIES):
            if commit.fence is None and commit.version is not None:
                attempt.now = await self._time()
            checks, lease = self._checks(commit, attempt)
            wake_at = self._wake_at(commit, attempt)
            header = rec.header_record(commit, version=(commit.version or 0) + 1, wake_at=wake_at)
            puts = [*rows.puts, *lease, header]
            conditions = [condition for _, condition in checks]
            failed, waiting = await self._write(commit, conditions, puts, rows.deletes)
            if failed is None:
                if self._watching:
                    self._changed(state.agent_id)
                return await self._committed(commit, attempt, waiting)
            await self._learn(commit, attempt, checks[failed][0])
            if checks[failed][0] in _FINAL:
                done = await self._explain(commit, checks[failed][0])
                if done is not None:
                    return done
        raise StoreUnavailableError(
            f"The commit to {state.agent_id!r} lost {TRIES} races; try again.",
            code="contended",
            agent_id=state.agent_id,
        )

    async def enqueue(self, agent_id: str, item: Item, *, uid: str | None = None) -> Enqueued:
        """Put an item into an agent's inbox, durably; needs no lease and never changes the version.

        With `uid` it is meant for that identity only: an agent made again under the same id counts as gone.

        An id that is known is not taken twice: the answer says `duplicate`, and which run consumed it.

        Raises:
            NotFoundError: No such agent.
            DuplicateIdError: The id was used with another body.
            InboxFullError: `max_inbox` messages wait, or that many instructions. Decisions, interrupts and
                resolutions are never refused.
            UsageError: ``too_big``: the message is larger than `max_message_bytes`, or an item of another kind
                than 1 MB. ``bad_item``, ``bad_item_id``, ``bad_name``: it is not what its kind says, or its id
                belongs to another kind.
        """
        check_agent_id(agent_id)
        check_item_id(item.id, item.kind)
        check_name("tenant", item.tenant)
        now = await self._time()
        item = rec.checked_item(replace(item, at=item.at or now, position=0))
        record = rec.inbox_record(uid or "", item)
        bounded = item.kind in COUNTED
        if item.kind not in ("message", "reminder") and len(record.body) > MAX_CONTROL_BYTES:
            raise _too_big(agent_id, item.kind, len(record.body), MAX_CONTROL_BYTES, "the most for this kind")
        done = await self.append_inbox(agent_id, record, now=now, bounded=bounded)
        if done.outcome == "new":
            if self._watching:
                self._changed(agent_id)
            return Enqueued(done.position)
        if done.outcome in ("waiting", "consumed"):
            return _known(agent_id, item, done)
        raise _refused(agent_id, record, done)

    async def put_blob(self, agent_id: str, data: bytes, media_type: str = "application/octet-stream") -> str:
        """Keep bytes for an agent, apart from its messages; returns the SHA-256 (hex) they are found by.

        They belong to this agent alone: a fork gets a copy, and they go with it. Doing it again is fine.

        Raises:
            NotFoundError: No such agent.
        """
        check_agent_id(agent_id)
        check_name("media_type", media_type)
        for _ in range(TRIES):
            (header,) = await self.get(agent_id, [header_key(agent_id)])
            if header is None:
                break
            record = rec.blob_record(uid_of(header), data, media_type, await self._time())
            same = Condition("equals", header_key(agent_id), "uid", record.uid)
            if await self.apply(agent_id, [same], [record], ()) is None:
                return record.key
        raise lookups.no_agent(agent_id)

    # ---- inside --------------------------------------------------------------------------------------------

    def _wake_at(self, commit: Commit, attempt: _Try) -> int | None:
        """Say when the agent must wake. "Now" is a moment that is over by the store's clock, not only the driver's.

        `due` lists in this order, so it should still be when the agent came to wait, as far as that is known.
        """
        later = commit.wake_at is None or commit.wake_at > commit.at
        if commit.amends or (later and not _due_now(commit, attempt)):
            return commit.wake_at
        return commit.at if self._last_time is None else min(commit.at, self._last_time)

    def _checks(self, commit: Commit, attempt: _Try) -> tuple[list[tuple[_Why, Condition]], list[Record]]:
        """Say what must hold for the commit to land, and what becomes of the lease.

        Whether an item beyond `seen` waits decides when the agent must wake, and an enqueue may come between
        any look and this write. Three cases, of which none costs the common commit a second round trip:

        * The state itself is due now (an effect is open): nothing to find out.
        * A fence is held and not released, though no effect is open. Rare, for a lease is given back with the
          last effect. `wake_at` is now: while the lease lives `due` does not list the agent, so it costs
          nothing; if the driver dies, whoever comes finds the items, or nothing, and goes away with the right
          `wake_at`.
        * Nobody holds the agent afterwards: `wake_at` must be exact, neither losing an item nor waking a pool
          for nothing. So it is a condition that nothing waits, and only when something does there is a second
          try.
        """
        state = commit.state
        header, lease = header_key(state.agent_id), lease_key(state.uid)
        snapshots: list[tuple[_Why, Condition]] = [
            ("snapshot", Condition("absent", Key("snapshot", state.uid, snapshot.id))) for snapshot in commit.snapshots
        ]
        if commit.version is None:
            return [("exists", Condition("absent", header)), *snapshots], []
        checks: list[tuple[_Why, Condition]] = [("uid", Condition("equals", header, "uid", state.uid))]
        if commit.fence is None:
            checks.append(("lease", Condition("free", lease, value=attempt.now)))
        else:
            checks.append(("fence", Condition("equals", lease, "fence", commit.fence)))
        checks.append(("version", Condition("equals", header, "version", commit.version)))
        checks.append(("staged", Condition("equals", header, "staged", None)))
        checks += snapshots
        if attempt.release:
            given = Lease(state.agent_id, state.uid, "", commit.fence or 0, until=0, version=0)
            leases = [rec.released_record(given)]
        else:
            reset, leases = self._reset_takes(commit, attempt)
            checks += reset
        if commit.amends:
            checks.append(("wake", Condition("equals", header, "wake_at", commit.wake_at)))
        # A parked agent is never due, so what waits need not be known.
        elif commit.state.parked is None and (attempt.release or not _due_now(commit, attempt)):
            key = Key("inbox", state.uid, "")
            checks.append(("inbox", Condition("no_inbox_after", key, value=rec.int_key(commit.seen))))
        return checks, leases

    def _reset_takes(self, commit: Commit, attempt: _Try) -> tuple[list[tuple[_Why, Condition]], list[Record]]:
        """Set the take-over counter to 0 where needed; only leases given out by this object are known.

        A renewal may come between, so the lease is written back on the condition that its end is still the
        one known.
        """
        if not commit.answered or commit.fence is None:
            return [], []
        held = self._retaken.get(commit.state.uid)
        if attempt.lease is not None:
            held = rec.read_lease(attempt.lease, commit.state.agent_id, 0)
        if held is None or held.fence != commit.fence or not held.takes:
            return [], []
        key = lease_key(commit.state.uid)
        same: list[tuple[_Why, Condition]] = [
            ("takes", Condition("equals", key, "holder", held.holder)),
            ("takes", Condition("equals", key, "until", held.until)),
        ]
        return same, [rec.lease_record(replace(held, takes=0))]

    async def _learn(self, commit: Commit, attempt: _Try, why: _Why) -> None:
        """Take in why a try failed, so that the next one does better."""
        if why == "inbox":
            attempt.release, attempt.waiting = False, True
        elif why == "takes":
            (attempt.lease,) = await self.get(commit.state.agent_id, [lease_key(commit.state.uid)])
        elif why == "staged":
            await self._settle_agent(commit.state.agent_id)

    async def _committed(self, commit: Commit, attempt: _Try, waiting: Sequence[Record]) -> Committed:
        if attempt.release or commit.answered:
            self._retaken.pop(commit.state.uid, None)
        items = tuple(map(rec.read_item, waiting))
        if attempt.waiting and not items:
            items = await self._waiting_beyond(commit)
        return Committed(
            version=(commit.version or 0) + 1,
            cursor=commit.state.next_cursor - 1,
            released=attempt.release,
            inbox=items,
        )

    async def _waiting_beyond(self, commit: Commit) -> tuple[Item, ...]:
        return await self.look_up(commit.state.agent_id, lookups.inbox_after(commit.state.uid, commit.seen))

    async def _explain(self, commit: Commit, why: _Why) -> Committed | None:
        """Answer a commit that failed for good: it had landed before, or this is the error.

        None: the agent has the version that was expected. Between the two looks another server took over, which does
        not have what the first one had and had acknowledged to nobody; so this commit can still be written.
        """
        agent_id, uid = commit.state.agent_id, commit.state.uid
        header, lease = await self.get(agent_id, [header_key(agent_id), lease_key(uid)])
        if (
            why in ("version", "exists")
            and header is not None
            and uid_of(header) == uid
            and header.columns["commit_id"] == commit.commit_id
        ):
            free = lease is not None and lease.columns["holder"] is None
            return Committed(
                version=integer(header.columns["version"]),
                cursor=commit.state.next_cursor - 1,
                repeated=True,
                released=commit.release and free,
                inbox=await self._waiting_beyond(commit),
            )
        if why == "version" and header is not None and uid_of(header) == uid:
            if integer(header.columns["version"]) == commit.version:
                return None
        raise _error(commit, why, header, lease)


# ---- making records ----------------------------------------------------------------------------------------


def _checked(commit: Commit) -> Commit:
    check_agent_id(commit.state.agent_id)
    if commit.version is None and commit.fence is not None:
        raise UsageError("A commit that creates an agent cannot have a fence.", code="bad_commit")
    _check_names(commit)
    top = max(commit.consumed, default=0)
    # What was consumed was offered; and a position may only be given out again if `seen` forgets it.
    return replace(commit, seen=top) if top > commit.seen else commit


def _check_names(commit: Commit) -> None:
    """Refuse what would become a key or a column that some engine does not take."""
    state = commit.state
    check_name("uid", state.uid)
    check_name("commit_id", commit.commit_id, without="/")
    check_name("tenant", state.tenant)
    check_name("template", state.template, empty=True)
    for compaction in commit.compactions:
        check_name("compaction id", compaction.id)
    for snapshot in commit.snapshots:
        check_name("snapshot id", snapshot.id)
        check_name("parent of a snapshot", snapshot.parent)
        for tag in snapshot.tags:
            check_name("tag of a snapshot", tag)
    if commit.snapshots and len({snapshot.id for snapshot in commit.snapshots}) < len(commit.snapshots):
        raise UsageError("The commit takes two snapshots of one name.", code="snapshot_exists")


def _due_now(commit: Commit, attempt: _Try) -> bool:
    """Whether the agent is due at once, so that nobody needs to know if an item waits too."""
    if commit.state.parked is not None:
        # Parked: what waits must not wake it, and enqueues that came before this commit are overruled.
        return False
    if commit.version is None:
        return bool(commit.state.effects)
    held = commit.fence is not None and not attempt.release
    return bool(commit.state.effects) or held or attempt.waiting


def _rows(commit: Commit) -> _Rows:
    uid, version = commit.state.uid, (commit.version or 0) + 1
    puts = [rec.message_record(uid, message) for message in commit.messages]
    puts += [rec.call_record(uid, call) for call in commit.calls]
    events = [event for event in commit.events if event.durable]
    if events:
        puts.append(rec.events_record(uid, events, version))
    puts += [rec.run_record(uid, run) for run in commit.runs]
    puts += [rec.compaction_record(uid, compaction) for compaction in commit.compactions]
    puts += [rec.snapshot_record(uid, snapshot) for snapshot in commit.snapshots]
    if commit.documents:
        puts += _documents(commit)
    if not commit.consumed:
        return _Rows(puts, [])
    expires_at = commit.at + micros(commit.bounds.dedupe_for_s)
    for position, item in commit.consumed.items():
        item = item if item.position == position else replace(item, position=position)
        puts.append(rec.consumed_record(uid, item, commit.taken.get(item.id), expires_at))
    return _Rows(puts, [Key("inbox", uid, rec.int_key(position)) for position in commit.consumed])


def _documents(commit: Commit) -> list[Record]:
    named = {(document.kind, document.name): document for document in commit.state.documents}
    found = []
    for body in commit.documents:
        document = named.get((body.kind, body.name))
        if document is None:
            raise UsageError(
                f"The commit writes document {body.kind}/{body.name}, which its state does not name.",
                code="bad_commit",
                kind=body.kind,
                name=body.name,
            )
        check_name("document kind", body.kind, without="/")
        check_name("document name", body.name, empty=True)
        check_name("document digest", document.digest, without="/")
        found.append(rec.document_record(commit.state.uid, body, document.digest, commit.at))
    return found


# ---- answers that are errors -------------------------------------------------------------------------------


def _error(commit: Commit, why: _Why, header: Record | None, lease: Record | None) -> KodeError:
    agent_id = commit.state.agent_id
    version = None if header is None else integer(header.columns["version"])
    fence = 0 if lease is None else integer(lease.columns["fence"])
    if why == "exists":
        return AgentExistsError(
            f"An agent {agent_id!r} exists already; open it, or choose another id.", agent_id=agent_id
        )
    if why == "fence" and fence != commit.fence:
        return FencedError(
            f"{agent_id!r} was taken over (fence {fence}, this driver has {commit.fence}); stop driving it.",
            agent_id=agent_id,
            fence=commit.fence,
            newest=fence,
        )
    if why == "snapshot":
        names = ", ".join(repr(snapshot.id) for snapshot in commit.snapshots)
        return UsageError(
            f"{agent_id!r} has a snapshot of that name already ({names}); choose another name.",
            code="snapshot_exists",
            agent_id=agent_id,
        )
    if why == "lease" and lease is not None:
        return LeaseLostError(
            f"{agent_id!r} is driven by {named(str(lease.columns['holder']))!r} just now; try again when it rests.",
            code="held",
            agent_id=agent_id,
            holder=lease.columns["holder"],
            until=lease.columns["until"],
        )
    what = "is gone or is another agent" if why == "uid" else f"has version {version}, not {commit.version}"
    return ConflictError(
        f"{agent_id!r} {what}; stop, and load it again if it is still yours to drive.",
        agent_id=agent_id,
        uid=commit.state.uid,
        expected=commit.version,
        version=version,
    )


def _known(agent_id: str, item: Item, done: Appended) -> Enqueued:
    """Answer an id that was used before: with the same body it is a repetition."""
    if done.known is None:
        raise NotFoundError(f"The store knows the id {item.id!r} but not its record.", agent_id=agent_id)
    run: int | None = None
    if done.outcome == "waiting":
        known = rec.read_item(done.known)
        position, digest = known.position, rec.item_digest(known)
    else:
        position, _, run, _, digest = rec.read_consumed(done.known)
    if not rec.same_item(digest, item):
        raise DuplicateIdError(
            f"The id {item.id!r} was used for {agent_id!r} with another body; use a new id.",
            agent_id=agent_id,
            item_id=item.id,
        )
    return Enqueued(position, duplicate=True, run=run)


def _refused(agent_id: str, record: Record, done: Appended) -> KodeError:
    if done.outcome == "gone":
        return lookups.no_agent(agent_id)
    if done.outcome == "full":
        waiting = "instructions" if record.columns["kind"] == "instruction" else "messages"
        return InboxFullError(
            f"{done.limit} {waiting} wait for {agent_id!r}, its max_inbox; let it work, or raise the limit.",
            agent_id=agent_id,
            limit=done.limit,
        )
    kind, size = str(record.columns["kind"]), integer(record.columns["size"])
    return _too_big(agent_id, kind, size, done.limit, "its max_message_bytes")


def _too_big(agent_id: str, kind: str, size: int, limit: int, whose: str) -> UsageError:
    return UsageError(
        f"The {kind} is {size} bytes; {agent_id!r} takes at most {limit}, {whose}. Send less, or put it into a file.",
        code="too_big",
        agent_id=agent_id,
        size=size,
        limit=limit,
    )
