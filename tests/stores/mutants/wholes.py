"""Wrong in what is built on the primitives, where a store overrides it "for speed"; and in whole agents."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from tests.stores.mutants.table import wrong

from kode.core.errors import ConflictError, NotFoundError
from kode.core.store import MemoryStore, Record
from kode.core.store.contract import Scan
from kode.core.store.lookups import header_key

# ---- repetition --------------------------------------------------------------------------------------------


class Repeating(MemoryStore):
    """It does something of its own with a commit that had landed."""

    async def repeated(self, commit: Any) -> bool:
        (header,) = await self.get(commit.state.agent_id, [header_key(commit.state.agent_id)])
        return header is not None and header.columns["commit_id"] == commit.commit_id


@wrong(
    "repeat",
    "a_repeated_commit",
    also="compare-and-swap lease metrics faults cancellation",
    why="whoever lost an acknowledgement, by whatever means, repeats the commit",
)
class RepetitionIsAConflict(Repeating):
    """It does not know commit ids."""

    async def commit(self, commit):  # type: ignore[no-untyped-def]
        if await self.repeated(commit):
            raise ConflictError("the version is another")
        return await super().commit(commit)


@wrong("repeat", "a_repetition_writes_nothing_twice", also="faults", why="who lost the connection repeats")
class AppliesItAgain(Repeating):
    """What comes again is done again."""

    async def commit(self, commit):  # type: ignore[no-untyped-def]
        again = await self.repeated(commit) and bool(commit.messages)
        done = await super().commit(commit)
        if again:
            await super().commit(replace(commit, version=done.version, commit_id=f"{commit.commit_id}-again"))
        return done


@wrong(
    "repeat",
    "the_fence_is_checked_before_a_repetition",
    also="lease",
    why="the order of the checks is the fence's business",
)
class RepeatsPastTheFence(Repeating):
    """A commit id that is known is answered before the fence is looked at."""

    async def commit(self, commit):  # type: ignore[no-untyped-def]
        return await super().commit(replace(commit, fence=None) if await self.repeated(commit) else commit)


@wrong("repeat", "a_repetition_gets_the_inbox_of_today")
class RepeatsWithoutTheInbox(MemoryStore):
    """A repetition is answered without a look at the inbox."""

    async def commit(self, commit):  # type: ignore[no-untyped-def]
        done = await super().commit(commit)
        return replace(done, inbox=()) if done.repeated else done


@wrong("repeat", "a_commit_id_is_that_of_one_agent")
class CommitIdsOfAllAgents(MemoryStore):
    """A table of commit ids, without the agent."""

    async def commit(self, commit):  # type: ignore[no-untyped-def]
        known = self.__dict__.setdefault("known", {})
        done = known.get(commit.commit_id)
        if done is not None and done[0] != commit.state.agent_id:
            return replace(done[1], repeated=True)
        known[commit.commit_id] = commit.state.agent_id, (done := await super().commit(commit))
        return done


# ---- leases ------------------------------------------------------------------------------------------------


@wrong(
    "lease", "the_fence_rises_with_every_take", also="cancellation", why="an acquire that was cancelled may have landed"
)
class SameHolderSameFence(MemoryStore):
    """Who holds it already gets the fence it has."""

    async def acquire(self, agent_id, holder, ttl_s):  # type: ignore[no-untyped-def]
        held = await self.lease_of(agent_id)
        return held if held is not None and held.holder == holder else await super().acquire(agent_id, holder, ttl_s)


@wrong("lease", "of_concurrent_takers_one_gets_it")
class TakenWhileItLives(MemoryStore):
    """Whoever comes gets it."""

    async def acquire(self, agent_id, holder, ttl_s):  # type: ignore[no-untyped-def]
        held = await self.lease_of(agent_id)
        return await super().acquire(agent_id, holder if held is None else held.holder, ttl_s)


@wrong("lease", "a_fence_outlives_a_release_by_hand", also="repeat", why="a lease given back twice is looked for")
class ReleaseForgets(MemoryStore):
    """A lease that is given back is deleted, and its fence with it."""

    async def release(self, lease, **options):  # type: ignore[no-untyped-def]
        held = await self.lease_of(lease.agent_id)
        await super().release(lease, **options)
        if held is not None and held.fence == lease.fence and not options:
            self._delete("lease", lease.uid, "")


@wrong("lease", "a_lease_lasts_exactly_as_long_as_asked")
class LeaseInMilliseconds(MemoryStore):
    """A tenth of what was asked for."""

    async def acquire(self, agent_id, holder, ttl_s):  # type: ignore[no-untyped-def]
        return await super().acquire(agent_id, holder, ttl_s / 10)


@wrong("lease", "a_renewal_by_the_loser_does_not_take_it_back")
class RenewsForAnybody(MemoryStore):
    """A renewal is an UPDATE without a WHERE."""

    async def renew(self, lease, ttl_s):  # type: ignore[no-untyped-def]
        row = self._row("lease", lease.uid, "")
        if row is not None and row.columns["holder"] is not None:
            await self.apply("", (), [replace(row, columns={**row.columns, "holder": lease.holder})], ())
            lease = replace(lease, fence=row.columns["fence"], takes=row.columns["takes"])
        return await super().renew(lease, ttl_s)


@wrong("lease", "a_commit_leaves_the_lease_as_it_is")
class CommitsRenew(MemoryStore):
    """Every commit makes the lease longer, unasked."""

    async def commit(self, commit):  # type: ignore[no-untyped-def]
        done = await super().commit(commit)
        row = self._row("lease", commit.state.uid, "")
        if commit.fence is not None and row is not None and row.columns["holder"] and not done.released:
            await self.apply("", (), [replace(row, columns={**row.columns, "until": row.columns["until"] + 1})], ())
        return done


@wrong("lease", "release_is_honoured_only_if_nothing_beyond_seen_waits")
class ReleasesAlways(MemoryStore):
    """A release is honoured though an item came."""

    async def commit(self, commit):  # type: ignore[no-untyped-def]
        done = await super().commit(commit)
        row = self._row("lease", commit.state.uid, "")
        if commit.release and row is not None and not done.released and commit.fence is not None:
            await self.apply("", (), [replace(row, columns={**row.columns, "holder": None})], ())
            return replace(done, released=True)
        return done


# ---- whose it is -------------------------------------------------------------------------------------------


@wrong("isolation", "drop_keeps_to_its_uid", also="removal", why="an erasure drops")
class DropsByPrefix(MemoryStore):
    """`LIKE uid || '%'`."""

    async def drop(self, agent_id, uid):  # type: ignore[no-untyped-def]
        for other in {place[1] for place in self._shelves if place[1].startswith(uid) and uid}:
            await super().drop(agent_id, other)


@wrong("isolation", "every_kind_is_dropped", also="blobs fork removal retention", why="whoever deletes drops")
class DropForgetsBlobs(MemoryStore):
    """Blobs lie elsewhere, and stay there."""

    async def drop(self, agent_id, uid):  # type: ignore[no-untyped-def]
        kept = self._shelves.get(("blob", uid))
        await super().drop(agent_id, uid)
        if kept is not None:
            self._shelves["blob", uid] = kept


@wrong("isolation", "marks_are_apart_from_agents")
class DropsTheMarks(MemoryStore):
    """Marks that name the uid go with it."""

    async def drop(self, agent_id, uid):  # type: ignore[no-untyped-def]
        await super().drop(agent_id, uid)
        self._delete("staged", "", uid)


@wrong("removal", "large_agents_are_erased_whole")
class DropsAThousand(MemoryStore):
    """One call of the engine removes a thousand at most, and it makes one."""

    async def drop(self, agent_id, uid):  # type: ignore[no-untyped-def]
        kept = {place: list(shelf.rows.values())[1_000:] for place, shelf in self._shelves.items() if place[1] == uid}
        await super().drop(agent_id, uid)
        for row in [row for rows in kept.values() for row in rows]:
            self._put(row)


@wrong("isolation", "blobs_are_apart")
class BlobsOfAllAgents(MemoryStore):
    """Who knows the digest gets the bytes."""

    async def get_blob(self, agent_id, sha256):  # type: ignore[no-untyped-def]
        try:
            return await super().get_blob(agent_id, sha256)
        except NotFoundError:
            found = [self._row("blob", uid, sha256) for kind, uid in self._shelves if kind == "blob"]
            for row in found:
                if row is not None and await self.exists(agent_id) and agent_id.startswith("t1"):
                    return row.body
            raise


@wrong(
    "documents",
    "an_old_version_stays_until_it_is_pruned",
    also="fork removal",
    why="snapshots name documents of before",
)
class OneVersionOfADocument(MemoryStore):
    """A new version replaces the old one."""

    async def commit(self, commit):  # type: ignore[no-untyped-def]
        for body in commit.documents:
            rows = await self.scan("", Scan("document", commit.state.uid, prefix=f"{body.kind}/{body.name}/", limit=9))
            await self.apply("", (), (), [row.address for row in rows])
        return await super().commit(commit)


@wrong("documents", "names_are_told_apart")
class DocumentsByPath(MemoryStore):
    """Slashes in a name are folders, and a folder is no file."""

    async def read_document(self, agent_id, kind, name):  # type: ignore[no-untyped-def]
        return await super().read_document(agent_id, kind, name.split("/")[0])


@wrong("fork", "copies_are_equal_byte_for_byte")
class ForkWritesAnew(MemoryStore):
    """A copy is read and written again, and is not the same."""

    async def apply(self, agent_id, conditions, puts, deletes):  # type: ignore[no-untyped-def]
        new = [
            put if put.uid != "uid-9" or put.kind != "message" else replace(put, body=put.body + b" ") for put in puts
        ]
        return await super().apply(agent_id, conditions, new, deletes)


@wrong("fork", "both_go_their_own_way")
class ForkSharesTheHistory(MemoryStore):
    """A fork refers to the history of its source, and takes it along when it goes."""

    async def drop(self, agent_id, uid):  # type: ignore[no-untyped-def]
        await super().drop(agent_id, uid)
        if (agent_id, uid) == ("fork", "uid-9") and ("message", "uid-1") in self._shelves:
            del self._shelves["message", "uid-1"]


@wrong("fork", "the_source_is_as_it_was")
class ForkTouchesItsSource(MemoryStore):
    """It notes in the source that there is a fork."""

    async def fork(self, agent_id, new_id, **options):  # type: ignore[no-untyped-def]
        state = await super().fork(agent_id, new_id, **options)
        header = self._row("header", "", agent_id)
        if header is not None and header.columns["template"] == "" and header.columns["version"] == 5:
            self._put(replace(header, columns={**header.columns, "template": f"forked to {new_id}"}))
        return state


# ---- damage, opening, closing ------------------------------------------------------------------------------


def _readable(row: Record) -> bool:
    try:
        json.loads(row.body[1:])
    except ValueError:
        return row.kind not in ("message", "events", "inbox")
    return True


@wrong(
    "corruption",
    "a_body_that_is_broken_in_any_way",
    also="inbox consistency",
    why="a body need be no JSON, and what is left out is not named",
)
class LeavesOutTheDamaged(MemoryStore):
    """What cannot be read is not there."""

    async def scan(self, agent_id, ask):  # type: ignore[no-untyped-def]
        return [row for row in await super().scan(agent_id, ask) if _readable(row)]


@wrong("corruption", "a_body_that_is_broken_in_any_way")
class RemovesTheDamaged(MemoryStore):
    """What cannot be read is removed when it is met."""

    async def read_messages(self, agent_id, **given):  # type: ignore[no-untyped-def]
        try:
            return await super().read_messages(agent_id, **given)
        except Exception:
            bad = [row.address for shelf in self._shelves.values() for row in shelf.rows.values() if not _readable(row)]
            await self.apply("", (), (), bad)
            raise


@wrong("lifecycle", "what_was_stored_outlives_a_close")
class LosesTheLastWrite(MemoryStore):
    """The last write lies in a buffer that closing throws away."""

    async def apply(self, agent_id, conditions, puts, deletes):  # type: ignore[no-untyped-def]
        self._last_puts = list(puts)
        return await super().apply(agent_id, conditions, puts, deletes)

    async def close(self) -> None:
        for put in getattr(self, "_last_puts", ()):
            self._delete(put.kind, put.uid, put.key)


@wrong("lifecycle", "opening_and_closing_twice")
class OpensOnce(MemoryStore):
    """Opening what is open makes it anew."""

    async def open(self) -> None:
        if getattr(self, "_opened", False):
            self._shelves.clear()
            self._wakes.clear()
        self._opened = True

    async def close(self) -> None:
        self._opened = False


@wrong("events", "the_record_names_the_channels", also="isolation", why="records of all kinds are written there")
class OneChannelOnly(MemoryStore):
    """It keeps the first channel of a commit's events."""

    async def apply(self, agent_id, conditions, puts, deletes):  # type: ignore[no-untyped-def]
        new = [
            replace(put, columns={**put.columns, "channels": str(put.columns["channels"]).split(",")[0]})
            if put.kind == "events"
            else put
            for put in puts
        ]
        return await super().apply(agent_id, conditions, new, deletes)


