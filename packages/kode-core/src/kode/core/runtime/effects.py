"""Effects: each is carried out once per attempt and answers with exactly one input.

Nothing in here raises for what a model, a tool or another agent does; that is what the inputs are for. Cancellation
passes through, and then there is no answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import anyio

from kode.core.clock import Clock
from kode.core.config import Dependencies
from kode.core.errors import NotFoundError, ProviderError, UsageError
from kode.core.event.base import Envelope
from kode.core.event.hub import Hub, switchboard
from kode.core.kernel.effects import CallModel, CompactHistory, Deliver, Effect, RunTool
from kode.core.kernel.events import Event, preview
from kode.core.kernel.inputs import (
    CallResolved,
    Delivered,
    HistoryCompacted,
    Input,
    InterruptRequested,
    ModelFailed,
    ModelReplied,
    ToolFinished,
    ToolSuspended,
)
from kode.core.kernel.limits import Limits
from kode.core.kernel.message import Json, ResultContent, TextBlock
from kode.core.kernel.state import RunError
from kode.core.kernel.toolcall import Call
from kode.core.provider.assemble import Assembler, Reply, Shown
from kode.core.provider.base import ModelRequest
from kode.core.provider.failure import provider_error, stop_for
from kode.core.provider.retry import RetryPolicy, next_delay
from kode.core.runtime.binding import Binding
from kode.core.runtime.compaction import digest_of
from kode.core.runtime.documents import documents_of
from kode.core.runtime.plan import plan_calls
from kode.core.runtime.resident import Resident
from kode.core.store.base import Store
from kode.core.store.records import input_item
from kode.core.tools.base import Suspended, ToolContext, ToolOutcome
from kode.core.tools.documents import Documents

__all__ = ["Worker"]

MAX_EMIT = 16_384
"""Characters of an event that a tool emits: events are for watchers, not for data."""


@dataclass(slots=True)
class Worker:
    """Carries out one agent's effects under one lease."""

    resident: Resident
    binding: Binding
    deps: Dependencies
    hub: Hub
    limits: Limits
    note: Callable[[Event], None]
    """Takes durable events that ride in the next commit."""
    documents: Documents = field(init=False)
    """What the tools remember. It ends with the drive: what an abandoned tool puts later goes nowhere."""
    _scopes: dict[str, anyio.CancelScope] = field(default_factory=dict)
    _dropped: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.documents = documents_of(self.resident, self.store)

    @property
    def clock(self) -> Clock:
        """Where time comes from."""
        return self.deps.clock

    @property
    def store(self) -> Store:
        """Where the agent lives."""
        return self.deps.store

    def drop(self, id: str) -> None:
        """Cancel an effect: its answer is not wanted. One that is not to be stopped may still give it."""
        self._dropped.add(id)
        scope = self._scopes.get(id)
        if scope is not None:
            scope.cancel()

    def _enter(self, id: str, scope: anyio.CancelScope) -> None:
        self._scopes[id] = scope
        if id in self._dropped:
            scope.cancel()

    async def perform(self, effect: Effect) -> Input | None:
        """Do what the kernel asked for; None when it was dropped before it could answer."""
        if isinstance(effect, CallModel):
            return await self._call_model(effect)
        if isinstance(effect, RunTool):
            return await self._run_tool(effect)
        if isinstance(effect, Deliver):
            return await self._deliver(effect)
        return await self._compact(effect)

    # ---- the model --------------------------------------------------------------------------------------------

    async def _call_model(self, effect: CallModel) -> Input | None:
        policy = self.deps.retry or RetryPolicy()
        began = self.clock.monotonic()
        attempt = effect.attempt
        tried, why = 0, ""
        while True:
            tried += 1
            assembler = Assembler(self.binding.provider.name, self.binding.provider.model)
            try:
                reply = await self._ask(effect, str(attempt), assembler, why)
            except ProviderError as error:
                elapsed = self.clock.monotonic() - began
                delay = next_delay(policy, error, tried=tried, elapsed_s=elapsed, draw=self.deps.random())
                if delay is None:
                    final = RunError(error.code, error.message, error.retryable)
                    return ModelFailed(effect.id, final, stop_for(error), assembler.usage)
                why = preview(error.message)
                self.note(Event("error", preview=why, data={"code": error.code, "phase": "retry"}))
                with anyio.CancelScope() as scope:
                    self._enter(effect.id, scope)
                    await self.clock.sleep(delay)
                attempt = replace(attempt, n=attempt.n + 1)
                if effect.id not in self._dropped:
                    continue
                return None
            if reply is None:
                return None
            return ModelReplied(
                effect.id, reply.blocks, reply.stop, reply.usage, plan_calls(self.binding, reply),
                reply.provider, reply.model, str(attempt),
            )  # fmt: skip

    async def _ask(self, effect: CallModel, attempt: str, assembler: Assembler, why: str) -> Reply | None:
        """Ask once. ``why``: what became of the try before; watchers are told now, not with the next commit."""
        hub, provider = self.hub, self.binding.provider
        request = await self._request(effect)
        hub.step, hub.attempt, hub.reply = self.resident.state.step, attempt, assembler
        hub.show_thinking = self.binding.template.expose_thinking
        self._live("attempt_started", attempt, why=why)
        try:
            with self.clock.move_on_after(effect.timeout_s) as scope:
                self._enter(effect.id, scope)
                async with provider.stream(request) as chunks:
                    async for chunk in chunks:
                        shown = assembler.feed(chunk)
                        if shown is not None:
                            self._show(shown, attempt)
                return assembler.finish()
            if effect.id in self._dropped:
                return None
            raise provider_error(
                "timeout", f"{provider.name} did not answer within {effect.timeout_s} s; raise Limits.model_timeout_s."
            )
        except ProviderError:
            raise
        except Exception as error:
            raise provider_error(
                "protocol", f"Provider {provider.name} failed with {type(error).__name__}: {error}"
            ) from error
        finally:
            hub.reply = hub.attempt = None

    async def _request(self, effect: CallModel) -> ModelRequest:
        template, state = self.binding.template, self.resident.state
        return ModelRequest(
            model=self.binding.provider.model,
            messages=await self.resident.window(self.store, effect.upto),
            system=self.binding.system,
            tools=self.binding.specs,
            max_tokens=template.max_output_tokens,
            temperature=template.temperature,
            output_schema=self.binding.output,
            reasoning=self.binding.reasoning,
            agent_id=state.agent_id,
            idempotency_key=f"{state.uid}:{effect.id}",
            timeout_s=effect.timeout_s,
        )

    def _live(
        self, kind: str, attempt: str | None = None, call: str | None = None, delta: str = "", why: str = ""
    ) -> None:
        hub = self.hub
        event = Event(kind, step=self.resident.state.step, call=call, preview=why)
        hub.publish_live(Envelope(hub.agent_id, event, hub.cursor or 0, attempt, delta=delta))

    def _show(self, shown: Shown, attempt: str) -> None:
        if shown.kind == "think" and not self.binding.template.expose_thinking:
            return
        hub, step = self.hub, self.hub.step
        cursor = hub.cursor or 0
        if shown.opens:
            start = Event(_START[shown.kind], step=step)
            hub.publish_live(Envelope(hub.agent_id, start, cursor, attempt, shown.block, 0))
        if shown.text:
            chunk = Event(_CHUNK[shown.kind], step=step)
            end = shown.offset + len(shown.text)
            hub.publish_live(Envelope(hub.agent_id, chunk, cursor, attempt, shown.block, end, shown.text))

    # ---- tools ------------------------------------------------------------------------------------------------

    async def _run_tool(self, effect: RunTool) -> Input | None:
        call = self.resident.state.call(effect.id)
        tool = None if call is None else self.binding.tools.get(call.tool)
        if call is None or tool is None:
            return ToolFinished(effect.id, (TextBlock("This tool is not there any more; it was not run."),), True)
        arguments = tool.check(call.changed_input or call.input or Json("{}"))
        if isinstance(arguments, str):
            return ToolFinished(effect.id, (TextBlock(arguments),), True)
        with self.clock.move_on_after(effect.timeout_s) as scope:
            self._enter(effect.id, scope)
            outcome = await tool.call(self._context(call, effect, scope), arguments)
            if isinstance(outcome, Suspended):
                return ToolSuspended(effect.id, outcome.due_at, outcome.child, outcome.child_uid)
            return self._finished(effect.id, outcome)
        if effect.id in self._dropped:
            return None
        text = (
            f"{call.tool} did not end within {effect.timeout_s} s and was stopped; it may have had part of its effect."
        )
        return ToolFinished(effect.id, (TextBlock(text),), True)

    def _context(self, call: Call, effect: RunTool, scope: anyio.CancelScope) -> ToolContext:
        state = self.resident.state

        def emit(event_type: str, data: Json) -> None:
            if len(data) + len(event_type) > MAX_EMIT:
                raise UsageError(
                    f"emit({event_type[:50]!r}) has {len(data):,} characters; "
                    f"give at most {MAX_EMIT:,}, or a reference.",
                    code="event_too_big",
                )
            told = {"tool": call.tool, "event": event_type, "json": data}
            self.note(Event("tool_custom_event", call=call.id, data=told))

        def progress(text: str) -> None:
            self._live("tool_progress", str(effect.attempt), call.id, text)

        return ToolContext(
            agent_id=state.agent_id,
            uid=state.uid,
            call_id=call.id,
            fence=effect.attempt.fence,
            attempt=str(effect.attempt),
            clock=self.clock,
            limits=self.limits,
            sandbox=self.binding.sandbox,
            services=self.deps.services,
            documents=self.documents,
            cancel_scope=scope,
            timeout_s=effect.timeout_s,
            on_emit=emit,
            on_progress=progress,
        )

    def _finished(self, id: str, outcome: ToolOutcome) -> ToolFinished:
        content, cut = cap(outcome.content, self.limits.max_tool_result_bytes)
        return ToolFinished(id, content, outcome.is_error, outcome.cut_bytes + cut, outcome.usage)

    # ---- other agents, compaction -----------------------------------------------------------------------------

    async def _deliver(self, effect: Deliver) -> Input:
        try:
            answer = await self._answer(effect)
            now = await self.store.now()
            item = input_item(answer, at=now)
            await self.store.enqueue(effect.target, item, uid=effect.uid)
        except NotFoundError:
            return Delivered(effect.id, "gone")
        except UsageError as error:
            return Delivered(effect.id, "error", RunError(error.code, error.message))
        switchboard(self.store, effect.target).ring()
        return Delivered(effect.id)

    async def _answer(self, effect: Deliver) -> CallResolved | InterruptRequested:
        if effect.item_kind == "interrupt" or effect.call is None or effect.run is None:
            return InterruptRequested(effect.item_id, "The call that waited for this agent was closed.", "parent")
        record = await self.store.read_run(self.resident.agent_id, effect.run)
        content: tuple[ResultContent, ...] = (TextBlock("The sub-agent ended without an answer."),)
        if record is None:
            return CallResolved(effect.item_id, effect.call, content, True)
        if record.error is not None:
            content = (TextBlock(f"The sub-agent failed: {record.error.text}"),)
        elif record.answer_seq is not None:
            found = await self.store.read_messages(
                self.resident.agent_id, after=record.answer_seq - 1, before=record.answer_seq + 1
            )
            texts = tuple(b for m in found.items for b in m.blocks if isinstance(b, TextBlock))
            content = texts or content
        return CallResolved(effect.item_id, effect.call, content, record.status != "ok", record.usage)

    async def _compact(self, effect: CompactHistory) -> Input:
        messages = await self.resident.window(self.store, effect.stop)
        summary = digest_of([m for m in messages if m.seq < effect.stop])
        return HistoryCompacted(effect.id, effect.id, (TextBlock(summary),), "digest")


_START = {"text": "text_chunk_start", "think": "think_chunk_start"}
_CHUNK = {"text": "text_chunk", "think": "think_chunk"}


def cap(content: tuple[ResultContent, ...], allowed: int) -> tuple[tuple[ResultContent, ...], int]:
    """Keep a result within its bound: of a text that is too long, head and tail stay and the cut is said."""
    total = sum(len(block.text) for block in content if isinstance(block, TextBlock))
    if total * 4 <= allowed:
        return content, 0
    kept: list[ResultContent] = []
    left, cut = allowed, 0
    for block in content:
        if not isinstance(block, TextBlock):
            kept.append(block)
            continue
        data = block.text.encode()
        if len(data) > left:
            gone = len(data) - left
            head = data[: left * 2 // 3].decode(errors="ignore")
            tail = data[len(data) - left // 3 :].decode(errors="ignore") if left >= 3 else ""
            block = TextBlock(f"{head}\n… {gone} bytes cut …\n{tail}")
            cut += gone
            left = 0
        else:
            left -= len(data)
        kept.append(block)
    return tuple(kept), cut
