"""Record what a model said once, and replay it in tests: without network, key and cost.

    path = Path("tests/recordings/weather.jsonl")
    provider = ReplayProvider(path) if path.exists() else RecordingProvider(AnthropicProvider(), path)

Delete the file to record again. It is made to be kept with the tests; ``kode.core.provider.record`` says what is in it.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from copy import copy
from difflib import unified_diff
from pathlib import Path
from types import TracebackType
from typing import Final

from anyio.lowlevel import checkpoint

from kode.core.errors import ProviderError, UsageError
from kode.core.provider.base import Chunk, ModelRequest, Provider, ReplyEnd, ReplyError
from kode.core.provider.failure import provider_error
from kode.core.provider.record import Ask, Exchange, Head, asked, head_line, lines, read, same_messages

__all__ = ["RecordingProvider", "RecordingStream", "ReplayProvider", "ReplayStream"]

Mask = Callable[[str], str]
_DIFF_LINES: Final = 30
_DIFF_WIDTH: Final = 160


class RecordingProvider:
    """Pass everything on to a provider, and keep what was asked and said, errors too, in a file.

    Args:
        inner: Who answers; closed with this one.
        path: Replaced by the first exchange, whole again after each. Nothing is kept of a reply that was left early.
        mask: Put over each text of a request before it is kept or compared, for what differs from run to run:
            ``lambda text: text.replace(str(tmp_path), "<tmp>")``. Give the same to ``ReplayProvider``.
    """

    def __init__(self, inner: Provider, path: str | Path, *, mask: Mask | None = None) -> None:
        self.name = inner.name
        self.model = inner.model
        self.window_tokens = inner.window_tokens
        self.capabilities = inner.capabilities
        self.path = Path(path)
        self.inner = inner
        self.mask = mask
        self._last: Ask = {}
        self._lines = [head_line(Head.of(inner))]

    def __repr__(self) -> str:
        return f"RecordingProvider({self.inner!r}, {str(self.path)!r})"

    def stream(self, request: ModelRequest) -> RecordingStream:
        """Ask; see ``Provider.stream``."""
        return RecordingStream(self, request)

    async def close(self) -> None:
        """Close the inner one. The file is complete already."""
        await self.inner.close()

    def keep(self, exchange: Exchange) -> None:
        """Write the file with one more exchange: a whole one or, should this fail, the one of before."""
        self._lines += lines(exchange, self._last)
        self._last = exchange.ask
        try:
            self._write()
        except OSError as error:
            told = f"The recording {self.path} cannot be written: {error}. Give a path in a folder that is yours."
            raise provider_error("script", told, provider=self.name, model=self.model) from error

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            beside.write_text("".join(self._lines), encoding="utf-8", newline="\n")
            beside.replace(self.path)
        finally:
            beside.unlink(missing_ok=True)


class RecordingStream:
    """One answer on its way into the file."""

    __slots__ = ("_chunks", "_ended", "_exchange", "_provider", "_stream")

    def __init__(self, provider: RecordingProvider, request: ModelRequest) -> None:
        self._provider = provider
        self._exchange = Exchange(asked(request, provider.mask))
        self._stream: AbstractAsyncContextManager[AsyncIterator[Chunk]] = provider.inner.stream(request)
        self._chunks: AsyncIterator[Chunk] | None = None
        self._ended = False

    async def __aenter__(self) -> RecordingStream:
        try:
            self._chunks = aiter(await self._stream.__aenter__())
        except ProviderError as error:
            self._exchange.error = error
            self._provider.keep(self._exchange)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stream.__aexit__(kind, error, trace)
        if self._ended:
            self._provider.keep(self._exchange)

    def __aiter__(self) -> RecordingStream:
        return self

    async def __anext__(self) -> Chunk:
        assert self._chunks is not None, "the stream is read inside its async with"
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            self._ended = True
            raise
        except ProviderError as error:
            self._ended, self._exchange.error = True, error
            raise
        self._ended = isinstance(chunk, (ReplyEnd, ReplyError))
        self._exchange.chunks.append(chunk)
        return chunk


class ReplayProvider:
    """Answer as somebody did when it was recorded. Any number of agents may use one at once.

    Args:
        path: What ``RecordingProvider`` wrote.
        mask: As it was recorded with.

    A request gets the reply to the recorded one that asked the same. Where the same was asked several times the replies
    come in their order, and then the last one again. A request that was not recorded is a ``ProviderError`` with code
    ``script``: the run ends with its text, which shows what is different, and ``check`` raises it in the test.

    Raises:
        UsageError: There is no such file, or it is no recording (``bad_recording``).
    """

    def __init__(self, path: str | Path, *, mask: Mask | None = None) -> None:
        self.path = Path(path)
        self.mask = mask
        try:
            text = self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise UsageError(
                f"The recording {self.path} cannot be read: {error}. Make it with RecordingProvider.",
                code="bad_recording",
            ) from error
        head, self.exchanges = read(text, str(self.path))
        self.name = head.provider
        self.model = head.model
        self.window_tokens = head.window_tokens
        self.capabilities = head.capabilities
        self.complaints: list[str] = []
        """What was asked and not recorded."""
        self._asked: Counter[int] = Counter()  # by how many
        self._by_ask: dict[str, list[int]] = defaultdict(list)
        for number, exchange in enumerate(self.exchanges):
            self._by_ask[_key(exchange.ask)].append(number)

    def __repr__(self) -> str:
        return f"ReplayProvider({str(self.path)!r})"

    def stream(self, request: ModelRequest) -> ReplayStream:
        """Answer; see ``Provider.stream``."""
        return ReplayStream(self, request)

    def take(self, request: ModelRequest) -> int:
        """Find the exchange for a request; nobody else gets it, unless it is the last one of its kind.

        Raises:
            ProviderError: It was not recorded.
        """
        ask = asked(request, self.mask)
        numbers = self._by_ask.get(_key(ask))
        if not numbers:
            self.complaints.append(self._unknown(ask))
            raise provider_error("script", self.complaints[-1], provider=self.name, model=self.model)
        number = next((each for each in numbers if not self._asked[each]), numbers[-1])
        self._asked[number] += 1
        return number

    def give_back(self, number: int) -> None:
        """Answer the next request of this kind with an exchange that was left before its end."""
        self._asked[number] -= 1

    def check(self) -> None:
        """Raise if something was asked that was not recorded, or recorded and never asked.

        Raises:
            AssertionError: With all of it.
        """
        found = list(self.complaints)
        left = [str(number + 1) for number in range(len(self.exchanges)) if not self._asked[number]]
        if left:
            found.append(f"Of {len(self.exchanges)} requests in {self.path}, number {', '.join(left)} was never asked.")
        if found:
            raise AssertionError("\n".join(found))

    async def close(self) -> None:
        """Do nothing: there are no connections."""

    def _unknown(self, ask: Ask) -> str:
        said = f"{self.path} holds no reply to this request, which has {len(ask['messages'])} messages."
        if not self.exchanges:
            return f"{said} It holds nothing at all: record again."
        near = max(range(len(self.exchanges)), key=lambda number: _likeness(ask, self.exchanges[number].ask))
        diff = "\n".join(_diff(self.exchanges[near].ask, ask))
        return (
            f"{said} The nearest one is number {near + 1} of {len(self.exchanges)}; from that to this:\n{diff}\n"
            "Delete the file to record again; what is different in every run (a path, a date) wants a mask=."
        )


class ReplayStream:
    """One recorded answer on its way."""

    __slots__ = ("_at", "_number", "_provider", "_request")

    def __init__(self, provider: ReplayProvider, request: ModelRequest) -> None:
        self._provider = provider
        self._request = request
        self._number = -1
        self._at = 0

    async def __aenter__(self) -> ReplayStream:
        await checkpoint()
        self._number = self._provider.take(self._request)
        exchange = self._provider.exchanges[self._number]
        if exchange.error is not None and not exchange.chunks:
            raise copy(exchange.error)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._at < len(self._provider.exchanges[self._number].chunks):
            self._provider.give_back(self._number)

    def __aiter__(self) -> ReplayStream:
        return self

    async def __anext__(self) -> Chunk:
        exchange, at = self._provider.exchanges[self._number], self._at
        if at < len(exchange.chunks):
            self._at += 1
            return exchange.chunks[at]
        if exchange.error is not None:
            raise copy(exchange.error)
        raise StopAsyncIteration


def _key(ask: Ask) -> str:
    return json.dumps(ask, sort_keys=True)


def _likeness(a: Ask, b: Ask) -> tuple[int, int, int]:
    """Compare better with the one that begins alike, is as long, and differs in less beside its messages."""
    alike = sum(a.get(name) == b.get(name) for name in {*a, *b})
    return same_messages(a, b), -abs(len(a["messages"]) - len(b["messages"])), alike


def _diff(recorded: Ask, ask: Ask) -> Iterator[str]:
    """Show what is different, without the messages that both begin with."""
    same = same_messages(recorded, ask)
    a, b = ({**each, "messages": each["messages"][same:]} for each in (recorded, ask))
    texts = [json.dumps(each, indent=1, sort_keys=True, ensure_ascii=False).splitlines() for each in (a, b)]
    found = list(unified_diff(texts[0], texts[1], "recorded", "asked", lineterm="", n=1))
    for line in found[:_DIFF_LINES]:
        yield line if len(line) <= _DIFF_WIDTH else f"{line[: _DIFF_WIDTH - 1]}…"
    if len(found) > _DIFF_LINES:
        yield f"… and {len(found) - _DIFF_LINES} more lines"
