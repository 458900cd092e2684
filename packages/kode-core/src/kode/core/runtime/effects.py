"""Effects: each is carried out once per attempt and answers with exactly one input.

Nothing in here raises for what a model, a tool or another agent does; that is what the inputs are for. Cancellation
passes through, and then there is no answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import anyio

from kode.core.clock import Clock
from kode.core.config import Dependencies
from kode.core.errors import NotFoundError, ProviderError, UsageError
from kode.core.event.base import Envelope
from kode.core.event.hub import Hub, switchboard
from kode.core.hook.asking import Asker
from kode.core.hook.base import ToolUse
from kode.core.hook.chain import Chain
from kode.core.kernel.effects import Attempt, CallModel, CompactHistory, Deliver, Effect, RunTool
from kode.core.kernel.events import Event, preview
from kode.core.kernel.inputs import (
    CallResolved,
    Delivered,
    Input,
    InterruptRequested,
    ModelFailed,
    ModelReplied,
    PlannedCall,
    ToolFinished,
    ToolSuspended,
)
from kode.core.kernel.limits import Limits
from kode.core.kernel.message import Json, Message, ResultContent, TextBlock, Usage
from kode.core.kernel.state import RunError
from kode.core.kernel.toolcall import Call
from kode.core.provider.assemble import Assembler, Reply, Shown
from kode.core.provider.base import ModelRequest
from kode.core.provider.failure import provider_error, stop_for
from kode.core.provider.retry import RetryPolicy, next_delay
from kode.core.runtime.binding import Binding
from kode.core.runtime.context.showing import marker
from kode.core.runtime.context.window import ContextWindow
from kode.core.runtime.documents import documents_of
from kode.core.runtime.media.supply import Media
from kode.core.runtime.output import structured
from kode.core.runtime.plan import plan_calls
from kode.core.runtime.resident import Resident
from kode.core.runtime.subagent import Spawner
from kode.core.store.base import Store
from kode.core.store.records import input_item
from kode.core.tools.base import Suspended, ToolContext, ToolOutcome, ToolResult, is_failure
from kode.core.tools.documents import Documents

__all__ = ["Worker"]

MAX_MEDIA = 10_485_760
"""Characters of base64 in a result; a tool that has more to show gives a URL or a blob."""
BLOCK_BYTES = 16
"""A block of a result counts for at least so many."""
MAX_EMIT = 16_384
"""Characters of an event that a tool emits: events are for watchers, not for data."""


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
    chain: Chain = field(init=False)
    """The agent's hooks."""
    context: ContextWindow = field(init=False)
    """What the model is shown."""
    media: Media = field(init=False)
    """Fetches bytes for a request, and stores those of a reply."""
    documents: Documents = field(init=False)
    """What the tools remember. It ends with the drive: what an abandoned tool puts later goes nowhere."""
    interrupted: set[str] = field(default_factory=set)
    """Sub-agents that were told to stop."""
    _scopes: dict[str, anyio.CancelScope] = field(default_factory=dict)
    _dropped: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.chain = Chain(self.binding.hooks, Asker(self.clock, self.note))
        self.context = ContextWindow(self.resident, self.binding, self.deps, self.note)
        self.documents = documents_of(self.resident, self.store)
        self.media = Media(self.resident.agent_id, self.binding.provider, self.deps, self.documents, self.note)

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
        try:
            if isinstance(effect, CallModel):
                return await self._call_model(effect)
            if isinstance(effect, RunTool):
                return await self._run_tool(effect)
            if isinstance(effect, Deliver):
                return await self._deliver(effect)
            return await self._compact(effect)
        finally:
            self._scopes.pop(effect.id, None)
            self._dropped.discard(effect.id)

    # ---- the model --------------------------------------------------------------------------------------------

    async def _call_model(self, effect: CallModel) -> Input | None:
        with anyio.CancelScope() as scope:
            self._enter(effect.id, scope)
            return await self._replied(effect)
        return None

    async def _replied(self, effect: CallModel) -> Input:
        """The reply and its plan, with all hooks about it asked; or how it failed."""
        chain, asking = self.chain, _Asking(effect.attempt)
        try:
            request = await self._request(effect)
            asking.shown = request.messages
            request = await chain.before_model(request)
            reply = await chain.ask_model(request, partial(self._ask_often, asking))
            reply = await chain.after_model(request, reply)
            blocks = await self.media.kept(reply.blocks)
            if blocks is not reply.blocks:
                reply = replace(reply, blocks=blocks)
        except ProviderError as error:
            final = RunError(error.code, error.message, error.retryable)
            return ModelFailed(effect.id, final, stop_for(error), asking.unused + asking.last)
        planned = await plan_calls(self.binding, reply, chain, self.resident.state)
        output = None if self.binding.output is None else structured(reply, self.note)
        return ModelReplied(
            effect.id, reply.blocks, reply.stop, reply.usage + asking.unused, tuple(map(self._bounded, planned)),
            reply.provider, reply.model, str(asking.attempt), output, tokens=await self.context.counted(request, reply),
        )  # fmt: skip

    def _bounded(self, call: PlannedCall) -> PlannedCall:
        """Hold a result that a hook gave to the bound of every result."""
        if call.answer is None:
            return call
        return replace(call, answer=cap(call.answer, self.limits.max_tool_result_bytes)[0])

    async def _ask_often(self, asking: _Asking, request: ModelRequest) -> Reply:
        """Ask until there is a reply or the policy gives up. Each try is an attempt of its own number."""
        policy = self.deps.retry or RetryPolicy()
        began = self.clock.monotonic()
        tried, why = 0, ""
        while True:
            tried += 1
            assembler = Assembler(self.binding.provider.name, request.model)
            try:
                places = self.context.showing.holding(asking.shown) if request.messages is asking.shown else None
                ready = await self.media.ready(request, places)
                reply = await self._ask(ready, asking.next(), assembler, why)
            except ProviderError as error:
                elapsed = self.clock.monotonic() - began
                delay = next_delay(policy, error, tried=tried, elapsed_s=elapsed, draw=self.deps.random())
                if delay is None and await self.media.forget(error):
                    delay = 0.0
                if delay is None:
                    asking.used(assembler.usage)
                    raise
                why = preview(error.message)
                self.note(Event("error", preview=why, data={"code": error.code, "phase": "retry"}))
            else:
                asking.used(reply.usage)
                return reply
            await self.clock.sleep(delay)

    async def _ask(self, request: ModelRequest, attempt: str, assembler: Assembler, why: str) -> Reply:
        """Ask once. ``why``: what became of the try before; watchers are told now, not with the next commit."""
        hub, provider = self.hub, self.binding.provider
        withheld = self.chain.withholds  # what a strict set might change is nobody's to see before
        hub.step, hub.attempt, hub.reply = self.resident.state.step, attempt, None if withheld else assembler
        hub.show_thinking = self.binding.template.expose_thinking
        self._live("attempt_started", attempt, why=why)
        try:
            with self.clock.move_on_after(request.timeout_s):
                async with provider.stream(request) as chunks:
                    async for chunk in chunks:
                        shown = assembler.feed(chunk)
                        if shown is not None and not withheld:
                            self._show(shown, attempt)
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

    async def _request(self, effect: CallModel) -> ModelRequest:
        template, state = self.binding.template, self.resident.state
        return ModelRequest(
            model=self.binding.provider.model,
            messages=await self.context.shown(effect.upto),
            system=self.binding.system,
            tools=self.binding.specs,
            max_tokens=template.max_output_tokens,
            temperature=template.temperature,
            output_schema=self.binding.output,
            reasoning=self.binding.reasoning,
            cache_key=state.uid,
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
        input = call.changed_input or call.input or Json("{}")
        arguments = tool.check(input)
        if isinstance(arguments, str):
            return ToolFinished(effect.id, (TextBlock(arguments),), True)
        use = ToolUse(self.resident.agent_id, self.resident.state.uid, tool, input, call.id)
        outcome: ToolResult | None = None
        if call.approvals:
            with anyio.CancelScope() as scope:
                self._enter(effect.id, scope)
                refused = await self._refused(call, use)
                if refused is not None:
                    return refused
            if scope.cancel_called:
                return None
        with self.clock.move_on_after(effect.timeout_s) as scope:
            self._enter(effect.id, scope)
            run = partial(tool.call, self._context(call, effect, scope), arguments)
            outcome = await self.chain.run_tool(use, run)
        if isinstance(outcome, Suspended):
            return ToolSuspended(effect.id, outcome.due_at, outcome.child, outcome.child_uid)
        if outcome is None:
            if effect.id in self._dropped:
                return None
            outcome = ToolOutcome.of(
                f"{call.tool} did not end within {effect.timeout_s} s and was stopped; "
                "it may have had part of its effect.",
                is_error=True,
            )
        if self.chain.of("post_tool_use", tool):
            with anyio.CancelScope() as scope:
                self._enter(effect.id, scope)
                return await self._stowed(self._finished(effect.id, await self.chain.after_tool(use, outcome)))
            # Whoever is interrupted here has its result all the same.
        return await self._stowed(self._finished(effect.id, self.chain.cut_off(use, outcome)))

    async def _refused(self, call: Call, use: ToolUse) -> ToolFinished | None:
        """Ask the gates again about a call that somebody approved, perhaps a month later and with other arguments.

        What they deny or answer counts; what they ask has been answered, and what was approved is not replaced.
        """
        ruling = await self.chain.gate_again(use)
        if ruling.verdict not in ("deny", "answer"):
            return None
        content = ruling.result or (TextBlock(ruling.reason or f"{call.tool} was denied."),)
        denied = ruling.verdict == "deny"
        return replace(self._finished(call.id, ToolOutcome(content, denied)), denied=denied)

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

        tool = self.binding.tools[call.tool]
        parts = (self.resident, self.binding.template, self.limits, self.deps, call.id)
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
            subagents=Spawner(*parts) if tool.spawns else None,
            cancel_scope=scope,
            timeout_s=effect.timeout_s,
            on_emit=emit,
            on_progress=progress,
        )

    def _finished(self, id: str, outcome: ToolOutcome) -> ToolFinished:
        content, cut = cap(outcome.content, self.limits.max_tool_result_bytes)
        return ToolFinished(id, content, outcome.is_error, outcome.cut_bytes + cut, outcome.usage)

    async def _stowed(self, finished: ToolFinished) -> ToolFinished:
        """Keep large media of a result apart from it."""
        kept = await self.media.kept(finished.result)
        if kept is finished.result:
            return finished
        return replace(finished, result=tuple(block for block in kept if isinstance(block, ResultContent)))

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
        if effect.item_kind == "interrupt":
            self.interrupted.add(effect.target)
        return Delivered(effect.id)

    async def _answer(self, effect: Deliver) -> CallResolved | InterruptRequested:
        if effect.item_kind == "interrupt" or effect.call is None or effect.run is None:
            return InterruptRequested(effect.item_id, "The call that waited for this agent was closed.", "parent")
        record = await self.store.read_run(self.resident.agent_id, effect.run)
        if record is None:
            content: tuple[ResultContent, ...] = (TextBlock("The sub-agent ended without an answer."),)
            return CallResolved(effect.item_id, effect.call, content, True)
        said: tuple[ResultContent, ...] = ()
        if record.answer_seq is not None:
            found = await self.store.read_messages(
                self.resident.agent_id, after=record.answer_seq - 1, before=record.answer_seq + 1
            )
            said = tuple(b for m in found.items for b in m.blocks if isinstance(b, TextBlock))
        failed = record.status != "ok"
        if failed or not said:
            why = record.stop_reason.value if record.error is None else record.error.text
            how = "failed" if record.status == "error" else "did not finish" if failed else "answered nothing"
            said = (TextBlock(f"The sub-agent {how}: {why}"), *said)
        content, _ = cap(said, self.limits.max_tool_result_bytes)
        return CallResolved(effect.item_id, effect.call, content, failed, record.usage)

    async def _compact(self, effect: CompactHistory) -> Input | None:
        with anyio.CancelScope() as scope:
            self._enter(effect.id, scope)
            return await self.context.compact(effect)
        return None


