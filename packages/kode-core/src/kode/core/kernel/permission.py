"""Permission as data: lists of rules and a mode, judged by a pure function.

Order, first match wins: deny rules, ask rules, allow rules, then the mode. Where ``exclusive`` is set, what no allow
rule names is denied. A rule is its owner's and an argument is the model's: what is too long to be searched is taken
for a match by deny and ask rules, and for none by allow rules. A sub-agent's policy lies within those of all above it:
each is judged by itself, and the strictest verdict counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from math import factorial
from typing import TYPE_CHECKING, Any, Literal

from kode.core.errors import UsageError
from kode.core.kernel.message import Json

__all__ = ["Judgement", "PermissionPolicy", "PolicyRules", "Rule", "judge"]

Mode = str
"""``auto``, ``approval``, ``readonly``, or the name of a mode registered in ``Dependencies``."""
MODES = frozenset({"auto", "approval", "readonly"})
MAX_SEARCHED = 10_000
"""Characters of an argument that patterns are held against at most: a model cannot make a search long at will."""
MAX_SEARCHED_NESTED = 24
"""The same for a pattern with a repeat around a repeat or a choice, where each more can double the work."""
STEPS = 50_000_000
"""What one search may take; less than a second."""
_PARTS = re.compile(
    r"""\\.                                    # escaped
    | \[\^?\]?(?:\\.|[^\]\\])*\]                # a class
    | (?P<open>\()\?? | (?P<close>\)) | (?P<choice>\|)
    | (?P<repeat>(?: (?P<once>\?) | [*+] | \{(?:(?P<least>\d*),)?(?P<most>\d*)\} ))[?+]?""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Rule:
    """Names tools by a glob and, if given, arguments by regular expressions that must all be found.

    ``Rule("bash_run", {"cmd": "^git "})`` matches calls of ``bash_run`` whose ``cmd`` starts with ``git``. An
    argument that is no text is searched as JSON: ``true``, ``3``, ``["a", "b"]``. One that is not given matches
    nothing. The more unbounded repeats a pattern has, the fewer characters of an argument it is held against, so that
    no search is a long one: see ``searched``.

    Raises:
        UsageError: ``bad_rule``: a pattern does not compile, or something is no text.
    """

    tool: str
    arguments: tuple[tuple[str, str], ...] = ()
    """Names of arguments and what must be found in them."""

    if TYPE_CHECKING:

        def __init__(self, tool: str, arguments: Mapping[str, str] | Sequence[tuple[str, str]] = ()) -> None:
            """Take pairs, or a dict."""

    def __post_init__(self) -> None:
        pairs = _pairs(self.arguments)
        if not isinstance(self.tool, str) or not self.tool or pairs is None:
            raise UsageError(
                f"Rule({self.tool!r}, {self.arguments!r}) is none; give the name of a tool, and pairs of an argument's "
                "name and a pattern.",
                code="bad_rule",
            )
        object.__setattr__(self, "arguments", pairs)
        for name, pattern in pairs:
            try:
                re.compile(pattern)
            except (re.error, OverflowError, RecursionError) as error:
                raise UsageError(
                    f"Rule for {self.tool!r}: the pattern {pattern!r} for {name!r} is no regular expression: {error}.",
                    code="bad_rule",
                ) from None

    def matches(self, tool: str, arguments: Mapping[str, Any], *, unsearched: bool = False) -> bool:
        """Whether this rule speaks of that call. ``unsearched``: what to say of an argument that is too long."""
        return fnmatchcase(tool, self.tool) and all(
            name in arguments and _found(pattern, arguments[name], unsearched) for name, pattern in self.arguments
        )


def _pairs(given: Any) -> tuple[tuple[str, str], ...] | None:
    """What was given as pairs of texts; None: it is something else."""
    pairs = list(given.items()) if isinstance(given, dict) else given
    if not isinstance(pairs, list | tuple) or any(not isinstance(pair, list | tuple) for pair in pairs):
        return None
    if any(len(pair) != 2 or not all(isinstance(text, str) for text in pair) for pair in pairs):
        return None
    return tuple((name, pattern) for name, pattern in pairs)


def _found(pattern: str, value: Any, unsearched: bool) -> bool:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return unsearched if len(text) > searched(pattern) else re.search(pattern, text) is not None


@lru_cache(maxsize=1_024)
def searched(pattern: str) -> int:
    """How many characters of an argument a pattern is held against, at most ``MAX_SEARCHED``.

    A search of n characters tries in the order of n^k / k! ways to place k repeats; where the match may begin is one
    more, unless the pattern begins with ``^`` and has no ``|``. Only the pattern's text is looked at: what cannot be
    told apart from a repeat counts as one.
    """
    free = 0 if pattern.startswith(("^", "\\A")) and "|" not in pattern else 1
    groups = [False]
    closed = (-1, False)  # where the last group ended, and whether it repeats or chooses
    for part in _PARTS.finditer(pattern):
        if part["open"]:
            groups.append(False)
        elif part["close"]:
            inner = len(groups) > 1 and groups.pop()
            groups[-1] |= inner
            closed = (part.end(), inner)
        elif part["choice"] or part["once"]:
            groups[-1] = True
        elif part["repeat"]:
            if closed == (part.start(), True):
                return MAX_SEARCHED_NESTED
            free += _is_open(part)
            groups[-1] = True
    ways = max(free, 1)
    return min(MAX_SEARCHED, int((STEPS * factorial(ways)) ** (1 / ways)))


def _is_open(repeat: re.Match[str]) -> bool:
    """Whether a repeat has no bound, or a high one."""
    most = repeat["most"]
    return most is None or (repeat["least"] is not None and not (most and int(most) < 10))


@dataclass(frozen=True, slots=True)
class PolicyRules:
    """One agent's own word about its tools.

    Raises:
        UsageError: ``bad_rule``: a list holds something that is no ``Rule``, or the mode is no text.
    """

    mode: Mode = "auto"
    deny: tuple[Rule, ...] = ()
    ask: tuple[Rule, ...] = ()
    allow: tuple[Rule, ...] = ()
    exclusive: bool = False
    """Deny every tool that no allow rule names."""

    def __post_init__(self) -> None:
        for name in ("deny", "ask", "allow"):
            rules: Any = getattr(self, name)
            if not isinstance(rules, list | tuple) or not all(isinstance(rule, Rule) for rule in rules):
                raise UsageError(f"{name} is {rules!r}; give a list of Rule(…).", code="bad_rule", field=name)
            object.__setattr__(self, name, tuple(rules))
        if not isinstance(self.mode, str):
            raise UsageError(f"mode is {self.mode!r}; give the name of a mode.", code="bad_rule", field="mode")


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
    denied = _spoken_of(policy.deny, tool, arguments)
    if denied is not None:
        return Judgement("deny", f"The policy denies {tool}{denied}.")
    asked = _spoken_of(policy.ask, tool, arguments)
    if asked is not None:
        return Judgement("ask", f"The policy asks before {tool}{asked}.")
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


def _spoken_of(rules: tuple[Rule, ...], tool: str, arguments: Mapping[str, Any]) -> str | None:
    """What more to say where one of these rules speaks of that call, or may; None: none does."""
    some = [rule for rule in rules if rule.matches(tool, arguments, unsearched=True)]
    if not some:
        return None
    sure = any(rule.matches(tool, arguments) for rule in some)
    return "" if sure else ", for an argument is longer than what the rule's pattern is held against"
