"""Recovery: what a new driver does to the effects that the last one left open.

Legal only under a fence above that of every open effect, so that no live driver is ever recovered from.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kode.core.errors import IllegalInputError
from kode.core.kernel.calls import close_step, require_approval, seal, start_call
from kode.core.kernel.draft import Draft
from kode.core.kernel.inputs import Resumed
from kode.core.kernel.step import stop
from kode.core.kernel.toolcall import Call
from kode.core.kernel.words import StopReason

__all__ = ["resumed"]

CRASHED = "The process that ran this tool ended before it answered."


def resumed(draft: Draft, got: Resumed) -> None:
    """Take over: ask again what may be asked again, judge each started call by its tool's ``recovery``."""
    _check(draft, got)
    if got.by_hand:
        draft.parked = None
    counts: dict[str, Any] = {"again": 0, "rerun": 0, "sealed": 0, "asked": 0}
    left_open = draft.effects
    if got.strategy == "crash" and draft.run is not None:
        counts["sealed"] = sum(not c.status.final for c in draft.calls)
        stop(draft, StopReason.INTERRUPTED, "The run was given up when the agent was resumed.")
    for effect in left_open:
        call = draft.call(effect.id)
        if call is not None:
            counts[_recover(draft, call)] += 1
        elif draft.effect(effect.id) is not None:
            counts["again"] += 1
            draft.start(replace(effect, attempt=draft.attempt()))
    close_step(draft)
    draft.note("agent_resumed", preview_of=got.reason, strategy=got.strategy, **counts)


def _check(draft: Draft, got: Resumed) -> None:
    if got.strategy == "manual":
        raise IllegalInputError("Resume strategy 'manual' takes no lease and applies no Resumed.")
    if draft.parked is not None and not got.by_hand:
        raise IllegalInputError(f"The agent is parked ({draft.parked.value}); only a resume by hand may drive it.")
    newest = max((e.attempt.fence for e in draft.effects), default=0)
    if draft.context.fence <= newest:
        raise IllegalInputError(
            f"Resumed under fence {draft.context.fence}, but an effect was asked under fence {newest}; "
            "acquire the lease again first."
        )


def _recover(draft: Draft, call: Call) -> str:
    how = call.plan.recovery
    if how == "retry":
        start_call(draft, call)
        return "rerun"
    if how == "ask":
        draft.close(call.id)
        require_approval(draft, call, f"{CRASHED} Run it again?", kind="recovery")
        return "asked"
    seal(draft, call, CRASHED)
    return "sealed"
