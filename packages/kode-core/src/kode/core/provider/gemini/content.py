"""Google's Gemini API.

``GeminiProvider(model="gemini-3.5-flash")`` takes its key from ``GEMINI_API_KEY`` or ``GOOGLE_API_KEY``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlsplit

from kode.core.clock import Clock
from kode.core.errors import NotBoundError, UsageError
from kode.core.provider.base import Capabilities, ModelRequest, Prices
from kode.core.provider.failure import provider_error
from kode.core.provider.gemini.content_reply import ContentReply
from kode.core.provider.gemini.content_request import encode, request_body
from kode.core.provider.gemini.facts import GeminiFacts, facts_of
from kode.core.provider.wire.address import base_url as in_one_form
from kode.core.provider.wire.counting import counted
from kode.core.provider.wire.credentials import Secrets
from kode.core.provider.wire.http import EventStream, Http, HttpOptions
from kode.core.provider.wire.stream import ReplyStream

__all__ = ["GeminiProvider"]

DEFAULT_URL = "https://generativelanguage.googleapis.com/v1beta"
DEFAULT_MODEL = "gemini-3.5-flash"


class GeminiProvider:
    """Contents, streamed. Shared by any number of agents and event loops.

    Args:
        model: Asked when a request names none.
        api_key: Sent as ``x-goog-api-key``, never in a URL; default: ``GEMINI_API_KEY`` or ``GOOGLE_API_KEY``. Only the
            vendor itself asks for one here.
        base_url: Default: ``GOOGLE_GEMINI_BASE_URL``, or the vendor. With or without version (``/v1beta`` is added to a
            URL that names none) and final slash.
        name: Stored with each message. Give servers of different vendors different names.
        window_tokens: Default: by the model's name.
        capabilities: Default: by the model's name.
        prices: Gives each usage its cost.
        facts: How the model wants to be asked; default: by its name.
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
        name: str = "gemini",
        window_tokens: int | None = None,
        capabilities: Capabilities | None = None,
        prices: Prices | None = None,
        facts: GeminiFacts | None = None,
        extra_headers: Mapping[str, str] | None = None,
        http: HttpOptions | None = None,
        environ: Mapping[str, str] | None = None,
        clock: Clock | None = None,
    ) -> None:
        environ = os.environ if environ is None else environ
        if api_key is None:
            api_key = environ.get("GEMINI_API_KEY") or environ.get("GOOGLE_API_KEY") or ""
        secrets = _key(api_key).also(extra_headers)
        url = base_url or environ.get("GOOGLE_GEMINI_BASE_URL") or DEFAULT_URL
        # From here on things are refused, and a traceback may show what a frame holds.
        environ = api_key = extra_headers = None
        self.name = name
        self.model = model
        self.base_url, _ = in_one_form(url, version="v1beta", endpoint="/models")
        if urlsplit(self.base_url).hostname == "generativelanguage.googleapis.com" and not secrets:
            raise NotBoundError(
                f"Provider {name!r} needs a key for {self.base_url}: set GEMINI_API_KEY or GOOGLE_API_KEY, or pass"
                " api_key.",
                code="missing_key",
                name=name,
                env="GEMINI_API_KEY",
            )
        self.http = Http(name, secrets, http, clock)
        self.prices = prices
        self._facts = facts
        known = self._of(model)
        self.window_tokens = window_tokens or known.window_tokens
        self.capabilities = capabilities or Capabilities(
            reasoning=known.thinking is not None,
            structured_output=True,
            prompt_cache=True,
            input_media=frozenset({"image", "audio", "video", "file"}),
            output_media=frozenset({"image"} if "image" in model else ()),
            max_media_bytes=20 * 1024 * 1024,
            max_output_tokens=known.output_tokens,
        )

    def __repr__(self) -> str:
        return f"GeminiProvider(model={self.model!r}, base_url={self.base_url!r})"

    def stream(self, request: ModelRequest) -> ReplyStream:
        """Ask; see ``Provider.stream``."""
        request = self._named(request)
        reader = ContentReply(self.name, request.model, self.prices, self.http.secrets.hide)
        return ReplyStream(lambda: self.post(request), reader)

    def post(self, request: ModelRequest) -> EventStream:
        """Write the request; entering what this returns sends it.

        Raises:
            ProviderError: Code ``bad_request``: it cannot be written.
        """
        request = self._named(request)
        return self._post("streamGenerateContent?alt=sse", self._body(request), request)

    async def count_tokens(self, request: ModelRequest) -> int:
        """Count a request's input tokens; see ``CountsTokens``."""
        request = self._named(request)
        body = {"generateContentRequest": {"model": _path(request.model), **self._body(request)}}
        return await counted(self._post("countTokens", body, request), "totalTokens", self.name, request.model)

    async def close(self) -> None:
        """Close connections; see ``Provider.close``."""
        await self.http.close()

    # ---- pieces

    def _of(self, model: str) -> GeminiFacts:
        return self._facts or facts_of(model)

    def _named(self, request: ModelRequest) -> ModelRequest:
        return request if request.model else replace(request, model=self.model)

    def _body(self, request: ModelRequest) -> dict[str, Any]:
        try:
            return request_body(request, self._of(request.model), name=self.name)
        except UsageError as error:
            raise provider_error("bad_request", error.message, provider=self.name, model=request.model) from error

    def _post(self, method: str, body: dict[str, Any], request: ModelRequest) -> EventStream:
        url = f"{self.base_url}/{quote(_path(request.model))}:{method}"
        return self.http.post(url, encode(body), headers=request.extra_headers, model=request.model)


def _path(model: str) -> str:
    return model if "/" in model else f"models/{model}"


def _key(key: str) -> Secrets:
    key = key.strip()
    return Secrets([("x-goog-api-key", key)] if key else ())
