"""An answer in the schema of a pydantic model, through each API: asked as its rules want it, read as one value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field
from tests.servers import anthropic as claude
from tests.servers import gemini, responses
from tests.servers.chat import ChatServer, say

from kode.core import (
    Agent,
    AgentConfig,
    AgentTemplate,
    AnthropicProvider,
    Dependencies,
    GeminiProvider,
    MemoryStore,
    OpenAIProvider,
    ScriptedProvider,
    schema_of,
)
from kode.core.errors import UsageError
from kode.core.provider.presets import deepseek

pytestmark = pytest.mark.integration


class Step(BaseModel):
    what: str
    minutes: Annotated[int, Field(ge=1, le=600)] = 5


class Plan(BaseModel):
    """A plan."""

    title: Annotated[str, Field(max_length=80)]
    steps: list[Step]
    after: Step | None = None


GIVEN = Plan(title="Tea", steps=[Step(what="boil", minutes=3)])
TEXT = GIVEN.model_dump_json()


def _held(body: Any) -> Any:
    return body["output_config"]["format"]["schema"]


def _tool(body: Any) -> Any:
    assert body["tool_choice"]["name"] == body["tools"][0]["name"]
    return body["tools"][0]["input_schema"]


def _told(body: Any) -> Any:
    assert body["response_format"] == {"type": "json_object"}
    assert '"Tea"' not in body["messages"][0]["content"]
    return Plan.model_json_schema() if '"steps"' in body["messages"][0]["content"] else None


CASES: dict[str, tuple[Callable[[str], Any], Callable[[], ChatServer], Any, Callable[[Any], Any], bool]] = {
    # How it is asked, who answers, with what, where the schema stands, and whether all fields are required there.
    "anthropic": (
        lambda url: AnthropicProvider(base_url=url, environ={}),
        claude.MessagesServer, claude.message(claude.text(TEXT)), _held, False,
    ),
    "anthropic, by a tool": (
        lambda url: AnthropicProvider(model="claude-sonnet-4-1", base_url=url, environ={}),
        claude.MessagesServer, claude.message(claude.tool_use("output", GIVEN.model_dump())), _tool, False,
    ),
    "gemini": (
        lambda url: GeminiProvider(base_url=url, environ={}),
        gemini.GeminiServer, gemini.content(gemini.frames(gemini.said(TEXT))),
        lambda body: body["generationConfig"]["responseJsonSchema"], False,
    ),
    "chat": (
        lambda url: OpenAIProvider(model="m", base_url=url, environ={}),
        ChatServer, say(TEXT), lambda body: body["response_format"]["json_schema"]["schema"], True,
    ),
    "chat, told in words": (
        lambda url: deepseek(api_key="k", base_url=url, environ={}), ChatServer, say(f"```json\n{TEXT}\n```"), _told,
        False,
    ),
    "responses": (
        lambda url: OpenAIProvider(base_url=url, api="responses", environ={}),
        responses.ResponsesServer, responses.response(responses.thought(), responses.said(TEXT)),
        lambda body: body["text"]["format"]["schema"], True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
async def test_an_answer_in_a_schema(case: str) -> None:
    make, serve, reply, schema_in, all_required = CASES[case]
    server = serve()
    server.reply(reply)
    provider = make(server.url)
    template = AgentTemplate("t", model="m", output_schema=schema_of(Plan))
    deps = Dependencies(store=MemoryStore(), providers={"m": provider})
    agent = await Agent.create(AgentConfig(template), deps)
    result = await agent.run("Plan my tea.")
    await agent.close()
    await provider.close()
    server.stop()
    assert (result.status, server.refused) == ("ok", []), result.error
    assert result.read_output(Plan) == GIVEN
    asked = schema_in(server.requests[0].body)
    assert set(asked["properties"]) == {"title", "steps", "after"}
    assert set(asked["required"]) == ({"title", "steps", "after"} if all_required else {"title", "steps"})


async def test_an_answer_of_another_kind_is_named_by_field() -> None:
    template = AgentTemplate("t", model="m", output_schema=schema_of(Plan))
    answers = ['{"title": 1, "steps": ["a"]}', "No JSON."]
    deps = Dependencies(store=MemoryStore(), providers={"m": ScriptedProvider(answers)})
    async with await Agent.create(AgentConfig(template), deps) as agent:
        result = await agent.run("Plan my tea.")
        with pytest.raises(UsageError, match=r"is no Plan: title: .*valid string") as raised:
            result.read_output(Plan)
        assert raised.value.code == "bad_output"
        assert result.read_output(dict[str, Any]) == {"title": 1, "steps": ["a"]}
        with pytest.raises(UsageError, match=r"has no structured output \(status 'ok'\)"):
            (await agent.run("Again.")).read_output(Plan)


def test_a_type_without_a_schema_is_refused() -> None:
    with pytest.raises(UsageError, match="has no JSON schema"):
        schema_of(Callable[[int], int])
