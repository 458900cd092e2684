"""Limits, permission, windows, words: plain values and functions of them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kode.core.errors import UsageError
from kode.core.kernel.effects import Attempt, CompactHistory
from kode.core.kernel.events import CHANNEL, DURABLE, LIVE, Event
from kode.core.kernel.limits import Limits, narrower
from kode.core.kernel.message import Json, Usage
from kode.core.kernel.permission import PermissionPolicy, Rule, judge
from kode.core.kernel.state import State
from kode.core.kernel.window import Range, Window, check_window
from kode.core.kernel.words import RESULT_STATUS, Breakpoint, Phase, Status, StopReason

# ---- limits


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("max_tool_concurrency", 0, "a whole number from 1 to 1,000"),
        ("max_tool_concurrency", None, "a whole number from 1 to 1,000"),
        ("max_tool_concurrency", True, "a whole number from 1 to 1,000"),
        ("max_steps_per_run", 1.5, r"a whole number from 1 to .* or None"),
        ("tool_timeout_s", "1", r"a number from 0.001 to .* or None"),
        ("tool_timeout_s", float("nan"), "a number"),
        ("cancel_grace_s", -1, "a number from 0 to 3,600"),
    ],
)
def test_a_limit_out_of_range(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(UsageError, match=rf"Limits\.{name} is .*; give {allowed}") as caught:
        Limits(**{name: value})
    assert caught.value.code == "bad_limit"


def test_the_margin_is_within_the_lease() -> None:
    with pytest.raises(UsageError, match="less than lease_s"):
        Limits(lease_s=5, lease_margin_s=5)


def test_the_narrower_limit_wins() -> None:
    a = Limits(max_steps_per_run=None, max_tokens_per_run=5, max_cost_per_run=None)
    b = Limits(max_steps_per_run=7, max_tokens_per_run=None, max_cost_per_run=None, max_inbox=3)
    both = narrower(a, b)
    assert (both.max_steps_per_run, both.max_tokens_per_run, both.max_cost_per_run, both.max_inbox) == (
        7,
        5,
        None,
        3,
    )
    assert narrower(b, a) == both


# ---- permission


def test_rules_go_before_the_mode_and_denials_before_all() -> None:
    policy = PermissionPolicy(
        "approval",
        deny=(Rule("bash_*", (("cmd", "rm "),)),),
        ask=(Rule("bash_*", (("cmd", "^git push"),)),),
        allow=(Rule("bash_run"), Rule("fs_read")),
    )

    def verdict(tool: str, input: str) -> str:
        return judge(policy, tool, readonly=False, input=Json(input)).verdict

    assert verdict("bash_run", '{"cmd":"rm -r x"}') == "deny"
    assert verdict("bash_run", '{"cmd":"git push"}') == "ask"
    assert verdict("bash_run", '{"cmd":"ls"}') == "allow"
    assert verdict("bash_run", "[]") == "allow", "no object, no arguments"
    assert verdict("fs_write", "{}") == "ask"


@pytest.mark.parametrize(
    ("policy", "readonly", "verdict"),
    [
        (PermissionPolicy(), False, "allow"),
        (PermissionPolicy("approval"), True, "ask"),
        (PermissionPolicy("readonly"), True, "allow"),
        (PermissionPolicy("readonly"), False, "deny"),
        (PermissionPolicy("office_hours"), False, "custom"),
        (PermissionPolicy(allow=(Rule("a"),), exclusive=True), False, "deny"),
        (PermissionPolicy(exclusive=True), False, "deny"),
    ],
)
def test_modes(policy: PermissionPolicy, readonly: bool, verdict: str) -> None:
    assert judge(policy, "b", readonly=readonly, input=Json("{}")).verdict == verdict


def test_a_rule_looks_at_every_argument_it_names() -> None:
    rule = Rule("*", (("path", "^/tmp/"), ("n", "^3$")))
    assert rule.matches("x", {"path": "/tmp/a", "n": 3})
    assert not rule.matches("x", {"path": "/tmp/a", "n": 4})
    assert not rule.matches("x", {"path": "/tmp/a"})


def test_a_rule_that_does_not_compile() -> None:
    with pytest.raises(UsageError, match="is no regular expression"):
        Rule("*", (("cmd", "("),))


# ---- windows


def test_a_window_shows_pins_and_ranges_once_and_in_order() -> None:
    window = Window("c", (0, 5, 9, 30), (Range(4, 6), Range(8)))
    assert list(window.seqs(12)) == [0, 4, 5, 8, 9, 10, 11]
    assert list(window.seqs(5)) == [0, 4]
    assert list(Window().seqs(0)) == []


def _within(n: int, r: Range) -> bool:
    return r.start <= n and (r.stop is None or n < r.stop)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=7), st.sets(st.integers(0, 30)), st.integers(0, 40))
def test_what_a_window_shows_rises_and_is_within_it(edges: list[int], pinned: set[int], stop: int) -> None:
    edges = sorted(edges)[: len(edges) - (len(edges) + 1) % 2]
    closed = tuple(Range(a, b) for a, b in zip(edges[:-1:2], edges[1::2], strict=True))
    window = Window(None, tuple(sorted(pinned)), (*closed, Range(edges[-1])))
    check_window(window, 31)
    shown = list(window.seqs(stop))
    expected = {n for n in range(stop) if n in pinned or any(_within(n, r) for r in window.ranges)}
    assert shown == sorted(expected)


# ---- words


def test_every_stop_reason_has_a_result_status() -> None:
    assert set(RESULT_STATUS) == set(StopReason)


def test_a_type_of_event_is_durable_or_live() -> None:
    assert not DURABLE.keys() & LIVE.keys()
    assert CHANNEL.keys() == DURABLE.keys() | LIVE.keys()
    assert (Event("done").channel, Event("done").durable, Event("text_chunk").durable) == (
        "progress",
        True,
        False,
    )


def test_usage_adds_up() -> None:
    total = Usage(1, 2, 3, 4, 5, 6) + Usage(1, 1, 1, 1, 1, 1)
    assert total == Usage(*(n + 1 for n in (1, 2, 3, 4, 5, 6)))
    assert (total.tokens, len(fields(Usage))) == (5, 6)


def test_what_a_fresh_agent_is_at() -> None:
    state = State("a", "u", 0, 0)
    assert (state.phase, state.status, state.breakpoint, state.model) == (
        Phase.IDLE,
        Status.READY,
        Breakpoint.READY,
        None,
    )
    assert state.effect("1.1.0") is None
    busy = State("a", "u", 0, 0, effects=(CompactHistory("0.0.0", Attempt(1), 0, 1),))
    assert busy.effect("0.0.0") is busy.effects[0]
