"""The provider itself, over real HTTP: addresses, keys, refusals, and agents that use it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google import genai
from google.genai import types
from tests.core.provider.asking import answer, ask, kept_in, look
from tests.servers.chat import Said, html
from tests.servers.gemini import GeminiServer, call, content, document, frames, refuse, said, thought

from kode.core import Agent, AgentConfig, AgentTemplate, Dependencies, open_store
from kode.core.errors import NotBoundError, ProviderError, UsageError
from kode.core.jsontext import dump
from kode.core.kernel.message import ReasoningBlock
from kode.core.provider import CountsTokens, Provider, ProviderCatalog, RetryPolicy
from kode.core.provider.gemini import GeminiFacts, GeminiProvider

CANARY = "AIza-canary-0123456789"


def at(url: str | None = None, **more: Any) -> GeminiProvider:
    return GeminiProvider(base_url=url, **{"environ": {}, "api_key": CANARY, "model": "gemini-3.5-flash", **more})


@pytest.mark.parametrize(
    ("given", "used"),
    [
        (None, "https://generativelanguage.googleapis.com/v1beta"),
        ("https://generativelanguage.googleapis.com/", "https://generativelanguage.googleapis.com/v1beta"),
        ("https://host/v1", "https://host/v1"),
        ("https://host/gemini/v1beta/models", "https://host/gemini/v1beta"),
    ],
)
def test_addresses(given: str | None, used: str) -> None:
    assert at(given).base_url == used


def test_an_address_that_is_none_or_holds_a_key() -> None:
    for url in ("localhost:1", f"https://host/v1beta?key={CANARY}"):
        with pytest.raises(UsageError, match="base URL") as caught:
            at(url)
        assert CANARY not in str(caught.value)


def test_a_key_is_needed_only_by_the_vendor() -> None:
    with pytest.raises(NotBoundError, match="set GEMINI_API_KEY or GOOGLE_API_KEY, or pass api_key") as caught:
        GeminiProvider(environ={})
    assert caught.value.code == "missing_key"
    GeminiProvider(environ={"GEMINI_API_KEY": "k"})
    GeminiProvider(environ={"GOOGLE_API_KEY": "k"})
    GeminiProvider(environ={"GOOGLE_GEMINI_BASE_URL": "http://localhost:1"})


def test_it_is_a_provider_found_by_name() -> None:
    catalog = ProviderCatalog(environ={})
    provider: Provider = catalog.resolve("gemini:gemini-2.5-pro", api_key=CANARY, environ={})
    assert (provider.name, provider.model, provider.window_tokens) == ("gemini", "gemini-2.5-pro", 1_048_576)
    assert CANARY not in repr(provider)
    assert isinstance(provider, CountsTokens)
    assert at(facts=GeminiFacts(9)).window_tokens == 9
    assert at(window_tokens=7).window_tokens == 7


@pytest.mark.integration
@pytest.mark.parametrize("chop", [1, 2, 7, None])
async def test_byte_by_byte(gemini_server: GeminiServer, chop: int | None) -> None:
    parts = (thought("Hm. 😀"), said("Grü"), said("ße", "c2ln"), call("f", {"ä": ["😀"]}))
    gemini_server.reply(content(frames(*parts)).but(chop=chop))
    provider = at(gemini_server.url)
    reply = await answer(provider)
    assert [block.type for block in reply.blocks] == ["reasoning", "text", "tool_use"]
    assert (reply.text, reply.calls[0][1].input) == ("Grüße", dump({"ä": ["😀"]}))
    await provider.close()


@pytest.mark.integration
async def test_the_vendors_own_client_reads_the_same(gemini_server: GeminiServer) -> None:
    parts = (thought("Hm."), said("Grü"), said("ße"), call("f", {"x": [1, {"y": None}]}, "c2ln"))
    gemini_server.reply(*[content(frames(*parts)).but(chop=3)] * 2)
    provider = at(gemini_server.url)
    ours = await answer(provider)
    await provider.close()
    options = types.HttpOptions(base_url=gemini_server.url.removesuffix("/v1beta"), api_version="v1beta")
    with genai.Client(api_key=CANARY, http_options=options) as client:
        theirs = list(client.models.generate_content_stream(model="gemini-3.5-flash", contents="hi"))
    found = [part for each in theirs for part in each.candidates[0].content.parts]  # type: ignore[index, union-attr]
    assert ours.text == "".join(part.text for part in found if part.text and not part.thought)
    assert ours.blocks[0] == ReasoningBlock(found[0].text or "")
    assert ours.calls[0][1].input == dump(found[-1].function_call.args)  # type: ignore[union-attr]
    assert ours.usage.output == theirs[-1].usage_metadata.candidates_token_count  # type: ignore[union-attr]
    mine, other = gemini_server.requests
    assert (mine.path, mine.body) == (other.path, other.body)
    assert mine.headers["x-goog-api-key"] == CANARY
    assert CANARY not in mine.path


@pytest.mark.integration
async def test_a_list_from_a_server_that_does_not_stream(gemini_server: GeminiServer) -> None:
    gemini_server.reply(document(frames(said("a"), said("b"))))
    provider = at(gemini_server.url)
    assert (await answer(provider)).text == "ab"
    await provider.close()


RETRY = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "37.5s"}


@pytest.mark.integration
@pytest.mark.parametrize(
    ("sent", "code", "retryable", "after"),
    [
        (refuse(400, "INVALID_ARGUMENT", "API key not valid. Please pass another."), "authentication", False, None),
        (refuse(403, "PERMISSION_DENIED", "No."), "permission", False, None),
        (refuse(404, "NOT_FOUND", "models/x is not found"), "model_not_found", False, None),
        (refuse(400, "INVALID_ARGUMENT",
                "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."),
         "context_too_long", False, None),
        (refuse(400, "INVALID_ARGUMENT", "Please ensure that function call turn comes immediately after."),
         "bad_request", False, None),
        (refuse(429, "RESOURCE_EXHAUSTED", "You exceeded your current quota.", RETRY), "rate_limited", True, 37.5),
        (refuse(429, "RESOURCE_EXHAUSTED", "Slow.", RETRY, **{"retry-after": "2"}), "rate_limited", True, 2.0),
        (refuse(500, "INTERNAL", "An internal error has occurred."), "overloaded", True, None),
        (refuse(503, "UNAVAILABLE", "The model is overloaded."), "overloaded", True, None),
        (refuse(504, "DEADLINE_EXCEEDED", "Too slow."), "timeout", True, None),
        (html(502), "overloaded", True, None),
        (content(frames(said("a"), finish=None)), "truncated", True, None),
        (content(frames(said("abc"))).but(fault="reset", at="abc"), "connection", True, None),
        (content(frames(said("abc"))).but(fault="cut", at=40), "truncated", True, None),
    ],
)  # fmt: skip
async def test_how_it_fails(gemini_server: GeminiServer, sent: Said, code: str, retryable: bool, after: Any) -> None:
    gemini_server.reply(sent)
    provider = at(gemini_server.url)
    with pytest.raises(ProviderError) as caught:
        await answer(provider)
    await provider.close()
    error = caught.value
    assert (error.code, error.retryable, error.fields.get("retry_after_s")) == (code, retryable, after)


@pytest.mark.integration
async def test_counting(gemini_server: GeminiServer) -> None:
    gemini_server.reply(document({"totalTokens": 42}), document({"tokens": 42}))
    provider = at(gemini_server.url)
    assert await provider.count_tokens(ask(system="S", max_tokens=5)) == 42
    with pytest.raises(ProviderError, match="did not count"):
        await provider.count_tokens(ask())
    await provider.close()
    assert gemini_server.requests[0].path == "/v1beta/models/gemini-3.5-flash:countTokens"


# ---- agents ---------------------------------------------------------------------------------------------------------


@pytest.mark.integration
async def test_a_tool_loop_with_signatures_and_the_key_stays_nowhere(
    gemini_server: GeminiServer, tmp_path: Path
) -> None:
    gemini_server.key = CANARY
    gemini_server.reply(
        content(frames(thought("Two files."), said("Let me see."),
                       [call("look", {"path": "a"}, "c2ln", "fc-1"), call("look", {"path": "b"}, None, "fc-2")])),
        refuse(503, "UNAVAILABLE", f"Overloaded, {CANARY}."),
        content(frames(said("Both are "), said("there.", "bGFzdA=="))),
    )  # fmt: skip
    store = open_store(f"json:{tmp_path}")
    await store.open()
    provider = at(gemini_server.url)
    deps = Dependencies(
        store=store, tools=[look], providers={"gemini": provider}, retry=RetryPolicy(base_s=0.01, cap_s=0.02)
    )
    template = AgentTemplate("t", model="gemini", system_prompt="Be brief.", tools=("look",))
    agent = await Agent.create(AgentConfig(template, agent_id="a"), deps)
    async with agent.stream("What is in a and b?") as live:
        seen = [event async for event in live]
    result = live.result
    assert result is not None
    assert (result.status, result.text, result.steps) == ("ok", "Both are there.", 2)
    _, again, third = gemini_server.requests
    assert again.body == third.body
    model, results = third.body["contents"][1:]
    assert model["parts"][-2]["thoughtSignature"] == "c2ln"
    assert [part["functionResponse"]["id"] for part in results["parts"]] == ["fc-1", "fc-2"]
    gemini_server.reply(content(frames(said("Again."))))
    await agent.run("Once more.")
    assert gemini_server.requests[-1].body["contents"][3]["parts"] == [
        {"text": "Both are there.", "thoughtSignature": "bGFzdA=="}
    ]
    printed = repr([seen, result, agent, provider, provider.http, vars(provider)])
    await agent.close()
    await provider.close()
    await store.close()
    kept = kept_in(tmp_path)
    assert b"Both are there." in kept
    assert CANARY.encode() not in kept
    assert CANARY not in printed
    assert all(CANARY not in seen.path and CANARY.encode() not in seen.raw for seen in gemini_server.requests)
