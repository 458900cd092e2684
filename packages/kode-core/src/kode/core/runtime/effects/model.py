"""The model is asked until there is a reply, with the hooks around it; the reply comes with its plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import anyio

from kode.core.errors import ProviderError, UsageError
from kode.core.event.base import Envelope
from kode.core.jsontext import canonical
from kode.core.kernel.effects import Attempt, CallModel
from kode.core.kernel.events import Event, preview
from kode.core.kernel.inputs import Input, ModelFailed, ModelReplied, PlannedCall
from kode.core.kernel.message import Json, Message, TextBlock, ToolUseBlock, Usage
from kode.core.kernel.state import RunError
from kode.core.kernel.words import StopReason
from kode.core.provider.assemble import Assembler, Reply, Shown
from kode.core.provider.base import ModelRequest
from kode.core.provider.failure import provider_error, stop_for
from kode.core.provider.retry import RetryPolicy, next_delay
from kode.core.runtime.effects.cap import cap
from kode.core.runtime.effects.worker import Worker
from kode.core.runtime.plan import plan_calls
from kode.core.tools.base import is_failure

__all__ = ["call_model"]


@dataclass(slots=True)
class _Asking:
    """One model call in progress: which attempt it is at, and what was used by replies that are not its answer."""

    attempt: Attempt
    shown: Sequence[Message] = ()
    """The messages as the context gave them; hooks may put others in their place."""
    unused: Usage = Usage()
    last: Usage = Usage()
    _begun: bool = False

    def next(self) -> str:
        """Number the next try."""
        if self._begun:
            self.attempt = replace(self.attempt, n=self.attempt.n + 1)
        self._begun = True
        return str(self.attempt)

    def used(self, usage: Usage) -> None:
        """Count what the last try used."""
        self.unused += self.last
        self.last = usage


async def call_model(worker: Worker, effect: CallModel) -> Input | None:
    """Ask the model, and plan what it calls; None when the effect was dropped."""
    with anyio.CancelScope() as scope:
        worker.enter(effect.id, scope)
        return await _replied(worker, effect)
    return None


async def _replied(worker: Worker, effect: CallModel) -> Input:
    """The reply and its plan, with all hooks about it asked; or how it failed."""
    chain, asking = worker.chain, _Asking(effect.attempt)
    try:
        request = await _request(worker, effect)
        asking.shown = request.messages
        request = await chain.before_model(request)
        reply = await chain.ask_model(request, partial(_ask_often, worker, asking))
        reply = await chain.after_model(request, reply)
        blocks = await worker.media.kept(reply.blocks)
        if blocks is not reply.blocks:
            reply = replace(reply, blocks=blocks)
    except ProviderError as error:
        final = RunError(error.code, error.message, error.retryable)
        return ModelFailed(effect.id, final, stop_for(error), asking.unused + asking.last)
    planned = await plan_calls(worker.binding, reply, chain, worker.resident.state)
    calls = tuple(_bounded(worker, call) for call in planned)
    output = None if worker.binding.output is None else _structured(reply, worker.note)
    return ModelReplied(
        effect.id, reply.blocks, reply.stop, reply.usage + asking.unused, calls,
        reply.provider, reply.model, str(asking.attempt), output, tokens=await worker.context.counted(request, reply),
    )  # fmt: skip


def _bounded(worker: Worker, call: PlannedCall) -> PlannedCall:
    """Hold a result that a hook gave to the bound of every result."""
    if call.answer is None:
        return call
    return replace(call, answer=cap(call.answer, worker.limits.max_tool_result_bytes)[0])


def _structured(reply: Reply, note: Callable[[Event], None]) -> Json | None:
    """The JSON value that a final reply consists of; None while calls are open, or if it was cut off or is no JSON.

    The provider makes the model keep to the schema; what is checked here is that there is a value to hand on. A reply
    that is none stays readable as text, and an event says so (``bad_output``).
    """
    if reply.stop is not StopReason.END_TURN or any(isinstance(block, ToolUseBlock) for block in reply.blocks):
        return None
    text = "".join(block.text for block in reply.blocks if isinstance(block, TextBlock)).strip()
    if text.startswith("```") and text.endswith("```"):
        # Models without a mode for it put JSON into a fence, with or without a word behind the opening one.
        text = text[3:-3].removeprefix("json").strip()
    try:
        return canonical(text)
    except UsageError as error:
        note(Event("error", preview=error.message, data={"code": "bad_output", "phase": "model"}))
        return None


async def _ask_often(worker: Worker, asking: _Asking, request: ModelRequest) -> Reply:
    """Ask until there is a reply or the policy gives up. Each try is an attempt of its own number."""
    policy = worker.deps.retry or RetryPolicy()
    began = worker.clock.monotonic()
    tried, why = 0, ""
    while True:
        tried += 1
        assembler = Assembler(worker.binding.provider.name, request.model)
        try:
            places = worker.context.showing.holding(asking.shown) if request.messages is asking.shown else None
            ready = await worker.media.ready(request, places)
            reply = await _ask(worker, ready, asking.next(), assembler, why)
        except ProviderError as error:
            elapsed = worker.clock.monotonic() - began
            delay = next_delay(policy, error, tried=tried, elapsed_s=elapsed, draw=worker.deps.random())
            if delay is None and await worker.media.forget(error):
                delay = 0.0
            if delay is None:
                asking.used(assembler.usage)
                raise
            why = preview(error.message)
            worker.note(Event("error", preview=why, data={"code": error.code, "phase": "retry"}))
        else:
            asking.used(reply.usage)
            return reply
        await worker.clock.sleep(delay)


async def _ask(worker: Worker, request: ModelRequest, attempt: str, assembler: Assembler, why: str) -> Reply:
    """Ask once. ``why``: what became of the try before; watchers are told now, not with the next commit."""
    hub, provider = worker.hub, worker.binding.provider
    withheld = worker.chain.withholds  # what a strict set might change is nobody's to see before
    hub.step, hub.attempt, hub.reply = worker.resident.state.step, attempt, None if withheld else assembler
    hub.show_thinking = worker.binding.template.expose_thinking
    worker.live("attempt_started", attempt, why=why)
    try:
        with worker.clock.move_on_after(request.timeout_s):
            async with provider.stream(request) as chunks:
                async for chunk in chunks:
                    shown = assembler.feed(chunk)
                    if shown is not None and not withheld:
                        _show(worker, shown, attempt)
            return assembler.finish()
        raise provider_error(
            "timeout", f"{provider.name} did not answer within {request.timeout_s} s; raise Limits.model_timeout_s."
        )
    except ProviderError:
        raise
    except (Exception, anyio.get_cancelled_exc_class()) as error:
        if not is_failure(error):
            raise
        raise provider_error(
            "protocol", f"Provider {provider.name} failed with {type(error).__name__}: {error}"
        ) from error
    finally:
        hub.reply = hub.attempt = None


async def _request(worker: Worker, effect: CallModel) -> ModelRequest:
    template, state = worker.binding.template, worker.resident.state
    return ModelRequest(
        model=worker.binding.provider.model,
        messages=await worker.context.shown(effect.upto),
        system=worker.binding.system,
        tools=worker.binding.specs,
        max_tokens=template.max_output_tokens,
        temperature=template.temperature,
        output_schema=worker.binding.output,
        reasoning=worker.binding.reasoning,
        cache_key=state.uid,
        agent_id=state.agent_id,
        idempotency_key=f"{state.uid}:{effect.id}",
        timeout_s=effect.timeout_s,
    )


def _show(worker: Worker, shown: Shown, attempt: str) -> None:
    if shown.kind == "think" and not worker.binding.template.expose_thinking:
        return
    hub, step = worker.hub, worker.hub.step
    cursor = hub.cursor or 0
    if shown.opens:
        start = Event(_START[shown.kind], step=step)
        hub.publish_live(Envelope(hub.agent_id, start, cursor, attempt, shown.block, 0))
    if shown.text:
        chunk = Event(_CHUNK[shown.kind], step=step)
        end = shown.offset + len(shown.text)
        hub.publish_live(Envelope(hub.agent_id, chunk, cursor, attempt, shown.block, end, shown.text))


_START = {"text": "text_chunk_start", "think": "think_chunk_start"}
_CHUNK = {"text": "text_chunk", "think": "think_chunk"}
