"""Every bound as a setting. None means unbounded where the field allows it."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from operator import attrgetter
from typing import Any

from kode.core.errors import UsageError
from kode.core.kernel.message import Json

__all__ = [
    "Limits",
    "laid_over",
    "limits_of",
    "limits_text",
    "named",
    "narrowed",
    "narrower",
    "only_named",
    "unlike_defaults",
]


class _Seconds(float):
    """A default that nobody spoke out: it yields to whoever does."""


class _Count(int):
    """A default that nobody spoke out: it yields to whoever does."""


@dataclass(frozen=True, slots=True, eq=False)
class Limits:
    """Bounds of a template, agent, run or pool; where two name the same field, the narrower one wins.

    A field that is left at its default binds only where nobody else names it: a template that says nothing of
    ``tool_timeout_s`` does not keep an agent from asking for more. So a default and the same value spoken out are two
    things, and not equal. Durations are float seconds, sizes are bytes, costs are units of the price table's currency.

    Raises:
        UsageError: A value is out of range; the message names the field, the value and what is allowed.
    """

    processing_timeout_s: float | None = _Seconds(300.0)
    """Working time of one run without human waits and down-time; then its calls are sealed and it ends."""
    tool_timeout_s: float | None = _Seconds(120.0)
    """Seconds for one call whose tool names none of its own, and for a sandbox to open."""
    model_timeout_s: float | None = _Seconds(600.0)
    """Seconds for one try of a model's reply, from the request to its last byte."""
    tool_buffer_size: int = _Count(10_485_760)
    """Bytes of output a tool's command may hold in memory: head and tail are kept."""
    max_tool_result_bytes: int = _Count(100_000)
    """Bytes of one result that enter the history; the cut is said in the result."""
    max_tool_concurrency: int = _Count(3)
    max_steps_per_run: int | None = _Count(200)
    max_tool_calls_per_run: int | None = _Count(1_000)
    max_tokens_per_run: int | None = None
    max_tokens_per_agent: int | None = None
    max_cost_per_run: float | None = None
    max_cost_per_agent: float | None = None
    max_agents: int = _Count(50)
    """Agents a pool keeps open."""
    max_inbox: int = _Count(1_000)
    """Messages that may wait, and as many instructions; decisions, interrupts and resolutions are never refused."""
    max_message_bytes: int = _Count(10_485_760)
    """Bytes of one message as the inbox stores it; larger ones are refused."""
    max_subagent_depth: int = _Count(3)
    event_buffer: int = _Count(10_000)
    """Events a slow subscriber may be behind before it is moved to reading the store."""
    live_buffer_bytes: int = _Count(1_048_576)
    """Bytes of live deltas kept for who attaches in mid-stream."""
    approval_deadline_s: float | None = None
    """Seconds a question to a person stays open; after that its call is denied. None: for ever."""
    cancel_grace_s: float = _Seconds(5.0)
    """Time a cancelled call has to report a real result."""
    max_recoveries: int = _Count(5)
    """Take-overs in a row without an answer committed; then the agent is parked (``crash_loop``)."""
    dedupe_for_s: float = _Seconds(604_800.0)
    """How long a consumed inbox id is remembered: 7 days."""
    lease_s: float = _Seconds(30.0)
    """Term of a driver's lease; renewed at half of it. As long, at most, a dead driver on another machine holds up."""
    lease_margin_s: float = _Seconds(5.0)
    """Nothing is started with less than this left on the lease."""
    due_poll_s: float = _Seconds(1.0)
    """How often somebody here looks for what another process did: a driver into its inbox, a pool for who is due, a
    subscriber and `run()` for what another driver wrote."""

    def __post_init__(self) -> None:
        for name, (low, high, whole, optional) in _RANGES.items():
            value = getattr(self, name)
            if value is None and optional:
                continue
            kind = int if whole else (int, float)
            if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
                allowed = f"{'a whole number' if whole else 'a number'} from {low:,.12g} to {high:,.16g}"
                raise _bad(name, value, f"{allowed}{' or None' if optional else ''}")
        if isinstance(self.lease_margin_s, _Seconds):
            object.__setattr__(self, "lease_margin_s", _Seconds(min(5.0, self.lease_s / 6)))
        if self.lease_margin_s >= self.lease_s:
            raise _bad("lease_margin_s", self.lease_margin_s, f"less than lease_s ({self.lease_s!r})")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Limits) and _values(self) == _values(other) and named(self) == named(other)

    def __hash__(self) -> int:
        return hash(_values(self))


def _bad(name: str, value: object, allowed: str) -> UsageError:
    # Python refuses to write down a number of thousands of digits.
    huge = isinstance(value, int) and value.bit_length() > 400
    shown = "a number of more than 100 digits" if huge else repr(value)[:100]
    return UsageError(f"Limits.{name} is {shown}; give {allowed}.", code="bad_limit", field=name, value=shown)


