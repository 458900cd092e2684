"""A call has an id of its own in all of a history, whoever counted it, and the same one in each request."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.servers import anthropic_rules, chat_rules, gemini, responses_rules

from kode.core.jsontext import dump
from kode.core.kernel.message import Json, Message, TextBlock, ToolResultBlock, ToolUseBlock
from kode.core.provider import ModelRequest
from kode.core.provider.anthropic import facts, messages_request
from kode.core.provider.gemini import content_request
from kode.core.provider.gemini import facts as gemini_facts
from kode.core.provider.openai import chat_request, responses_request
from kode.core.provider.presets import PRESETS
from kode.core.provider.wire.wording import as_error, set_apart

Write = Callable[[ModelRequest], Any]


def _mistral(request: ModelRequest) -> Any:
    dialect = PRESETS["mistral"].speaks
    assert isinstance(dialect, chat_request.Dialect)
    return json.loads(chat_request.request_body(request, dialect))


def _chat(request: ModelRequest) -> Any:
    return json.loads(chat_request.request_body(request, chat_request.dialect_of("m")))


def _responses(request: ModelRequest) -> Any:
    return json.loads(responses_request.request_body(request, chat_request.dialect_of("gpt-5")))


WRITERS: dict[str, tuple[Write, Callable[[Any], str | None], str]] = {
    "anthropic": (
        lambda request: messages_request.request_body(request, facts.facts_of("claude-sonnet-5")),
        anthropic_rules.problem,
        "messages",
    ),
    "chat": (_chat, chat_rules.problem, "messages"),
    "gemini": (
        lambda request: content_request.request_body(request, gemini_facts.facts_of("gemini-3.5-flash")),
        gemini.problem,
        "contents",
    ),
    "mistral": (_mistral, chat_rules.problem, "messages"),
    "responses": (_responses, responses_rules.problem, "input"),
}


def history(*ids: str, calls: int = 2) -> list[Message]:
    """One step for each id, with that many calls; all of the same vendor, whose own ids come twice too."""
    out = [Message(0, "user", (TextBlock("go"),), 0)]
    for step, id in enumerate(ids):
        names = [f"{id}-{n}" if n else id for n in range(calls)]
        made = [ToolUseBlock(name, f"f{step}", Json("{}"), dump({"id": id})) for name in names]
        out.append(Message(0, "assistant", tuple(made), 0, provider="gemini"))
        out.append(Message(0, "user", tuple(ToolResultBlock(name, (TextBlock(f"of f{step}"),)) for name in names), 0))
    return out


@pytest.mark.parametrize("vendor", WRITERS)
@pytest.mark.parametrize("ids", [("call",) * 4, ("call", "call-2", "call", "call-2"), ("functions.x:0",) * 3])
def test_ids_that_come_twice_are_set_apart_and_stay(vendor: str, ids: tuple[str, ...]) -> None:
    write, problem, field = WRITERS[vendor]
    for calls in (1, 2):
        messages = history(*ids, calls=calls)
        whole = write(ModelRequest("m", messages))
        assert problem(whole) is None
        for upto in range(3, len(messages), 2):
            earlier = write(ModelRequest("m", messages[:upto]))
            size = len(earlier[field]) - 1
            assert [_bare(each) for each in earlier[field][:size]] == [_bare(each) for each in whole[field][:size]]


def _bare(value: Any) -> Any:
    """Without the marks of a cache, which move on."""
    if isinstance(value, list):
        return [_bare(each) for each in value]
    return {k: _bare(v) for k, v in value.items() if k != "cache_control"} if isinstance(value, dict) else value


def test_a_history_that_needs_none_of_it_is_left_as_it_is() -> None:
    messages = history("a", "b")
    assert all(a is b for a, b in zip(set_apart(messages), messages, strict=True))
    late = replace(messages[2], blocks=(ToolResultBlock("gone", (TextBlock("x"),)),))
    assert set_apart([messages[0], late])[1] is late


def test_an_error_is_called_one_once() -> None:
    assert [as_error(text) for text in ("no such file", "Error: 1", "ERROR", "")] == [
        "Error: no such file", "Error: 1", "ERROR", "Error: ",
    ]  # fmt: skip
