"""The window of an agent that is being driven: how large it is, whether it is full, where to cut it, how it is shown.

``look`` is asked before each batch and says what the kernel may do about the size; ``shown`` is what a request gets;
``compact`` carries out a compaction. Sizes are counted as messages come, never by going through all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from kode.core.config import Dependencies
from kode.core.kernel.context import ContextPolicy
from kode.core.kernel.effects import CompactHistory
from kode.core.kernel.events import Event, Scalar, preview
from kode.core.kernel.inputs import (
    CallResolved,
    CompactionRequested,
    HistoryCompacted,
    Input,
    Instructed,
    MessageReceived,
    ModelFailed,
    ModelReplied,
    ToolFinished,
)
from kode.core.kernel.message import Message, TextBlock, Usage
from kode.core.kernel.words import StopReason
from kode.core.provider.assemble import Reply
from kode.core.provider.base import CountsTokens, ModelRequest, Provider
from kode.core.provider.retry import RetryPolicy
from kode.core.runtime.binding import Binding
from kode.core.runtime.context.cut import cut_at, pinned_in, without
from kode.core.runtime.context.estimate import Size, fixed_tokens, request_tokens, sum_of, text_tokens, tokens_of
from kode.core.runtime.context.shorten import shorten
from kode.core.runtime.context.showing import Showing
from kode.core.runtime.context.summary import HEAD, MAX_OUTPUT, PROMPT, Asked, Summariser, digest_of, transcript
from kode.core.runtime.resident import Resident

__all__ = ["NOTHING", "ContextWindow", "WindowBounds", "window_bounds"]

NOTHING: tuple[CompactionRequested | None, bool] = (None, False)
MAX_SUMMARY = 4_000
"""Tokens of a summary; a quarter of the target if that is less."""
WORTH = 50
"""Tokens below which nothing is summed up, whoever asks."""
OUTPUT = 4_096
"""Tokens kept for an answer where neither template nor provider say more."""


@dataclass(frozen=True, slots=True)
class WindowBounds:
    """The policy's bounds for one model, in tokens."""

    most: int
    target: int
    message: int

    @property
    def summary(self) -> int:
        """Room for a summary."""
        return min(MAX_SUMMARY, max(self.target // 4, 50))


def window_bounds(policy: ContextPolicy, provider: Provider, max_output: int | None = None) -> WindowBounds:
    """Fill in what the policy leaves to us."""
    window = provider.window_tokens
    reserve = min(max_output or provider.capabilities.max_output_tokens or OUTPUT, window // 4)
    most = policy.max_tokens or max(window * 4 // 5 - reserve, 100)
    target = min(policy.target_tokens or most // 2, most)
    return WindowBounds(most, target, policy.max_message_tokens or max(most // 2, 50))


@dataclass(slots=True)
class ContextWindow:
    """What one drive knows of its agent's window."""

    resident: Resident
    binding: Binding
    deps: Dependencies
    note: Callable[[Event], None]
    bounds: WindowBounds = field(init=False)
    showing: Showing = field(init=False)
    _fixed: int | None = None
    _stuck: bool = False

    def __post_init__(self) -> None:
        policy, template = self.policy, self.binding.template
        self.bounds = window_bounds(policy, self.binding.provider, template.max_output_tokens)
        # What was found is known as long as the messages are in memory, from drive to drive.
        self.showing = self.resident.showing(policy.keep_media, self.bounds.message)

    @property
    def policy(self) -> ContextPolicy:
        """As the template has it."""
        return self.binding.template.context

    @property
    def fixed(self) -> int:
        """Estimate of the prompt and the tools."""
        if self._fixed is None:
            self._fixed = fixed_tokens(self.binding.system, self.binding.specs)
        return self._fixed

    # ---- before each batch ------------------------------------------------------------------------------------

    async def look(self, inputs: Sequence[Input]) -> tuple[CompactionRequested | None, bool]:
        """Where the history may be cut, if this batch may want to know, and whether it must be."""
        if len(inputs) == 1 and _asks_nothing(inputs[0]):
            return NOTHING
        state = self.resident.state
        asked = any(map(_asks, inputs))
        if not asked and state.run is None and not any(isinstance(one, MessageReceived) for one in inputs):
            return NOTHING
        if not asked and self.policy.method == "off":
            return NOTHING
        if any(effect.kind == "CompactHistory" for effect in state.effects):
            return NOTHING
        size = await self.size(inputs)
        full = self.policy.method != "off" and size > self.bounds.most
        if not (asked or full):
            self._stuck = False
            return NOTHING
        target = self.bounds.target if size > self.bounds.most else min(self.bounds.target, size // 2)
        least = WORTH if asked else max(self.bounds.most // 10, WORTH)
        cut = await self._cut(target - (size - await self._stored_size()), least)
        if cut is None and full and not self._stuck:
            data: dict[str, Scalar] = {"phase": "stuck", "tokens": size, "max_tokens": self.bounds.most}
            self.note(Event("context_compression", data=data))
        self._stuck = full and cut is None
        return cut, full

    async def size(self, inputs: Iterable[Input] = ()) -> int:
        """Tokens of the window with what this batch adds to it.

        What the last reply was counted at, and an estimate of what came since.
        """
        state = self.resident.state
        replied = next((one for one in inputs if isinstance(one, ModelReplied)), None)
        if replied is not None:
            answers = sum(tokens_of(call.answer or ()) for call in replied.calls)
            return (replied.tokens or replied.usage.tokens) + answers
        coming = sum(map(_tokens_in, inputs)) + sum(tokens_of(c.result) for c in state.calls if c.result)
        return coming + await self._stored_size()

    async def _stored_size(self) -> int:
        state = self.resident.state
        since = 0
        for seq in range(state.next_seq - 1, state.window.start - 1, -1):
            message = self.resident.message(seq)
            if message is None or state.tokens == 0:
                break
            if message.role == "assistant":
                return state.tokens + since
            since += tokens_of(message.blocks)
        messages = await self._messages()
        last = next((i for i in range(len(messages) - 1, -1, -1) if messages[i].role == "assistant"), -1)
        came = self._sum(messages[last + 1 :])  # its media are shown, however many
        if last < 0 or state.tokens == 0:
            return self.fixed + self._tokens(messages[: last + 1]) + came.tokens(came.media)
        return state.tokens + came.tokens(came.media)

    async def _messages(self) -> list[Message]:
        """The window as it is stored, looked at."""
        state = self.resident.state
        messages = await self.resident.window(self.deps.store, state.next_seq)
        self.showing.look(state.window, messages)
        return messages

    def _sum(self, messages: Sequence[Message]) -> Size:
        return sum_of(map(self.showing.size, messages))

    def _tokens(self, messages: Sequence[Message]) -> int:
        return self._sum(messages).tokens(self.policy.keep_media)

    async def _cut(self, target: int, least: int) -> CompactionRequested | None:
        """Find the range to sum up: from the first message shown to the cut; None: not worth it, or not possible."""
        run, messages = self.resident.state.run, await self._messages()
        real = [message for message in messages if message.seq >= 0]
        if not real:
            return None
        pinned = pinned_in(real, None if run is None else run.first_seq)
        summary = min(self.bounds.summary, max(target // 4, 0))
        room = target - self.fixed - summary - self._tokens([m for m in real if m.seq in pinned])
        at = cut_at(real, self._tokens, room)
        gone = without(real[:at], pinned)
        if self._tokens([m for m in real if m.seq in pinned]) + self.fixed > self.bounds.most and least > WORTH:
            # What always stays is too much by itself: summing up each step would not help, and cost a request each.
            least = self.bounds.most // 2
        if not gone or self._tokens(gone) < least:
            return None
        method = "digest" if self.policy.method == "digest" else "model"
        return CompactionRequested(real[0].seq, real[at].seq, method)

    # ---- a request and its reply ------------------------------------------------------------------------------

    async def shown(self, upto: int) -> list[Message]:
        """The messages of a request."""
        messages = await self.resident.window(self.deps.store, upto)
        self.showing.look(self.resident.state.window, messages)
        return self.showing.shown(messages)

    async def counted(self, request: ModelRequest, reply: Reply) -> int:
        """Tokens of the request with its reply: as the provider reports, else as it counts, else as we estimate."""
        if reply.usage.input:
            return reply.usage.tokens
        said = reply.usage.output or tokens_of(reply.blocks)
        estimate = request_tokens(request)
        provider = self.binding.provider
        if isinstance(provider, CountsTokens) and estimate > self.bounds.most // 2:
            try:
                return await provider.count_tokens(request) + said
            except Exception as error:  # noqa: BLE001 - a stranger's code, and the estimate is there
                text = preview(f"{provider.name} did not count: {type(error).__name__}")
                self.note(Event("error", preview=text, data={"code": "not_counted", "phase": "context"}))
        return estimate + said

    # ---- a compaction -----------------------------------------------------------------------------------------

    async def compact(self, effect: CompactHistory) -> HistoryCompacted:
        """Write the summary for a range; there always is one."""
        run, messages = self.resident.state.run, await self._messages()
        inside = [m for m in messages if m.seq < 0 or effect.start <= m.seq < effect.stop]
        pinned = pinned_in(inside, None if run is None else run.first_seq)
        gone = without(inside, pinned)
        before, size = await self._stored_size(), self._tokens(gone)
        allowed = max(min(self.bounds.summary, size // 3), 50)
        asked = Asked() if effect.method == "digest" else await self._ask(effect, gone)
        if asked.problem:
            text = preview(f"No summary by the model, a digest instead: {asked.problem}")
            self.note(Event("error", preview=text, data={"code": "no_summary", "phase": "compaction"}))
        text = shorten(asked.text, allowed) if asked.text else digest_of(gone, allowed)
        text = f"{HEAD}\n{text}"
        counted = asked.usage if asked.usage != Usage() else None
        return HistoryCompacted(
            effect.id, effect.id, (TextBlock(text),), "model" if asked.text else "digest",
            asked.model, counted, pinned, before, self._after(messages, gone, text_tokens(text)),
        )  # fmt: skip

    def _after(self, messages: Sequence[Message], gone: Sequence[Message], summary: int) -> int:
        """Size of the new window up to the last reply: our estimate, at the rate at which the provider counts."""
        state = self.resident.state
        last = max((m.seq for m in messages if m.role == "assistant"), default=-1)
        counted = [m for m in messages if m.seq <= last]
        estimate = self.fixed + self._tokens(counted)
        left = self.fixed + summary + self._tokens(without(counted, {m.seq for m in gone}))
        rate = min(max(state.tokens / max(estimate, 1), 0.5), 2.0) if state.tokens else 1.0
        return round(left * rate)

    async def _ask(self, effect: CompactHistory, messages: Sequence[Message]) -> Asked:
        provider, state = self._summariser(), self.resident.state
        output = min(MAX_OUTPUT, provider.window_tokens // 4)
        prompt = self.policy.prompt or PROMPT
        room = max((provider.window_tokens - output - text_tokens(prompt)) * 4 // 5, 100)
        question = Message(0, "user", (TextBlock(transcript(messages, room)),), state.updated_at)
        request = ModelRequest(
            model=provider.model,
            messages=(question,),
            system=prompt,
            max_tokens=output,
            agent_id=state.agent_id,
            idempotency_key=f"{state.uid}:{effect.id}",
            timeout_s=effect.timeout_s,
        )
        retry = self.deps.retry or RetryPolicy()
        return await Summariser(provider, self.deps.clock, retry, self.deps.random).ask(request)

    def _summariser(self) -> Provider:
        named = self.policy.model
        return self.binding.provider if named is None else self.deps.provider_named(named)


def _asks(input: Input) -> bool:
    """Whether an input wants to know where to cut."""
    if isinstance(input, ModelFailed):
        return input.stop is StopReason.CONTEXT_TOO_LONG
    what = input.what if isinstance(input, Instructed) else input
    return isinstance(what, CompactionRequested) and what.stop == 0


def _asks_nothing(input: Input) -> bool:
    """Whether no request can follow an input that comes alone: a reply that ends the run, or whose calls must run."""
    if not isinstance(input, ModelReplied):
        return False
    return not input.calls or any(call.plan.verdict in ("allow", "ask") for call in input.calls)


def _tokens_in(input: Input) -> int:
    if isinstance(input, MessageReceived):
        return tokens_of(input.blocks)
    if isinstance(input, ToolFinished | CallResolved):
        return tokens_of(input.result)
    return 0