_DAY = 86_400.0
_BIG = 2**53
# field: lowest, highest, whole number?, may be None?
_RANGES: dict[str, tuple[float, float, bool, bool]] = {
    "processing_timeout_s": (0.001, 365 * _DAY, False, True),
    "tool_timeout_s": (0.001, 365 * _DAY, False, True),
    "model_timeout_s": (0.001, 365 * _DAY, False, True),
    "tool_buffer_size": (1_024, _BIG, True, False),
    "max_tool_result_bytes": (256, _BIG, True, False),
    "max_tool_concurrency": (1, 1_000, True, False),
    "max_steps_per_run": (1, _BIG, True, True),
    "max_tool_calls_per_run": (0, _BIG, True, True),
    "max_tokens_per_run": (1, _BIG, True, True),
    "max_tokens_per_agent": (1, _BIG, True, True),
    "max_cost_per_run": (0, 1e9, False, True),
    "max_cost_per_agent": (0, 1e9, False, True),
    "max_agents": (1, 1_000_000, True, False),
    "max_inbox": (1, _BIG, True, False),
    "max_message_bytes": (1, _BIG, True, False),
    "max_subagent_depth": (0, 100, True, False),
    "event_buffer": (1, _BIG, True, False),
    "live_buffer_bytes": (0, _BIG, True, False),
    "approval_deadline_s": (0.001, 3650 * _DAY, False, True),
    "cancel_grace_s": (0, 3_600, False, False),
    "max_recoveries": (1, 1_000, True, False),
    "dedupe_for_s": (0, 3650 * _DAY, False, False),
    "lease_s": (0.05, _DAY, False, False),
    "lease_margin_s": (0, _DAY, False, False),
    "due_poll_s": (0.001, _DAY, False, False),
}


_SILENT = frozenset(field.name for field in fields(Limits) if field.default is None)
"""Fields whose None says nothing: it is their default."""
_values = attrgetter(*_RANGES)


def _said(name: str, value: object) -> bool:
    return name not in _SILENT if value is None else not isinstance(value, _Seconds | _Count)


def named(limits: Limits) -> tuple[str, ...]:
    """The fields that somebody spoke out; the others are at their defaults."""
    return tuple(name for name, value in zip(_RANGES, _values(limits), strict=True) if _said(name, value))


def only_named(limits: Limits, names: Collection[str]) -> Limits:
    """The same values, of which only these were spoken out: what reading stored values cannot tell by itself."""
    silent: dict[str, Any] = {}
    for name in _RANGES:
        value = getattr(limits, name)
        if value is not None and name not in names:
            silent[name] = _Count(value) if _RANGES[name][2] else _Seconds(value)
    return replace(limits, **silent)


def unlike_defaults(limits: Limits) -> tuple[str, ...]:
    """The fields that differ from the defaults of this version: what stored values tell that do not say more."""
    pairs = zip(_RANGES, _values(limits), _values(Limits()), strict=True)
    return tuple(name for name, value, default in pairs if value != default)


def narrower(a: Limits, b: Limits) -> Limits:
    """Combine two sets: of a field that both name the smaller value, where None is larger than any.

    A margin that does not fit into the shorter lease becomes that lease's usual one.
    """
    ours, theirs = set(named(a)), set(named(b))
    changes: dict[str, Any] = {}
    for name in theirs:
        x, y = getattr(a, name), getattr(b, name)
        changes[name] = y if x is None or name not in ours else x if y is None else min(x, y)
    lease, margin = (changes.get(name, getattr(a, name)) for name in ("lease_s", "lease_margin_s"))
    if margin >= lease:
        changes["lease_margin_s"] = _Seconds(margin)
    return replace(a, **changes)


def limits_text(limits: Limits) -> Json:
    """The fields that were named, as a JSON object: what a message or an instruction carries."""
    return Json(json.dumps({name: getattr(limits, name) for name in named(limits)}, separators=(",", ":")))


@lru_cache(maxsize=256)
def limits_of(text: Json) -> Limits:
    """Read what ``limits_text`` wrote.

    Raises:
        UsageError: It is no JSON object, or a field has a wrong value; ``unknown_limit``: there is no such field here.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UsageError(f"Limits are {text[:100]!r}; give a JSON object of Limits fields.", code="bad_limit")
    strange = sorted(set(found) - set(_RANGES))
    if strange:
        name = strange[0][:100]
        unknown = f"Limits has no field {name!r}; it has {', '.join(_RANGES)}."
        raise UsageError(unknown, code="unknown_limit", field=name)
    return Limits(**found)


def laid_over(limits: Limits, text: Json) -> Limits:
    """``limits`` with the fields of a JSON object in the place of its own, wider ones too.

    Raises:
        UsageError: As ``limits_of``, or the whole does not fit together.
    """
    limits_of(text)
    return replace(limits, **json.loads(text))


@lru_cache(maxsize=256)
def narrowed(limits: Limits, text: Json) -> Limits:
    """``limits`` within what a run brought along.

    Raises:
        UsageError: As ``limits_of``.
    """
    return narrower(limits, limits_of(text))
