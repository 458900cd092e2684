"""A history that one vendor's provider has made goes on with each other one: over real HTTP, in all ordered pairs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from itertools import permutations
from typing import Any

import pytest
from tests.core.provider.asking import look
from tests.servers import anthropic as claude
from tests.servers import gemini
from tests.servers import responses as items
from tests.servers.anthropic import MessagesServer
from tests.servers.chat import ChatServer, calls, say
from tests.servers.gemini import GeminiServer
from tests.servers.responses import ResponsesServer

from kode.core import (
    Agent,
    AgentConfig,
    AgentTemplate,
    AnthropicProvider,
    Dependencies,
    GeminiProvider,
    MemoryStore,
    OpenAIProvider,
)
from kode.core.kernel.message import MediaBlock, TextBlock
from kode.core.provider import Provider

pytestmark = pytest.mark.integration

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PICTURE = MediaBlock("image", "image/png", data=PIXEL)
OWN = {
    "anthropic": b"Anthropic's own",
    "gemini": b"Google's own",
    "openai": b"Another's own",
    "responses": b"The one's own",
}
"""What each has thought, which no other may see."""

Vendor = tuple[Provider, ChatServer, Callable[[], tuple[Any, ...]]]


def _claude() -> tuple[Any, ...]:
    """Their ids come again in the next turn, as with other servers that speak this API."""
    made = (claude.tool_use("look", {"path": "a"}, "toolu_1"), claude.tool_use("look", {"path": "b"}, "toolu_2"))
    thoughts = claude.thinking("Anthropic's own thought.", "c2VjcmV0")
    return claude.message(thoughts, claude.text("I look."), *made), claude.message(thoughts, claude.text("Done."))


def _google() -> tuple[Any, ...]:
    made = [gemini.call("look", {"path": "a"}, "c2VjcmV0"), gemini.call("look", {"path": "b"})]
    thoughts = gemini.thought("Google's own thought.")
    first = gemini.frames(thoughts, gemini.said("I look."), made)
    return gemini.content(first), gemini.content(gemini.frames(thoughts, gemini.said("Done.", "c2VjcmV0")))


def _chat() -> tuple[Any, ...]:
    two = (("look", {"path": "a"}), ("look", {"path": "b"}))
    return calls(*two, text="I look.", reasoning="Another's own thought."), say("Done.", reasoning="thought")


def _items() -> tuple[Any, ...]:
    """What both replies hold has the same ids, as some servers send them."""
    made = items.call("look", {"path": "a"}, "call_1"), items.call("look", {"path": "b"}, "call_2")
    thoughts = items.thought("The one's own thought.", encrypted="c2VjcmV0"), items.foreign()
    return items.response(*thoughts, items.said("I look."), *made), items.response(*thoughts, items.said("Done."))


@pytest.fixture
async def vendors(chat_server: ChatServer) -> AsyncIterator[dict[str, Vendor]]:
    messages, contents, listed = MessagesServer(), GeminiServer(), ResponsesServer()
    found: dict[str, Vendor] = {
        "anthropic": (AnthropicProvider(base_url=messages.url, environ={}), messages, _claude),
        "gemini": (GeminiProvider(base_url=contents.url, environ={}), contents, _google),
        "openai": (OpenAIProvider(model="m", base_url=chat_server.url, environ={}), chat_server, _chat),
        # Under the same name: the vendor has two APIs, and one cannot be sent what the other thought.
        "responses": (OpenAIProvider(base_url=listed.url, api="responses", environ={}), listed, _items),
    }
    yield found
    for provider, _, _ in found.values():
        await provider.close()
    for server in (messages, contents, listed):
        server.stop()
        assert server.refused == []


@pytest.mark.parametrize("first", ["anthropic", "gemini", "openai", "responses"])
async def test_each_goes_on_with_what_each_other_one_made(vendors: dict[str, Vendor], first: str) -> None:
    """The agent is asked by one, goes on with the next, and ends where it began: both ways, and mixed."""
    for second, third in permutations(sorted({*vendors} - {first}), 2):
        store = MemoryStore()
        for turn, name in enumerate([first, second, third, first]):
            provider, server, replies = vendors[name]
            server.reply(*replies())
            deps = Dependencies(store=store, tools=[look], providers={"model": provider})
            if turn == 0:
                template = AgentTemplate("t", model="model", system_prompt="Be brief.", tools=("look",))
                agent = await Agent.create(AgentConfig(template, agent_id="a"), deps)
            else:
                agent = await Agent.open("a", deps)
            result = await agent.run((TextBlock(f"Turn {turn}."), PICTURE))
            assert (result.status, result.text) == ("ok", "Done."), result.error
            await agent.close()
        for name in (first, second, third):
            sent = vendors[name][1].requests[-1].raw
            assert sent.count(PIXEL.encode()) > 1, "the pictures of all turns so far go along"
            assert not any(mark in sent for other, mark in OWN.items() if other != name)
        own = vendors[first][1].requests[-1].raw
        assert (b"c2VjcmV0" in own) == (first != "openai"), "what it had signed itself goes back to it"
