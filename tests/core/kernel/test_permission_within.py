"""Policies within policies: what a sub-agent may not get around, as data."""

from __future__ import annotations

import json

import pytest

from kode.core.errors import RecordCorruptError
from kode.core.kernel.message import Json
from kode.core.kernel.permission import PermissionPolicy, PolicyRules, Rule, judge
from kode.core.template import AgentTemplate, decode_template, encode_template

STRICT = PermissionPolicy("readonly", deny=(Rule("fs_*"),))


def test_a_policy_lies_within_its_parents_and_all_above() -> None:
    middle = PermissionPolicy("approval").bounded(STRICT)
    low = PermissionPolicy("auto").bounded(middle)
    assert [link.mode for link in low.links] == ["auto", "approval", "readonly"]
    assert low.within[-1] == PolicyRules("readonly", deny=(Rule("fs_*"),))
    assert (low.mode, low.deny) == ("auto", ())


def test_the_same_rules_are_kept_once() -> None:
    own = PermissionPolicy("approval")
    for _ in range(50):
        own = PermissionPolicy("approval").bounded(own)
    assert len(own.within) == 1


def test_a_template_may_bring_bounds_and_gets_more() -> None:
    given = PermissionPolicy(within=(PolicyRules("approval"),))
    assert [link.mode for link in given.bounded(STRICT).links] == ["auto", "approval", "readonly"]


def test_each_link_is_judged_by_itself() -> None:
    policy = PermissionPolicy(allow=(Rule("fs_write"),)).bounded(STRICT)
    verdicts = [judge(link, "fs_write", readonly=False, input=Json("{}")).verdict for link in policy.links]
    assert verdicts == ["allow", "deny"]


def test_bounds_are_stored_and_a_template_from_before_there_were_any_is_read() -> None:
    template = AgentTemplate("t", permission=PermissionPolicy("auto").bounded(STRICT))
    text, _ = encode_template(template)
    assert decode_template(text).permission == template.permission
    old = json.loads(text)
    del old["template"]["permission"]["within"]
    assert decode_template(Json(json.dumps(old))).permission == PermissionPolicy("auto")
    old["template"]["permission"]["within"] = [{"mode": "auto", "wider": True}]
    with pytest.raises(RecordCorruptError):
        decode_template(Json(json.dumps(old)))
