"""Vendors and servers that speak another vendor's API, by name: ``"deepseek:deepseek-chat"``. One table.

Each is also a factory: ``presets.deepseek(model="deepseek-chat", api_key=…)``. A key comes from the variable the table
names, the address from ``<NAME>_BASE_URL`` if that is set: ``GLM_BASE_URL=https://open.bigmodel.cn/api/paas/v4``.
Windows are the smallest of a vendor's current models; give ``window_tokens`` for a larger one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kode.core.clock import Clock
from kode.core.errors import NotBoundError, UsageError
from kode.core.provider.anthropic import AnthropicProvider, ModelFacts
from kode.core.provider.base import Capabilities, Prices, Provider
from kode.core.provider.openai import Dialect, OpenAIProvider
from kode.core.provider.wire.options import HttpOptions

__all__ = [
    "PRESETS",
    "Preset",
    "deepseek",
    "glm",
    "groq",
    "kimi",
    "minimax",
    "mistral",
    "ollama",
    "openrouter",
    "qwen",
    "vllm",
    "xai",
]


@dataclass(frozen=True)
class Preset:
    """One vendor, or kind of server. Called, it makes a provider."""

    name: str
    url: str
    keys: tuple[str, ...]
    """Variables that may hold the key, best first."""
    model: str
    """Asked when none is named; empty: one must be."""
    speaks: Dialect | ModelFacts
    """How it wants to be asked; by which API is said by the kind."""
    needs_key: bool = True

    @property
    def required_env(self) -> tuple[str, ...]:
        """Variables of which one must be set; see ``ProviderCatalog``."""
        return self.keys if self.needs_key else ()

    def __call__(
        self,
        *,
        model: str | None = None,
        api_key: str | None = None,
        base_url: str | None = None,
        window_tokens: int | None = None,
        capabilities: Capabilities | None = None,
        prices: Prices | None = None,
        extra_headers: Mapping[str, str] | None = None,
        http: HttpOptions | None = None,
        environ: Mapping[str, str] | None = None,
        clock: Clock | None = None,
    ) -> Provider:
        """Make the provider; the arguments are those of ``OpenAIProvider``.

        Raises:
            NotBoundError: It needs a key and there is none (``missing_key``).
            UsageError: It has no model of its own to ask, or the base URL or a header cannot be used.
        """
        environ = os.environ if environ is None else environ
        if api_key is None:
            # Never None from here on: another vendor's key must not be sent to this one.
            api_key = next(filter(None, map(environ.get, self.keys)), "")
        given: dict[str, Any] = {
            "model": model or self.model,
            "api_key": api_key,
            "base_url": base_url or environ.get(f"{self.name.upper()}_BASE_URL") or self.url,
            "name": self.name,
            "window_tokens": window_tokens or self.speaks.window_tokens,
            "capabilities": capabilities,
            "prices": prices,
            "extra_headers": extra_headers,
            "http": http,
            "clock": clock,
        }
        keyless = self.needs_key and not api_key and not extra_headers
        # From here on things are refused, and a traceback may show what a frame holds.
        environ = api_key = extra_headers = None
        try:
            if not given["model"]:
                told = f"Name a model for {self.name!r}, such as '{self.name}:qwen3:8b'."
                raise UsageError(told, code="missing_model")
            if keyless:
                raise NotBoundError(
                    f"Provider {self.name!r} needs a key: set {' or '.join(self.keys)}, or pass api_key.",
                    code="missing_key",
                    name=self.name,
                    env=self.keys[0],
                )
            if isinstance(self.speaks, ModelFacts):
                return AnthropicProvider(facts=self.speaks, **given)
            return OpenAIProvider(dialect=self.speaks, **given)
        finally:
            given.clear()


_LATER = "max_completion_tokens"
_THINKS = "reasoning_content"

PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            "deepseek",
            "https://api.deepseek.com",
            ("DEEPSEEK_API_KEY",),
            "deepseek-chat",
            Dialect(128_000, thinking="switch", reasoning_field=_THINKS, schemas=False),
        ),
        Preset(
            "glm",
            "https://api.z.ai/api/paas/v4",
            ("ZAI_API_KEY", "GLM_API_KEY"),
            "glm-4.6",
            Dialect(128_000, thinking="toggle", reasoning_field=_THINKS, schemas=False),
        ),
        Preset(
            "groq",
            "https://api.groq.com/openai/v1",
            ("GROQ_API_KEY",),
            "openai/gpt-oss-120b",
            Dialect(131_072, _LATER),
        ),
        Preset(
            "kimi",
            "https://api.moonshot.ai/v1",
            ("MOONSHOT_API_KEY", "KIMI_API_KEY"),
            "kimi-k2.6",
            Dialect(128_000, _LATER, False, thinking="toggle", reasoning_field=_THINKS, schemas=False),
        ),
        Preset(
            "minimax",
            # The vendor speaks both APIs; only by this one its thoughts come apart from its text, and go back whole.
            "https://api.minimax.io/anthropic",
            ("MINIMAX_API_KEY",),
            "MiniMax-M2.5",
            ModelFacts(200_000, 32_000),
        ),
        Preset(
            "mistral",
            "https://api.mistral.ai/v1",
            ("MISTRAL_API_KEY",),
            "mistral-large-latest",
            Dialect(128_000, thinking=None, short_ids=True, asks_usage=False, seed_field="random_seed"),
        ),
        Preset("ollama", "http://localhost:11434/v1", (), "", Dialect(), needs_key=False),
        Preset(
            "openrouter",
            "https://openrouter.ai/api/v1",
            ("OPENROUTER_API_KEY",),
            "openrouter/auto",
            Dialect(128_000, thinking="reasoning", reasoning_field="reasoning"),
        ),
        Preset(
            "qwen",
            "https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
            ("DASHSCOPE_API_KEY", "QWEN_API_KEY"),
            "qwen-plus",
            Dialect(128_000, thinking="enable_thinking", reasoning_field=_THINKS, schemas=False),
        ),
        Preset("vllm", "http://localhost:8000/v1", ("VLLM_API_KEY",), "", Dialect(), needs_key=False),
        Preset("xai", "https://api.x.ai/v1", ("XAI_API_KEY",), "grok-4", Dialect(131_072, _LATER)),
    )
}
"""By name."""

# Names for the entry points.
deepseek = PRESETS["deepseek"]
glm = PRESETS["glm"]
groq = PRESETS["groq"]
kimi = PRESETS["kimi"]
minimax = PRESETS["minimax"]
mistral = PRESETS["mistral"]
ollama = PRESETS["ollama"]
openrouter = PRESETS["openrouter"]
qwen = PRESETS["qwen"]
vllm = PRESETS["vllm"]
xai = PRESETS["xai"]
