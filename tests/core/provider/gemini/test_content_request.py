"""Requests: every history becomes one the API accepts, held to its rules by the strict server's own checks."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from google.genai import types
from hypothesis import given
from hypothesis import strategies as st
from tests.servers.gemini import problem

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
from kode.core.provider.gemini.content_request import UNSIGNED, request_body
from kode.core.provider.gemini.facts import facts_of
from kode.core.provider.wire.body import encode

TOOL = ToolSpec("fs_read", "Reads.", dump({"type": "object", "properties": {"path": {"type": "string"}}}))
NEW, OLD = "gemini-3.5-flash", "gemini-2.5-flash"


def message(role: Any, *blocks: Block, by: str | None = "gemini") -> Message:
    return Message(0, role, blocks, 0, provider=by if role == "assistant" else None)


def user(*blocks: Block) -> Message:
    return message("user", *blocks)


def assistant(*blocks: Block, by: str = "gemini") -> Message:
    return message("assistant", *blocks, by=by)


def body(*messages: Message, model: str = NEW, **more: Any) -> Any:
    request = ModelRequest(model, messages or (user(TextBlock("hi")),), **more)
    written = json.loads(encode(request_body(request, facts_of(model))))
    assert problem(written, signs=facts_of(model).signs) is None
    return written


def shown(*messages: Message, **more: Any) -> list[Any]:
    return [(each["role"], each["parts"]) for each in body(*messages, **more)["contents"]]


def signed(signature: str, **more: Any) -> Json:
    return dump({"thoughtSignature": signature, **more})


def test_the_least_of_it() -> None:
    assert body() == {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}


def test_a_tool_loop_with_signatures() -> None:
    history = (
        user(TextBlock("read")),
        assistant(ReasoningBlock("hm"), ReasoningBlock("signed", "s0"), TextBlock("Let me see.", signed("s1")),
                  ToolUseBlock("id-a", "fs_read", Json('{"path":"a"}'), signed("s2", id="id-a")),
                  ToolUseBlock("call-4", "fs_read", Json("{}")), TextBlock("", signed("s3"))),
        user(TextBlock("Hurry."), ToolResultBlock("call-4", (TextBlock("no"),), is_error=True),
             ToolResultBlock("id-a", (TextBlock("one"), TextBlock("two")))),
        assistant(TextBlock("It says one.")),
        user(TextBlock("And b?")),
    )  # fmt: skip
    system = (SystemPart("You are"), SystemPart(""), SystemPart("an agent."))
    written = body(*history, system=system, tools=[TOOL])
    assert written["systemInstruction"] == {"parts": [{"text": "You are"}, {"text": "an agent."}]}
    declared = {"name": "fs_read", "description": "Reads.", "parametersJsonSchema": json.loads(TOOL.input_schema)}
    assert written["tools"] == [{"functionDeclarations": [declared]}]
    assert [(each["role"], each["parts"]) for each in written["contents"]] == [
        ("user", [{"text": "read"}]),
        ("model", [
            {"text": "hm", "thought": True},
            {"text": "signed", "thought": True, "thoughtSignature": "s0"},
            {"text": "Let me see.", "thoughtSignature": "s1"},
            {"functionCall": {"name": "fs_read", "id": "id-a", "args": {"path": "a"}}, "thoughtSignature": "s2"},
            {"functionCall": {"name": "fs_read", "args": {}}},
            {"text": "", "thoughtSignature": "s3"}]),
        ("user", [
            {"functionResponse": {"name": "fs_read", "id": "id-a", "response": {"output": "one\n\ntwo"}}},
            {"functionResponse": {"name": "fs_read", "response": {"error": "no"}}},
            {"text": "Hurry."}]),
        ("model", [{"text": "It says one."}]),
        ("user", [{"text": "And b?"}]),
    ]  # fmt: skip


def test_calls_of_others_are_marked_as_unsigned_and_their_secrets_stay_here() -> None:
    call = ToolUseBlock("toolu_1", "2 get weather!", Json("{}"), signed("theirs", id="x"))
    other = ToolUseBlock("toolu_2", "f", Json("{}"))
    history = (
        user(TextBlock("a")),
        assistant(ReasoningBlock("x", "s"), TextBlock("b", signed("t")), call, other, by="anthropic"),
        user(ToolResultBlock("toolu_2", ()), ToolResultBlock("toolu_1", ())),
    )  # fmt: skip
    _, (_, parts), (_, answers) = shown(*history)
    assert parts == [
        {"text": "b"}, {"functionCall": {"name": "_2_get_weather_", "args": {}}, "thoughtSignature": UNSIGNED},
        {"functionCall": {"name": "f", "args": {}}},
    ]  # fmt: skip
    assert [each["functionResponse"]["name"] for each in answers] == ["_2_get_weather_", "f"]
    assert "thoughtSignature" not in shown(*history, model=OLD)[1][1][1]


def test_thoughts_of_earlier_turns_go_where_they_are_not_retained() -> None:
    call, answer = ToolUseBlock("a", "f", Json("{}"), signed("s")), ToolResultBlock("a", ())
    history = (
        user(TextBlock("a")), assistant(ReasoningBlock("old"), TextBlock("b")), user(TextBlock("c")),
        assistant(ReasoningBlock("new"), call), user(answer),
    )  # fmt: skip

    def thoughts(retain: bool) -> list[str]:
        written = shown(*history, reasoning=Reasoning(retain=retain))
        return [part["text"] for _, parts in written for part in parts if part.get("thought")]

    assert thoughts(True) == ["old", "new"]
    assert thoughts(False) == ["new"]


def test_neighbours_become_one_and_the_user_is_first_and_last() -> None:
    history = (
        assistant(TextBlock("before")), message("system", TextBlock("Summary.")), user(TextBlock("a")),
        assistant(TextBlock("c")), assistant(TextBlock("d")), user(TextBlock("")), assistant(TextBlock("e")),
    )  # fmt: skip
    assert shown(*history) == [
        ("user", [{"text": "(What was said before is left out.)"}]), ("model", [{"text": "before"}]),
        ("user", [{"text": "Summary."}, {"text": "a"}]), ("model", [{"text": "c"}, {"text": "d"}, {"text": "e"}]),
        ("user", [{"text": "(Go on.)"}]),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (MediaBlock("image", "image/webp", data="QQ=="), {"inlineData": {"mimeType": "image/webp", "data": "QQ=="}}),
        (MediaBlock("image", url="data:image/gif;base64,Q"), {"inlineData": {"mimeType": "image/gif", "data": "Q"}}),
        (MediaBlock("audio", data="QQ=="), {"inlineData": {"mimeType": "audio/wav", "data": "QQ=="}}),
        (MediaBlock("video", url="https://x/v"), {"fileData": {"fileUri": "https://x/v", "mimeType": "video/mp4"}}),
        (MediaBlock("file", file_id="https://g/v1beta/files/1"),
         {"fileData": {"fileUri": "https://g/v1beta/files/1", "mimeType": "application/pdf"}}),
        (MediaBlock("file", "application/zip", data="QQ==", name="a.zip"),
         {"text": "[file application/zip a.zip: left out, this model's API cannot take it]"}),
    ],
)  # fmt: skip
def test_media(block: MediaBlock, expected: Any) -> None:
    assert shown(user(block)) == [("user", [expected])]


def test_media_in_a_result_follows_as_the_users() -> None:
    call, picture = ToolUseBlock("x", "f", Json("{}")), MediaBlock("image", data="QQ==")
    (_, parts) = shown(user(TextBlock("a")), assistant(call), user(ToolResultBlock("x", (TextBlock("ok"), picture))))[2]
    assert parts[0]["functionResponse"]["response"]["output"].startswith("ok\n\n(")
    assert parts[1] == {"inlineData": {"mimeType": "image/png", "data": "QQ=="}}


def test_settings() -> None:
    written = body(
        tools=[TOOL], tool_choice=ToolChoice("tool", "fs_read"), max_tokens=7, temperature=0.5, top_p=0.9,
        stop=("a", "", "b", "c", "d", "e"), seed=3, extra_body=dump({"cachedContent": "cachedContents/1"}),
    )  # fmt: skip
    assert written["toolConfig"] == {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["fs_read"]}}
    assert written["generationConfig"] == {
        "temperature": 0.5, "topP": 0.9, "maxOutputTokens": 7, "seed": 3, "stopSequences": ["a", "b", "c", "d", "e"],
    }  # fmt: skip
    assert written["cachedContent"] == "cachedContents/1"
    none = body(tools=[TOOL], tool_choice=ToolChoice("none"))
    assert none["toolConfig"] == {"functionCallingConfig": {"mode": "NONE"}}
    with pytest.raises(UsageError, match="extra_body"):
        body(extra_body=dump([1]))
    with pytest.raises(UsageError, match="has 6 sequences, and the API takes 5"):
        body(stop=tuple("abcdef"))


@pytest.mark.parametrize(
    ("model", "reasoning", "expected"),
    [
        (NEW, Reasoning(), {"includeThoughts": True}),
        (NEW, Reasoning(show=False), None),
        (NEW, Reasoning("high"), {"includeThoughts": True, "thinkingLevel": "HIGH"}),
        (NEW, Reasoning("none", show=False), {"thinkingLevel": "LOW"}),
        (NEW, Reasoning(budget_tokens=9_000, show=False), {"thinkingLevel": "MEDIUM"}),
        (OLD, Reasoning(budget_tokens=9_000), {"includeThoughts": True, "thinkingBudget": 9_000}),
        (OLD, Reasoning("none", show=False), {"thinkingBudget": 0}),
        ("gemini-2.5-pro", Reasoning("none", show=False), {"thinkingBudget": 128}),
        ("gemini-2.0-flash", Reasoning("high"), None),
        ("gemma-3-27b-it", Reasoning("high"), None),
    ],
)
def test_thinking(model: str, reasoning: Reasoning, expected: Any) -> None:
    assert body(model=model, reasoning=reasoning).get("generationConfig", {}).get("thinkingConfig") == expected


def test_an_answer_in_a_schema() -> None:
    wanted = OutputSchema(dump({"type": "object"}))
    for written in (
        body(output_schema=wanted),
        body(output_schema=wanted, tools=[TOOL]),
        body(output_schema=wanted, model=OLD),
    ):
        assert written["generationConfig"] == {
            "responseMimeType": "application/json", "responseJsonSchema": {"type": "object"}
        }  # fmt: skip
    told = body(output_schema=wanted, tools=[TOOL], model=OLD)
    assert "generationConfig" not in told
    assert told["systemInstruction"]["parts"][-1]["text"].endswith('{"type":"object"}')


def test_the_vendors_own_types_take_what_is_written() -> None:
    """They refuse any field they do not know."""
    call = ToolUseBlock("x", "f", Json("{}"), signed("c2ln", id="x"))
    picture = MediaBlock("image", data="QQ==")
    history = (
        user(TextBlock("a"), picture), assistant(ReasoningBlock("t", "c2ln"), call),
        user(ToolResultBlock("x", (picture,))),
    )  # fmt: skip
    for model in (NEW, OLD):
        written = body(
            *history, model=model, tools=[TOOL], tool_choice=ToolChoice("tool", "f"), reasoning=Reasoning("high"),
            stop=("x",), seed=1, max_tokens=5, output_schema=OutputSchema(dump({"type": "object"})), system="S",
        )  # fmt: skip
        for each in [*written["contents"], written["systemInstruction"]]:
            types.Content.model_validate_json(json.dumps(each))
        types.Tool.model_validate_json(json.dumps(written["tools"][0]))
        types.ToolConfig.model_validate_json(json.dumps(written["toolConfig"]))
        types.GenerationConfig.model_validate_json(json.dumps(written["generationConfig"]))


# ---- any history ----------------------------------------------------------------------------------------------------

TEXTS = st.text(max_size=5).map(TextBlock)
MEDIA = st.builds(
    MediaBlock, st.sampled_from(["image", "audio", "video", "file"]),
    st.sampled_from([None, "image/png", "audio/wav", "text/plain", "application/zip"]),
    url=st.none() | st.just("https://x/y"), data=st.none() | st.just("QQ=="), name=st.none() | st.just("n"),
)  # fmt: skip
OPAQUE = st.sampled_from([None, signed("s"), signed("s", id="their"), Json("[1]"), Json('{"thoughtSignature":5}')])
SPOKEN = st.lists(TEXTS | MEDIA | st.just(BlobBlock("0" * 64, 5)), max_size=3)
SAID = st.lists(
    TEXTS | MEDIA | st.builds(TextBlock, st.text(max_size=3), OPAQUE) | st.just(ReasoningBlock("r"))
    | st.just(ReasoningBlock("", "s")), max_size=3,
)  # fmt: skip


@st.composite
def histories(draw: st.DrawFn) -> tuple[Message, ...]:
    """Legal ones: every call is answered in the message behind it."""
    out: list[Message] = []
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(["user", "system", "assistant", "calls"]))
        by = draw(st.sampled_from(["anthropic", "openai", "gemini"]))
        if kind != "calls":
            out.append(message(kind, *draw(SAID if kind == "assistant" else SPOKEN), by=by))
            continue
        ids = draw(st.lists(st.text(min_size=1, max_size=70), min_size=1, max_size=3, unique=True))
        made = [ToolUseBlock(id, draw(st.text(max_size=80)), Json("{}"), draw(OPAQUE)) for id in ids]
        out.append(assistant(*draw(SAID), *made, by=by))
        results = [ToolResultBlock(id, tuple(draw(SPOKEN)), draw(st.booleans())) for id in draw(st.permutations(ids))]
        out.append(user(*draw(SPOKEN), *results))
    return tuple(out)


@given(histories(), st.sampled_from([NEW, OLD]))
def test_every_legal_history_is_accepted_and_not_changed(history: tuple[Message, ...], model: str) -> None:
    before = copy.deepcopy(history)
    body(*history, tools=[TOOL], model=model)
    assert history == before
