"""What models cost: a table of the process, overruled by what a provider is given."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.servers.chat import ChatServer

from kode.core.kernel.message import Message, TextBlock
from kode.core.provider import PRICES, ModelRequest, OpenAIProvider, Prices, ProviderCatalog, fold
from kode.core.provider.prices import prices_of

KEYS = dict.fromkeys(("ANTHROPIC_API_KEY", "DEEPSEEK_API_KEY", "GEMINI_API_KEY", "OPENAI_API_KEY"), "sk-none")


@pytest.fixture(autouse=True)
def table() -> Iterator[None]:
    before = dict(PRICES)
    yield
    PRICES.clear()
    PRICES.update(before)


def test_a_model_is_known_by_its_whole_name_with_any_date() -> None:
    PRICES.update({"a:m": Prices(2), "a:m-mini": Prices(3), "b:": Prices(4)})
    models = ("m", "m-mini", "m-2025-08-07", "m-mini-20250807", "m-0613", "m-large", "m-mini-2", "x")
    known = [Prices(2), Prices(3), Prices(2), Prices(3), Prices(2), None, None, None]
    assert [prices_of("a", model) for model in models] == known
    assert prices_of("b", "x") == Prices(4)


@pytest.mark.parametrize("name", ["anthropic", "deepseek", "gemini", "minimax", "openai", "openai-chat", "ollama"])
def test_a_provider_by_name_knows_what_its_model_costs(name: str) -> None:
    vendor = "openai" if name == "openai-chat" else name
    PRICES[f"{vendor}:m-1"] = Prices(3, 15)
    catalog = ProviderCatalog(environ=KEYS)
    options = {"environ": {**KEYS, "MINIMAX_API_KEY": "sk-none"}}
    assert catalog.resolve(f"{name}:m-1-20250807", api_key="k", **options).prices == Prices(3, 15)  # type: ignore[attr-defined]
    assert catalog.resolve(f"{name}:x", api_key="k", **options).prices is None  # type: ignore[attr-defined]
    given = catalog.resolve(f"{name}:m-1", api_key="k", prices=Prices(1), **options)
    assert given.prices == Prices(1)  # type: ignore[attr-defined]


async def test_what_is_asked_is_priced_and_not_what_would_be(chat_server: ChatServer) -> None:
    PRICES.update({"openai:m": Prices(1000), "openai:other": Prices(1)})
    chat_server.reply("Hello")
    provider = OpenAIProvider(model="m", base_url=chat_server.url, environ={})
    async with provider.stream(ModelRequest("other", (Message(0, "user", (TextBlock("hi"),), 0),))) as chunks:
        usage = fold([chunk async for chunk in chunks]).usage
    await provider.close()
    assert usage.cost_nanos == usage.input * 1000
    assert usage.input
