"""Google's Gemini API.

``GeminiProvider(model="gemini-3.5-flash")`` takes its key from ``GEMINI_API_KEY`` or ``GOOGLE_API_KEY``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from kode.core.clock import Clock
from kode.core.provider.base import Capabilities, MediaFile, ModelRequest, Prices, Uploaded
from kode.core.provider.gemini.content_reply import ContentReply
from kode.core.provider.gemini.content_request import request_body
from kode.core.provider.gemini.facts import GeminiFacts, facts_of
from kode.core.provider.gemini.files import upload
from kode.core.provider.gemini.media import MAX_MEDIA, MEDIA
from kode.core.provider.media import fitted
from kode.core.provider.wire.address import base_url as in_one_form
from kode.core.provider.wire.body import encode
from kode.core.provider.wire.counting import counted
from kode.core.provider.wire.credentials import Secrets
from kode.core.provider.wire.http import EventStream
from kode.core.provider.wire.options import HttpOptions
from kode.core.provider.wire.stream import ReplyStream
from kode.core.provider.wire.vendor import Vendor

__all__ = ["GeminiProvider"]

HOST = "generativelanguage.googleapis.com"
DEFAULT_URL = f"https://{HOST}/v1beta"
DEFAULT_MODEL = "gemini-3.5-flash"


class GeminiProvider(Vendor):
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
        prices: Gives each usage its cost; default: what ``PRICES`` says of the model.
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
        address = in_one_form(url, version="v1beta", endpoint="/models")
        env = "GEMINI_API_KEY", "GOOGLE_API_KEY"
        super().__init__(name, model, address, secrets, host=HOST, env=env, prices=prices, http=http, clock=clock)
        self._facts = facts
        known = self._of(model)
        self.window_tokens = window_tokens or known.window_tokens
        self.capabilities = capabilities or Capabilities(
            reasoning=known.thinking is not None,
            structured_output=True,
            prompt_cache=True,
            media=MEDIA,
            max_media_bytes=MAX_MEDIA,
            output_media=frozenset({"image"} if "image" in model else ()),
            max_output_tokens=known.output_tokens,
        )

    def stream(self, request: ModelRequest) -> ReplyStream:
        """Ask; see ``Provider.stream``."""
        request = self._named(request)
        reader = ContentReply(*self._reads(request))
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

    async def upload(self, file: MediaFile) -> Uploaded:
        """Send a file for later requests; see ``TakesUploads``."""
        return await upload(self.http, self.base_url, file)

    # ---- pieces

    def _of(self, model: str) -> GeminiFacts:
        return self._facts or facts_of(model)

    def _body(self, request: ModelRequest) -> dict[str, Any]:
        with self._writing(request.model):
            return request_body(fitted(request, self.capabilities), self._of(request.model), name=self.name)

    def _post(self, method: str, body: dict[str, Any], request: ModelRequest) -> EventStream:
        url = f"{self.base_url}/{quote(_path(request.model))}:{method}"
        return self.http.post(url, encode(body), headers=request.extra_headers, model=request.model)


def _path(model: str) -> str:
    return model if "/" in model else f"models/{model}"


def _key(key: str) -> Secrets:
    key = key.strip()
    return Secrets([("x-goog-api-key", key)] if key else ())
