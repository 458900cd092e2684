"""Golden traces: what nine small stories look like, commit by commit, event by event.

A trace is a text to be read. After a wanted change: ``scripts/golden-kernel`` writes them again; look at the
difference before it is committed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from kode.core.kernel import inputs as i
from kode.core.kernel.message import TextBlock, ToolResultBlock, ToolUseBlock
from kode.core.kernel.toolcall import Plan

GOLDEN = Path(__file__).parent / "golden"
WRITE = Plan("allow")
READ = Plan("allow", readonly=True)
ASK = Plan("ask", reason="It writes.")


# ---- the stories


def simple_chat(play: Any) -> None:
    play.say("What is 6 x 7?")
    play.reply(text="42.")


def one_tool_round(play: Any) -> None:
    play.say("What is in a.txt?")
    play.reply(READ, text="I look.")
    play.feed(play.finished(text="hello"))
    play.reply(text="It says hello.")


def three_tools_with_two_slots(play: Any) -> None:
    play.limits = replace(play.limits, max_tool_concurrency=2)
    play.say("Read three files.")
    play.reply(READ, READ, READ, text="I read.")
    play.feed(play.finished(2, "two"))
    play.feed(play.finished(1, "one"), play.finished(3, "three"))
    play.reply(text="Done.")


def approval_allowed_and_denied(play: Any) -> None:
    play.say("Write two files.")
    play.reply(ASK, ASK, text="I write.")
    play.feed(i.ApprovalDecided("d1", "1.1.1", 1, "allow", "Ann"))
    play.feed(i.ApprovalDecided("d2", "1.1.2", 1, "deny", "Ann", "Not that one."))
    play.feed(play.finished(1, "written"))
    play.reply(text="One of them.")


def interrupt_in_mid_tools(play: Any) -> None:
    play.say("Work.")
    play.reply(READ, WRITE, WRITE, text="I work.")
    play.feed(play.finished(1, "in time"), i.InterruptRequested("i1", "Wrong folder.", "Ann"))
    play.feed(i.ToolFinished("1.1.2", (TextBlock("too late"),)))
    play.say("Use the other folder.")


def crash_and_resume(play: Any) -> None:
    play.say("Work.")
    plans = [Plan("allow", readonly=True, recovery=how) for how in ("retry", "seal", "ask")]  # type: ignore[arg-type]
    play.reply(*plans, text="I work.")
    play.crash()
    play.feed(i.Resumed(reason="lease lapsed"))
    play.feed(play.finished(1, "again"))
    play.feed(i.ApprovalDecided("d1", "1.1.3", 1, "allow", "Ann"))
    play.feed(play.finished(3, "also again"))
    play.crash()
    play.feed(i.Resumed(reason="killed"))
    play.reply(text="Done.")


def queued_messages(play: Any) -> None:
    play.say("Read a.txt.")
    play.reply(READ, text="I read.")
    play.say("And then b.txt.")
    play.feed(play.finished(text="a"))
    play.say("And c.txt.")
    play.reply(text="I read a.txt.")
    play.reply(text="c.txt, then.")


def limit(play: Any) -> None:
    play.limits = replace(play.limits, max_steps_per_run=1)
    play.say("Read a.txt.")
    play.reply(READ, text="I read.")
    play.feed(play.finished(text="a"))


def compaction(play: Any) -> None:
    play.say("One.")
    play.reply(text="1")
    play.say("Two.")
    play.reply(READ, text="I look.")
    play.feed(play.finished(text="2"), i.CompactionRequested(0, 2))
    play.feed(i.HistoryCompacted(play.compaction.id, "c1", (TextBlock("They counted."),), tokens_after=9))
    play.reply(text="2")


STORIES = (
    simple_chat,
    one_tool_round,
    three_tools_with_two_slots,
    approval_allowed_and_denied,
    interrupt_in_mid_tools,
    crash_and_resume,
    queued_messages,
    limit,
    compaction,
)


# ---- the renderer


def render(play: Any) -> Iterator[str]:
    for inputs, before, after in play.log:
        yield ""
        for input in inputs:
            yield f"> {type(input).__name__} {_fields(input)}"
        for input in after.postponed:
            yield f"  waits    {type(input).__name__} {input.item}"
        if after.state != before:
            now = after.state
            yield f"  at       {before.status} {before.breakpoint} -> {now.status} {now.breakpoint}"
        yield from _section(
            "message", (f"#{m.seq} {m.role} {' | '.join(map(_block, m.blocks))}" for m in after.messages)
        )
        yield from _section("call", (f"{c.id} {c.tool} {c.status}{_result_at(c)}" for c in after.calls))
        yield from _section(
            "compact", (f"{c.id} [{c.start}, {c.stop}) {_block(c.summary[0])}" for c in after.compactions)
        )
        yield from _section("run", (f"{r.number} {r.status}: {r.stop_reason}{_counted(r)}" for r in after.runs))
        yield from _section("event", (_event(e) for e in after.events))
        yield from _section("start", (f"{e.kind} {e.id} attempt {e.attempt}" for e in after.effects))


def _section(name: str, lines: Iterator[str]) -> Iterator[str]:
    for n, line in enumerate(lines):
        yield f"  {name if n == 0 else '':8} {line}"


def _event(event: Any) -> str:
    where = [event.call or "", "" if event.ref is None else f"#{event.ref.seq}.{event.ref.block}"]
    data = [f"{k}={v}" for k, v in event.data.items() if v is not None]
    text = "" if event.preview is None else repr(event.preview)
    return " ".join(filter(None, (f"{event.cursor:2}", event.type, *where, *data, text)))


def _fields(input: Any) -> str:
    shown = {f.name: getattr(input, f.name) for f in fields(input) if getattr(input, f.name) != f.default}
    blocks = shown.pop("blocks", None) or shown.pop("result", None) or shown.pop("summary", None) or ()
    shown.pop("usage", None)
    calls = " ".join(f"plan={c.plan.verdict}" for c in shown.pop("calls", ()))
    words = [" ".join(str(v) for v in shown.values()), " | ".join(map(_block, blocks)), calls]
    return " ".join(filter(None, words))


def _block(block: Any) -> str:
    if isinstance(block, ToolUseBlock):
        return f"{block.name}({block.input})"
    if isinstance(block, ToolResultBlock):
        return f"{block.call}{' error' if block.is_error else ''}: {' '.join(map(_block, block.content))}"
    return repr(block.text)


def _result_at(call: Any) -> str:
    return "" if call.result_seq is None else f", result in #{call.result_seq}"


def _counted(run: Any) -> str:
    open_ = f", open: {' '.join((*run.pending, *run.waiting))}" if run.ended_at is None else ""
    return f", steps {run.steps}, calls {run.calls}{open_}"


@pytest.mark.parametrize("story", STORIES, ids=lambda s: s.__name__)
def test_trace(play: Any, story: Callable[[Any], None]) -> None:
    story(play)
    trace = "\n".join([story.__name__.replace("_", " ").capitalize(), *render(play), ""])
    golden = GOLDEN / f"{story.__name__}.txt"
    if os.environ.get("KODE_GOLDEN") == "write":
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(trace)
    assert trace == golden.read_text()


def test_every_trace_has_its_story() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == {story.__name__ for story in STORIES}


@pytest.mark.parametrize("story", STORIES, ids=lambda s: s.__name__)
def test_ready_never_flickers(play: Any, story: Callable[[Any], None]) -> None:
    story(play)
    told = [(before, e) for _, before, after in play.log for e in after.events if e.type == "state_changed"]
    for before, event in told:
        assert event.data["previous"] != event.data["current"]
        assert event.data["previous"] == before.status
    ready = [e for _, e in told if e.data["current"] == "READY"]
    assert len(ready) <= len([r for r in play.runs.values() if r.ended_at is not None])
