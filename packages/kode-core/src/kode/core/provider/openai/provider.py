"""OpenAI's two APIs, Responses and chat completions; the latter most servers speak: vLLM, Ollama, llama.cpp, others.

``OpenAIProvider(model="gpt-5")`` takes its key from ``OPENAI_API_KEY``; a server of your own needs none:
``OpenAIProvider(model="qwen3", base_url="http://localhost:11434")``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

from kode.core.clock import Clock
from kode.core.errors import UsageError
from kode.core.provider.base import Capabilities, MediaFile, ModelRequest, Prices, Uploaded
from kode.core.provider.media import fitted
from kode.core.provider.openai import chat_request, responses_request
from kode.core.provider.openai.chat_reply import ChatReply
from kode.core.provider.openai.chat_request import Dialect, dialect_of
from kode.core.provider.openai.files import upload
from kode.core.provider.openai.media import MAX_MEDIA, media_rules
from kode.core.provider.openai.responses_reply import ResponsesReply
from kode.core.provider.wire.address import base_url as in_one_form
from kode.core.provider.wire.credentials import Secrets
from kode.core.provider.wire.http import EventStream
from kode.core.provider.wire.options import HttpOptions
from kode.core.provider.wire.stream import ReplyStream
from kode.core.provider.wire.vendor import Vendor

__all__ = ["Api", "OpenAIProvider", "by_chat", "by_responses"]

Api = Literal["chat", "responses"]

HOST = "api.openai.com"
DEFAULT_URL = f"https://{HOST}/v1"
DEFAULT_MODEL = "gpt-5"
_APIS: Mapping[Api, tuple[str, Any, type[ChatReply | ResponsesReply]]] = {
    "chat": ("/chat/completions", chat_request.request_body, ChatReply),
    "responses": ("/responses", responses_request.request_body, ResponsesReply),
}
"""Path, who writes the request, who reads the reply."""


class OpenAIProvider(Vendor):
    """Responses or chat completions, streamed. Shared by any number of agents and event loops.

    Args:
        model: Asked when a request names none.
        api: Default: ``responses`` at OpenAI itself, where only that keeps a model's reasoning from step to step;
            ``chat`` everywhere else, and where a ``dialect`` is given. By name: ``openai-responses:…``,
            ``openai-chat:…``.
        api_key: Sent as bearer token; default: ``OPENAI_API_KEY``. Only the vendor itself asks for one here.
        base_url: Default: ``OPENAI_BASE_URL``, or the vendor. With or without version (``/v1`` is added to a URL that
            names none) and final slash; of a query only ``?api-version=…``, which goes with each request.
        name: Stored with each message. Give servers of different vendors different names.
        window_tokens: Default: by the model's name, 32,768 for one that it does not tell.
        capabilities: Default: tools, structured output, images, sound and PDF files.
        prices: Gives each usage its cost; default: what ``PRICES`` says of the model.
        dialect: How the server differs; default: by the model's name.
        extra_headers: Sent with each request; treated as secret.
        http: How to connect.
        environ: Where variables are looked up; default: the process's.
        clock: Bounds clean-up.

    Raises:
        NotBoundError: The vendor itself is to be asked and there is no key (``missing_key``).
        UsageError: There is no such API, or the base URL or a header cannot be used.
    """

    def __init__(
        self,
        *,
        model: str = DEFAULT_MODEL,
        api: Api | None = None,
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
        official = urlsplit(in_one_form(url)[0]).hostname == HOST
        self.api: Api = api or ("responses" if official and dialect is None else "chat")
        if self.api not in _APIS:
            raise UsageError(f"OpenAI has no API {api!r}; give one of {', '.join(_APIS)}.", code="unknown_api")
        self._path, self._write, self._read = _APIS[self.api]
        address = in_one_form(url, endpoint=self._path)
        super().__init__(
            name, model, address, secrets, host=HOST, env=("OPENAI_API_KEY",), prices=prices, http=http, clock=clock
        )
        self._dialect = dialect
        known = self._of(model)
        self.window_tokens = window_tokens or known.window_tokens
        self.capabilities = capabilities or Capabilities(
            reasoning=known.reasoning or known.reasoning_field is not None,
            structured_output=True,
            prompt_cache=True,
            media=media_rules(name, model, api=self.api, official=self.official),
            max_media_bytes=MAX_MEDIA,
        )

    def stream(self, request: ModelRequest) -> ReplyStream:
        """Ask; see ``Provider.stream``."""
        reader = self._read(*self._reads(request))
        return ReplyStream(lambda: self.post(request), reader)

    def post(self, request: ModelRequest) -> EventStream:
        """Write the request; entering what this returns sends it.

        Raises:
            ProviderError: Code ``bad_request``: it cannot be written.
        """
        request = self._named(request)
        with self._writing(request.model):
            fit = fitted(request, self.capabilities)
            body = self._write(fit, self._of(request.model), official=self.official, name=self.name)
        url = f"{self.base_url}{self._path}{self._query}"
        return self.http.post(url, body, headers=request.extra_headers, model=request.model)

    async def upload(self, file: MediaFile) -> Uploaded:
        """Send a file for later requests; see ``TakesUploads``."""
        return await upload(self.http, f"{self.base_url}/files{self._query}", file)

    def _of(self, model: str) -> Dialect:
        return self._dialect or dialect_of(model)


def by_chat(**options: Any) -> OpenAIProvider:
    """``openai-chat``: chat completions, at OpenAI too."""
    return _by("chat", options)


def by_responses(**options: Any) -> OpenAIProvider:
    """``openai-responses``: Responses, at other servers too."""
    return _by("responses", options)


def _by(api: Api, options: dict[str, Any]) -> OpenAIProvider:
    try:
        return OpenAIProvider(api=api, **options)
    finally:
        options.clear()  # where it is refused, a traceback may show what a frame holds


def _bearer(key: str) -> Secrets:
    key = key.strip()
    return Secrets([("authorization", f"Bearer {key}")] if key else ())
