"""Anthropic's Messages API, and servers that speak it (gateways, other vendors, llama.cpp).

``AnthropicProvider(model="claude-sonnet-5-5")`` takes its key from ``ANTHROPIC_API_KEY``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from kode.core.clock import Clock
from kode.core.provider.anthropic.facts import ModelFacts, facts_of
from kode.core.provider.anthropic.files import FILES_BETA, upload
from kode.core.provider.anthropic.media import MAX_MEDIA, media_rules
from kode.core.provider.anthropic.messages_reply import MessagesReply
from kode.core.provider.anthropic.messages_request import FIRST_VERSION, output_tool, request_body
from kode.core.provider.base import CacheHint, Capabilities, MediaFile, ModelRequest, Prices, Uploaded
from kode.core.provider.media import fitted
from kode.core.provider.wire.address import base_url as in_one_form
from kode.core.provider.wire.body import encode
from kode.core.provider.wire.counting import counted
from kode.core.provider.wire.credentials import Secrets
from kode.core.provider.wire.http import EventStream
from kode.core.provider.wire.options import HttpOptions
from kode.core.provider.wire.stream import ReplyStream
from kode.core.provider.wire.vendor import Vendor

__all__ = ["AnthropicProvider"]

HOST = "api.anthropic.com"
DEFAULT_URL = f"https://{HOST}/v1"
DEFAULT_MODEL = "claude-sonnet-5-5"
_COUNTED = ("model", "messages", "system", "tools", "tool_choice", "thinking")


class AnthropicProvider(Vendor):
    """Messages, streamed. Shared by any number of agents and event loops.

    Args:
        model: Asked when a request names none.
        api_key: Sent as ``x-api-key``; default: ``ANTHROPIC_API_KEY``. Only the vendor itself asks for one here.
        base_url: Default: ``ANTHROPIC_BASE_URL``, or the vendor. With or without version (``/v1`` is added to a URL
            that names none) and final slash.
        name: Stored with each message. Give servers of different vendors different names.
        window_tokens: Default: by the model's name.
        capabilities: Default: by the model's name.
        prices: Gives each usage its cost; default: what ``PRICES`` says of the model.
        facts: How the model wants to be asked; default: by its name.
        cache: Where the history is cached if a request does not say; None: nowhere.
        version: Of the API (``anthropic-version``).
        betas: Names of features still in trial (``anthropic-beta``).
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
        name: str = "anthropic",
        window_tokens: int | None = None,
        capabilities: Capabilities | None = None,
        prices: Prices | None = None,
        facts: ModelFacts | None = None,
        cache: CacheHint | None = "short",
        version: str = FIRST_VERSION,
        betas: Iterable[str] = (),
        extra_headers: Mapping[str, str] | None = None,
        http: HttpOptions | None = None,
        environ: Mapping[str, str] | None = None,
        clock: Clock | None = None,
    ) -> None:
        environ = os.environ if environ is None else environ
        secrets = _key(environ.get("ANTHROPIC_API_KEY", "") if api_key is None else api_key).also(extra_headers)
        url = base_url or environ.get("ANTHROPIC_BASE_URL") or DEFAULT_URL
        # From here on things are refused, and a traceback may show what a frame holds.
        environ = api_key = extra_headers = None
        address = in_one_form(url, endpoint="/messages")
        super().__init__(
            name, model, address, secrets, host=HOST, env=("ANTHROPIC_API_KEY",), prices=prices, http=http, clock=clock
        )
        self.cache: CacheHint | None = cache
        self.version = version
        self._betas = tuple(betas)
        self._facts = facts
        known = self._of(model)
        self.window_tokens = window_tokens or known.window_tokens
        self.capabilities = capabilities or Capabilities(
            reasoning=known.thinking is not None,
            structured_output=True,
            prompt_cache=True,
            media=media_rules(official=self.official),
            max_media_bytes=MAX_MEDIA,
            max_output_tokens=known.output_tokens,
        )

    def stream(self, request: ModelRequest) -> ReplyStream:
        """Ask; see ``Provider.stream``."""
        request = self._named(request)
        reader = MessagesReply(
            *self._reads(request),
            # Only the vendor's own tools make a pause, and they come in as part of the body.
            may_pause=request.extra_body is not None,
            output_tool=output_tool(request, self._of(request.model)),
        )

        def go_on() -> EventStream | None:
            said = reader.paused
            if said is None:
                return None
            reader.resume()
            return self.post(request, said)

        return ReplyStream(lambda: self.post(request), reader, go_on)

    def post(self, request: ModelRequest, said: list[dict[str, Any]] | None = None) -> EventStream:
        """Write the request; entering what this returns sends it.

        Args:
            request: What to ask.
            said: What the model said before it made a pause.

        Raises:
            ProviderError: Code ``bad_request``: it cannot be written.
        """
        body = self._body(request)
        if said:
            body["messages"] = [*body["messages"], {"role": "assistant", "content": said}]
        return self._post("/messages", body, request)

    async def count_tokens(self, request: ModelRequest) -> int:
        """Count a request's input tokens; see ``CountsTokens``."""
        request = self._named(request)
        whole = self._body(request)
        body = {name: whole[name] for name in _COUNTED if name in whole}
        answer = self._post("/messages/count_tokens", body, request)
        return await counted(answer, "input_tokens", self.name, request.model)

    async def upload(self, file: MediaFile) -> Uploaded:
        """Send a file for later requests; see ``TakesUploads``."""
        return await upload(self.http, f"{self.base_url}/files{self._query}", file, version=self.version)

    # ---- pieces

    def _of(self, model: str) -> ModelFacts:
        return self._facts or facts_of(model)

    def _body(self, request: ModelRequest) -> dict[str, Any]:
        request = self._named(request)
        facts = self._of(request.model)
        with self._writing(request.model):
            fit = fitted(request, self.capabilities)
            return request_body(fit, facts, name=self.name, cache=self.cache, version=self.version)

    def _post(self, path: str, body: dict[str, Any], request: ModelRequest) -> EventStream:
        plain = {"anthropic-version": self.version}
        betas = [*self._betas, *_betas_for(body)]
        if betas:
            plain["anthropic-beta"] = ",".join(dict.fromkeys(betas))
        url = f"{self.base_url}{path}{self._query}"
        return self.http.post(url, encode(body), headers=request.extra_headers, plain=plain, model=request.model)


def _betas_for(body: dict[str, Any]) -> Iterable[str]:
    """Name what a body uses that the first version of the API does not have without being asked."""
    if body.get("thinking", {}).get("type") == "enabled" and "tools" in body:
        yield "interleaved-thinking-2025-05-14"
    blocks = (block for message in body["messages"] for block in message["content"])
    if any(_is_uploaded(block) for block in blocks):
        yield FILES_BETA


def _is_uploaded(block: dict[str, Any]) -> bool:
    inner = block.get("content")
    within = inner if block["type"] == "tool_result" and isinstance(inner, list) else [block]
    return any(each.get("source", {}).get("type") == "file" for each in within)


def _key(key: str) -> Secrets:
    key = key.strip()
    return Secrets([("x-api-key", key)] if key else ())
