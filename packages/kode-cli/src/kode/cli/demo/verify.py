"""Checks a finished demo from outside: what the agent's store says is compared with what was seen and what is there."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from kode.cli.demo.reading import every
from kode.cli.demo.recount import Check, check_report
from kode.cli.demo.settings import AGENT_ID, LEDGER, REPORT, Settings
from kode.cli.demo.watch import Watcher
from kode.cli.moments import moment
from kode.core.errors import KodeError, NotFoundError
from kode.core.kernel import invariants
from kode.core.kernel.events import Event
from kode.core.kernel.message import Message, ToolUseBlock
from kode.core.kernel.state import RunRecord, State
from kode.core.kernel.toolcall import Call, CallStatus
from kode.core.store.base import Store

__all__ = ["Check", "Facts", "gather", "judge", "verify"]

_CLOCK_S = 0.02
"""A file's time may be a tick of the kernel's clock behind ours."""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the checks look at."""

    settings: Settings
    watcher: Watcher
    left: list[int]
    """Processes of the agent that run though it is done."""
    state: State
    run: RunRecord | None
    messages: list[Message]
    calls: list[Call]
    events: list[Event]

    def calls_of(self, tool: str) -> list[Call]:
        """The calls of one tool."""
        return [call for call in self.calls if call.tool == tool]

    @property
    def denied(self) -> bool:
        """Whether the report was not allowed."""
        writes = self.calls_of("fs_write")
        return bool(writes) and all(call.status is CallStatus.DENIED for call in writes)


async def verify(settings: Settings, store: Store, watcher: Watcher) -> list[Check]:
    """Check everything that the demo claims."""
    try:
        return judge(await gather(settings, store, watcher))
    except NotFoundError:
        return [Check("agent is in the store", False, "there is none")]
    except KodeError as error:
        return [Check("agent is sound", False, error.message)]


async def gather(settings: Settings, store: Store, watcher: Watcher) -> Facts:
    """Read all that the checks look at.

    Raises:
        KodeError: The agent is not there, or what is stored of it is unsound.
    """
    left = watcher.running(watcher.processes[-1].pid)
    state = await store.read_state(AGENT_ID)
    invariants.check(state)
    run = await store.read_run(AGENT_ID, 1)
    messages, calls = await every(store.read_messages), await every(store.read_calls)
    return Facts(settings, watcher, left, state, run, messages, calls, await every(store.read_events))


def judge(facts: Facts) -> list[Check]:
    """Give one verdict per promise."""
    # What a planner of ours counts can be counted again; what a model writes is its own.
    checks = [] if facts.settings.model or facts.denied else check_report(facts.settings)
    return checks + [check(facts) for check in _CHECKS]


def _as_decided(facts: Facts) -> Check:
    """Nothing is written before it was allowed, and what is written is what was allowed."""
    name = "the write waited for the decision"
    writes = facts.calls_of("fs_write")
    wrong = [problem for call in writes for problem in _not_as_decided(call)]
    path = facts.settings.report
    allowed = [_answered(call) for call in writes if call.status is CallStatus.COMPLETED]
    if not allowed:
        wrong += [f"{REPORT} is there, though nobody allowed it"] if path.exists() else []
    elif not path.exists():
        wrong.append(f"there is no {REPORT}, though it was allowed")
    elif path.stat().st_mtime + _CLOCK_S < min(allowed):
        wrong.append(f"{REPORT} is older than the decision")
    elif path.read_text() != _content(facts, facts.calls_of("fs_write")):
        wrong.append(f"{REPORT} is not what was allowed")
    first = next((one for one in facts.watcher.decisions if one.question.tool == "fs_write"), None)
    if first is not None and first.file_there:
        wrong.append(f"{REPORT} was there before anybody had decided")
    if not writes:
        wrong.append("nothing was asked")
    return Check(name, not wrong, "; ".join(wrong) or "; ".join(_told(call) for call in writes))


def _not_as_decided(call: Call) -> list[str]:
    asked = next((one for one in call.approvals if one.kind == "permission"), None)
    if asked is None:
        return [f"{call.id} ran without a question"] if call.started_at is not None else []
    if call.started_at is None:
        return []
    if asked.state != "approved" or asked.at is None:
        return [f"{call.id} ran, though the question about it is {asked.state}"]
    return [f"{call.id} ran before the decision"] if call.started_at < asked.at else []


def _answered(call: Call) -> float:
    """When a call was allowed, in seconds since the epoch; for ever ago if nobody was asked."""
    return max((one.at or 0 for one in call.approvals), default=0) / 1e6


def _content(facts: Facts, writes: list[Call]) -> str:
    """What the last write that was carried out was asked to write."""
    call = next(one for one in reversed(writes) if one.status is CallStatus.COMPLETED)
    block = facts.messages[call.seq].blocks[call.block]
    return str(json.loads(block.input)["content"]) if isinstance(block, ToolUseBlock) else ""


