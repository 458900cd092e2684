"""The story of an agent: a fold from events to lines."""

from __future__ import annotations

from kode.cli.telling import Line, Story, seconds, tokens
from kode.core.kernel.events import DURABLE, LIVE, Event, Ref
from kode.core.kernel.message import Usage


def tell(*events: Event) -> list[Line]:
    story = Story()
    return [line for event in events for line in story.tell(event)]


def test_a_run_with_a_call() -> None:
    lines = tell(
        Event("run_started", run=1),
        Event("message_received", run=1, preview="hi\x1b[2J"),
        Event("token_usage", run=1, step=1, data={"input": 1_000, "output": 5}),
        Event("tool_start", run=1, step=1, call="1.1.1", preview='{"path":"a"}', data={"tool": "fs_read"}),
        Event("tool_executed", run=1, step=1, call="1.1.1", data={"duration_us": 2_500_000}),
        Event("tool_end", run=1, step=1, call="1.1.1", preview='{"path":"a","n":3}', data={"status": "COMPLETED"}),
        Event("text_chunk_end", run=1, step=2, ref=Ref(3), preview="Three lines."),
        Event("done", run=1, step=2, data={"reason": "end_turn", "status": "ok"}),
    )  # fmt: skip
    assert [(line.level, line.sign, line.text) for line in lines] == [
        ("run", "run", "run 1"),
        ("item", "you", "hi\\e[2J"),
        ("step", "step", "step 1"),
        ("item", "call", "fs_read a"),
        ("detail", "ok", "2.5 s · n=3"),
        ("step", "step", "step 2"),
        ("item", "said", "Three lines."),
        ("item", "ok", "run 1 ended (end_turn) · 2 steps · 1,005 tokens"),
    ]
    assert [line.name for line in lines if line.level == "detail"] == ["fs_read a"]


def test_what_went_wrong_is_told_with_its_reason() -> None:
    lines = tell(
        Event("run_started", run=1),
        Event("tool_start", run=1, step=1, call="c", preview="{}", data={"tool": "t"}),
        Event("tool_error", run=1, step=1, call="c", preview='{"ok":false,"error":"no such file"}'),
        Event("tool_end", run=1, step=1, call="c", data={"status": "FAILED"}),
        Event("tool_start", run=1, step=1, call="d", preview="{}", data={"tool": "t"}),
        Event("tool_sealed", run=1, step=1, call="d", preview="The process ended.", data={"was": "EXECUTING"}),
        Event("tool_error", run=1, step=1, call="d", preview="long text"),
        Event("tool_end", run=1, step=1, call="d", data={"status": "SEALED"}),
        Event("done", run=1, step=1, preview="401", data={"reason": "provider_error", "status": "error"}),
    )
    assert [(line.sign, line.text) for line in lines if line.sign in ("bad", "sealed")] == [
        ("bad", "failed: error=no such file"),
        ("sealed", "sealed, its outcome is unknown to the model. The process ended."),
        ("bad", "run 1 ended (provider_error): 401 · 1 step · 0 tokens"),
    ]


def test_decisions_and_recoveries_are_told() -> None:
    lines = tell(
        Event("permission_required", call="c", preview="The policy asks."),
        Event("permission_decided", call="c", preview="not now", data={"decision": "refused", "by": "ann"}),
        Event("agent_resumed", data={"strategy": "continue", "again": 1, "rerun": 2, "sealed": 0, "asked": 0}),
        Event("error", preview="2 processes of a dead driver were ended.", data={"code": "orphans"}),
    )
    assert [(line.sign, line.text) for line in lines] == [
        ("asks", "waits for a decision: The policy asks."),
        ("note", "denied by ann: not now"),
        ("again", "taken over by a new process: 1 model asked again, 2 re-run, which is harmless"),
        ("note", "2 processes of a dead driver were ended."),
    ]


def test_every_type_of_event_can_be_told_even_when_it_is_empty() -> None:
    for kind in [*DURABLE, *LIVE, "of_a_later_version"]:
        for line in tell(Event(kind)):
            assert line.text.isprintable()


def test_figures_for_people() -> None:
    assert [seconds(0.25), seconds(61), seconds(3_700)] == ["0.2 s", "1 min 01 s", "1 h 01 min"]
    assert tokens(Usage(1_000, 200, cost_nanos=25_000_000)) == "1,200 tokens, cost 0.0250"


def test_a_name_that_a_model_made_up_is_cut() -> None:
    (line,) = tell(Event("tool_start", run=1, step=1, call="c", preview="{}", data={"tool": "x" * 100_000}))
    assert len(line.text) < 100
