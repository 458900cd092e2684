"""The chat-completions API, which OpenAI made and most servers speak: vLLM, Ollama, llama.cpp, gateways, other vendors.

``OpenAIProvider(model="gpt-5")`` takes its key from ``OPENAI_API_KEY``; a server of your own needs none:
``OpenAIProvider(model="qwen3", base_url="http://localhost:11434")``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import urlsplit

from kode.core.clock import Clock
from kode.core.errors import NotBoundError, UsageError
from kode.core.provider.base import Capabilities, ModelRequest, Prices
from kode.core.provider.failure import provider_error
from kode.core.provider.openai.chat_reply import ChatReply
from kode.core.provider.openai.chat_request import Dialect, dialect_of, request_body
from kode.core.provider.wire.address import base_url as in_one_form
from kode.core.provider.wire.credentials import Secrets
from kode.core.provider.wire.http import EventStream, Http, HttpOptions
from kode.core.provider.wire.stream import ReplyStream

__all__ = ["OpenAIProvider"]

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
        self.base_url, self._query = in_one_form(url)
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
            reasoning=known.reasoning or known.reasoning_field is not None,
            structured_output=True,
            prompt_cache=True,
            input_media=frozenset({"image", "audio", "file"}),
        )

    def __repr__(self) -> str:
        return f"OpenAIProvider(model={self.model!r}, base_url={self.base_url + self._query!r})"

    def stream(self, request: ModelRequest) -> ReplyStream:
        """Ask; see ``Provider.stream``."""
        reader = ChatReply(self.name, request.model or self.model, self.prices, self.http.secrets.hide)
        return ReplyStream(lambda: self.post(request), reader)

    def post(self, request: ModelRequest) -> EventStream:
        """Write the request; entering what this returns sends it.

        Raises:
            ProviderError: Code ``bad_request``: it cannot be written.
        """
        request = request if request.model else replace(request, model=self.model)
        model = request.model
        try:
            body = request_body(request, self._of(model), official=self.official, name=self.name)
        except UsageError as error:
            raise provider_error("bad_request", error.message, provider=self.name, model=model) from error
        url = f"{self.base_url}/chat/completions{self._query}"
        return self.http.post(url, body, headers=request.extra_headers, model=model)

    async def close(self) -> None:
        """Close connections; see ``Provider.close``."""
        await self.http.close()

    def _of(self, model: str) -> Dialect:
        return self._dialect or dialect_of(model)


def _bearer(key: str) -> Secrets:
    key = key.strip()
    return Secrets([("authorization", f"Bearer {key}")] if key else ())
