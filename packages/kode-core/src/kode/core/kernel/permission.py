"""Permission as data: lists of rules and a mode, judged by a pure function.

Order, first match wins: deny rules, ask rules, allow rules, then the mode. When allow rules are given and
``exclusive`` is set, what they do not name is denied. A sub-agent's policy lies within those of all above it: each is
judged by itself, and the strictest verdict counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

from kode.core.errors import UsageError
from kode.core.kernel.message import Json

__all__ = ["Judgement", "PermissionPolicy", "PolicyRules", "Rule", "judge"]

Mode = str
"""``auto``, ``approval``, ``readonly``, or the name of a mode registered in ``Dependencies``."""
MODES = frozenset({"auto", "approval", "readonly"})


@dataclass(frozen=True, slots=True)
class Rule:
    """Names tools by a glob and, if given, arguments by regular expressions that must all be found.

    ``Rule("bash_run", {"cmd": "^git "})`` matches calls of ``bash_run`` whose ``cmd`` starts with ``git``.

    Raises:
        UsageError: A pattern does not compile.
    """

    tool: str
    arguments: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for name, pattern in self.arguments:
            try:
                re.compile(pattern)
            except re.error as error:
                raise UsageError(
                    f"Rule for {self.tool!r}: the pattern {pattern!r} for {name!r} is no regular expression: {error}.",
                    code="bad_rule",
                ) from None

    def matches(self, tool: str, arguments: Mapping[str, Any]) -> bool:
        """Whether this rule speaks of that call."""
        return fnmatchcase(tool, self.tool) and all(
            name in arguments and re.search(pattern, _text(arguments[name])) is not None
            for name, pattern in self.arguments
        )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class PolicyRules:
    """One agent's own word about its tools."""

    mode: Mode = "auto"
    deny: tuple[Rule, ...] = ()
    ask: tuple[Rule, ...] = ()
    allow: tuple[Rule, ...] = ()
    exclusive: bool = False
    """Deny every tool that no allow rule names."""


@dataclass(frozen=True, slots=True)
class PermissionPolicy(PolicyRules):
    """What an agent's tools may do without being asked."""

    within: tuple[PolicyRules, ...] = ()
    """The rules of those that it works for, its parent's first; none of them can be got around."""

    @property
    def links(self) -> tuple[PolicyRules, ...]:
        """Its own rules and all that they lie within."""
        return (self, *self.within)

    def bounded(self, by: PermissionPolicy) -> PermissionPolicy:
        """The same policy, within another one and all that that one lies within."""
        rules = PolicyRules(**{one.name: getattr(by, one.name) for one in fields(PolicyRules)})
        return replace(self, within=tuple(dict.fromkeys((*self.within, rules, *by.within))))


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict and why."""

    verdict: Literal["allow", "ask", "deny", "custom"]
    """``custom``: the mode is none of ours; the shell asks the registered one and fails closed."""
    reason: str | None = None


def judge(policy: PolicyRules, tool: str, *, readonly: bool, input: Json) -> Judgement:
    """Judge one call by one link of a policy. Pure; the same call under the same rules gets the same answer."""
    arguments = json.loads(input) if policy.deny or policy.ask or policy.allow else {}
    if not isinstance(arguments, dict):
        arguments = {}
    if any(rule.matches(tool, arguments) for rule in policy.deny):
        return Judgement("deny", f"The policy denies {tool}.")
    if any(rule.matches(tool, arguments) for rule in policy.ask):
        return Judgement("ask", f"The policy asks before {tool}.")
    if any(rule.matches(tool, arguments) for rule in policy.allow):
        return Judgement("allow")
    if policy.exclusive:
        return Judgement("deny", f"The policy allows only what it names, and {tool} is not named.")
    if policy.mode == "auto":
        return Judgement("allow")
    if policy.mode == "approval":
        return Judgement("ask", f"Mode approval asks before {tool}.")
    if policy.mode == "readonly":
        return (
            Judgement("allow") if readonly else Judgement("deny", f"Mode readonly denies {tool}: it may change things.")
        )
    return Judgement("custom")
