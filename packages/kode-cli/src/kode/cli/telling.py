"""Tells what an agent does: a fold over its events, from which every view is made.

``Story.tell(event)`` gives the lines that an event adds. It does no I/O and asks no clock, so what is seen live, after
a resume, and in the tree that ``kode show`` draws from the store is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from kode.cli.visible import brief, cut, first_value, inline, prose
from kode.core.kernel.events import Event
from kode.core.kernel.message import Usage
from kode.core.kernel.state import State
from kode.core.kernel.toolcall import Call

__all__ = ["Asked", "Level", "Line", "Sign", "Story", "called", "seconds", "tokens"]

Level = Literal["agent", "run", "step", "item", "detail"]
SLOW_S = 0.1
"""A call that took less is not told how long."""
NAME_CHARS = 60
"""Of a tool, which a model may make up."""
Sign = Literal["agent", "run", "step", "you", "said", "call", "ok", "bad", "asks", "waits", "again", "sealed", "note"]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the story. Its text is safe to print."""

    level: Level
    """Where it stands: a detail belongs to the call it names, or to the line before it."""
    sign: Sign
    text: str
    call: str | None = None
    name: str = ""
    """Of the call, for a detail that does not stand below it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A call as it was asked for."""

    tool: str
    arguments: str
    """JSON that may be cut off."""

    def __str__(self) -> str:
        return f"{cut(inline(self.tool), NAME_CHARS)} {brief(self.arguments)}".strip()

    @property
    def name(self) -> str:
        """Enough to tell it from others."""
        return cut(f"{inline(self.tool)} {first_value(self.arguments)}".strip(), 40)


@dataclass(slots=True)
class Story:
    """What must be remembered from one event to the next."""

    run: int = 0
    step: int = 0
    usage: Usage = Usage()
    """Of the present run."""
    calls: dict[str, Asked] = field(default_factory=dict)
    """Open calls."""
    took_s: dict[str, float] = field(default_factory=dict)
    """Calls that ran, and whose end was not told yet: how long."""
    failures: dict[str, str] = field(default_factory=dict)
    """The same: what they failed with."""

    def goes_on(self, state: State) -> None:
        """Know what happened before the first event that is told here."""
        if state.run is not None:
            self.run, self.step, self.usage = state.run.number, state.step, state.run.usage
        for call in state.calls:
            if not call.status.final:
                self.calls[call.id] = Asked(call.tool, call.changed_input or call.input or "")

    def detail(self, event: Event, sign: Sign, text: str) -> tuple[Line, ...]:
        """A line about a call."""
        asked = self.calls.get(event.call or "")
        return (Line("detail", sign, text, event.call, "" if asked is None else asked.name),)

    def tell(self, event: Event) -> tuple[Line, ...]:
        """Fold one event, and give the lines it adds."""
        told = _TOLD.get(event.type)
        lines = () if told is None else told(self, event)
        if event.step > self.step and event.run == self.run and lines:
            self.step = event.step
            return (Line("step", "step", f"step {event.step}"), *lines)
        return lines


def called(call: Call) -> str:
    """Name a call and its arguments in one line."""
    return str(Asked(call.tool, call.changed_input or call.input or ""))