_START = {"text": "text_chunk_start", "think": "think_chunk_start"}
_CHUNK = {"text": "text_chunk", "think": "think_chunk"}


def cap(content: tuple[ResultContent, ...], allowed: int) -> tuple[tuple[ResultContent, ...], int]:
    """Keep a result within its bound: of a text that is too long, head and tail stay and the cut is said.

    Each block counts for some bytes beside its text. Media in the result itself have a bound of their own.
    """
    kept: list[ResultContent] = []
    left, media, cut, dropped = allowed, MAX_MEDIA, 0, 0
    for block in content:
        if not isinstance(block, TextBlock):
            size = len(getattr(block, "data", None) or "")
            media -= size
            kept.append(block if media >= 0 or not size else TextBlock(f"{marker(block)} (left out: {size:,} bytes)"))
            if kept[-1] is not block:
                media += size
            continue
        data = block.text.encode(errors="replace")
        if left <= 0:
            dropped += len(data)
        elif len(data) > left:
            gone = len(data) - left
            head = data[: left * 2 // 3].decode(errors="ignore")
            tail = data[len(data) - left // 3 :].decode(errors="ignore") if left >= 3 else ""
            kept.append(TextBlock(f"{head}\n… {gone} bytes cut …\n{tail}"))
            cut += gone
            left = 0
        else:
            kept.append(block)
            left -= max(len(data), BLOCK_BYTES)
    if dropped:
        kept.append(TextBlock(f"… {dropped} bytes more cut …"))
    return tuple(kept), cut + dropped
