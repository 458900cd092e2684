"""Vendors by name: one table, each with its own key, address and way to be asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any

import pytest
from tests.servers.anthropic import MessagesServer, text
from tests.servers.anthropic import message as said_by_messages
from tests.servers.chat import ChatServer

from kode.core.errors import NotBoundError, UsageError
from kode.core.jsontext import dump
from kode.core.kernel.message import Json, Message, ReasoningBlock, TextBlock, ToolResultBlock, ToolUseBlock
from kode.core.provider import (
    GeminiProvider,
    ModelRequest,
    OpenAIProvider,
    OutputSchema,
    ProviderCatalog,
    Reasoning,
    ToolSpec,
    default_providers,
    fold,
)
from kode.core.provider.anthropic import AnthropicProvider
from kode.core.provider.openai import Dialect
from kode.core.provider.openai.chat_request import request_body
from kode.core.provider.presets import PRESETS, Preset

KEYED = [each for each in PRESETS.values() if each.needs_key]
EVERY = pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)


def test_the_names_are_those_of_the_entry_points() -> None:
    offered = {entry.name: entry.value for entry in entry_points(group="kode.provider")}
    assert {name: offered.get(name) for name in PRESETS} == {
        name: f"kode.core.provider.presets:{name}" for name in PRESETS
    }
    assert {"anthropic", "gemini", "openai", "scripted"} <= set(offered)


@EVERY
def test_each_is_found_by_name(preset: Preset) -> None:
    environ = {name: f"sk-{name}" for name in preset.keys[:1]}
    provider = ProviderCatalog(environ=environ).resolve(f"{preset.name}:some/model:v1", environ=environ)
    assert (provider.name, provider.model, provider.window_tokens) == (
        preset.name, "some/model:v1", preset.speaks.window_tokens
    )  # fmt: skip
    assert isinstance(provider, OpenAIProvider if isinstance(preset.speaks, Dialect) else AnthropicProvider)
    assert provider.base_url.startswith(preset.url)
    assert "sk-" not in repr(provider)
    assert preset(model="m", api_key="k", window_tokens=7, environ={}).window_tokens == 7
    moved = preset(model="m", api_key="k", environ={f"{preset.name.upper()}_BASE_URL": "http://elsewhere"})
    assert "http://elsewhere/v1" in repr(moved)


@pytest.mark.parametrize("preset", KEYED, ids=[each.name for each in KEYED])
def test_a_missing_key_names_the_variable(preset: Preset) -> None:
    others = {"OPENAI_API_KEY": "sk-other", "ANTHROPIC_API_KEY": "sk-other"}
    for make in (lambda: preset(environ=others), lambda: ProviderCatalog(environ=others).resolve(preset.name)):
        with pytest.raises(NotBoundError, match=preset.keys[0]) as caught:
            make()
        assert (caught.value.code, caught.value.fields["env"]) == ("missing_key", preset.keys[0])
    assert preset(environ={preset.keys[-1]: "k"}).model == preset.model != ""
    assert preset(environ={}, extra_headers={"authorization": "Bearer k"}).name == preset.name


def test_a_server_of_ones_own_needs_a_model_but_no_key() -> None:
    for name in ("ollama", "vllm"):
        with pytest.raises(UsageError, match=f"such as '{name}:"):
            PRESETS[name](environ={})
        assert PRESETS[name](model="qwen3:8b", environ={}).model == "qwen3:8b"


def test_an_unknown_name_says_what_is_known() -> None:
    with pytest.raises(NotBoundError, match=r"known are: .*deepseek.*gemini.*xai"):
        ProviderCatalog(environ={}).resolve("deepsek:m")


@pytest.fixture
def messages_server() -> Iterator[MessagesServer]:
    server = MessagesServer()
    yield server
    server.stop()
    assert server.refused == []


@pytest.mark.integration
@EVERY
async def test_the_key_sent_is_the_vendors_own(
    preset: Preset, chat_server: ChatServer, messages_server: MessagesServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = isinstance(preset.speaks, Dialect)
    server = chat_server if chat else messages_server
    server.reply("Hello" if chat else said_by_messages(text("Hello")))
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, "sk-other")
    for name in preset.keys:
        monkeypatch.setenv(name, f"sk-{preset.name}")
    provider = preset(model="m", base_url=server.url)
    async with provider.stream(ModelRequest("", (Message(0, "user", (TextBlock("hi"),), 0),))) as chunks:
        assert fold([chunk async for chunk in chunks]).text == "Hello"
    await provider.close()
    headers = server.requests[0].headers
    sent = headers.get("authorization") if chat else headers.get("x-api-key")
    assert sent == (None if not preset.keys else f"Bearer sk-{preset.name}" if chat else f"sk-{preset.name}")


# ---- how each wants to be asked --------------------------------------------------------------------------------------


def body(name: str, *messages: Message, **more: Any) -> Any:
    speaks = PRESETS[name].speaks
    assert isinstance(speaks, Dialect)
    request = ModelRequest("m", messages or (Message(0, "user", (TextBlock("hi"),), 0),), **more)
    return json.loads(request_body(request, speaks, name=name))


def assistant(name: str, *blocks: Any) -> Message:
    return Message(0, "assistant", blocks, 0, provider=name)


def user(*blocks: Any) -> Message:
    return Message(0, "user", blocks, 0)


CALL, ANSWER = ToolUseBlock("call_1", "f", Json("{}")), ToolResultBlock("call_1", (TextBlock("x"),))


@pytest.mark.parametrize(
    ("name", "reasoning", "expected"),
    [
        ("deepseek", Reasoning("high"), {"thinking": {"type": "enabled"}, "reasoning_effort": "high"}),
        ("deepseek", Reasoning("none"), {"thinking": {"type": "disabled"}}),
        ("glm", Reasoning("low"), {"thinking": {"type": "enabled"}}),
        ("qwen", Reasoning(budget_tokens=3_000), {"enable_thinking": True, "thinking_budget": 3_000}),
        ("qwen", Reasoning("none"), {"enable_thinking": False}),
        ("openrouter", Reasoning("low"), {"reasoning": {"effort": "low"}}),
        ("openrouter", Reasoning(budget_tokens=3_000), {"reasoning": {"max_tokens": 3_000}}),
        ("groq", Reasoning("low"), {"reasoning_effort": "low"}),
        ("mistral", Reasoning("low"), {}),
        *((name, Reasoning(), {}) for name in PRESETS if name != "minimax"),
    ],
)
def test_how_much_to_think(name: str, reasoning: Reasoning, expected: Any) -> None:
    without = body(name)
    assert {key: value for key, value in body(name, reasoning=reasoning).items() if key not in without} == expected


def test_reasoning_goes_back_to_who_wants_it() -> None:
    history = (
        user(TextBlock("a")), assistant("deepseek", ReasoningBlock("plain"), TextBlock("b")), user(TextBlock("c")),
        assistant("deepseek", ReasoningBlock("calling"), CALL), user(ANSWER),
        assistant("deepseek", ReasoningBlock("over"), TextBlock("d")), user(TextBlock("e")),
        assistant("openai", ReasoningBlock("foreign"), TextBlock("f")), user(TextBlock("g")),
    )  # fmt: skip

    def thoughts(name: str, retain: bool = True) -> list[str | None]:
        written = body(name, *history, reasoning=Reasoning(retain=retain))["messages"]
        return [each.get("reasoning_content") for each in written if each["role"] == "assistant"]

    assert thoughts("deepseek") == ["plain", "calling", "over", None]
    assert thoughts("deepseek", retain=False) == [None, "calling", None, None]
    assert thoughts("glm") == thoughts("groq") == [None] * 4


def test_a_schema_where_none_is_held_to() -> None:
    schema = OutputSchema(dump({"type": "object"}))
    tools = [ToolSpec("f", "", dump({"type": "object"}), strict=True)]
    told = body("deepseek", system="S", output_schema=schema, tools=tools)
    assert told["response_format"] == {"type": "json_object"}
    assert told["messages"][0]["content"].startswith("S\n\n")
    assert told["messages"][0]["content"].endswith('{"type":"object"}')
    assert "strict" not in told["tools"][0]["function"]
    held = body("groq", system="S", output_schema=schema, tools=tools)
    assert held["response_format"]["type"] == "json_schema"
    assert held["messages"][0]["content"] == "S"
    assert held["tools"][0]["function"]["strict"] is True


def test_one_that_is_particular() -> None:
    written = body("mistral", user(TextBlock("a")), assistant("openai", CALL), user(ANSWER), seed=3)
    assert (written["random_seed"], "seed" in written, "stream_options" in written) == (3, False, False)
    (call,) = written["messages"][1]["tool_calls"]
    assert call["id"] == written["messages"][2]["tool_call_id"]
    assert len(call["id"]) == 9
    assert call["id"].isalnum()
    assert body("kimi", max_tokens=5, temperature=0.1)["max_completion_tokens"] == 5
    assert "temperature" not in body("kimi", temperature=0.1)


def _held(error: BaseException) -> str:
    """What our frames of a traceback hold."""
    shown = []
    trace = error.__traceback__
    while trace is not None:
        if "/tests/" not in trace.tb_frame.f_code.co_filename:
            shown += [repr(each) for each in trace.tb_frame.f_locals.values()]
        trace = trace.tb_next
    return "\n".join(shown)


@pytest.mark.parametrize("wrong", [{"base_url": "nope"}, {"api_key": "sk-canary\n1"}, {"nonsense": 1}])
@pytest.mark.parametrize("name", ["deepseek", "minimax", "anthropic", "gemini", "openai", "openai-chat"])
def test_who_is_refused_in_the_making_shows_no_key(name: str, wrong: Any) -> None:
    with pytest.raises((UsageError, TypeError)) as caught:
        default_providers.resolve(f"{name}:m", **{"api_key": "sk-canary-1", **wrong})
    assert "canary" not in _held(caught.value)


def test_a_key_of_the_environment_is_shown_as_little() -> None:
    with pytest.raises(UsageError) as caught:
        PRESETS["deepseek"](environ={"DEEPSEEK_API_KEY": "sk-canary-1", "DEEPSEEK_BASE_URL": "nope"})
    assert "canary" not in _held(caught.value)


def test_one_that_was_never_made_can_be_shown() -> None:
    """Who reports a crash asks each local of each frame for its repr."""
    for kind in (AnthropicProvider, GeminiProvider, OpenAIProvider):
        assert repr(kind.__new__(kind)).startswith(kind.__name__)
