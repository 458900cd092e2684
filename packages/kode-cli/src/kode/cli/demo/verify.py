"""Checks a finished demo from outside: what the agent says is compared with what is there, counted by other code."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kode.cli.demo.report import read_tables
from kode.cli.demo.settings import AGENT_ID, FILES, LEDGER, Settings
from kode.cli.demo.watch import Watcher, all_messages
from kode.core.errors import KodeError, NotFoundError
from kode.core.kernel import invariants
from kode.core.kernel.events import Event
from kode.core.kernel.message import Message, ToolUseBlock
from kode.core.kernel.toolcall import Call, CallStatus
from kode.core.store.base import Store

__all__ = ["Check", "Truth", "count_files", "verify"]

_SEARCHED_MAX = 64 * 1024 * 1024
_PROBE = 8_192


@dataclass(frozen=True, slots=True)
class Check:
    """One verdict."""

    name: str
    ok: bool
    detail: str


@dataclass(slots=True)
class Truth:
    """What an independent walk counts."""

    numbers: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("files", "not readable", "lines", "words", "bytes", "paths listed"), 0)
    )
    sizes: list[tuple[int, str]] = field(default_factory=list)
    hits: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By text: lines, files."""


def count_files(folder: Path, texts: Iterable[str]) -> Truth:
    """Walk and count, knowing nothing of the agent."""
    truth = Truth(hits=dict.fromkeys(texts, (0, 0)))
    top = os.fsencode(folder)
    for where, folders, files in os.walk(top):
        links = [name for name in folders if os.path.islink(os.path.join(where, name))]
        truth.numbers["paths listed"] += len(files) + len(links)
        for name in files:
            path = os.path.join(where, name)
            if stat.S_ISREG(os.lstat(path).st_mode):
                _count_file(path, os.fsdecode(os.path.relpath(path, top)), truth)
    truth.sizes.sort(key=lambda one: -one[0])
    return truth


def _count_file(path: bytes, name: str, truth: Truth) -> None:
    numbers = truth.numbers
    numbers["files"] += 1
    try:
        data = Path(os.fsdecode(path)).read_bytes()
    except OSError:
        numbers["not readable"] += 1
        return
    numbers["lines"] += data.count(b"\n")
    numbers["words"] += sum(1 for _ in re.finditer(rb"[A-Za-z0-9]+", data))
    numbers["bytes"] += len(data)
    truth.sizes.append((len(data), name))
    if b"\0" in data[:_PROBE] or len(data) > _SEARCHED_MAX:
        return
    for text, (lines, files) in truth.hits.items():
        found = sum(text.encode() in line for line in data.split(b"\n")) if text.encode() in data else 0
        truth.hits[text] = (lines + found, files + (found > 0))


async def verify(settings: Settings, store: Store, watcher: Watcher) -> list[Check]:
    """Check everything that the demo claims."""
    left = watcher.left(watcher.processes[-1].pid)
    checks = [*_report(settings)]
    try:
        state = await store.read_state(AGENT_ID)
        invariants.check(state)
        messages = await all_messages(store)
        calls = await _all_calls(store)
        events = await _all_events(store)
        run = await store.read_run(AGENT_ID, 1)
    except NotFoundError:
        return [*checks, Check("agent is in the store", False, "there is none")]
    except KodeError as error:
        return [*checks, Check("agent is sound", False, error.message)]
    status = "unfinished" if run is None else run.status
    checks.append(
        Check("run ended in order", status == "ok" and not state.calls, f"{status}, agent {state.status.value}")
    )
    checks.append(_history_valid(messages, calls))
    checks.append(_nothing_lost(messages, events, watcher))
    checks.append(_side_effects(settings, calls))
    checks.append(_repeats(calls, events))
    orphans = [pid for kill in watcher.kills for pid in kill.left] + left
    slowest = max((kill.gone_s for kill in watcher.kills), default=0.0)
    detail = f"left: {orphans}" if orphans else f"none; the slowest was gone {slowest * 1000:.0f} ms after the kill"
    checks.append(Check("no orphan process", not orphans, detail if watcher.kills or orphans else "none"))
    return checks


def _report(settings: Settings) -> list[Check]:
    try:
        tables = read_tables(settings.report.read_text())
        counts, biggest, hits = ({row[0]: row[1:] for row in table} for table in tables)
    except (OSError, ValueError, IndexError):
        return [Check("report is right", False, "there is no report that can be read")]
    truth = count_files(settings.work / FILES, [text.strip("`") for text in hits])
    checks = [
        _same("report: counts", {name: row[0] for name, row in counts.items()}, truth.numbers),
        _biggest({name: int(row[0]) for name, row in biggest.items()}, truth),
    ]
    said = {f"{what} with {text}": row[at] for text, row in hits.items() for at, what in enumerate(("lines", "files"))}
    real = {
        f"{what} with `{text}`": numbers[at]
        for text, numbers in truth.hits.items()
        for at, what in enumerate(("lines", "files"))
    }
    return [*checks, _same("report: hits", said, real)]


