"""What a server says inside a stream is shown, but nothing of what is secret in the request."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.servers.anthropic import MessagesServer
from tests.servers.chat import ChatServer, raw
from tests.servers.gemini import GeminiServer
from tests.servers.responses import ResponsesServer

from kode.core.errors import ProviderError
from kode.core.kernel.message import Message, TextBlock
from kode.core.provider import AnthropicProvider, GeminiProvider, ModelRequest, OpenAIProvider, fold

pytestmark = pytest.mark.integration
SECRET = "canary-of-a-tenant-1"
HELLO = (Message(0, "user", (TextBlock("hi"),), 0),)


@pytest.mark.parametrize(
    ("server", "kind", "options"),
    [
        (MessagesServer, AnthropicProvider, {}),
        (GeminiServer, GeminiProvider, {}),
        (ChatServer, OpenAIProvider, {"model": "m"}),
        (ResponsesServer, OpenAIProvider, {"api": "responses"}),
    ],
    ids=["anthropic", "gemini", "chat", "responses"],
)
async def test_a_header_of_a_request_is_not_shown_by_its_stream(server: Any, kind: Any, options: Any) -> None:
    there = server()
    error = {"type": "error", "error": {"type": "api_error", "code": 500, "message": f"bad token {SECRET}"}}
    there.reply(raw(f"event: error\ndata: {json.dumps(error)}\n\n".encode()))
    provider = kind(base_url=there.url, environ={}, **options)
    try:
        with pytest.raises(ProviderError) as caught:
            async with provider.stream(ModelRequest("", HELLO, extra_headers={"x-tenant": SECRET})) as chunks:
                fold([chunk async for chunk in chunks])
    finally:
        await provider.close()
        there.stop()
    assert there.requests[0].headers["x-tenant"] == SECRET
    assert "bad token ***" in caught.value.message
    assert SECRET not in repr(caught.value) + repr(vars(caught.value))
