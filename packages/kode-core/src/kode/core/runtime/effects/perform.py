"""From an effect to its answer.

Nothing in here raises for what a model, a tool or another agent does; that is what the inputs are for. Cancellation
passes through, and then there is no answer.
"""

from __future__ import annotations

import anyio

from kode.core.kernel.effects import CallModel, CompactHistory, Deliver, Effect, RunTool
from kode.core.kernel.inputs import Input
from kode.core.runtime.effects.deliver import deliver
from kode.core.runtime.effects.model import call_model
from kode.core.runtime.effects.tool import run_tool
from kode.core.runtime.effects.worker import Worker

__all__ = ["perform"]


async def perform(worker: Worker, effect: Effect) -> Input | None:
    """Do what the kernel asked for; None when it was dropped before it could answer."""
    try:
        if isinstance(effect, CallModel):
            return await call_model(worker, effect)
        if isinstance(effect, RunTool):
            return await run_tool(worker, effect)
        if isinstance(effect, Deliver):
            return await deliver(worker, effect)
        return await _compact(worker, effect)
    finally:
        worker.forget(effect.id)


async def _compact(worker: Worker, effect: CompactHistory) -> Input | None:
    with anyio.CancelScope() as scope:
        worker.enter(effect.id, scope)
        return await worker.context.compact(effect)
    return None
