"""The chat server's rules refuse what the real API refuses; else the tests that rest on them would show nothing."""

from __future__ import annotations

from typing import Any

import pytest
from tests.servers.chat_rules import problem

CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
USER = {"role": "user", "content": "hi"}
ASKED = [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}]
ANSWER = {"role": "tool", "tool_call_id": "a", "content": ""}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def named(**function: Any) -> Any:
    return {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": "", **function}}]}


def body(*messages: Any, **more: Any) -> Any:
    return {"model": "m", "messages": list(messages) or [USER], **more}


@pytest.mark.parametrize(
    "good",
    [
        body(),
        body(*ASKED, ANSWER),
        body(*ASKED, ANSWER, USER, {"role": "assistant", "content": "x"}, stream=True, temperature=0, tools=[TOOL]),
        body({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,QQ=="}}]}),
        body(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "f"}}, parallel_tool_calls=False),
        body(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}),
    ],
)
def test_good(good: Any) -> None:
    assert problem(good) is None


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (None, "parse"),
        ({"messages": [USER]}, "Missing required parameter: 'model'"),
        (body(reasoning=True), "Unrecognized request argument supplied: reasoning"),
        (body(messages=[]), "messages"),
        (body({"role": "robot", "content": "x"}), "messages[0].role"),
        (body({"role": "user", "content": None}), "messages[0].content"),
        (body({"role": "user", "content": []}), "messages[0].content"),
        (body({"role": "user", "content": "x", "reasoning_content": "y"}), "Unrecognized"),
        (body({"role": "assistant", "content": None}), "null only with tool_calls"),
        (body({"role": "assistant", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}]}), "content"),
        (body({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}}]}), "content"),
        (body(*ASKED), "not answered: ['a']"),
        (body(*ASKED, USER), "not answered: ['a']"),
        (body(*ASKED, ANSWER, ANSWER), "must answer a preceding"),
        (body(USER, ANSWER), "must answer a preceding"),
        (body(*ASKED, {**ANSWER, "is_error": True}), "is_error"),
        (body(USER, {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]}), "duplicate id"),
        (body(USER, {"role": "assistant", "content": None, "tool_calls": [{**CALL, "id": ""}]}), "id"),
        (
            body(USER, named(name="a b")),
            "name",
        ),
        (
            body(USER, named(arguments={})),
            "argu",
        ),
        (body(tools=[]), "tools"),
        (body(tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}]), "parameters"),
        (body(tool_choice="auto"), "only allowed when 'tools'"),
        (body(max_tokens=1, max_completion_tokens=1), "exclude each other"),
        (body(temperature=3), "temperature"),
        (body(stop=["a"] * 5), "stop"),
        (body(response_format={"type": "json_schema", "json_schema": {"name": "a b"}}), "response_format"),
    ],
)
def test_bad(bad: Any, why: str) -> None:
    found = problem(bad)
    assert found is not None
    assert why in found
