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
from kode.core.kernel.toolcall import Call, CallStatus
from kode.core.kernel.words import StopReason

__all__ = ["resumed"]

CRASHED = "The process that ran this tool ended before it answered."


def resumed(draft: Draft, got: Resumed) -> None:
    """Take over: ask again what may be asked again, judge each started call by its tool's ``recovery``."""
    _check(draft, got)
    if got.by_hand:
        draft.parked = None
    left_open = draft.effects
    given_up = got.strategy == "crash" and draft.run is not None
    counts = _given_up(draft) if given_up else _taken_over(draft)
    draft.note("agent_resumed", preview_of=got.reason, strategy=got.strategy, **counts)
    if given_up:
        stop(draft, StopReason.INTERRUPTED, "The run was given up when the agent was resumed.")
    for effect in left_open:
        call = draft.call(effect.id)
        if call is not None:
            _recover(draft, call)
        elif draft.effect(effect.id) is not None:
            draft.start(replace(effect, attempt=draft.attempt()))
    close_step(draft)


def _given_up(draft: Draft) -> dict[str, Any]:
    deliveries = sum(e.kind == "Deliver" for e in draft.effects)
    return {
        "again": deliveries,
        "rerun": 0,
        "sealed": sum(not c.status.final for c in draft.calls),
        "asked": 0,
    }


def _taken_over(draft: Draft) -> dict[str, Any]:
    how = [c.plan.recovery for c in draft.calls if c.status is CallStatus.EXECUTING]
    again = len(draft.effects) - len(how)
    return {
        "again": again,
        "rerun": how.count("retry"),
        "sealed": how.count("seal"),
        "asked": how.count("ask"),
    }


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


def _recover(draft: Draft, call: Call) -> None:
    if call.plan.recovery == "retry":
        start_call(draft, call)
    elif call.plan.recovery == "ask":
        draft.close(call.id)
        require_approval(draft, call, f"{CRASHED} Run it again?", kind="recovery")
    else:
        seal(draft, call, CRASHED)
