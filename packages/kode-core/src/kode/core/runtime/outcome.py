"""What becomes of a message, of a run, or of an agent: driven here, followed elsewhere, and told from one place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeAlias

from kode.core.config import Dependencies
from kode.core.errors import ConflictError, FencedError, LeaseLostError
from kode.core.kernel.state import RunError, RunRecord
from kode.core.kernel.words import StopReason
from kode.core.runtime.drive import DriveResult
from kode.core.runtime.family import Member, drive_family
from kode.core.runtime.result import RunResult, open_of, result_of
from kode.core.runtime.sending import Sent
from kode.core.store.base import Store

__all__ = ["Goal", "drive_to_goal", "find_result"]

Goal: TypeAlias = Sent | int | None
"""What somebody waits for: the run that takes what was sent, a run by its number, or whatever there is to do."""

_RESTS = ("paused", "deadline", "queued")
"""Where a run may go on by now though nobody has driven it: somebody decided, or has time."""


async def drive_to_goal(
    agent: Member, deps: Dependencies, goal: Goal, *, until: float | None, wait: bool, **options: Any
) -> RunResult:
    """Drive an agent, or follow whoever drives it, until what is waited for ended or rests.

    Args:
        agent: Which.
        deps: This process.
        goal: What is waited for.
        until: ``clock.monotonic()`` by which to return.
        wait: Follow somebody else who drives the agent; False: tell at once how it stands.
        **options: Further arguments of `drive_family`.
    """
    look = isinstance(goal, int) or (goal is not None and goal.duplicate)
    while True:
        if look:
            found = await find_result(deps.store, agent, goal)
            if found.status not in _RESTS:
                return found
        look = goal is not None
        rests, drive = agent.hub.rests, None
        try:
            drive = await drive_family(agent, deps, until=until, wait=wait, **options)
        except (LeaseLostError, ConflictError, FencedError):
            pass  # somebody else drives it
        if drive is not None and not _overlooked(goal, drive):
            return await find_result(deps.store, agent, goal, drive)
        seconds = agent.limits.due_poll_s
        if until is not None:
            seconds = min(seconds, until - deps.clock.monotonic())
        if not wait or seconds <= 0:
            return await find_result(deps.store, agent, goal, drive)
        with deps.clock.move_on_after(seconds):
            await agent.hub.rested(rests if drive is None else agent.hub.rests)


def _overlooked(goal: Goal, drive: DriveResult) -> bool:
    """Whether the store did not show the drive what was sent, which lies in the inbox all the same."""
    return (
        isinstance(goal, Sent)
        and drive.stop == "idle"
        and goal.item_id not in drive.taken
        and goal.position > drive.seen
    )


async def find_result(store: Store, agent: Member, goal: Goal, drive: DriveResult | None = None) -> RunResult:
    """Tell how it stands with a message, a run, or the agent: from the drive that moved it, else from the store."""
    id = agent.agent_id
    number: int | None
    if isinstance(goal, Sent):
        taken = drive is not None and drive.taken.get(goal.item_id)
        number = taken or await store.consumed_by(id, goal.item_id, uid=agent.uid)
    elif goal is not None or drive is None:
        number = goal
    else:
        number = max(drive.runs, default=0) or await _last(store, id)
    if number is None:
        return await _waits(store, id, drive)
    if number == _REFUSED:
        return _failed(id, "input_rejected", "No run could use it; the event input_rejected says why.")
    if drive is None or number not in drive.runs:
        return await _stored(store, id, number)
    return _just_now(id, drive, drive.runs[number])


_REFUSED = 0
"""What `Store.consumed_by` says of an item that is used up though no run took it."""


async def _last(store: Store, id: str) -> int | None:
    page = await store.read_runs(id, limit=1, backwards=True)
    return page.items[0].number if page.items else None


def _just_now(id: str, drive: DriveResult, record: RunRecord) -> RunResult:
    """Tell of a run by the drive that moved it."""
    answer = None if record.answer_seq is None else drive.answers.get(record.answer_seq)
    result = result_of(id, record, answer, drive.unfinished)
    if result.status != "paused":
        return result
    children = {call: wait.child for call, wait in drive.children.items() if wait.child is not None}
    result = replace(result, questions=drive.questions, children=children)
    return _goes_on(result) if children and drive.stop == "deadline" else result


async def _waits(store: Store, id: str, drive: DriveResult | None) -> RunResult:
    """Nothing has taken it yet: it will, or it needs a person first."""
    state = await store.read_state(id)
    if drive is not None and drive.stop == "parked":
        text = "The agent was parked after too many crashes in a row; look into them, then continue it by hand."
        return _failed(id, "crash_loop", text, state.next_cursor - 1)
    return RunResult(id, "queued", cursor=state.next_cursor - 1)


async def _stored(store: Store, id: str, number: int) -> RunResult:
    """Tell of a run by what is stored: its record, if it ended or rested, and what the agent is at."""
    record = await store.read_run(id, number)
    if record is not None and record.ended_at is not None:
        return await _as_recorded(store, id, record)
    state = await store.read_state(id)
    if state.run is None or state.run.number != number:
        # It ended between the two looks, or long ago.
        record = await store.read_run(id, number)
        if record is not None:
            return await _as_recorded(store, id, record)
        text = f"Run {number} ended, and its record was pruned: how is not known any more."
        return replace(_failed(id, "record_pruned", text, state.next_cursor - 1), run=number)
    if record is None:
        return _goes_on(RunResult(id, "deadline", run=number, cursor=state.next_cursor - 1, steps=state.step))
    result = await _as_recorded(store, id, record)
    if result.stop_reason is StopReason.CRASH_LOOP and state.parked is None:
        return _goes_on(result)  # somebody had it go on by hand
    if result.status != "paused":
        return result
    questions, children = open_of(state)
    if record.pending and not questions:
        return _goes_on(result)  # somebody decided, and drives it
    return replace(result, questions=questions, children=children)


def _goes_on(result: RunResult) -> RunResult:
    """A run that goes on, but not within the time of who asks."""
    return replace(result, status="deadline", stop_reason=StopReason.DEADLINE)


async def _as_recorded(store: Store, id: str, record: RunRecord) -> RunResult:
    answer, seq = None, record.answer_seq
    if seq is not None:
        page = await store.read_messages(id, after=seq - 1, before=seq + 1)
        answer = page.items[0] if page.items else None
    return result_of(id, record, answer)


def _failed(id: str, code: str, text: str, cursor: int = 0) -> RunResult:
    reason = StopReason.CRASH_LOOP if code == "crash_loop" else None
    return RunResult(id, "error", reason, cursor=cursor, error=RunError(code, text))
