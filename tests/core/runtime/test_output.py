"""Structured output: what a run's result carries beside its text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kode.core import Agent, AgentConfig, AgentTemplate
from kode.core.kernel.message import Json
from kode.core.provider.script import call
from kode.core.tools.define import tool

SCHEMA = Json('{"type":"object","properties":{"n":{"type":"integer"}}}')


@tool(readonly=True)
async def look() -> str:
    """Look."""
    return "seen"


async def asked(lab: Any, *script: Any, schema: Json | None = SCHEMA) -> tuple[Any, Any]:
    deps = lab.deps(list(script), look)
    template = AgentTemplate("t", model="m", tools=("look",), output_schema=schema)
    agent = await Agent.create(AgentConfig(template, agent_id="a"), deps)
    return agent, await agent.run("go")


@pytest.mark.parametrize("text", ['{"n": 1}', ' {"n":1}\n', '```json\n{"n": 1}\n```', '```\n{"n": 1}```'])
async def test_the_answer_is_a_value(lab: Any, text: str) -> None:
    agent, result = await asked(lab, text)
    assert result.ok
    assert result.output == {"n": 1}
    assert result.text == text.strip() or result.text == text
    assert json.loads(json.dumps(result.to_dict()))["output"] == {"n": 1}
    (record,) = (await lab.store.read_runs("a")).items
    assert record.output == '{"n":1}'
    # Whoever asks later gets it from the store.
    assert (await agent.complete()).output == {"n": 1}


async def test_what_is_no_json_stays_text_and_is_told(lab: Any) -> None:
    _, result = await asked(lab, "I would rather talk.")
    assert result.ok
    assert result.output is None
    assert result.text == "I would rather talk."
    assert [e.data["code"] for e in await lab.events() if e.type == "error"] == ["bad_output"]


async def test_calls_come_first(lab: Any) -> None:
    _, result = await asked(lab, call("look", {}), "[1,2]")
    assert result.output == [1, 2]
    assert "error" not in await lab.kinds()


async def test_without_a_schema_there_is_none(lab: Any) -> None:
    _, result = await asked(lab, '{"n": 1}', schema=None)
    assert result.output is None
