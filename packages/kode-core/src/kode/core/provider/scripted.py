"""A provider that follows a script: for tests, demos and benchmarks, without network and keys.

    provider = ScriptedProvider([call("fs_read", {"path": "a.txt"}), say("Done", expect="content of a")])

A script is one turn for every request, a list of turns or a function of the request, for all agents or by agent id.
It costs nearly nothing: a turn is cut into chunks once, and an instant one never waits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from inspect import isawaitable
from types import TracebackType
from typing import Literal, TypeAlias

from anyio.lowlevel import checkpoint

from kode.core.clock import Clock, RealClock
from kode.core.errors import ProviderError
from kode.core.kernel.message import ToolUseBlock, Usage
from kode.core.provider.assemble import Reply
from kode.core.provider.base import Capabilities, Chunk, MediaRule, ModelRequest, Prices, ReplyError
from kode.core.provider.failure import provider_error
from kode.core.provider.script import Turn, last_text, say, text_of, unmet

__all__ = ["Answer", "Script", "ScriptedProvider"]

Answer: TypeAlias = Turn | Reply | str
Script: TypeAlias = Answer | Sequence[Answer] | Callable[[ModelRequest], Answer | Awaitable[Answer]]

_Script: TypeAlias = Sequence[Answer] | Callable[[ModelRequest], Answer | Awaitable[Answer]]

_EVERYTHING = Capabilities(
    reasoning=True,
    structured_output=True,
    prompt_cache=True,
    media={kind: MediaRule() for kind in ("image", "audio", "video", "file")},
    output_media=frozenset({"image", "audio", "video", "file"}),
)


class ScriptedProvider:
    """Answer by a script. Any number of agents may use one at once.

    Args:
        script: One turn or text, which answers every request; a list of turns, used up in the order of the requests,
            whoever asks; or a function of the request, sync or async, that decides from what it sees; or these by
            agent id, where ``"*"`` is for all agents not named: each of them goes through its list from the beginning.
        model: Its name, and that of the model in its replies.
        name: Of the provider, as stored with each message.
        by: How a list is followed. ``calls``: each request takes the next turn. ``replies``: the turn is the
            number of replies in the request's messages, so it depends on the history only: the same after
            a crash in a new process, and the same again for a retry.
        delay_s: Before the first chunk of every turn, added to its own.
        clock: What delays wait on.
        usage: Of every reply that says nothing else.
        prices: Gives each usage its cost; None: the cost is as scripted.
        window_tokens: As of ``Provider``.
        capabilities: As of ``Provider``; default: everything.
        keep_requests: Whether ``requests`` is filled.

    What the script does not foresee is a ``ProviderError`` with code ``script``: the run ends with that text,
    and ``check`` raises it in the test, wherever the agent ran.
    """

    def __init__(
        self,
        script: Script | Mapping[str, Script] = (),
        *,
        model: str = "scripted-1",
        name: str = "scripted",
        by: Literal["calls", "replies"] = "calls",
        delay_s: float = 0.0,
        clock: Clock | None = None,
        usage: Usage = Usage(input=10, output=5),
        prices: Prices | None = None,
        window_tokens: int = 200_000,
        capabilities: Capabilities = _EVERYTHING,
        keep_requests: bool = True,
    ) -> None:
        self.name = name
        self.model = model
        self.window_tokens = window_tokens
        self.capabilities = capabilities
        self.clock: Clock = RealClock() if clock is None else clock
        self.calls = 0
        """Requests so far."""
        self.abandoned = 0
        """Streams that were left before their end."""
        self.requests: list[ModelRequest] = []
        """All of them, in order."""
        self.complaints: list[str] = []
        """What the script did not foresee."""
        self._scripts: Mapping[str, _Script] | None = None
        self._script: _Script = ()
        if isinstance(script, Mapping):
            self._scripts = {key: _repeated(given) for key, given in script.items()}
        else:
            self._script = _repeated(script)
        self._by_replies = by == "replies"
        self._taken: dict[str, int] = {}
        self._delay_s = delay_s
        self._prices = prices
        self._usage = usage if prices is None else prices.priced(usage)
        self._keep = keep_requests

    def stream(self, request: ModelRequest) -> ScriptedStream:
        """Answer; see ``Provider.stream``. The turn is taken on entering."""
        return ScriptedStream(self, request)

    async def answer(self, request: ModelRequest) -> tuple[Turn, tuple[Chunk, ...]]:
        """Choose the turn for a request, hold it to what it expects, wait its delay and cut it into chunks.

        Raises:
            ProviderError: The turn is a failure, or code ``script``.
        """
        self.calls += 1
        if self._keep:
            self.requests.append(request)
        answer = self._choose(request)
        turn = answer if isinstance(answer, Turn) else await self._turn(answer, request)
        if turn.expect is not None:
            problem = unmet(turn.expect, request)
            if problem is not None:
                raise self._complain(request, f"expects another request: {problem}.")
        wait = self._delay_s + turn.delay_s
        if wait > 0:
            await self.clock.sleep(wait)
        usage = self._usage
        if turn.usage is not None:
            usage = turn.usage if self._prices is None else self._prices.priced(turn.usage)
        chunks = turn.chunks(usage)
        if turn.error is not None and turn.end_at is None and isinstance(chunks[0], ReplyError):
            raise chunks[0].error
        return turn, chunks

    def check(self) -> None:
        """Raise if anything went otherwise than scripted, or turns of a list are left over.

        Raises:
            AssertionError: With all complaints.
        """
        found = list(self.complaints)
        scripts = {"": self._script} if self._scripts is None else self._scripts
        for key, script in scripts.items():
            taken = self._taken.get(key, 0)
            if key != "*" and not callable(script) and taken < len(script):
                found.append(f"{_whose(key)} has {len(script)} turns, of which {taken} were asked for.")
        if found:
            raise AssertionError("\n".join(found))

    async def count_tokens(self, request: ModelRequest) -> int:
        """Estimate: a token for four characters of text, results and arguments."""
        size = sum(len(part.text) for part in request.system_parts)
        for message in request.messages:
            size += len(text_of(message.blocks))
            size += sum(len(block.input) for block in message.blocks if isinstance(block, ToolUseBlock))
        return -(-size // 4)

    async def close(self) -> None:
        """Do nothing: there are no connections."""

    def _choose(self, request: ModelRequest) -> Answer | Awaitable[Answer]:
        """Call the function, or take the next turn of the list."""
        key = ""
        script = self._script
        if self._scripts is not None:
            key = request.agent_id
            found = self._scripts.get(key, self._scripts.get("*"))
            if found is None:
                known = ", ".join(sorted(self._scripts)) or "nobody"
                raise self._complain(request, f"knows no agent {key!r}; there are scripts for {known}.")
            script = found
        if callable(script):
            return self._ask(script, request)
        taken = _replies(request) if self._by_replies else self._taken.get(key, 0)
        if taken >= len(script):
            raise self._complain(
                request, f"has run out: it has {len(script)} turns and was asked for turn {taken + 1}."
            )
        self._taken[key] = taken + 1
        return script[taken]

    def _ask(
        self, script: Callable[[ModelRequest], Answer | Awaitable[Answer]], request: ModelRequest
    ) -> Answer | Awaitable[Answer]:
        try:
            return script(request)
        except ProviderError:
            raise
        except Exception as error:
            raise self._complain(request, f"raised {type(error).__name__}: {error}") from error

    async def _turn(self, answer: Answer | Awaitable[Answer], request: ModelRequest) -> Turn:
        if isawaitable(answer):
            try:
                answer = await answer
            except ProviderError:
                raise
            except Exception as error:
                raise self._complain(request, f"raised {type(error).__name__}: {error}") from error
        if isinstance(answer, Turn):
            return answer
        if isinstance(answer, str):
            return say(answer)
        if isinstance(answer, Reply):
            return Turn(answer.blocks, answer.stop, answer.usage)
        raise self._complain(request, f"gave a value of type {type(answer).__name__}; give a Turn, a Reply or a str.")

    def _complain(self, request: ModelRequest, what: str) -> ProviderError:
        text = (
            f"{_whose(request.agent_id)} {what} Request {self.calls} of this provider, with"
            f" {len(request.messages)} messages; the last one says {last_text(request)[:200]!r}."
        )
        self.complaints.append(text)
        return provider_error("script", text, provider=self.name, model=self.model)


class ScriptedStream:
    """One answer on its way."""

    __slots__ = ("_at", "_chunks", "_provider", "_request", "_turn")

    def __init__(self, provider: ScriptedProvider, request: ModelRequest) -> None:
        self._provider = provider
        self._request = request
        self._turn: Turn | None = None
        self._chunks: tuple[Chunk, ...] = ()
        self._at = 0

    async def __aenter__(self) -> ScriptedStream:
        turn, self._chunks = await self._provider.answer(self._request)
        if turn.paced:
            self._turn = turn
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._at < len(self._chunks):
            self._provider.abandoned += 1

    def __aiter__(self) -> ScriptedStream:
        return self

    async def __anext__(self) -> Chunk:
        at = self._at
        if self._turn is not None:
            await self._pace(self._turn, at)
        if at >= len(self._chunks):
            raise StopAsyncIteration
        self._at = at + 1
        return self._chunks[at]

    async def _pace(self, turn: Turn, at: int) -> None:
        if turn.gate is not None and at == turn.gate_at:
            await turn.gate.pause()
        if 0 < at < len(self._chunks) and at % turn.burst == 0:
            if turn.gap_s > 0:
                await self._provider.clock.sleep(turn.gap_s)
            else:
                await checkpoint()


def _repeated(script: Script) -> _Script:
    """Take a lone answer for one to every request. A text is a sequence too, of letters, which nobody means."""
    return (lambda request: script) if isinstance(script, Turn | Reply | str) else script


def _replies(request: ModelRequest) -> int:
    return sum(1 for message in request.messages if message.role == "assistant")


def _whose(key: str) -> str:
    return f"The script for agent {key!r}" if key else "The script"
