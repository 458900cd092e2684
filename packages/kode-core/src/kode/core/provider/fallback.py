"""Several providers behind one: who cannot answer is passed over, and the next one is asked.

    FallbackProvider(["anthropic:claude-sonnet-4-5", "openai:gpt-5"])

* Before a reply has shown anything the next member is asked at once, within the same attempt. After that the failure is
  raised as one that may be tried again: ``retry`` announces a new attempt, which withdraws what was shown, and that one
  begins with another member.
* A member that failed rests: it is asked again when its time is over, or when nobody else is left. That is all that is
  remembered, of the members and not of agents.
* Each message keeps the name of who wrote it, so that reasoning goes back to its own vendor only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final

from kode.core.clock import Clock, RealClock
from kode.core.errors import ProviderError, UsageError
from kode.core.provider.base import (
    Capabilities,
    Chunk,
    MediaRule,
    ModelRequest,
    Provider,
    ReplyEnd,
    ReplyError,
    UsageReport,
)
from kode.core.provider.catalog import default_providers
from kode.core.provider.failure import FAILURES, provider_error, retry_after_s

__all__ = ["PASSED_ON", "FallbackProvider", "FallbackStream"]

PASSED_ON: Final = frozenset(
    {
        "authentication", "permission", "model_not_found", "quota", "rate_limited", "overloaded", "timeout",
        "connection", "truncated", "protocol",
    }
)  # fmt: skip
"""Codes that say something of the member. The others say it of the request, which the next one would find no better."""


@dataclass(slots=True, eq=False)
class _Member:
    provider: Provider
    until: float = 0.0
    """When it has rested, by the monotonic clock."""
    failed: bool = False
    """The last time it was asked."""

    @property
    def label(self) -> str:
        return f"{self.provider.name}:{self.provider.model}"


class FallbackProvider:
    """Ask the first of several providers that can answer.

    Args:
        providers: Best first. A name is looked up now, so all keys must be there.
        name: Its own, for errors; messages carry the name of who wrote them.
        pass_on: Codes of ``FAILURES`` at which the next one is asked. ``PASSED_ON`` and ``"context_too_long"`` make
            sense where a later member has a larger window (give ``window_tokens`` then).
        rest_s: How long a member that failed rests; longer if it asks for more itself.
        patience_s: A member that asks to wait no longer than this is not passed over the first time: the failure goes
            to ``retry``, which waits and asks it again. What it has cached is there.
        window_tokens: Default: the smallest of all, since any of them may be asked.
        capabilities: Default: what all of them can do.
        share_extras: Also give each member what a request has in ``extra_headers`` and ``extra_body``. These are made
            for one vendor, the headers often secret, so that members do not see them unless you say so here.
        clock: Measures rests and time-outs.
        on_failure: Told of each failure that was passed over: the member as ``name:model``, and the error.

    Each member is asked for its own model, whatever the request names; and where a request is bounded in time, a member
    has its share of what is left to say something.

    Raises:
        UsageError: No provider, an unknown code, or a negative time (``bad_fallback``).
        NotBoundError: A name is unknown, or its key is missing.
    """

    def __init__(
        self,
        providers: Sequence[Provider | str],
        *,
        name: str = "fallback",
        pass_on: Iterable[str] = PASSED_ON,
        rest_s: float = 30.0,
        patience_s: float = 2.0,
        window_tokens: int | None = None,
        capabilities: Capabilities | None = None,
        share_extras: bool = False,
        clock: Clock | None = None,
        on_failure: Callable[[str, ProviderError], object] | None = None,
    ) -> None:
        self.pass_on = frozenset(pass_on)
        unknown = ", ".join(sorted(self.pass_on - set(FAILURES)))
        if isinstance(providers, str) or not providers:
            raise UsageError("FallbackProvider needs a list of providers.", code="bad_fallback")
        if unknown or rest_s < 0 or patience_s < 0:
            problem = f"knows no failure {unknown}" if unknown else "cannot rest or wait for less than 0 s"
            raise UsageError(f"FallbackProvider {problem}.", code="bad_fallback")
        self.members = tuple(_Member(default_providers.resolve(each)) for each in providers)
        asked = [member.provider for member in self.members]
        self.name = name
        self.model = asked[0].model
        self.window_tokens = window_tokens or min(each.window_tokens for each in asked)
        self.capabilities = capabilities or _shared([each.capabilities for each in asked])
        self.clock: Clock = clock or RealClock()
        self._rest_s = rest_s
        self._patience_s = patience_s
        self._on_failure = on_failure
        self._share_extras = share_extras

    def __repr__(self) -> str:
        return f"FallbackProvider([{', '.join(repr(member.label) for member in self.members)}])"

    def stream(self, request: ModelRequest) -> FallbackStream:
        """Ask; see ``Provider.stream``. Entering waits for the first thing that somebody says."""
        return FallbackStream(self, request)

    def request_for(self, member: _Member, request: ModelRequest) -> ModelRequest:
        """Give what a member is asked."""
        model = member.provider.model
        if self._share_extras:
            return replace(request, model=model)
        return replace(request, model=model, extra_headers=None, extra_body=None)

    async def close(self) -> None:
        """Close all of them; see ``Provider.close``."""
        failed: Exception | None = None
        for member in self.members:
            try:
                await member.provider.close()
            except Exception as error:  # noqa: BLE001 - the others are to be closed too
                failed = failed or error
        if failed is not None:
            raise failed

    def in_turn(self) -> list[_Member]:
        """Members in the order to ask them: those that rest come last, who has rested soonest before the others."""
        now = self.clock.monotonic()
        return sorted(self.members, key=lambda member: member.until if member.until > now else 0.0)

    def passed_over(self, member: _Member, error: ProviderError) -> bool:
        """Note that a member failed, and tell whether to ask another one."""
        wait, first = retry_after_s(error), not member.failed
        if error.code not in self.pass_on:
            return False
        member.failed = True
        if first and error.retryable and wait is not None and wait <= self._patience_s:
            return False
        member.until = self.clock.monotonic() + max(self._rest_s, wait or 0.0)
        if self._on_failure is not None:
            self._on_failure(member.label, error)
        return True


class FallbackStream:
    """One answer on its way, by whoever gives it."""

    __slots__ = ("_began", "_chunks", "_ended", "_front", "_held", "_member", "_request", "_stream")

    def __init__(self, front: FallbackProvider, request: ModelRequest) -> None:
        self._front = front
        self._request = request
        self._began = front.clock.monotonic()
        self._member: _Member | None = None
        self._stream: AbstractAsyncContextManager[AsyncIterator[Chunk]] | None = None
        self._chunks: AsyncIterator[Chunk] | None = None
        self._held: deque[Chunk] = deque()
        self._ended = False

    async def __aenter__(self) -> FallbackStream:
        failures: list[tuple[str, ProviderError]] = []
        in_turn = self._front.in_turn()
        for at, member in enumerate(in_turn):
            try:
                await self._open(member, self._share(len(in_turn) - at))
            except ProviderError as error:
                failures.append((member.label, error))
            except BaseException as error:
                await self._leave(type(error), error, error.__traceback__)
                raise
            else:
                return self
            await self._leave()
            if not self._front.passed_over(member, failures[-1][1]):
                break
        raise _together(self._front.name, failures)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        member, bound = self._member, self._request.timeout_s
        if member is not None and not self._ended and bound is not None and self._elapsed >= bound:
            # Who asked has waited long enough and goes; it will ask again.
            told = f"{member.label} did not end within {bound:.0f} s."
            self._front.passed_over(member, provider_error("timeout", told))
        await self._leave(kind, error, trace)

    def __aiter__(self) -> FallbackStream:
        return self

    async def __anext__(self) -> Chunk:
        if self._held:
            return self._held.popleft()
        if self._chunks is None:
            raise StopAsyncIteration
        try:
            chunk = await anext(self._chunks)
        except ProviderError as error:
            failure = self._lost(error)
        except StopAsyncIteration:
            if not self._ended:
                self._lost(provider_error("truncated", "The stream ended in the middle of the reply."))
            raise
        else:
            return self._named(chunk)
        raise failure

    @property
    def _elapsed(self) -> float:
        return self._front.clock.monotonic() - self._began

    def _share(self, left: int) -> float | None:
        """Tell how long the next member may be silent; the last one has all the time there is."""
        bound = self._request.timeout_s
        return None if bound is None or left == 1 else max(0.0, bound - self._elapsed) / left

    async def _open(self, member: _Member, share_s: float | None) -> None:
        """Ask a member and wait until it says something."""
        self._member = member
        stream = member.provider.stream(self._front.request_for(member, self._request))
        with self._front.clock.move_on_after(share_s):
            chunks = aiter(await stream.__aenter__())
            self._stream, self._chunks = stream, chunks
            while (chunk := await anext(chunks, None)) is not None:
                if isinstance(chunk, ReplyError):
                    raise chunk.error
                self._held.append(self._named(chunk))
                if not isinstance(chunk, UsageReport):
                    return
            raise provider_error("truncated", f"{member.label} ended before it had said anything.")
        raise provider_error("timeout", f"{member.label} said nothing within {share_s:.0f} s, its share of the time.")

    async def _leave(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        stream, self._stream, self._chunks = self._stream, None, None
        self._held.clear()
        if stream is not None:
            await stream.__aexit__(kind, error, trace)

    def _named(self, chunk: Chunk) -> Chunk:
        """Let the end say who answered."""
        member = self._member
        if isinstance(chunk, ReplyError):
            return ReplyError(self._lost(chunk.error))
        if isinstance(chunk, ReplyEnd) and member is not None:
            self._ended = True
            member.failed, member.until = False, 0.0
            provider = member.provider
            return replace(chunk, provider=chunk.provider or provider.name, model=chunk.model or provider.model)
        return chunk

    def _lost(self, error: ProviderError) -> ProviderError:
        """Tell of a failure after something was shown: a new attempt is worth it if another member can make it."""
        self._ended = True
        member = self._member
        if member is None or not self._front.passed_over(member, error) or len(self._front.members) == 1:
            return error
        kept = {name: value for name, value in error.fields.items() if name != "retry_after_s"}
        return provider_error(error.code, error.message, retryable=True, **kept)


def _together(name: str, failures: Sequence[tuple[str, ProviderError]]) -> ProviderError:
    """Make one error of all: that of the first that may be tried again, if there is one."""
    errors = [error for _, error in failures]
    if len(errors) == 1:
        return errors[0]
    again = [error for error in errors if error.retryable]
    waits = [retry_after_s(error) for error in again]
    told = " ".join(f"{label} ({error.code}): {error.message}" for label, error in failures)
    code = (again or errors)[0].code
    return provider_error(
        code if code in FAILURES else "protocol",
        f"None of {len(errors)} providers answered. {told}",
        retryable=bool(again),
        retry_after_s=None if None in waits else min((wait for wait in waits if wait), default=None),
        provider=name,
    )


def _shared(all_of: Sequence[Capabilities]) -> Capabilities:
    """Give what each can do: any of them may be asked."""
    kinds = frozenset.intersection(*(frozenset(each.media) for each in all_of))
    return Capabilities(
        tools=all(each.tools for each in all_of),
        parallel_calls=all(each.parallel_calls for each in all_of),
        reasoning=all(each.reasoning for each in all_of),
        structured_output=all(each.structured_output for each in all_of),
        prompt_cache=all(each.prompt_cache for each in all_of),
        media={kind: rule for kind in sorted(kinds) if (rule := _rule([each.media[kind] for each in all_of]))},
        max_media_bytes=_least(each.max_media_bytes for each in all_of),
        output_media=frozenset.intersection(*(each.output_media for each in all_of)),
        max_output_tokens=_least(each.max_output_tokens for each in all_of),
    )


def _rule(all_of: Sequence[MediaRule]) -> MediaRule | None:
    """Give what each takes of one kind, None for nothing. Files that were uploaded lie with one vendor: none here."""
    said = [each.types for each in all_of if each.types]
    types: frozenset[str] = frozenset.intersection(*said) if said else frozenset()
    if said and not types:
        return None  # an empty set would mean any
    fetched = [each.url_types for each in all_of if each.url_types]
    return MediaRule(
        types=types,
        max_bytes=min(each.max_bytes for each in all_of),
        max_items=_least(each.max_items for each in all_of),
        urls=all(each.urls for each in all_of),
        url_types=frozenset.intersection(*fetched) if fetched else frozenset(),
        file_ids=None,
    )


def _least(values: Iterable[int | None]) -> int | None:
    return min((value for value in values if value is not None), default=None)
