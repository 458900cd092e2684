"""Another agent is told something: an answer for its caller, or that it is to stop."""

from __future__ import annotations

from kode.core.errors import NotFoundError, UsageError
from kode.core.event.hub import switchboard
from kode.core.kernel.effects import Deliver
from kode.core.kernel.inputs import CallResolved, Delivered, Input, InterruptRequested
from kode.core.kernel.message import ResultContent, TextBlock
from kode.core.kernel.state import RunError
from kode.core.runtime.effects.cap import cap
from kode.core.runtime.effects.worker import Worker
from kode.core.store.records import input_item

__all__ = ["deliver"]


async def deliver(worker: Worker, effect: Deliver) -> Input:
    """Put it into the other agent's inbox; whether it is there, or why it cannot be."""
    try:
        answer = await _answer(worker, effect)
        now = await worker.store.now()
        item = input_item(answer, at=now)
        await worker.store.enqueue(effect.target, item, uid=effect.uid)
    except NotFoundError:
        return Delivered(effect.id, "gone")
    except UsageError as error:
        return Delivered(effect.id, "error", RunError(error.code, error.message))
    switchboard(worker.store, effect.target).ring()
    if effect.item_kind == "interrupt":
        worker.interrupted.add(effect.target)
    return Delivered(effect.id)


async def _answer(worker: Worker, effect: Deliver) -> CallResolved | InterruptRequested:
    if effect.item_kind == "interrupt" or effect.call is None or effect.run is None:
        return InterruptRequested(effect.item_id, "The call that waited for this agent was closed.", "parent")
    record = await worker.store.read_run(worker.resident.agent_id, effect.run)
    if record is None:
        content: tuple[ResultContent, ...] = (TextBlock("The sub-agent ended without an answer."),)
        return CallResolved(effect.item_id, effect.call, content, True)
    said: tuple[ResultContent, ...] = ()
    if record.answer_seq is not None:
        found = await worker.store.read_messages(
            worker.resident.agent_id, after=record.answer_seq - 1, before=record.answer_seq + 1
        )
        said = tuple(b for m in found.items for b in m.blocks if isinstance(b, TextBlock))
    failed = record.status != "ok"
    if failed or not said:
        why = record.stop_reason.value if record.error is None else record.error.text
        how = "failed" if record.status == "error" else "did not finish" if failed else "answered nothing"
        said = (TextBlock(f"The sub-agent {how}: {why}"), *said)
    content, _ = cap(said, worker.limits.max_tool_result_bytes)
    return CallResolved(effect.item_id, effect.call, content, failed, record.usage)