def seconds(value: float) -> str:
    """Write a duration."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(int(value), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def tokens(usage: Usage) -> str:
    """Write what was used."""
    text = f"{usage.tokens:,} tokens"
    return f"{text}, cost {usage.cost_nanos / 1e9:.4f}" if usage.cost_nanos else text


# ---- one function for each type of event that says something to a person ------------------------------------------


def _preview(event: Event) -> str:
    return inline(event.preview or "")


def _number(event: Event, name: str) -> int:
    value = event.data.get(name)
    return int(value) if isinstance(value, int | float) else 0


def _created(story: Story, event: Event) -> tuple[Line, ...]:
    return (Line("agent", "agent", f"created from {inline(str(event.data.get('template')))}"),)


def _run_started(story: Story, event: Event) -> tuple[Line, ...]:
    story.run, story.step, story.usage = event.run, 0, Usage()
    return (Line("run", "run", f"run {event.run}"),)


def _message(story: Story, event: Event) -> tuple[Line, ...]:
    sender = event.data.get("sender")
    who = f"{inline(str(sender))}: " if sender else ""
    return (Line("item", "you", who + prose(event.preview or "")),)


def _said(story: Story, event: Event) -> tuple[Line, ...]:
    return (Line("item", "said", prose(event.preview or "")),)


def _used(story: Story, event: Event) -> tuple[Line, ...]:
    names = ("input", "output", "cache_read", "cache_write", "reasoning", "cost_nanos")
    story.usage += Usage(**{name: _number(event, name) for name in names})
    return ()


def _call(story: Story, event: Event) -> tuple[Line, ...]:
    asked = story.calls[str(event.call)] = Asked(str(event.data.get("tool")), event.preview or "")
    return (Line("item", "call", str(asked), event.call),)


def _asks(story: Story, event: Event) -> tuple[Line, ...]:
    return story.detail(event, "asks", f"waits for a decision: {_preview(event)}")


_DECISIONS = {
    "approved": "allowed",
    "refused": "denied",
    "expired": "denied: nobody decided in time",
    "superseded": "the question is void",
}


def _decided(story: Story, event: Event) -> tuple[Line, ...]:
    decision = str(event.data.get("decision"))
    by = event.data.get("by")
    text = _DECISIONS.get(decision, inline(decision)) + (f" by {inline(str(by))}" if by else "")
    note = f": {_preview(event)}" if event.preview else ""
    return story.detail(event, "ok" if decision == "approved" else "note", text + note)


def _executed(story: Story, event: Event) -> tuple[Line, ...]:
    story.took_s[str(event.call)] = _number(event, "duration_us") / 1e6
    return ()


def _tool_error(story: Story, event: Event) -> tuple[Line, ...]:
    story.failures[str(event.call)] = event.preview or ""
    return ()


def _ended(story: Story, event: Event) -> tuple[Line, ...]:
    call, status = str(event.call), event.data.get("status")
    why, took = story.failures.pop(call, None), story.took_s.pop(call, None)
    known = story.calls[call].arguments if call in story.calls else ""
    text = brief(event.preview if event.preview is not None else why or "", known)
    if status == "COMPLETED":
        time = seconds(took) if took is not None and took >= SLOW_S else ""
        lines = story.detail(event, "ok", " · ".join(part for part in (time, text) if part) or "done")
    else:
        lines = story.detail(event, "bad", f"{inline(str(status)).lower()}: {text}")
    story.calls.pop(call, None)
    return () if status == "SEALED" else lines  # why it was sealed has been told


def _suspended(story: Story, event: Event) -> tuple[Line, ...]:
    child = event.data.get("child")
    who = f"agent {inline(str(child))}" if child else "outside"
    return story.detail(event, "waits", f"waits for an answer from {who}")


def _sealed(story: Story, event: Event) -> tuple[Line, ...]:
    started = event.data.get("was") == "EXECUTING"
    how = "sealed, its outcome is unknown to the model" if started else "sealed, it never ran"
    return story.detail(event, "sealed", f"{how}. {_preview(event)}")


_RESUMED = {
    "again": "model asked again",
    "rerun": "re-run, which is harmless",
    "sealed": "sealed",
    "asked": "to be decided by a person",
}


def _resumed(story: Story, event: Event) -> tuple[Line, ...]:
    parts = [f"{event.data[name]} {text}" for name, text in _RESUMED.items() if event.data.get(name)]
    return (Line("item", "again", f"taken over by a new process: {', '.join(parts) or 'nothing was open'}"),)


def _parked(story: Story, event: Event) -> tuple[Line, ...]:
    return (Line("item", "bad", f"parked ({inline(str(event.data.get('reason')))}): only a resume by hand goes on"),)


def _error(story: Story, event: Event) -> tuple[Line, ...]:
    if event.data.get("phase") == "retry":
        return (Line("item", "again", f"a model call failed and was made again: {_preview(event)}"),)
    if event.data.get("phase") == "model":
        return ()  # the run ends with it, and says so
    orphans = event.data.get("code") == "orphans"  # found and ended: nothing went wrong
    return (Line("item", "note" if orphans else "bad", _preview(event)),)


def _custom(story: Story, event: Event) -> tuple[Line, ...]:
    told = f"{event.data.get('event')} {event.data.get('json')}"
    return story.detail(event, "note", inline(told))


def _compressed(story: Story, event: Event) -> tuple[Line, ...]:
    if event.data.get("phase") != "end":
        return ()
    return (Line("item", "note", f"history compacted ({inline(str(event.data.get('method')))})"),)


def _plain(text: str) -> Callable[[Story, Event], tuple[Line, ...]]:
    def tell(story: Story, event: Event) -> tuple[Line, ...]:
        said = f": {_preview(event)}" if event.preview else ""
        return (Line("item", "note", text + said),)

    return tell


def _done(story: Story, event: Event) -> tuple[Line, ...]:
    fine = event.data.get("status") == "ok"
    why = f": {_preview(event)}" if event.preview else ""
    steps = f"{story.step} step{'' if story.step == 1 else 's'}"
    text = f"run {event.run} ended ({inline(str(event.data.get('reason')))}){why} · {steps} · {tokens(story.usage)}"
    return (Line("item", "ok" if fine else "bad", text),)


_TOLD: dict[str, Callable[[Story, Event], tuple[Line, ...]]] = {
    "agent_created": _created,
    "run_started": _run_started,
    "message_received": _message,
    "reminder_sent": _message,
    "text_chunk_end": _said,
    "token_usage": _used,
    "tool_start": _call,
    "permission_required": _asks,
    "permission_decided": _decided,
    "tool_executed": _executed,
    "tool_error": _tool_error,
    "tool_end": _ended,
    "tool_suspended": _suspended,
    "tool_sealed": _sealed,
    "tool_custom_event": _custom,
    "agent_resumed": _resumed,
    "agent_parked": _parked,
    "agent_forked": _plain("forked from another agent"),
    "agent_reverted": _plain("went back to an earlier state"),
    "snapshot_created": _plain("snapshot made"),
    "context_compression": _compressed,
    "scheduler_triggered": _plain("a timer fired"),
    "input_rejected": _plain("an item of the inbox could not be used"),
    "delivery_failed": _plain("an answer could not be delivered"),
    "storage_failure": _plain("the store does not answer; trying again"),
    "error": _error,
    "done": _done,
}
