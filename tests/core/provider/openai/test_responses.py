"""The Responses API over real HTTP: which API is asked, refusals, agents that use it, and the vendor's own client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel
from tests.core.provider.asking import answer, ask, kept_in, look
from tests.servers.chat import Said, fail, html
from tests.servers.responses import ResponsesServer, call, events, foreign, message, response, said, sse, thought

from kode.core import Agent, AgentConfig, AgentTemplate, Dependencies, open_store
from kode.core.errors import ProviderError, UsageError
from kode.core.jsontext import dump
from kode.core.provider import (
    Dialect,
    HttpOptions,
    OpenAIProvider,
    OutputSchema,
    ProviderCatalog,
    Reasoning,
    RetryPolicy,
    ToolSpec,
)

CANARY = "sk-canary-0123456789"


def at(url: str | None = None, **more: Any) -> OpenAIProvider:
    given = {"environ": {}, "api_key": CANARY, "model": "gpt-5", "api": "responses", **more}
    return OpenAIProvider(base_url=url, **given)


@pytest.fixture
def server() -> Iterator[ResponsesServer]:
    server = ResponsesServer()
    yield server
    server.stop()
    assert server.refused == []


def test_which_api() -> None:
    assert at(api=None).api == "responses"
    assert at("https://api.openai.com", api=None).api == "responses"
    assert at(api="chat").api == "chat"
    assert at(api=None, dialect=Dialect()).api == "chat"
    assert at("http://localhost:1", api=None).api == "chat"
    own = at("http://localhost:1/v1/responses")
    assert (own.api, own.base_url) == ("responses", "http://localhost:1/v1")
    with pytest.raises(UsageError, match="no API 'messages'; give one of chat, responses"):
        at(api="messages")


def test_which_api_by_name() -> None:
    catalog = ProviderCatalog(environ={})
    for name, api in (("openai", "responses"), ("openai-chat", "chat"), ("openai-responses", "responses")):
        made: Any = catalog.resolve(f"{name}:gpt-5", api_key=CANARY, environ={})
        assert (made.api, made.name, made.model) == (api, "openai", "gpt-5")


@pytest.mark.integration
@pytest.mark.parametrize("chop", [1, 2, 7, None])
async def test_byte_by_byte(server: ResponsesServer, chop: int | None) -> None:
    items = thought("Hm. 😀"), said("Grüße"), call("f", {"ä": ["😀"]})
    server.reply(response(*items, interleaved=True).but(chop=chop))
    provider = at(server.url)
    reply = await answer(provider)
    assert [block.type for block in reply.blocks] == ["reasoning", "tool_use", "text"]
    assert (reply.text, reply.calls[0][1].input) == ("Grüße", dump({"ä": ["😀"]}))
    await provider.close()


class Found(BaseModel):
    path: str
    lines: list[int] = []


@pytest.mark.integration
async def test_the_vendors_own_client_reads_and_asks_the_same(server: ResponsesServer) -> None:
    items = thought("Hm."), foreign(), said('{"path":"Grüße","lines":[1]}'), call("f", {"x": [1, {"y": None}]})
    usage = {"input_tokens": 9, "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2}}
    server.reply(*[response(*items, usage=usage, interleaved=True).but(chop=3)] * 2)
    schema: dict[str, Any] = {
        "type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"], "additionalProperties": False,
    }  # fmt: skip
    provider = at(server.url)
    wanted = OutputSchema(dump(Found.model_json_schema()), name="Found")
    tools = [ToolSpec("f", "F.", dump(schema), strict=True)]
    ours = await answer(provider, ask(tools=tools, output_schema=wanted, reasoning=Reasoning("low")))
    await provider.close()
    with (
        openai.OpenAI(api_key=CANARY, base_url=server.url, max_retries=0) as client,
        client.responses.stream(
            model="gpt-5",
            input=[{"type": "message", "role": "user", "content": "hi"}],
            tools=[{"type": "function", "name": "f", "description": "F.", "parameters": schema, "strict": True}],
            text_format=Found,
            reasoning={"effort": "low", "summary": "auto"},
            store=False,
            include=["reasoning.encrypted_content"],
        ) as stream,
    ):
        theirs = stream.get_final_response()
    assert theirs.output_text == ours.text
    assert theirs.output_parsed == Found(path="Grüße", lines=[1])
    made = [item for item in theirs.output if item.type == "function_call"]
    assert [(item.call_id, item.name, json.loads(item.arguments)) for item in made] == [
        (block.id, block.name, json.loads(block.input)) for _, block in ours.calls
    ]
    assert theirs.usage is not None
    details = theirs.usage.input_tokens_details
    assert (ours.usage.input, ours.usage.output) == (theirs.usage.input_tokens, theirs.usage.output_tokens)
    assert (ours.usage.cache_read, ours.usage.cache_write) == (details.cached_tokens, details.cache_write_tokens)
    mine, other = (request.body for request in server.requests)
    # What the schema says of itself beside its rules differs: a default is told in words.
    lines = mine["text"]["format"]["schema"]["properties"]["lines"]
    assert lines.pop("description") == f"default: {other['text']['format']['schema']['properties']['lines']['default']}"
    other["text"]["format"]["schema"]["properties"]["lines"].pop("default")
    assert mine == other


@pytest.mark.integration
@pytest.mark.parametrize(
    ("said", "code", "retryable", "after"),
    [
        (fail(401, "Incorrect API key provided.", code="invalid_api_key"), "authentication", False, None),
        (fail(400, "Too long.", code="context_length_exceeded"), "context_too_long", False, None),
        (fail(400, "Bad.", type="invalid_request_error"), "bad_request", False, None),
        (fail(429, "Slow down.", code="rate_limit_exceeded", retry_after="7"), "rate_limited", True, 7.0),
        (fail(429, "Pay.", code="insufficient_quota"), "quota", False, None),
        (fail(500), "overloaded", True, None),
        (html(502), "overloaded", True, None),
        (sse(events(said("a"))[:-1]), "truncated", True, None),
        (response(said("a"), status="failed", error={"code": "server_error", "message": "x"}), "overloaded", True,
         None),
        (response(said("abc", piece=9)).but(fault="reset", at="abc"), "connection", True, None),
        (response(said("abc", piece=9)).but(fault="cut", at=40), "truncated", True, None),
    ],
)  # fmt: skip
async def test_how_it_fails(server: ResponsesServer, said: Said, code: str, retryable: bool, after: Any) -> None:
    server.reply(said)
    provider = at(server.url)
    with pytest.raises(ProviderError) as caught:
        await answer(provider)
    await provider.close()
    error = caught.value
    assert (error.code, error.retryable, error.fields.get("retry_after_s")) == (code, retryable, after)
    if said.status != 200:
        assert error.fields["request_id"] == "req-1"


@pytest.mark.integration
async def test_what_cannot_be_asked_is_not_sent(server: ResponsesServer) -> None:
    provider = at(server.url)
    with pytest.raises(ProviderError, match="no stop sequences") as caught:
        await answer(provider, ask(stop=("END",)))
    assert (caught.value.code, caught.value.retryable, server.requests) == ("bad_request", False, [])
    await provider.close()


# ---- agents ---------------------------------------------------------------------------------------------------------


@pytest.mark.integration
async def test_thoughts_go_on_from_step_to_step_and_turn_to_turn_and_the_key_stays_nowhere(
    server: ResponsesServer, tmp_path: Path
) -> None:
    server.key = CANARY
    cited = {"type": "url_citation", "url": "https://x", "title": "X", "start_index": 0, "end_index": 3}
    first = (
        thought("Two files."), foreign(), said("Let me see.", phase="commentary"),
        call("look", {"path": "a"}, "call_a"), call("look", {"path": "b"}, "call_b"),
    )  # fmt: skip
    last = thought(id="rs_2"), message({"text": "Both are there.", "annotations": [cited]}, id="msg_2")
    broken = events(said("Both a"), status="failed", error={"code": "server_error", "message": f"No, {CANARY}."})
    server.reply(response(*first, interleaved=True), sse(broken), response(*last))
    provider = at(server.url, http=HttpOptions(idle_timeout_s=30.0))
    store = open_store(f"json:{tmp_path}")
    deps = Dependencies(
        store=store, tools=[look], providers={"openai": provider}, retry=RetryPolicy(base_s=0.01, cap_s=0.02)
    )
    template = AgentTemplate("t", model="openai", system_prompt="Be brief.", tools=("look",))
    await store.open()
    agent = await Agent.create(AgentConfig(template, agent_id="a"), deps)
    async with agent.stream("What is in a and b?") as live:
        seen = [event async for event in live]
    result = live.result
    assert result is not None
    assert (result.status, result.text, result.steps) == ("ok", "Both are there.", 2)
    await agent.close()
    again = await Agent.open("a", deps)
    server.reply(response(said("Again.", id="msg_3")))
    assert (await again.run("Once more.")).text == "Again."
    printed = repr([seen, result, again, provider, provider.http, vars(provider)])
    await again.close()
    await provider.close()
    await store.close()
    sent = server.requests[-1].body["input"]
    kinds = [item["type"] for item in sent]
    assert kinds == ["message", "reasoning", "web_search_call", "function_call", "function_call", "message",
                     "function_call_output", "function_call_output", "reasoning", "message", "message"]  # fmt: skip
    assert [item["encrypted_content"] for item in sent if item["type"] == "reasoning"] == ["c2VjcmV0"] * 2
    assert (sent[5]["phase"], sent[9]["content"][0]["annotations"]) == ("commentary", [cited])
    assert server.connections <= 2, "connections are used again, but for the one that failed"
    kept = kept_in(tmp_path)
    assert b"Both are there." in kept
    assert CANARY.encode() not in kept
    assert CANARY not in printed
    assert all(CANARY.encode() not in seen.raw for seen in server.requests)