def _same(name: str, said: dict[str, str], real: dict[str, int]) -> Check:
    """Compare numbers; one that ends with ``+`` is a lower bound."""
    wrong = [
        f"{what}: said {number}, is {real.get(what)}"
        for what, number in said.items()
        if what not in real or (int(number[:-1]) > real[what] if number.endswith("+") else int(number) != real[what])
    ]
    wrong += [f"{what}: not said" for what in real.keys() - said.keys()]
    shown = ", ".join(f"{_grouped(number)} {what}" for what, number in said.items())
    return Check(name, not wrong, "; ".join(wrong) or shown)


def _grouped(number: str) -> str:
    return f"{int(number.removesuffix('+')):,}{'+' if number.endswith('+') else ''}"


def _biggest(said: dict[str, int], truth: Truth) -> Check:
    """Sizes must be the largest; a name as well, unless the shell had to quote it or others are as large."""
    sizes = [size for size, _ in truth.sizes[:3]]
    wrong = "" if sorted(said.values(), reverse=True) == sizes else f"said {list(said.values())}, is {sizes}"
    known = {name: size for size, name in truth.sizes}
    for name, size in said.items():
        if name in known and known[name] != size:
            wrong = f"{name} has {known[name]} bytes, not {size}"
    shown = ", ".join(f"{name} ({size:,})" for name, size in said.items())
    return Check("report: biggest files", not wrong, wrong or shown or "none")


def _history_valid(messages: Sequence[Message], calls: Sequence[Call]) -> Check:
    try:
        invariants.check_history(messages)
    except KodeError as error:
        return Check("history is valid", False, error.message)
    asked = sum(isinstance(b, ToolUseBlock) for m in messages for b in m.blocks)
    fine = asked == len(calls) and all(call.status.final for call in calls)
    return Check("history is valid", fine, f"{len(messages)} messages; {asked} calls, each with one result")


def _nothing_lost(messages: Sequence[Message], events: Sequence[Event], watcher: Watcher) -> Check:
    """All that was seen at any kill is still there, in its place."""
    kept = all(tuple(messages[: len(kill.messages)]) == kill.messages for kill in watcher.kills)
    whole = [event.cursor for event in events] == list(range(1, len(events) + 1))
    seen = list(events[-len(watcher.events) :]) == watcher.events if watcher.events else True
    at = ", ".join(f"{len(kill.messages)} messages and {kill.events} events" for kill in watcher.kills)
    text = f"at the kill: {at}; now {len(messages)} and {len(events)}" if at else f"{len(events)} events, no gap"
    return Check("nothing lost", kept and whole and seen, text)


def _side_effects(settings: Settings, calls: Sequence[Call]) -> Check:
    """The ledger is written by the command itself: it knows how often it really began."""
    try:
        starts = re.findall(r"^count try=(\d+) ", (settings.work / LEDGER).read_text(), re.MULTILINE)
    except OSError:
        starts = []
    counts = [call for call in calls if call.tool == "bash_run"]
    wrong = []
    for number, call in enumerate(counts, 1):
        began = starts.count(str(number))
        if began > 1 or (began == 0 and call.status is CallStatus.COMPLETED):
            wrong.append(f"try {number} ({call.status.value}) began {began} times")
    if set(starts) - {str(number) for number in range(1, len(counts) + 1)}:
        wrong.append("the ledger has starts that nobody asked for")
    sealed = sum(call.status is CallStatus.SEALED for call in counts)
    if len(counts) != sealed + 1 and not (sealed == len(counts) and sealed):
        wrong.append(f"{len(counts)} counts asked for, {sealed} sealed")
    shown = f"ledger: {len(starts)} starts; asked for {len(counts)}, of which {sealed} sealed and announced"
    return Check("nothing ran twice unannounced", not wrong, "; ".join(wrong) or shown)


def _repeats(calls: Sequence[Call], events: Sequence[Event]) -> Check:
    """Every second start of one call is a reader's or harmless, and told in an event."""
    again = [call for call in calls if len(call.attempts) > 1]
    repeats = sum(len(call.attempts) - 1 for call in again)
    told = sum(int(event.data.get("rerun") or 0) for event in events if event.type == "agent_resumed")
    fine = repeats == told and all(call.plan.recovery == "retry" for call in again)
    names = ", ".join(f"{call.tool} {call.id}" for call in again) or "none"
    return Check("repeated calls were harmless and told", fine, names)


async def _all_calls(store: Store) -> list[Call]:
    found: list[Call] = []
    after = ""
    while True:
        page = await store.read_calls(AGENT_ID, after=after)
        found += page.items
        if page.next is None:
            return found
        after = page.next


async def _all_events(store: Store) -> list[Event]:
    found: list[Event] = []
    while True:
        page = await store.read_events(AGENT_ID, after=found[-1].cursor if found else 0)
        found += page.items
        if page.next is None:
            return found
