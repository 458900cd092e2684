"""Requests: every history becomes one the API accepts, held to its rules by the strict server's own checks."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.servers.anthropic_rules import problem

from kode.core.errors import UsageError
from kode.core.jsontext import dump
from kode.core.kernel.message import (
    BlobBlock,
    Block,
    Json,
    MediaBlock,
    Message,
    ReasoningBlock,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from kode.core.provider import ModelRequest, OutputSchema, Reasoning, SystemPart, ToolChoice, ToolSpec
from kode.core.provider.anthropic.facts import facts_of
from kode.core.provider.anthropic.messages_request import request_body
from kode.core.provider.wire.body import encode

TOOL = ToolSpec("fs_read", "Reads.", dump({"type": "object", "properties": {"path": {"type": "string"}}}))
OUT = "left out, this model's API cannot take it"
NEW, OLD = "claude-sonnet-5", "claude-haiku-4-5"


def message(role: Any, *blocks: Block, by: str | None = "anthropic") -> Message:
    return Message(0, role, blocks, 0, provider=by if role == "assistant" else None)


def user(*blocks: Block) -> Message:
    return message("user", *blocks)


def assistant(*blocks: Block, by: str = "anthropic") -> Message:
    return message("assistant", *blocks, by=by)


def body(*messages: Message, model: str = NEW, cache: Any = None, version: str = "2023-06-01", **more: Any) -> Any:
    request = ModelRequest(model, messages or (user(TextBlock("hi")),), **more)
    written = json.loads(encode(request_body(request, facts_of(model), cache=cache, version=version)))
    assert problem(written) is None
    return written


def said(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def shown(*messages: Message, **more: Any) -> list[Any]:
    return [(each["role"], each["content"]) for each in body(*messages, **more)["messages"]]


def test_the_least_of_it() -> None:
    assert body() == {
        "model": NEW,
        "max_tokens": 64_000,
        "messages": [{"role": "user", "content": [said("hi")]}],
        "stream": True,
    }


def test_a_tool_loop_with_its_thoughts() -> None:
    history = (
        user(TextBlock("read a.txt")),
        assistant(ReasoningBlock("hm", "sig"), ReasoningBlock("", redacted=True, opaque=Json('{"data":"xyz"}')),
                  TextBlock("Let me see."), ToolUseBlock("a", "fs_read", Json('{"path":"a.txt"}')),
                  ReasoningBlock("more", "sig2"), ToolUseBlock("b", "fs_read", Json("{}"))),
        user(TextBlock("Hurry."), ToolResultBlock("a", (TextBlock("one"), TextBlock(" "), TextBlock("two"))),
             ToolResultBlock("b", (), is_error=True)),
        assistant(TextBlock("It says one."), ReasoningBlock("late", "sig3")),
        user(TextBlock("And b?")),
    )  # fmt: skip
    system = (SystemPart("You are"), SystemPart(" "), SystemPart("an agent."))
    written = body(*history, system=system, tools=[TOOL])
    assert written["system"] == [said("You are"), said("an agent.")]
    assert [(each["role"], each["content"]) for each in written["messages"]] == [
        ("user", [said("read a.txt")]),
        ("assistant", [
            {"type": "thinking", "thinking": "hm", "signature": "sig"},
            {"type": "redacted_thinking", "data": "xyz"},
            said("Let me see."),
            {"type": "tool_use", "id": "a", "name": "fs_read", "input": {"path": "a.txt"}},
            {"type": "thinking", "thinking": "more", "signature": "sig2"},
            {"type": "tool_use", "id": "b", "name": "fs_read", "input": {}}]),
        ("user", [
            {"type": "tool_result", "tool_use_id": "a", "content": [said("one"), said("two")]},
            {"type": "tool_result", "tool_use_id": "b", "is_error": True,
             "content": [said("The tool failed and said nothing.")]},
            said("Hurry.")]),
        ("assistant", [said("It says one.")]),
        ("user", [said("And b?")]),
    ]  # fmt: skip


def test_other_vendors_thoughts_and_unsigned_ones_stay_here() -> None:
    history = (
        user(TextBlock("a")), assistant(ReasoningBlock("x", "s"), TextBlock("b"), by="gemini"),
        user(TextBlock("c")), assistant(ReasoningBlock("x"), TextBlock("d")), user(TextBlock("e")),
    )  # fmt: skip
    assert all(block["type"] == "text" for _, content in shown(*history) for block in content)


def test_thoughts_of_earlier_turns_go_where_they_are_not_retained() -> None:
    call, answer = ToolUseBlock("a", "f", Json("{}")), ToolResultBlock("a", ())
    history = (
        user(TextBlock("a")), assistant(ReasoningBlock("old", "s"), TextBlock("b")), user(TextBlock("c")),
        assistant(ReasoningBlock("new", "s"), call), user(answer),
    )  # fmt: skip

    def thoughts(retain: bool) -> list[str]:
        written = shown(*history, reasoning=Reasoning(retain=retain))
        return [block["thinking"] for _, content in written for block in content if block["type"] == "thinking"]

    assert thoughts(True) == ["old", "new"]
    assert thoughts(False) == ["new"]


def test_neighbours_become_one_and_the_user_is_first_and_last() -> None:
    history = (
        assistant(TextBlock("before")), message("system", TextBlock("Summary.")), user(TextBlock("a")),
        assistant(TextBlock("c")), assistant(TextBlock("d")), user(TextBlock(" \n")), assistant(TextBlock("e")),
    )  # fmt: skip
    assert shown(*history) == [
        ("user", [said("(What was said before is left out.)")]), ("assistant", [said("before")]),
        ("user", [said("Summary."), said("a")]), ("assistant", [said("c"), said("d"), said("e")]),
        ("user", [said("(Go on.)")]),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (MediaBlock("image", url="https://x/a.png"), {"type": "image", "source": {"type": "url", "url": "https://x/a.png"}}),
        (MediaBlock("image", "image/gif", data="QQ=="),
         {"type": "image", "source": {"type": "base64", "media_type": "image/gif", "data": "QQ=="}}),
        (MediaBlock("image", url="data:image/gif;base64,QQ=="),
         {"type": "image", "source": {"type": "base64", "media_type": "image/gif", "data": "QQ=="}}),
        (MediaBlock("file", "text/plain", data="Q"), said(f"[file text/plain: {OUT}]")),
        (MediaBlock("image", file_id="file_1"), {"type": "image", "source": {"type": "file", "file_id": "file_1"}}),
        (MediaBlock("file", "application/pdf", data="QQ==", name="a.pdf"),
         {"type": "document", "title": "a.pdf",
          "source": {"type": "base64", "media_type": "application/pdf", "data": "QQ=="}}),
        (MediaBlock("file", url="https://x/a.pdf"),
         {"type": "document", "source": {"type": "url", "url": "https://x/a.pdf"}}),
        (MediaBlock("file", "text/plain", data="w6k="),
         {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "é"}}),
        (MediaBlock("audio", "audio/wav", data="QQ=="), said(f"[audio audio/wav: {OUT}]")),
        (MediaBlock("image", "image/tiff", data="QQ=="), said(f"[image image/tiff: {OUT}]")),
    ],
)  # fmt: skip
def test_media(block: MediaBlock, expected: Any) -> None:
    assert shown(user(block)) == [("user", [expected])]
    call, answer = ToolUseBlock("x", "f", Json("{}")), ToolResultBlock("x", (block,))
    in_result = shown(user(TextBlock("a")), assistant(call), user(answer))
    assert in_result[2][1][0]["content"] == [expected]


def test_ids_and_names_of_other_vendors_and_wild_models_are_made_legal() -> None:
    call = ToolUseBlock("call|1:é" + "x" * 60, "functions.get weather!", Json("{}"))
    _, (_, (made,)), (_, (answer,)) = shown(user(TextBlock("a")), assistant(call), user(ToolResultBlock(call.id, ())))
    assert made["name"] == "functions_get_weather_"
    assert made["id"] == answer["tool_use_id"] != call.id


def test_settings() -> None:
    bounded = {"type": "integer", "minimum": 1}
    written = body(
        model=OLD,
        tools=[ToolSpec("f", "F.", dump({"type": "object", "properties": {"n": bounded}}), strict=True)],
        tool_choice=ToolChoice("tool", "f", parallel=False),
        max_tokens=7,
        temperature=0.5,
        top_p=0.9,
        stop=("a", " ", "b"),
        metadata={"user_id": "u", "x": "y"},
        extra_body=dump({"service_tier": "auto", "max_tokens": 8}),
    )  # fmt: skip
    assert written["tools"][0]["strict"] is True
    assert written["tools"][0]["input_schema"]["properties"]["n"] == {"type": "integer", "description": "minimum: 1"}
    assert written["tool_choice"] == {"type": "tool", "name": "f", "disable_parallel_tool_use": True}
    assert (written["temperature"], written["top_p"], written["max_tokens"]) == (0.5, 0.9, 8)
    assert (written["stop_sequences"], written["metadata"]) == (["a", "b"], {"user_id": "u"})
    assert "temperature" not in body(model=NEW, temperature=0.5)
    assert "temperature" not in body(model=OLD, temperature=0.5, version="2026-10-21")
    assert body(tools=[TOOL], tool_choice=ToolChoice("required"))["tool_choice"] == {"type": "any"}
    assert body(tools=[TOOL], tool_choice=ToolChoice("none", parallel=True))["tool_choice"] == {"type": "none"}
    assert "tool_choice" not in body(tool_choice=ToolChoice("auto"))


@pytest.mark.parametrize(
    ("model", "reasoning", "thinking", "effort"),
    [
        (NEW, Reasoning(), None, None),
        (NEW, Reasoning("high"), {"type": "adaptive", "display": "summarized"}, "high"),
        (NEW, Reasoning("minimal", show=False), {"type": "adaptive", "display": "omitted"}, "low"),
        (NEW, Reasoning(budget_tokens=9_000), {"type": "adaptive", "display": "summarized"}, "medium"),
        (NEW, Reasoning("none"), {"type": "disabled"}, None),
        (NEW, Reasoning("xhigh"), {"type": "adaptive", "display": "summarized"}, "xhigh"),
        ("claude-opus-4-6", Reasoning("xhigh"), {"type": "adaptive", "display": "summarized"}, "high"),
        ("claude-opus-5-5", Reasoning(), {"type": "adaptive", "display": "summarized"}, None),
        ("claude-opus-5-5", Reasoning("none"), {"type": "adaptive", "display": "summarized"}, "low"),
        (OLD, Reasoning(), None, None),
        (OLD, Reasoning("high"), {"type": "enabled", "budget_tokens": 16_384}, None),
        (OLD, Reasoning(budget_tokens=5), {"type": "enabled", "budget_tokens": 1_024}, None),
        (OLD, Reasoning(budget_tokens=10**6), {"type": "enabled", "budget_tokens": 32_000 - 1_024}, None),
        (OLD, Reasoning("none"), None, None),
        ("claude-3-5-haiku-latest", Reasoning("high"), None, None),
        ("someone/else", Reasoning("low"), {"type": "enabled", "budget_tokens": 2_048}, None),
    ],
)
def test_thinking(model: str, reasoning: Reasoning, thinking: Any, effort: str | None) -> None:
    written = body(model=model, reasoning=reasoning, temperature=0.3)
    assert written.get("thinking") == thinking
    assert written.get("output_config", {}).get("effort") == effort


def test_thinking_gives_way_to_what_the_api_holds_more_important() -> None:
    call, answer = ToolUseBlock("a", "fs_read", Json("{}")), ToolResultBlock("a", ())
    begun = (user(TextBlock("a")), assistant(call), user(answer))
    assert "thinking" not in body(*begun, model=OLD, reasoning=Reasoning("high"))
    own = (begun[0], assistant(ReasoningBlock("hm", "s"), call), begun[2])
    assert "thinking" in body(*own, model=OLD, reasoning=Reasoning("high"))
    for model in (NEW, OLD):
        forced = body(model=model, tools=[TOOL], tool_choice=ToolChoice("required"), reasoning=Reasoning("high"))
        assert "thinking" not in forced
    assert "thinking" not in body(model=OLD, max_tokens=1_500, reasoning=Reasoning("high"))


def test_an_answer_in_a_schema() -> None:
    schema = dump({
        "type": "object", "title": "Answer", "required": ["n", "of"],
        "properties": {"n": {"type": "integer", "maximum": 9, "description": "How many."},
                       "of": {"oneOf": [{"$ref": "#/$defs/Of"}, {"type": "null"}]}},
        "$defs": {"Of": {"type": "object", "properties": {"minimum": {"type": "string", "minLength": 1}}}},
    })  # fmt: skip
    shape = body(output_schema=OutputSchema(schema))["output_config"]["format"]
    assert shape["schema"] == {
        "type": "object", "title": "Answer", "required": ["n", "of"], "additionalProperties": False,
        "properties": {"n": {"type": "integer", "description": "How many.\n\nmaximum: 9"},
                       "of": {"anyOf": [{"$ref": "#/$defs/Of"}, {"type": "null"}]}},
        "$defs": {"Of": {"type": "object", "additionalProperties": False,
                         "properties": {"minimum": {"type": "string", "description": "minLength: 1"}}}},
    }  # fmt: skip
    old = body(model="glm-5", output_schema=OutputSchema(schema, name="my answer"))
    assert old["tool_choice"] == {"type": "tool", "name": "my_answer"}
    assert [tool["name"] for tool in old["tools"]] == ["my_answer"]
    assert [
        tool["name"] for tool in body(model="glm-5", tools=[TOOL], output_schema=OutputSchema(schema))["tools"]
    ] == ["fs_read"]


# ---- marks ----------------------------------------------------------------------------------------------------------


def marked(written: Any) -> list[tuple[str, str]]:
    spots = [(f"tool {tool['name']}", tool) for tool in written.get("tools", [])]
    spots += [(f"system {part['text']}", part) for part in written.get("system", [])]
    spots += [
        (f"{at}.{n}", block) for at, each in enumerate(written["messages"]) for n, block in enumerate(each["content"])
    ]
    return [(name, spot["cache_control"].get("ttl", "5m")) for name, spot in spots if "cache_control" in spot]


def talk(turns: int) -> list[Message]:
    out = [user(TextBlock("0"))]
    for turn in range(turns):
        out += [assistant(TextBlock("a")), user(TextBlock("b"), TextBlock(str(turn)))]
    return out


def test_marks_move_with_the_history() -> None:
    def marks(turns: int, **more: Any) -> list[tuple[str, str]]:
        return marked(body(*talk(turns), system="S", tools=[TOOL], **more))

    assert marks(0, cache="short") == [("system S", "5m"), ("0.0", "5m")]
    first, second = marks(1, cache="short"), marks(2, cache="short")
    assert first == [("system S", "5m"), ("0.0", "5m"), ("2.1", "5m")]
    assert second == [("system S", "5m"), ("2.1", "5m"), ("4.1", "5m")]
    assert marks(1) == []


def test_marks_of_the_request_come_first_and_never_more_than_four() -> None:
    tools = [ToolSpec(name, "", dump({"type": "object"}), cache="long") for name in "abc"]
    system = (SystemPart("one", "long"), SystemPart("two"), SystemPart("three", "short"))
    request = ModelRequest(NEW, talk(3), system, tools, cache="short")
    written = request_body(request, facts_of(NEW))
    assert problem(written) is None
    assert marked(written) == [("system one", "1h"), ("system three", "5m"), ("4.1", "5m"), ("6.1", "5m")]
    without = request_body(ModelRequest(NEW, talk(3), system, tools), facts_of(NEW))
    assert marked(without) == [("tool b", "1h"), ("tool c", "1h"), ("system one", "1h"), ("system three", "5m")]
    late = request_body(ModelRequest(NEW, talk(1), (SystemPart("s", "short"),), cache="long"), facts_of(NEW))
    assert marked(late) == [("system s", "1h"), ("0.0", "1h"), ("2.1", "1h")]


def test_an_extra_body_that_is_no_object_is_refused() -> None:
    with pytest.raises(UsageError, match="extra_body"):
        body(extra_body=dump([1]))


@pytest.mark.parametrize(
    ("model", "window", "output"),
    [
        ("claude-opus-5", 1_000_000, 64_000), ("claude-sonnet-4-5-20250929", 200_000, 32_000),
        ("anthropic.claude-haiku-4-5-v1:0", 200_000, 32_000), ("anthropic/claude-3-5-haiku", 200_000, 8_192),
        ("claude-next", 1_000_000, 64_000), ("MiniMax-M3", 128_000, 8_192),
    ],
)  # fmt: skip
def test_what_differs_from_model_to_model(model: str, window: int, output: int) -> None:
    facts = facts_of(model)
    assert (facts.window_tokens, facts.output_tokens) == (window, output)


# ---- any history ----------------------------------------------------------------------------------------------------

TEXTS = st.text(max_size=5).map(TextBlock)
MEDIA = st.builds(
    MediaBlock, st.sampled_from(["image", "audio", "video", "file"]),
    st.sampled_from([None, "image/png", "audio/wav", "text/plain", "application/pdf"]),
    url=st.none() | st.just("https://x/y"), data=st.none() | st.just("QQ=="), name=st.none() | st.just("n"),
)  # fmt: skip
SPOKEN = st.lists(TEXTS | MEDIA | st.just(BlobBlock("0" * 64, 5)), max_size=3)
THOUGHTS = st.sampled_from(
    [ReasoningBlock("r"), ReasoningBlock("r", "s"), ReasoningBlock("", redacted=True, opaque=Json('{"data":"d"}')),
     ReasoningBlock("", redacted=True, opaque=Json('{"other":1}'))]
)  # fmt: skip


@st.composite
def histories(draw: st.DrawFn) -> tuple[Message, ...]:
    """Legal ones: every call is answered in the message behind it."""
    out: list[Message] = []
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(["user", "system", "assistant", "calls"]))
        by = draw(st.sampled_from(["anthropic", "openai", "gemini"]))
        if kind != "calls":
            out.append(message(kind, *draw(SPOKEN), by=by))
            continue
        ids = draw(st.lists(st.text(min_size=1, max_size=70), min_size=1, max_size=3, unique=True))
        made = [ToolUseBlock(id, draw(st.text(max_size=140)), Json("{}")) for id in ids]
        out.append(assistant(*draw(st.lists(THOUGHTS, max_size=2)), *draw(SPOKEN), *made, draw(THOUGHTS), by=by))
        results = [ToolResultBlock(id, tuple(draw(SPOKEN)), draw(st.booleans())) for id in ids]
        out.append(user(*draw(SPOKEN), *results))
    return tuple(out)


@given(histories(), st.sampled_from([NEW, OLD]), st.sampled_from([None, "high"]))
def test_every_legal_history_is_accepted_and_not_changed(history: tuple[Message, ...], model: str, effort: Any) -> None:
    before = copy.deepcopy(history)
    body(*history, tools=[TOOL], model=model, cache="short", reasoning=Reasoning(effort))
    assert history == before


def test_a_mapping_cannot_be_held_to_a_schema_and_is_asked_for_in_words() -> None:
    counts = {"type": "object", "additionalProperties": {"type": "integer"}}
    schema = {"type": "object", "properties": {"counts": counts}}
    written = body(
        output_schema=OutputSchema(dump(schema)),
        system=(SystemPart("Be brief.", cache="long"),),
        tools=[ToolSpec("f", "F.", dump(schema), strict=True)],
    )
    assert "output_config" not in written
    assert "additionalProperties" in written["system"][-1]["text"]
    assert written["tools"][0]["input_schema"] == schema
    assert "strict" not in written["tools"][0]
