"""What models cost: a table of the process, overruled by what a provider is given."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kode.core.provider import PRICES, Prices, ProviderCatalog
from kode.core.provider.prices import prices_of

KEYS = dict.fromkeys(("ANTHROPIC_API_KEY", "DEEPSEEK_API_KEY", "GEMINI_API_KEY", "OPENAI_API_KEY"), "sk-none")


@pytest.fixture(autouse=True)
def table() -> Iterator[None]:
    before = dict(PRICES)
    yield
    PRICES.clear()
    PRICES.update(before)


def test_the_longest_beginning_counts() -> None:
    PRICES.update({"a:": Prices(1), "a:m": Prices(2), "a:m-large": Prices(3)})
    found = [prices_of("a", model) for model in ("x", "m", "m-small", "m-large-2")]
    assert found == [Prices(1), Prices(2), Prices(2), Prices(3)]
    assert prices_of("b", "m") is None


@pytest.mark.parametrize("name", ["anthropic", "deepseek", "gemini", "minimax", "openai", "openai-chat", "ollama"])
def test_a_provider_by_name_knows_what_its_model_costs(name: str) -> None:
    vendor = "openai" if name == "openai-chat" else name
    PRICES[f"{vendor}:m-1"] = Prices(3, 15)
    catalog = ProviderCatalog(environ=KEYS)
    options = {"environ": {**KEYS, "MINIMAX_API_KEY": "sk-none"}}
    assert catalog.resolve(f"{name}:m-1-large", api_key="k", **options).prices == Prices(3, 15)  # type: ignore[attr-defined]
    assert catalog.resolve(f"{name}:x", api_key="k", **options).prices is None  # type: ignore[attr-defined]
    given = catalog.resolve(f"{name}:m-1", api_key="k", prices=Prices(1), **options)
    assert given.prices == Prices(1)  # type: ignore[attr-defined]
