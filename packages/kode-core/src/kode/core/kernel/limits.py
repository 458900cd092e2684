"""Every bound as a setting. None means unbounded where the field allows it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from kode.core.errors import UsageError

__all__ = ["Limits", "narrower"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a template, agent, run or pool; where two are given the narrower one wins.

    Durations are float seconds, sizes are bytes, costs are units of the price table's currency.

    Raises:
        UsageError: A value is out of range; the message names the field, the value and what is allowed.
    """

    processing_timeout_s: float | None = 300.0
    """Working time of one run without human waits and down-time; then its calls are sealed and it ends."""
    tool_timeout_s: float | None = 120.0
    model_timeout_s: float | None = 600.0
    tool_buffer_size: int = 10_485_760
    """Bytes of output a tool's command may hold in memory: head and tail are kept."""
    max_tool_result_bytes: int = 100_000
    """Bytes of one result that enter the history; the cut is said in the result."""
    max_tool_concurrency: int = 3
    max_steps_per_run: int | None = 200
    max_tool_calls_per_run: int | None = 1_000
    max_tokens_per_run: int | None = None
    max_tokens_per_agent: int | None = None
    max_cost_per_run: float | None = None
    max_cost_per_agent: float | None = None
    max_agents: int = 50
    """Agents a pool keeps open."""
    max_inbox: int = 1_000
    """Messages that may wait; decisions, interrupts and resolutions are never refused."""
    max_message_bytes: int = 10_485_760
    max_subagent_depth: int = 3
    event_buffer: int = 10_000
    """Events a slow subscriber may be behind before it is moved to reading the store."""
    live_buffer_bytes: int = 1_048_576
    """Bytes of live deltas kept for who attaches in mid-stream."""
    approval_deadline_s: float | None = None
    cancel_grace_s: float = 5.0
    """Time a cancelled call has to report a real result."""
    max_recoveries: int = 5
    """Take-overs in a row without an answer committed; then the agent is parked (``crash_loop``)."""
    dedupe_for_s: float = 604_800.0
    """How long a consumed inbox id is remembered: 7 days."""
    lease_s: float = 30.0
    lease_margin_s: float = 5.0
    """Nothing is started with less than this left on the lease."""
    due_poll_s: float = 1.0
    """How often a pool looks for agents that must wake."""

    def __post_init__(self) -> None:
        for name, (low, high, whole, optional) in _RANGES.items():
            value = getattr(self, name)
            if value is None and optional:
                continue
            kind = int if whole else (int, float)
            if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
                allowed = f"{'a whole number' if whole else 'a number'} from {low:,.12g} to {high:,.16g}"
                raise UsageError(
                    f"Limits.{name} is {value!r}; give {allowed}{' or None' if optional else ''}.",
                    code="bad_limit",
                    field=name,
                    value=repr(value),
                )
        if self.lease_margin_s >= self.lease_s:
            raise UsageError(
                f"Limits.lease_margin_s is {self.lease_margin_s!r}; give less than lease_s ({self.lease_s!r}).",
                code="bad_limit",
                field="lease_margin_s",
                value=repr(self.lease_margin_s),
            )


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


def narrower(a: Limits, b: Limits) -> Limits:
    """Combine two sets: of each field the smaller value, where None is larger than any."""
    changes = {}
    for field in fields(Limits):
        x, y = getattr(a, field.name), getattr(b, field.name)
        changes[field.name] = y if x is None else x if y is None else min(x, y)
    return replace(a, **changes)
