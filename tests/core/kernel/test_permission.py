"""What a policy says of a call: its lists and their order, patterns, and what is no policy at all."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest

from kode.core.errors import UsageError
from kode.core.jsontext import dump
from kode.core.kernel.message import Json
from kode.core.kernel.permission import MAX_SEARCHED, PermissionPolicy, PolicyRules, Rule, judge, searched
from kode.core.template import AgentTemplate, decode_template, encode_template

A, OTHER = (Rule("a"),), (Rule("b"),)


def verdict(policy: PolicyRules, tool: str = "a", readonly: bool = False, **arguments: Any) -> str:
    return judge(policy, tool, readonly=readonly, input=Json(dump(arguments))).verdict


# ---- lists ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deny", "ask", "allow", "exclusive", "mode"),
    list(itertools.product([A, OTHER], [A, OTHER], [A, OTHER], [False, True], ["auto", "approval", "readonly"])),
)
def test_deny_then_ask_then_allow_then_the_mode(deny: Any, ask: Any, allow: Any, exclusive: bool, mode: str) -> None:
    by_mode = {"auto": "allow", "approval": "ask", "readonly": "deny"}[mode]
    last = "deny" if exclusive else by_mode
    expected = "deny" if deny is A else "ask" if ask is A else "allow" if allow is A else last
    assert verdict(PolicyRules(mode, deny, ask, allow, exclusive)) == expected


@pytest.mark.parametrize(
    ("glob", "names", "others"),
    [
        ("fs_*", ["fs_read", "fs_"], ["Fs_read", "xfs_read", "fs"]),
        ("*", ["a", "mcp:x/y"], []),
        ("fs_[rg]*", ["fs_read", "fs_grep"], ["fs_write"]),
        ("mcp:*.delete?", ["mcp:x.delete1"], ["mcp:x.delete"]),
    ],
)
def test_tools_are_named_by_globs(glob: str, names: list[str], others: list[str]) -> None:
    policy = PolicyRules(deny=(Rule(glob),))
    assert [verdict(policy, name) for name in names] == ["deny"] * len(names)
    assert [verdict(policy, name) for name in others] == ["allow"] * len(others)


@pytest.mark.parametrize(
    ("pattern", "value", "found"),
    [
        ("^true$", True, True),
        ("^1$", True, False),
        ("^null$", None, True),
        ("^1[.]5$", 1.5, True),
        (r"^-\d+$", -7, True),
        ('"rm"', ["ls", "rm"], True),
        ('^{"to":', {"to": "Ann"}, True),
        ("^ü$", "ü", True),
        ("ü", ["ü"], True),
        ("x", "", False),
        ("", "", True),
    ],
)
def test_an_argument_that_is_no_text_is_searched_as_json(pattern: str, value: Any, found: bool) -> None:
    assert verdict(PolicyRules(deny=(Rule("a", (("x", pattern),)),)), x=value) == ("deny" if found else "allow")


def test_all_patterns_of_a_rule_must_be_found() -> None:
    policy = PolicyRules(deny=(Rule("a", (("x", "1"), ("y", "2"))),))
    assert [verdict(policy, x=1, y=2), verdict(policy, x=1, y=3), verdict(policy, x=1)] == ["deny", "allow", "allow"]


# ---- what is too long -------------------------------------------------------------------------------------------

ENDLESS = (Rule("a", (("x", "^(a+)+$"),)),)
"""Against a text of its kind that does not end so, it searches for ever."""


@pytest.mark.parametrize("value", ["a" * MAX_SEARCHED + "!", ["a" * MAX_SEARCHED]])
def test_what_is_too_long_to_search_is_let_through_by_nothing(value: Any) -> None:
    """The model chooses how long an argument is; it may neither hold up the process nor hide behind the length."""
    assert verdict(PolicyRules(deny=ENDLESS), x=value) == "deny"
    assert verdict(PolicyRules(ask=ENDLESS), x=value) == "ask"
    assert verdict(PolicyRules("readonly", allow=ENDLESS), x=value) == "deny"
    assert verdict(PolicyRules(allow=ENDLESS, exclusive=True), x=value) == "deny"
    assert verdict(PolicyRules(deny=ENDLESS), "b", x=value) == "allow", "another tool"
    judged = judge(PolicyRules(deny=ENDLESS), "a", readonly=False, input=Json(dump({"x": value})))
    assert (
        judged.reason == "The policy denies a, for an argument is longer than what the rule's pattern is held against."
    )


def test_what_is_just_short_enough_is_searched() -> None:
    end = PolicyRules(deny=(Rule("a", (("x", "!$"),)),))
    assert verdict(end, x="." * (MAX_SEARCHED - 1) + "!") == "deny"
    assert verdict(end, x="." * MAX_SEARCHED) == "allow"
    sure = judge(end, "a", readonly=False, input=Json('{"x":"!"}'))
    assert sure.reason == "The policy denies a."


@pytest.mark.parametrize(
    ("pattern", "most"),
    [
        ("rm -rf", 10_000),
        ("a.*b", 10_000),
        ("^a.*b.*c", 10_000),
        ("^a.*|b.*c", 669),
        ("a.*b.*c", 669),
        (r"a\s+b\s{2,}c[*+(]\*\+\(", 669),
        (r"[]+*][^]*]\{1,}", 10_000),
        (r"\d{1,3}[.]\d{1,3}[.]\d{4}", 10_000),
        ("a{2,30}b{10,}", 669),
        (".*rm.*-rf.*/etc", 186),
        ("(a+)+", 24),
        ("(?:b|(?P<x>a))*", 24),
        ("((a?)b){3}", 24),
        ("(ab)*", 10_000),
        ("(a+)b", 10_000),
        ("(a)(b)+", 10_000),
    ],
)
def test_the_more_a_pattern_repeats_the_less_is_searched(pattern: str, most: int) -> None:
    assert searched(pattern) == most


@pytest.mark.parametrize(
    "pattern", [".*rm.*-rf.*/etc", "^(a+)+$", "(a|a)*$", "a.*b", "^.*.*$(?!)", r"\s*;\s*rm", ".*.*.*="]
)
@pytest.mark.parametrize("unit", ["rm -rf ", "a", "ab", " "])
def test_no_search_is_a_long_one(pattern: str, unit: str) -> None:
    """It holds up every agent of the process. At its bound the worst of these takes less than half a second."""
    began = time.process_time()
    for length in (searched(pattern), searched(pattern) + 1, 20_000):
        verdict(PolicyRules(deny=(Rule("a", {"x": pattern}),)), x=(unit * length)[: length - 1] + "!")
    assert time.process_time() - began < 5


# ---- what is no policy ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: Rule(""),
        lambda: Rule(None),  # type: ignore[arg-type]
        lambda: Rule("a", "x"),  # type: ignore[arg-type]
        lambda: Rule("a", 3),  # type: ignore[arg-type]
        lambda: Rule("a", (("x", 3),)),  # type: ignore[arg-type]
        lambda: Rule("a", (("x",),)),  # type: ignore[arg-type]
        lambda: Rule("a", (("x", "("),)),
        lambda: Rule("a", (("x", "a{9999999999999999999}"),)),
        lambda: PolicyRules(deny=("a",)),  # type: ignore[arg-type]
        lambda: PolicyRules(ask=Rule("a")),  # type: ignore[arg-type]
        lambda: PermissionPolicy(allow="a"),  # type: ignore[arg-type]
        lambda: PermissionPolicy(allow=None),  # type: ignore[arg-type]
        lambda: PermissionPolicy(None),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_rule_is_refused_when_it_is_made(make: Any) -> None:
    with pytest.raises(UsageError) as caught:
        make()
    assert caught.value.code == "bad_rule"


def test_lists_and_dicts_will_do_and_are_stored_as_they_are_meant() -> None:
    rules: Any = [Rule("bash_run", {"cmd": "^git ", "cwd": "^/src"})]
    policy = PermissionPolicy("approval", allow=rules)
    assert policy == PermissionPolicy("approval", allow=(Rule("bash_run", (("cmd", "^git "), ("cwd", "^/src"))),))
    template = AgentTemplate("t", permission=policy)
    assert decode_template(encode_template(template)[0]) == template
    assert hash(policy)