def _told(call: Call) -> str:
    asked = call.approvals[-1] if call.approvals else None
    if asked is None or asked.at is None:
        return f"{call.id}: {call.status.value}"
    what = {"approved": "allowed", "refused": "denied"}.get(asked.state, asked.state)
    note = f" ({asked.note})" if asked.note else ""
    ran = f"begun {_clock(call.started_at)}" if call.started_at is not None else "never begun"
    return f"{call.id}: asked {_clock(call.asked_at)}, {what} by {asked.by}{note}, {ran}"


def _clock(at: int) -> str:
    return moment(at, "%H:%M:%S.%f")[:-4]


def _ended(facts: Facts) -> Check:
    status = "unfinished" if facts.run is None else facts.run.status
    fine = status == "ok" and not facts.state.calls
    return Check("run ended in order", fine, f"{status}, agent {facts.state.status.value}")


def _history_valid(facts: Facts) -> Check:
    try:
        invariants.check_history(facts.messages)
    except KodeError as error:
        return Check("history is valid", False, error.message)
    asked = sum(isinstance(block, ToolUseBlock) for message in facts.messages for block in message.blocks)
    fine = asked == len(facts.calls) and all(call.status.final for call in facts.calls)
    return Check("history is valid", fine, f"{len(facts.messages)} messages; {asked} calls, each with one result")


def _nothing_lost(facts: Facts) -> Check:
    """All that was seen at any kill is still there, in its place."""
    kills, seen, events = facts.watcher.kills, facts.watcher.events, facts.events
    kept = all(tuple(facts.messages[: len(kill.messages)]) == kill.messages for kill in kills)
    whole = [event.cursor for event in events] == list(range(1, len(events) + 1))
    shown = events[-len(seen) :] == seen if seen else True
    at = ", ".join(f"{len(kill.messages)} messages and {kill.events} events" for kill in kills)
    now = f"{len(facts.messages)} and {len(events)}"
    return Check("nothing lost", kept and whole and shown, f"at the kill: {at}; now {now}" if at else f"now {now}")


def _side_effects(facts: Facts) -> Check:
    """The ledger is written by the commands themselves: it knows how often each really began."""
    try:
        starts = Counter(re.findall(r"^(\S+) pid=", (facts.settings.work / LEDGER).read_text(), re.MULTILINE))
    except OSError:
        starts = Counter()
    runs = facts.calls_of("bash_run")
    sealed = {call.id for call in runs if call.status is CallStatus.SEALED}
    wrong = []
    for call in runs:
        least, most = _STARTS.get(call.status, (0, 1))
        if not least <= starts[call.id] <= most:
            wrong.append(f"{call.id} ({call.status.value}) began {starts[call.id]} times")
    if starts.keys() - {call.id for call in runs}:
        wrong.append("the ledger has starts that nobody asked for")
    if sealed - {event.call for event in facts.events if event.type == "tool_sealed"}:
        wrong.append("a call was sealed and nobody was told")
    # The planner's runs all count the same, so one more than were cut off is one too many.
    if not facts.settings.model and len(runs) - len(sealed) > 1:
        wrong.append(f"{len(runs)} counts asked for, {len(sealed)} sealed")
    shown = f"ledger: {starts.total()} starts; asked for {len(runs)}, of which {len(sealed)} sealed and announced"
    return Check("nothing ran twice unannounced", not wrong, "; ".join(wrong) or shown)


_STARTS = {CallStatus.COMPLETED: (1, 1), CallStatus.DENIED: (0, 0)}
"""How often a command may have begun: at least, at most."""


def _repeats(facts: Facts) -> Check:
    """Every second start of one call is a reader's or harmless, and told in an event."""
    again = [call for call in facts.calls if len(call.attempts) > 1]
    repeats = sum(len(call.attempts) - 1 for call in again)
    told = sum(int(event.data.get("rerun") or 0) for event in facts.events if event.type == "agent_resumed")
    fine = repeats == told and all(call.plan.recovery == "retry" for call in again)
    names = ", ".join(f"{call.tool} {call.id}" for call in again) or "none"
    return Check("repeated calls were harmless and told", fine, names)


def _no_orphans(facts: Facts) -> Check:
    """Nothing is left: not after a kill, not while a person decides, not at the end."""
    watcher = facts.watcher
    left = [pid for kill in watcher.kills for pid in kill.left] + facts.left
    waited = [pid for decision in watcher.decisions for pid in decision.running]
    wrong = [f"left: {left}"] if left else []
    wrong += [f"ran while the question was open: {waited}"] if waited else []
    slowest = max((kill.gone_s for kill in watcher.kills), default=None)
    shown = "none" if slowest is None else f"none; the slowest was gone {slowest * 1000:.0f} ms after the kill"
    return Check("no orphan process", not wrong, "; ".join(wrong) or shown)


_CHECKS: tuple[Callable[[Facts], Check], ...] = (
    _as_decided,
    _ended,
    _history_valid,
    _nothing_lost,
    _side_effects,
    _repeats,
    _no_orphans,
)
