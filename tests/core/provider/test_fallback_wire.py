"""Several vendors behind one over real HTTP, recorded: who answers is named, thoughts stay home, keys are nowhere."""

from __future__ import annotations

import logging
import traceback
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.core.provider.asking import look
from tests.servers import anthropic as claude
from tests.servers.anthropic import MessagesServer
from tests.servers.chat import ChatServer, call, fail, say

from kode.core import (
    Agent,
    AgentConfig,
    AgentTemplate,
    AnthropicProvider,
    Dependencies,
    FallbackProvider,
    OpenAIProvider,
    RecordingProvider,
    ReplayProvider,
    open_store,
)
from kode.core.errors import ProviderError
from kode.core.kernel.message import Message, TextBlock
from kode.core.provider import ModelRequest, RetryPolicy

pytestmark = pytest.mark.integration

KEYS = ("sk-canary-first-0815", "sk-canary-second-4711")


@pytest.fixture
async def messages_server() -> AsyncIterator[MessagesServer]:
    server = MessagesServer()
    server.key = KEYS[0]
    yield server
    server.stop()
    assert server.refused == []


@pytest.fixture
async def front(messages_server: MessagesServer, chat_server: ChatServer) -> AsyncIterator[FallbackProvider]:
    chat_server.key = KEYS[1]
    first = AnthropicProvider(
        base_url=messages_server.url, api_key=KEYS[0], extra_headers={"x-team": f"team-{KEYS[0]}"}, environ={}
    )
    second = OpenAIProvider(model="m", base_url=chat_server.url, api_key=KEYS[1], environ={})
    front = FallbackProvider([first, second], rest_s=0)
    yield front
    await front.close()


def written(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


async def test_a_run_goes_over_to_another_vendor_and_back(
    front: FallbackProvider, messages_server: MessagesServer, chat_server: ChatServer, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG)
    busy = claude.refuse(529, "overloaded_error", f"Overloaded, {KEYS[0]}.")
    thought = claude.thinking("A thought of the first.", "c2VjcmV0")
    messages_server.reply(
        claude.message(thought, claude.text("I look."), claude.tool_use("look", {"path": "a"}, "toolu_1")),
        busy,
        claude.message(claude.text("Third.")),
    )
    chat_server.reply(call("look", {"path": "b"}, text="I look too.", reasoning="A thought of the second."))
    store = open_store(f"json:{tmp_path / 'store'}")
    await store.open()
    path = tmp_path / "run.jsonl"
    provider: Any = RecordingProvider(front, path)
    deps = Dependencies(store, tools=[look], providers={"m": provider}, retry=RetryPolicy(base_s=0.01))
    template = AgentTemplate("t", model="m", tools=("look",))
    agent = await Agent.create(AgentConfig(template, agent_id="a"), deps)
    async with agent.stream("What is in a and b?") as events:
        seen = [event async for event in events]
    assert events.result is not None
    assert (events.result.status, events.result.text, events.result.steps) == ("ok", "Third.", 3)
    history = (await store.read_messages("a", limit=20)).items
    assert [m.provider for m in history if m.role == "assistant"] == ["anthropic", "openai", "anthropic"]
    assert b"A thought of the first" not in chat_server.requests[-1].raw
    assert b"content of a" in chat_server.requests[-1].raw
    back = messages_server.requests[-1].raw
    assert b"c2VjcmV0" in back
    assert b"A thought of the second" not in back
    await agent.close()
    shown = [repr(seen), repr(history), repr(provider), *(record.getMessage() for record in caplog.records)]
    assert "canary" not in "".join(shown)
    assert b"canary" not in written(tmp_path)

    again = ReplayProvider(path)
    deps = Dependencies(store, tools=[look], providers={"m": again}, retry=RetryPolicy(base_s=0.01))
    other = await Agent.create(AgentConfig(template, agent_id="b"), deps)
    await other.run("What is in a and b?")
    replayed = (await store.read_messages("b", limit=20)).items
    assert [(m.blocks, m.provider, m.model, m.usage) for m in replayed] == [
        (m.blocks, m.provider, m.model, m.usage) for m in history
    ]
    again.check()
    await other.close()
    await store.close()


async def test_when_all_refuse_no_key_is_in_the_error(
    front: FallbackProvider, messages_server: MessagesServer, chat_server: ChatServer, tmp_path: Path
) -> None:
    messages_server.reply(claude.refuse(401, "authentication_error", f"No such key: {KEYS[0]}"))
    chat_server.reply(fail(401, f"No such key: {KEYS[1]}"))
    provider = RecordingProvider(front, tmp_path / "run.jsonl")
    with pytest.raises(ProviderError, match="None of 2 providers answered") as caught:
        async with provider.stream(ModelRequest("", (Message(0, "user", (TextBlock("hi"),), 0),))):
            pass
    error: BaseException | None = caught.value
    shown = [repr(error), "".join(traceback.format_exception(caught.value))]
    while error is not None:
        trace = error.__traceback__
        while trace is not None:
            if "/tests/" not in trace.tb_frame.f_code.co_filename:
                shown += [repr(value) for value in trace.tb_frame.f_locals.values()]
            trace = trace.tb_next
        error = error.__cause__ or error.__context__
    assert "canary" not in "\n".join(shown)
    assert b"canary" not in written(tmp_path)
    assert (caught.value.code, caught.value.retryable) == ("authentication", False)


async def test_a_break_in_the_middle_is_shown_once_by_whoever_answers(
    front: FallbackProvider, messages_server: MessagesServer, chat_server: ChatServer
) -> None:
    half = claude.message(claude.text("Half of a story")).but(fault="reset", at="Half")
    messages_server.reply(half)
    chat_server.reply(say("A whole story."))
    front._rest_s = 30.0
    deps = Dependencies(open_store("memory:"), providers={"m": front}, retry=RetryPolicy(base_s=0.01))
    agent = await Agent.create(template=AgentTemplate("t", model="m"), dependencies=deps)
    async with agent.stream("Tell.") as events:
        seen = [event async for event in events]
    assert events.result is not None
    assert events.result.text == "A whole story."
    last = max(at for at, event in enumerate(seen) if event.type == "attempt_started")
    assert "".join(event.delta for event in seen[last:] if event.type == "text_chunk") == "A whole story."
