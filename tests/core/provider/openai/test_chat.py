"""The provider itself: addresses, keys, names; what it does behind a reply that is complete."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from tests.servers.chat import ChatServer, Said, say

from kode.core.errors import NotBoundError, ProviderError, UsageError
from kode.core.kernel.message import Message, TextBlock
from kode.core.provider import Dialect, ModelRequest, OpenAIProvider, Provider, ProviderCatalog, fold
from kode.core.provider.wire import http as wire


def at(url: str | None = None, **more: Any) -> OpenAIProvider:
    return OpenAIProvider(base_url=url, **{"environ": {}, "api_key": "sk-1", **more})


@pytest.mark.parametrize(
    ("given", "used"),
    [
        (None, "https://api.openai.com/v1"),
        ("https://api.openai.com", "https://api.openai.com/v1"),
        ("http://localhost:11434", "http://localhost:11434/v1"),
        ("http://localhost:11434/", "http://localhost:11434/v1"),
        (" http://localhost:8000/v1/ ", "http://localhost:8000/v1"),
        ("http://localhost:8000/v1/chat/completions", "http://localhost:8000/v1"),
        ("https://open.bigmodel.cn/api/paas/v4", "https://open.bigmodel.cn/api/paas/v4"),
        ("https://host/v1beta/openai/", "https://host/v1beta/openai"),
        ("https://openrouter.ai/api/v1", "https://openrouter.ai/api/v1"),
        ("https://host/proxy", "https://host/proxy/v1"),
        ("http://[::1]:8000", "http://[::1]:8000/v1"),
        # The version stands in the query, and needs none in the path.
        ("https://h/openai/deployments/d?api-version=2024-10-21", "https://h/openai/deployments/d"),
        ("https://h/openai/v1/?api-version=preview", "https://h/openai/v1"),
    ],
)
def test_addresses(given: str | None, used: str) -> None:
    assert at(given).base_url == used


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "/v1",
        "ftp://host",
        "http://",
        "http://host?x=1",
        "http://u:p@host",
        "http://h:99999",
        "http://h?api-version=",
        "http://h?api-version=1&x=1",
        "http://u:p@h?api-version=1",
        "http://[::1",
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(UsageError, match="such as http://localhost:8000/v1") as caught:
        at(url)
    assert caught.value.code == "bad_base_url"


def test_a_key_is_needed_only_by_the_vendor() -> None:
    with pytest.raises(NotBoundError, match="set OPENAI_API_KEY, or pass api_key") as caught:
        OpenAIProvider(environ={})
    assert caught.value.code == "missing_key"
    OpenAIProvider(environ={"OPENAI_API_KEY": "sk-1"})
    OpenAIProvider(environ={"OPENAI_BASE_URL": "http://localhost:1"})
    OpenAIProvider(environ={}, extra_headers={"authorization": "Bearer sk-1"})


def test_what_is_given_beats_the_environment() -> None:
    environ = {"OPENAI_BASE_URL": "http://one", "OPENAI_API_KEY": "sk-one"}
    assert OpenAIProvider(environ=environ).base_url == "http://one/v1"
    assert at("http://two", environ=environ).base_url == "http://two/v1"


def test_window_by_model_or_as_given() -> None:
    assert at(model="gpt-4.1-mini").window_tokens == 1_047_576
    assert at(model="gpt-4.1-mini", window_tokens=9).window_tokens == 9
    assert at(model="x", dialect=Dialect(5)).window_tokens == 5


def test_it_is_a_provider_found_by_name() -> None:
    catalog = ProviderCatalog(environ={})
    provider: Provider = catalog.resolve("openai:qwen3:8b", base_url="http://localhost:1", environ={})
    assert (provider.name, provider.model) == ("openai", "qwen3:8b")
    assert repr(provider) == "OpenAIProvider(model='qwen3:8b', base_url='http://localhost:1/v1')"


async def ask(provider: OpenAIProvider) -> str:
    request = ModelRequest("", (Message(0, "user", (TextBlock("hi"),), 0),))
    async with provider.stream(request) as chunks:
        return fold([chunk async for chunk in chunks]).text


@pytest.mark.integration
async def test_a_complete_reply_does_not_wait_for_a_server_that_says_no_more(
    chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "LINGER_S", 0.05)
    chat_server.reply(say("Hello", usage=None, done=False).but(fault="stall", at='"stop"}]}\n\n'))
    provider = at(chat_server.url, model="m")
    with anyio.fail_after(15):
        assert await ask(provider) == "Hello"
    await provider.close()


@pytest.mark.integration
@pytest.mark.parametrize("frame", [": ping\n\n", {"choices": []}], ids=["comments", "frames"])
async def test_nor_for_one_that_says_nothing_for_ever(
    chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch, frame: Any
) -> None:
    monkeypatch.setattr(wire, "LINGER_S", 0.1)
    whole = {"choices": [{"delta": {"content": "Hello"}, "finish_reason": "stop"}]}
    chat_server.reply(Said(frames=(whole, *[frame] * 1_000), pause_s=0.02))
    provider = at(chat_server.url, model="m")
    with anyio.fail_after(15):
        assert await ask(provider) == "Hello"
    await provider.close()


@pytest.mark.integration
async def test_who_says_with_each_piece_that_it_has_stopped_is_heard_to_the_end(
    chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "LINGER_S", 0.7)
    piece = {"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}
    chat_server.reply(Said(frames=(piece,) * 12, pause_s=0.07))
    provider = at(chat_server.url, model="m")
    assert await ask(provider) == "a" * 12
    await provider.close()


@pytest.mark.integration
async def test_what_comes_behind_a_complete_reply_in_time_is_read(chat_server: ChatServer) -> None:
    chat_server.reply(say("Hello", usage=(3, 2), pause_s=0.03))
    provider = at(chat_server.url, model="m")
    request = ModelRequest("", (Message(0, "user", (TextBlock("hi"),), 0),))
    async with provider.stream(request) as chunks:
        assert fold([chunk async for chunk in chunks]).usage.input == 3
    await provider.close()


@pytest.mark.integration
@pytest.mark.parametrize("late", [{"error": {"message": "no usage", "code": 500}}, "data: oops\n\n"])
async def test_an_error_behind_a_complete_reply_does_not_drop_it(chat_server: ChatServer, late: Any) -> None:
    whole = {"choices": [{"delta": {"content": "Hello"}, "finish_reason": "stop"}]}
    chat_server.reply(Said(frames=(whole, late)))
    provider = at(chat_server.url, model="m")
    assert await ask(provider) == "Hello"
    await provider.close()


@pytest.mark.integration
async def test_the_version_in_the_query_goes_with_each_request(chat_server: ChatServer) -> None:
    url = chat_server.url.removesuffix("/v1")
    provider = at(f"{url}/deployments/d?api-version=2024-10-21", model="m")
    assert "api-version=2024-10-21" in repr(provider)
    for _ in range(2):
        with pytest.raises(ProviderError, match="Invalid URL"):  # of this server, which has one address only
            await ask(provider)
    await provider.close()
    assert {seen.path for seen in chat_server.requests} == {"/deployments/d/chat/completions?api-version=2024-10-21"}


@pytest.mark.integration
async def test_names_and_key_as_sent(chat_server: ChatServer) -> None:
    chat_server.reply("Hello", "Hello")
    with_key = at(chat_server.url, model="m", api_key=" sk-1\n", extra_headers={"X-Team": "t"})
    without = at(chat_server.url, model="n", api_key="", environ={"OPENAI_API_KEY": "sk-other"})
    for provider in (with_key, without):
        await ask(provider)
        await provider.close()
    first, second = chat_server.requests
    assert (first.headers["authorization"], first.headers["x-team"], first.body["model"]) == ("Bearer sk-1", "t", "m")
    assert "authorization" not in second.headers
    assert second.body["model"] == "n"
