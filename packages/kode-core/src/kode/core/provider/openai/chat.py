"""The chat-completions API, which OpenAI made and most servers speak: vLLM, Ollama, llama.cpp, gateways, other vendors.

``OpenAIProvider(model="gpt-5")`` takes its key from ``OPENAI_API_KEY``; a server of your own needs none:
``OpenAIProvider(model="qwen3", base_url="http://localhost:11434")``.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from urllib.parse import urlsplit

from kode.core.clock import Clock
from kode.core.errors import NotBoundError, ProviderError, UsageError
from kode.core.provider.base import Capabilities, Chunk, ModelRequest, Prices
from kode.core.provider.failure import provider_error
from kode.core.provider.openai.chat_reply import ChatReply
from kode.core.provider.openai.chat_request import Dialect, dialect_of, request_body
from kode.core.provider.wire.credentials import Secrets
from kode.core.provider.wire.http import EventStream, Http, HttpOptions

__all__ = ["ChatStream", "OpenAIProvider"]

DEFAULT_URL = "https://api.openai.com/v1"
DEFAULT_MODEL = "gpt-5"


class OpenAIProvider:
    """Chat completions, streamed. Shared by any number of agents and event loops.

    Args:
        model: Asked when a request names none.
        api_key: Sent as bearer token; default: ``OPENAI_API_KEY``. Only the vendor itself asks for one here.
        base_url: Default: ``OPENAI_BASE_URL``, or the vendor. With or without version (``/v1`` is added to a URL that
            names none) and final slash; of a query only ``?api-version=…``, which goes with each request.
        name: Stored with each message. Give servers of different vendors different names.
        window_tokens: Default: by the model's name, 32,768 for one that it does not tell.
        capabilities: Default: tools, structured output, images, sound and PDF files.
        prices: Gives each usage its cost.
        dialect: How the server differs; default: by the model's name.
        extra_headers: Sent with each request; treated as secret.
        http: How to connect.
        environ: Where variables are looked up; default: the process's.
        clock: Bounds clean-up.

    Raises:
        NotBoundError: The vendor itself is to be asked and there is no key (``missing_key``).
        UsageError: The base URL or a header cannot be used.
    """

    def __init__(
        self,
        *,
        model: str = DEFAULT_MODEL,
        api_key: str | None = None,
        base_url: str | None = None,
        name: str = "openai",
        window_tokens: int | None = None,
        capabilities: Capabilities | None = None,
        prices: Prices | None = None,
        dialect: Dialect | None = None,
        extra_headers: Mapping[str, str] | None = None,
        http: HttpOptions | None = None,
        environ: Mapping[str, str] | None = None,
        clock: Clock | None = None,
    ) -> None:
        environ = os.environ if environ is None else environ
        secrets = _bearer(environ.get("OPENAI_API_KEY", "") if api_key is None else api_key).also(extra_headers)
        url = base_url or environ.get("OPENAI_BASE_URL") or DEFAULT_URL
        # From here on things are refused, and a traceback may show what a frame holds.
        environ = api_key = extra_headers = None
        self.name = name
        self.model = model
        self.base_url, self._query = _base(url)
        self.official = urlsplit(self.base_url).hostname == "api.openai.com"
        if self.official and not secrets:
            raise NotBoundError(
                f"Provider {name!r} needs a key for {self.base_url}: set OPENAI_API_KEY, or pass api_key. A server of"
                " your own needs none: set OPENAI_BASE_URL.",
                code="missing_key",
                name=name,
                env="OPENAI_API_KEY",
            )
        self.http = Http(name, secrets, http, clock)
        self.prices = prices
        self._dialect = dialect
        known = self._of(model)
        self.window_tokens = window_tokens or known.window_tokens
        self.capabilities = capabilities or Capabilities(
            reasoning=known.reasoning,
            structured_output=True,
            prompt_cache=True,
            input_media=frozenset({"image", "audio", "file"}),
        )

    def __repr__(self) -> str:
        return f"OpenAIProvider(model={self.model!r}, base_url={self.base_url + self._query!r})"

    def stream(self, request: ModelRequest) -> ChatStream:
        """Ask; see ``Provider.stream``."""
        return ChatStream(self, request)

    def post(self, request: ModelRequest) -> EventStream:
        """Write the request; entering what this returns sends it.

        Raises:
            ProviderError: Code ``bad_request``: it cannot be written.
        """
        request = request if request.model else replace(request, model=self.model)
        model = request.model
        try:
            body = request_body(request, self._of(model), official=self.official)
        except UsageError as error:
            raise provider_error("bad_request", error.message, provider=self.name, model=model) from error
        url = f"{self.base_url}/chat/completions{self._query}"
        return self.http.post(url, body, headers=request.extra_headers, model=model)

    async def close(self) -> None:
        """Close connections; see ``Provider.close``."""
        await self.http.close()

    def _of(self, model: str) -> Dialect:
        return self._dialect or dialect_of(model)


class ChatStream:
    """One reply on its way."""

    __slots__ = ("_answer", "_chunks", "_ended", "_provider", "_reply", "_request")

    def __init__(self, provider: OpenAIProvider, request: ModelRequest) -> None:
        self._provider = provider
        self._request = request
        self._answer: EventStream | None = None
        self._reply = ChatReply(
            provider.name, request.model or provider.model, provider.prices, provider.http.secrets.hide
        )
        self._chunks: deque[Chunk] = deque()
        self._ended = False

    async def __aenter__(self) -> ChatStream:
        answer = self._provider.post(self._request)
        await answer.__aenter__()
        self._answer = answer
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._answer is not None:
            await self._answer.__aexit__(kind, error, trace)

    def __aiter__(self) -> ChatStream:
        return self

    async def __anext__(self) -> Chunk:
        while not self._chunks:
            if self._ended or self._answer is None:
                raise StopAsyncIteration
            await self._fill(self._answer)
        return self._chunks.popleft()

    async def _fill(self, answer: EventStream) -> None:
        reply = self._reply
        try:
            events = await answer.read()
        except ProviderError:
            if not reply.finished:
                raise
            events = None  # the model had said that this was all, so nothing of the reply can be missing
        if events is None:
            self._ended = True
            self._chunks.extend(reply.end())
            return
        for event in events:
            self._chunks.extend(reply.feed(event.data))
        answer.complete = reply.finished or reply.over
        self._ended = reply.over


def _bearer(key: str) -> Secrets:
    key = key.strip()
    return Secrets([("authorization", f"Bearer {key}")] if key else ())


def _base(url: str) -> tuple[str, str]:
    """Bring a base URL into one form, no final slash, with a version, without the endpoint; and give its query."""
    try:
        parts = urlsplit(url.strip())
        host = parts.hostname if parts.port != 0 else None
    except ValueError:
        parts, host = urlsplit(""), None
    problem = None
    if parts.scheme not in ("http", "https") or not host:
        problem = "has no http:// or https:// with a host, or an odd port"
    elif parts.username is not None or parts.password is not None:
        problem = "holds a user or password, which would be logged: give api_key or extra_headers"
    elif parts.fragment or (parts.query and not _QUERY.fullmatch(parts.query)):
        problem = "has a fragment, or more of a query than api-version, which would be logged: give keys as api_key"
    if problem is not None:
        shown = f"{parts.scheme}://{host}{parts.path}" if host else "given"
        raise UsageError(f"The base URL {shown} {problem}; such as http://localhost:8000/v1.", code="bad_base_url")
    path = parts.path.rstrip("/").removesuffix("/chat/completions").rstrip("/")
    if not parts.query and not any(_VERSION.fullmatch(part) for part in path.split("/")):
        path += "/v1"
    return f"{parts.scheme}://{parts.netloc}{path}", f"?{parts.query}" if parts.query else ""


_QUERY = re.compile(r"api-version=[\w.-]{1,40}", re.ASCII)
_VERSION = re.compile(r"v\d+\w*")
