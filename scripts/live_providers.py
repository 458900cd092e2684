"""Ask real vendors, each once: a tool, a stream, thoughts where the model has them. See ``scripts/live-providers``."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import anyio

from kode.core import Agent, AgentTemplate, Dependencies, Hooks, KodeError, Limits, MemoryStore, RunResult, tool
from kode.core.kernel.message import ReasoningBlock, ToolUseBlock
from kode.core.provider import ModelRequest, Prices, Provider, Reasoning, RetryPolicy, default_providers
from kode.core.provider.presets import PRESETS

ANSWER = "quince"
QUESTION = "Which word is in the red box? Look with the tool, then answer with that word alone."
KEYS: Mapping[str, tuple[str, ...]] = {
    "anthropic": ("ANTHROPIC_API_KEY",),
    "gemini": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    "openai-responses": ("OPENAI_API_KEY",),
    "openai-chat": ("OPENAI_API_KEY",),
    **{name: preset.keys for name, preset in PRESETS.items() if preset.needs_key},
}
APIS = {"anthropic": "messages", "minimax": "messages", "gemini": "generateContent", "openai-responses": "responses"}
COLUMNS = ("vendor", "model", "API", "first delta ms", "steps", "tokens in/out", "thoughts", "cost", "verdict")


@tool(readonly=True)
def look_into(box: str) -> str:
    """Look into a box and tell which word is in it.

    Args:
        box: Its colour.
    """
    return f"The word in the {box} box is: {ANSWER}"


def think(request: ModelRequest) -> ModelRequest:
    """Ask for thoughts, at the least effort that gives any."""
    return replace(request, reasoning=Reasoning("low"))


@dataclass
class Seen:
    """What came of one conversation."""

    first_s: float | None = None
    thoughts: int = 0
    calls: int = 0
    streamed: str = ""

    def verdict(self, result: RunResult) -> str:
        """Tell in a word, or in the error's words."""
        if result.error is not None:
            return f"FAILED {result.error.code}: {result.error.text}"
        if not self.calls:
            return "FAILED: it did not call the tool"
        if ANSWER not in result.text.lower():
            return f"FAILED: it answered {result.text[:60]!r}"
        return "ok" if ANSWER in self.streamed.lower() else "FAILED: the answer was not streamed"


async def ask(name: str, provider: Provider, thinking: bool) -> list[str]:
    """Have one conversation and give its row."""
    hooks = {"think": Hooks(pre_model=think)} if thinking and provider.capabilities.reasoning else {}
    deps = Dependencies(
        MemoryStore(), tools=[look_into], providers={"live": provider}, hooks=hooks, retry=RetryPolicy(total_s=60)
    )
    limits = Limits(max_steps_per_run=5, model_timeout_s=120.0)
    template = AgentTemplate(
        "live", model="live", tools=("look_into",), hooks=tuple(hooks), limits=limits, expose_thinking=True
    )
    agent = await Agent.create(template=template, dependencies=deps)
    seen = Seen()
    began = time.monotonic()
    async with agent.stream(QUESTION) as events:
        async for event in events:
            if event.type in ("text_chunk", "think_chunk") and seen.first_s is None:
                seen.first_s = time.monotonic() - began
            if event.type == "text_chunk":
                seen.streamed += event.delta
    result = events.result
    assert result is not None
    for message in (await deps.store.read_messages(agent.agent_id, limit=50)).items:
        seen.thoughts += sum(isinstance(block, ReasoningBlock) for block in message.blocks)
        seen.calls += sum(isinstance(block, ToolUseBlock) for block in message.blocks)
    await agent.close()
    first = "-" if seen.first_s is None else f"{seen.first_s * 1e3:.0f}"
    usage = result.usage
    cost = f"{usage.cost_nanos / 1e9:.5f}" if usage.cost_nanos else "-"
    vendor = name.partition(":")[0]
    tokens = f"{usage.input}/{usage.output}"
    api = getattr(provider, "api", APIS.get(vendor, "chat"))
    return [
        vendor, provider.model, api, first, str(result.steps), tokens, str(seen.thoughts), cost, seen.verdict(result),
    ]  # fmt: skip


async def row(name: str, prices: Prices | None, thinking: bool) -> list[str]:
    """Ask the one of that name; whatever goes wrong is its verdict."""
    try:
        provider = default_providers.resolve(name, **({"prices": prices} if prices else {}))
    except KodeError as error:
        return [name, *["-"] * 7, f"FAILED {error.code}: {error.message}"]
    try:
        return await ask(name, provider, thinking)
    except KodeError as error:
        return [name, provider.model, *["-"] * 6, f"FAILED {error.code}: {error.message}"]
    finally:
        with suppress(Exception):
            await provider.close()


async def main(names: Sequence[str], prices: Prices | None, thinking: bool) -> bool:
    """Ask one after the other, print the table, and tell whether all went well."""
    rows = [COLUMNS, *[await row(name, prices, thinking) for name in names]]
    widths = [max(len(line[at]) for line in rows) for at in range(len(COLUMNS) - 1)]
    for line in rows:
        shown = [cell.ljust(width) for cell, width in zip(line, widths, strict=False)]
        print("  ".join([*shown, line[-1]]))
    return all(line[-1] == "ok" for line in rows[1:])


def with_keys(environ: Mapping[str, str]) -> Iterator[str]:
    """Name the vendors there is a key for."""
    return (name for name, keys in KEYS.items() if any(environ.get(key) for key in keys))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="VENDOR[:MODEL]", help="default: all there is a key for")
    parser.add_argument("--prices", nargs=2, type=float, metavar=("INPUT", "OUTPUT"), help="per million tokens")
    parser.add_argument("--no-thinking", action="store_true", help="ask for no thoughts")
    options = parser.parse_args()
    chosen = options.names or list(with_keys(os.environ))
    if not chosen:
        wanted = ", ".join(sorted({key for keys in KEYS.values() for key in keys}))
        print(f"No key in the environment, so nobody was asked. Set one of {wanted}.")
        sys.exit(0)
    fine = anyio.run(main, chosen, Prices(*options.prices) if options.prices else None, not options.no_thinking)
    sys.exit(0 if fine else 1)
