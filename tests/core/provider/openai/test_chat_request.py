"""Requests: every history becomes one the API accepts, held to its rules by the strict server's own checks."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.servers.chat_rules import problem

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
from kode.core.provider import (
    Dialect,
    ModelRequest,
    OutputSchema,
    Reasoning,
    SystemPart,
    ToolChoice,
    ToolSpec,
)
from kode.core.provider.openai.chat_request import dialect_of, request_body

TOOL = ToolSpec("fs_read", "Reads.", dump({"type": "object", "properties": {"path": {"type": "string"}}}))


def message(role: Any, *blocks: Block, seq: int = 0) -> Message:
    return Message(seq, role, blocks, 0)


def user(*blocks: Block) -> Message:
    return message("user", *blocks)


def assistant(*blocks: Block) -> Message:
    return message("assistant", *blocks)


def body(
    *messages: Message, model: str = "m", dialect: Dialect | None = None, official: bool = False, **more: Any
) -> Any:
    request = ModelRequest(model, messages or (user(TextBlock("hi")),), **more)
    written = json.loads(request_body(request, dialect or dialect_of(model), official=official))
    assert problem(written) is None
    return written


def shown(*messages: Message, **more: Any) -> list[Any]:
    return list(body(*messages, **more)["messages"])


def test_the_least_of_it() -> None:
    assert body() == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_a_tool_loop() -> None:
    history = (
        user(TextBlock("read a.txt")),
        assistant(ReasoningBlock("hm"), TextBlock("Let me see."),
                  ToolUseBlock("a", "fs_read", Json('{"path":"a.txt"}')),
                  ToolUseBlock("b", "fs_read", Json("{}"))),
        user(ToolResultBlock("a", (TextBlock("one"), TextBlock("two"))),
             ToolResultBlock("b", (TextBlock("no such file"),), is_error=True), TextBlock("Hurry.")),
        assistant(TextBlock("It says one.")),
        user(TextBlock("And b?")),
    )  # fmt: skip
    system = (SystemPart("You are"), SystemPart(""), SystemPart("an agent."))
    assert shown(*history, system=system, tools=[TOOL]) == [
        {"role": "system", "content": "You are\n\nan agent."},
        {"role": "user", "content": "read a.txt"},
        {"role": "assistant", "content": "Let me see.", "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "fs_read", "arguments": '{"path":"a.txt"}'}},
            {"id": "b", "type": "function", "function": {"name": "fs_read", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "a", "content": "one\n\ntwo"},
        {"role": "tool", "tool_call_id": "b", "content": "Error: no such file"},
        {"role": "user", "content": "Hurry."},
        {"role": "assistant", "content": "It says one."},
        {"role": "user", "content": "And b?"},
    ]  # fmt: skip


def test_neighbours_of_one_role_become_one() -> None:
    picture = MediaBlock("image", "image/png", data="QQ==")
    history = (
        message("system", TextBlock("Summary.")), user(TextBlock("a")), user(TextBlock("b")), user(picture),
        assistant(TextBlock("c")), assistant(TextBlock("d"), ToolUseBlock("x", "fs_read", Json("{}"))),
        user(ToolResultBlock("x", ())), user(TextBlock("e")), assistant(ReasoningBlock("dropped")), user(TextBlock("")),
        user(TextBlock("f")),
    )  # fmt: skip
    roles = [(each["role"], each["content"]) for each in shown(*history)]
    assert roles == [
        ("system", "Summary."),
        ("user", [{"type": "text", "text": "a\n\nb"},
                  {"type": "image_url", "image_url": {"url": "data:image/png;base64,QQ=="}}]),
        ("assistant", "c\n\nd"),
        ("tool", ""),
        ("user", "e\n\nf"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (MediaBlock("image", url="https://x/a.png"), {"type": "image_url", "image_url": {"url": "https://x/a.png"}}),
        (MediaBlock("image", data="QQ=="), {"type": "image_url", "image_url": {"url": "data:image/png;base64,QQ=="}}),
        (MediaBlock("audio", "audio/mpeg", data="QQ=="),
         {"type": "input_audio", "input_audio": {"data": "QQ==", "format": "mp3"}}),
        (MediaBlock("file", file_id="file-1"), {"type": "file", "file": {"file_id": "file-1"}}),
        (MediaBlock("file", "application/pdf", data="QQ==", name="a.pdf"),
         {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,QQ=="}}),
    ],
)  # fmt: skip
def test_media_the_api_takes(block: MediaBlock, expected: Any) -> None:
    assert shown(user(TextBlock("see"), block)) == [
        {"role": "user", "content": [{"type": "text", "text": "see"}, expected]}
    ]


def test_media_it_does_not_take_leave_a_note_and_stay_as_they_are() -> None:
    blocks = (
        TextBlock("see"),
        MediaBlock("video", "video/mp4", data="QQ==", name="v.mp4"),
        BlobBlock("0" * 64, 7, preview="p"),
    )
    kept = copy.deepcopy(blocks)
    (only,) = shown(user(*blocks))
    assert only["content"] == (
        "see\n\n[video video/mp4 v.mp4: left out, this model's API cannot take it]"
        "\n\np\n[7 bytes of text/plain: left out]"
    )
    assert blocks == kept


def test_a_picture_in_a_result_follows_as_the_users() -> None:
    call = ToolUseBlock("x", "fs_read", Json("{}"))
    picture = MediaBlock("image", data="QQ==")
    result = ToolResultBlock("x", (TextBlock("ok"), picture))
    roles = shown(user(TextBlock("a")), assistant(call), user(result))
    assert [each["role"] for each in roles] == ["user", "assistant", "tool", "user"]
    assert roles[2]["content"].startswith("ok\n\n(")
    assert roles[3]["content"][0]["type"] == "image_url"


def test_ids_and_names_of_other_vendors_and_wild_models_are_made_legal() -> None:
    call = ToolUseBlock("toolu_" + "x" * 60, "functions.get weather!", Json("{}"))
    _, made, answer = shown(user(TextBlock("a")), assistant(call), user(ToolResultBlock(call.id, ())))
    assert made["tool_calls"][0]["function"]["name"] == "functions_get_weather_"
    assert made["tool_calls"][0]["id"] == answer["tool_call_id"]
    assert len(answer["tool_call_id"]) <= 40


def test_settings() -> None:
    schema = OutputSchema(dump({"type": "object"}), name="my answer")
    written = body(
        tools=[ToolSpec("f", "F.", dump({"type": "object"}), strict=True)],
        tool_choice=ToolChoice("tool", "f", parallel=False),
        max_tokens=7,
        temperature=0.5,
        top_p=0.9,
        stop=("a", "b", "", "c", "d"),
        seed=3,
        output_schema=schema,
        extra_body=dump({"user": "u", "seed": 4}),
        cache_key="k",
    )
    assert written["tools"][0]["function"]["strict"] is True
    assert written["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    assert written["parallel_tool_calls"] is False
    assert (written["max_tokens"], written["temperature"], written["top_p"], written["seed"]) == (7, 0.5, 0.9, 4)
    assert written["stop"] == ["a", "b", "c", "d"]
    assert written["user"] == "u"
    assert written["response_format"]["json_schema"] == {
        "name": "my_answer",
        "schema": {"type": "object", "properties": {}, "required": [], "additionalProperties": False},
        "strict": True,
    }
    assert "prompt_cache_key" not in written
    assert body(cache_key="k", official=True)["prompt_cache_key"] == "k"
    assert body(tools=[TOOL], tool_choice=ToolChoice("required"))["tool_choice"] == "required"


@pytest.mark.parametrize(
    ("model", "window", "field", "sampling"),
    [
        ("gpt-5-mini", 400_000, "max_completion_tokens", False),
        ("openai/o3", 200_000, "max_completion_tokens", False),
        ("gpt-5-chat-latest", 128_000, "max_completion_tokens", True),
        ("gpt-4o-mini", 128_000, "max_completion_tokens", True),
        ("gpt-4.1", 1_047_576, "max_completion_tokens", True),
        ("gpt-4", 8_192, "max_tokens", True),
        # The smaller, where a name says less than it seems to.
        ("some-local-model", 32_768, "max_tokens", True),
        ("qwen3:8b", 32_768, "max_tokens", True),
        ("gpt-4-32k", 8_192, "max_tokens", True),
        ("gpt-4.5-preview", 8_192, "max_tokens", True),
        ("gpt-5.2-chat-latest", 128_000, "max_completion_tokens", False),
        ("gpt-5.2", 400_000, "max_completion_tokens", False),
        ("o1-preview", 128_000, "max_completion_tokens", False),
    ],
)
def test_what_differs_from_model_to_model(model: str, window: int, field: str, sampling: bool) -> None:
    assert dialect_of(model).window_tokens == window
    written = body(model=model, max_tokens=5, temperature=0.1)
    assert written[field] == 5
    assert ("temperature" in written) == sampling


@pytest.mark.parametrize(
    ("reasoning", "effort"),
    [(Reasoning("high"), "high"), (Reasoning(budget_tokens=1_000), "low"), (Reasoning(budget_tokens=9_000), "medium"),
     (Reasoning(budget_tokens=99_000), "high"), (Reasoning(budget_tokens=0), "none"), (Reasoning(), None)],
)  # fmt: skip
def test_effort(reasoning: Reasoning, effort: str | None) -> None:
    assert body(model="o3", reasoning=reasoning).get("reasoning_effort") == effort


def test_an_extra_body_that_is_no_object_is_refused() -> None:
    with pytest.raises(UsageError, match="extra_body"):
        body(extra_body=dump([1]))


TEXTS = st.text(max_size=5).map(TextBlock)
MEDIA = st.builds(
    MediaBlock, st.sampled_from(["image", "audio", "video", "file"]), st.sampled_from([None, "image/png", "audio/wav"]),
    url=st.none() | st.just("https://x/y"), data=st.none() | st.just("QQ=="), name=st.none() | st.just("n"),
)  # fmt: skip
SPOKEN = st.lists(TEXTS | MEDIA | st.just(BlobBlock("0" * 64, 5)), max_size=3)


@st.composite
def histories(draw: st.DrawFn) -> tuple[Message, ...]:
    """Legal ones: every call is answered in the message behind it."""
    out: list[Message] = []
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(["user", "system", "assistant", "calls"]))
        if kind != "calls":
            out.append(message(kind, *draw(SPOKEN)))
            continue
        ids = draw(st.lists(st.text(min_size=1, max_size=50), min_size=1, max_size=3, unique=True))
        names = st.text(max_size=70)
        made = [ToolUseBlock(id, draw(names), Json("{}")) for id in ids]
        out.append(assistant(*draw(SPOKEN), ReasoningBlock("r"), *made))
        results = [ToolResultBlock(id, tuple(draw(SPOKEN)), draw(st.booleans())) for id in ids]
        out.append(user(*results, *draw(SPOKEN)))
    return tuple(out)


@given(histories())
def test_every_legal_history_is_accepted_and_not_changed(history: tuple[Message, ...]) -> None:
    before = copy.deepcopy(history)
    body(user(TextBlock("begin")), *history, tools=[TOOL])
    assert history == before


def test_more_stop_sequences_than_the_vendor_takes_are_refused() -> None:
    request = ModelRequest("gpt-4o", (), stop=("a", "b", "", "c", "d"))
    assert json.loads(request_body(request, dialect_of("gpt-4o"), official=True))["stop"] == ["a", "b", "c", "d"]
    with pytest.raises(UsageError, match="has 5 sequences, and the API takes 4") as caught:
        request_body(replace(request, stop=tuple("abcde")), dialect_of("gpt-4o"), official=True)
    assert caught.value.code == "too_many_stops"
    elsewhere = request_body(replace(request, stop=tuple("abcde")), dialect_of("m"))
    assert json.loads(elsewhere)["stop"] == list("abcde")