@wrong("events", "a_watcher_goes_on_where_it_stopped", also="removal corruption", why="events are read there as well")
class EventsFromTheCursorOn(MemoryStore):
    """It reads events from the cursor on, the last one seen once more."""

    async def read_events(self, agent_id, *, after=0, **given):  # type: ignore[no-untyped-def]
        return await super().read_events(agent_id, after=max(after - 1, 0), **given)


@wrong("blobs", "a_blob_does_not_touch_its_agent")
class BlobRaisesTheVersion(MemoryStore):
    """Keeping a blob is a change of its agent."""

    async def put_blob(self, agent_id, data, media_type="application/octet-stream"):  # type: ignore[no-untyped-def]
        header = self._row("header", "", agent_id)
        if header is not None and data == b"x" and self._row("lease", str(header.columns["uid"]), ""):
            self._put(replace(header, columns={**header.columns, "version": header.columns["version"] + 1}))  # type: ignore[operator]
        return await super().put_blob(agent_id, data, media_type)


@wrong("removal", "prune_keeps_the_last_events", also="retention", why="events are pruned by their number there, too")
class PrunesTheLastEvents(MemoryStore):
    """It keeps one event less than asked for."""

    async def prune(self, agent_id, *, before, keep_events=0, **given):  # type: ignore[no-untyped-def]
        return await super().prune(agent_id, before=before, keep_events=0 if keep_events > 1 else keep_events, **given)


@wrong("faults", "an_erasure", also="cancellation", why="a cancelled erasure is finished by the uid")
class ErasesInPlainSight(MemoryStore):
    """An erasure without a mark: what breaks off is found by nobody."""

    async def erase(self, agent_id, *, uid=None, **given):  # type: ignore[no-untyped-def]
        if uid is not None and not await self.exists(agent_id):
            raise NotFoundError("no such agent")
        return await super().erase(agent_id, uid=uid, **given)
