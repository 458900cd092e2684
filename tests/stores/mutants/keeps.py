"""Wrong in how long things are kept, in many forks at once, and in how bodies and columns are held."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.stores.mutants.acts import Judging, Kept
from tests.stores.mutants.table import wrong

from kode.core.errors import AgentExistsError
from kode.core.store import Condition, MemoryStore, Record

# ---- pruning -----------------------------------------------------------------------------------------------


@wrong("retention", "what_a_snapshot_shows_stays_while_it_does")
class PrunesBeneathSnapshots(MemoryStore):
    """It looks at the window alone; what only a snapshot shows goes."""

    async def prune(self, agent_id: str, **given: Any) -> Any:
        self._pruning = True
        try:
            return await super().prune(agent_id, **given)
        finally:
            self._pruning = False

    async def list_snapshots(self, agent_id: str) -> Any:
        found = await super().list_snapshots(agent_id)
        return () if getattr(self, "_pruning", False) and len(found) == 1 else found


@wrong("retention", "messages_go_by_number")
class OneMessageLess(MemoryStore):
    """It keeps one less than asked for."""

    async def prune(self, agent_id: str, *, keep_messages: int | None = None, **given: Any) -> Any:
        return await super().prune(agent_id, keep_messages=keep_messages and keep_messages - 1, **given)


@wrong("retention", "messages_go_by_age", also="removal", why="events go by the same moment")
class ThatVeryMoment(MemoryStore):
    """What is of that very moment goes, too."""

    async def prune(self, agent_id: str, *, before: int | None, **given: Any) -> Any:
        return await super().prune(agent_id, before=None if before is None else before + 1, **given)


@wrong("retention", "by_age_and_by_number_both_must_hold")
class EitherWillDo(MemoryStore):
    """What is old goes, however few are left."""

    async def prune(self, agent_id: str, *, before: int | None, **given: Any) -> Any:
        if before is not None and given.get("keep_messages"):
            given["keep_messages"] = 0
        return await super().prune(agent_id, before=before, **given)


@wrong("retention", "messages_stay_unless_their_number_is_said")
class SnapshotsGoUnasked(MemoryStore):
    """None is taken for 0."""

    async def prune(self, agent_id: str, *, keep_snapshots: int | None = None, **given: Any) -> Any:
        if not given.get("keep_messages") and given["before"] is None:
            keep_snapshots = keep_snapshots or 0
        return await super().prune(agent_id, keep_snapshots=keep_snapshots, **given)


@wrong("retention", "events_runs_and_snapshots_each_by_their_number")
class RunsLikeEvents(MemoryStore):
    """One number for all that is counted."""

    async def prune(self, agent_id: str, *, keep_events: int = 0, keep_runs: int = 0, **given: Any) -> Any:
        many = keep_events and max(keep_events, keep_runs)
        return await super().prune(agent_id, keep_events=keep_events, keep_runs=many or keep_runs, **given)


@wrong("retention", "calls_go_with_the_messages_that_asked")
class CallsStay(MemoryStore):
    """Messages go, and the calls they asked for stay."""

    async def apply(self, agent_id, conditions, puts, deletes):  # type: ignore[no-untyped-def]
        return await super().apply(agent_id, conditions, puts, [key for key in deletes if key.kind != "call"])


@wrong("retention", "forks_are_as_they_were")
class PrunesItsForks(MemoryStore):
    """Records are shared with forks, and go there, too."""

    async def prune(self, agent_id: str, **given: Any) -> Any:
        before = {key for kind, uid in self._shelves if kind == "message" for key in self._shelves[kind, uid].rows}
        done = await super().prune(agent_id, **given)
        header = self._row("header", "", "fork")
        if done.messages and agent_id == "agent" and header is not None and header.columns["uid"] == "uid-9":
            self._delete("message", "uid-9", min(before))
        return done


@wrong("retention", "what_remains_is_counted")
class ReportsNothingLeft(MemoryStore):
    """It looks at the header only."""

    async def remains(self, agent_id: str, uid: str) -> Any:
        return {kind: n for kind, n in (await super().remains(agent_id, uid)).items() if kind != "blob"}


# ---- agents whose time is over -----------------------------------------------------------------------------


@wrong("retention", "who_is_driven_does_not_expire")
class ExpiresTheDriven(MemoryStore):
    """Time is time, whoever drives."""

    async def erase(self, agent_id: str, *, expired_by: int | None = None, **given: Any) -> str:
        return await super().erase(agent_id, **{"expired_by": expired_by, "force": expired_by is not None, **given})


@wrong("retention", "an_agent_is_kept_until_its_moment")
class ExpiresTooEarly(MemoryStore):
    """It counts in seconds, and rounds."""

    async def expire(self, *, now: int | None = None, limit: int = 100) -> Any:
        return await super().expire(now=None if now is None else now + 1, limit=limit)


@wrong("retention", "who_was_given_more_time_stays")
class ExpiresWhatItSaw(MemoryStore):
    """Who was found to have expired is erased, whatever happened since."""

    async def erase(self, agent_id: str, *, expired_by: int | None = None, **given: Any) -> str:
        return await super().erase(agent_id, **given)


# ---- many forks --------------------------------------------------------------------------------------------


@wrong("fork", "one_fork_that_cannot_be_hinders_no_other")
class StopsAtTheFirst(MemoryStore):
    """One id that is taken ends it: some were made, and the others never are."""

    async def batch_fork(self, agent_id: str, forks: Any, **given: Any) -> Any:
        made: list[Any] = []
        if len(forks) < 2 or "taken" not in forks:
            return await super().batch_fork(agent_id, forks, **given)
        for id, uid in forks.items():
            try:
                made += await super().batch_fork(agent_id, {id: uid}, **given)
            except AgentExistsError as error:
                error.fields["failed"] = [id]
                raise
        return tuple(made)


@wrong("fork", "many_forks_are_each_as_one_would_be")
class CopiesBlobsOnce(MemoryStore):
    """What is large is copied for the first of many forks."""

    async def batch_fork(self, agent_id: str, forks: Any, **given: Any) -> Any:
        made = await super().batch_fork(agent_id, forks, **given)
        for state in made[1:]:
            self._shelves.pop(("blob", state.uid), None)
        return made


# ---- what is held ------------------------------------------------------------------------------------------


class Viewing(MemoryStore):
    """Its driver's own type of bytes comes through."""

    own: Any = memoryview

    def _put(self, record: Record) -> None:
        super()._put(replace(record, body=self.own(record.body)) if record.body[:3] == b'1"x' else record)


@wrong("round-trip", "a_body_is_bytes_wherever_it_comes_from")
class BodiesAreViews(Viewing):
    """As drivers of PostgreSQL give them."""


@wrong("round-trip", "a_body_is_bytes_wherever_it_comes_from")
class BodiesAreArrays(Viewing):
    """As drivers of MySQL give them."""

    own = bytearray


@wrong("round-trip", "a_body_of_more_than_any_row_may_have")
class SixteenMegabytes(Kept):
    """A row ends there, and nobody says so."""

    def kept(self, record: Record) -> Record:
        return replace(record, body=record.body[:16_777_215])


@wrong("compare-and-swap", "equals")
class ComparesAsText(Judging):
    """A parameter has the type of its column."""

    def judged(self, condition: Condition, row: Record | None) -> bool | None:
        held = None if row is None or condition.op != "equals" else row.columns[condition.column]
        return None if held is None or condition.value is None else str(held) == str(condition.value)
