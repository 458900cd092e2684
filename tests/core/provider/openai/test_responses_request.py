"""Requests: every history becomes one the API accepts, held to its rules by the strict server's own checks."""

from __future__ import annotations

import copy
import json
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.lib._pydantic import to_strict_json_schema
from pydantic import BaseModel, Field
from tests.servers.responses import call, drawn, events, foreign, message, said, thought
from tests.servers.responses_rules import problem

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
from kode.core.provider import ModelRequest, OutputSchema, Reasoning, SystemPart, ToolChoice, ToolSpec, fold
from kode.core.provider.openai.chat_request import dialect_of
from kode.core.provider.openai.responses_reply import ResponsesReply
from kode.core.provider.openai.responses_request import request_body
from kode.core.provider.openai.strict import schema_of

PATH = dump({"type": "object", "properties": {"path": {"type": "string", "minLength": 1}}})
TOOL = ToolSpec("fs_read", "Reads.", PATH)


def user(*blocks: Block) -> Message:
    return Message(0, "user", blocks, 0)


def assistant(*blocks: Block, provider: str | None = None) -> Message:
    return Message(0, "assistant", blocks, 0, provider=provider)


def body(*messages: Message, model: str = "gpt-5", official: bool = True, **more: Any) -> Any:
    request = ModelRequest(model, messages or (user(TextBlock("hi")),), **more)
    before = copy.deepcopy(request.messages)
    written = json.loads(request_body(request, dialect_of(model), official=official))
    assert problem(written) is None
    assert request.messages == before
    return written


def shown(*messages: Message, **more: Any) -> list[Any]:
    return list(body(*messages, **more)["input"])


def answered(*items: Any, provider: str = "openai", **more: Any) -> Message:
    """What a reply of these items is kept as."""
    reply = ResponsesReply()
    folded = fold(chunk for frame in events(*items, **more) for chunk in reply.feed(json.dumps(frame)))
    return assistant(*folded.blocks, provider=provider)


def test_the_least_of_it() -> None:
    assert body() == {
        "model": "gpt-5",
        "input": [{"type": "message", "role": "user", "content": "hi"}],
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "stream": True,
    }
    assert "include" not in body(model="gpt-4.1")


CITED = {"type": "url_citation", "url": "https://x", "title": "X", "start_index": 0, "end_index": 3}
ITEMS = (
    thought("Hm."), foreign(), thought(id="rs_2"),
    message({"text": "One. ", "annotations": [CITED]}, {"text": "Two."}, phase="commentary"), thought(id="rs_3"),
    call("fs_read", '{"path":"a"}', namespace="files"), drawn("AAAABBBB"),
)  # fmt: skip


def test_its_own_items_go_back_whole_and_in_their_place() -> None:
    history = user(TextBlock("go")), answered(*ITEMS), user(ToolResultBlock("call_1", (TextBlock("x"),)))
    sent = shown(*history)
    parts = [{"type": "output_text", "text": "One. ", "annotations": [CITED]},
             {"type": "output_text", "text": "Two.", "annotations": []}]  # fmt: skip
    ends = [copy.deepcopy(item.ends) for item in ITEMS]
    ends[3]["content"] = parts
    assert sent[1:-1] == ends
    assert sent[-1] == {"type": "function_call_output", "call_id": "call_1", "output": "x"}


def test_another_vendor_is_not_sent_what_is_openais() -> None:
    history = user(TextBlock("go")), answered(*ITEMS, provider="azure"), user(ToolResultBlock("call_1", ()))
    assert shown(*history)[1:] == [
        {"type": "message", "role": "assistant", "content": "One. "},
        {"type": "message", "role": "assistant", "content": "Two."},
        {"type": "function_call", "call_id": "call_1", "name": "fs_read", "arguments": '{"path":"a"}'},
        {"type": "message", "role": "assistant",
         "content": "[image image/webp: left out, this model's API cannot take it]"},
        {"type": "function_call_output", "call_id": "call_1", "output": ""},
    ]  # fmt: skip


def test_thoughts_of_earlier_turns_go_back_only_if_they_are_retained() -> None:
    """Nor do the ids: what a thought led to may not come without it."""
    turn = user(TextBlock("go")), answered(thought(), call("fs_read", {})), user(ToolResultBlock("call_1", ()))
    over = *turn, answered(said("Done.")), user(TextBlock("and?"))
    for history, retain, kept in ((turn, False, True), (over, True, True), (over, False, False)):
        sent = shown(*history, reasoning=Reasoning(retain=retain))
        assert ("reasoning" in [item["type"] for item in sent]) is kept
        assert any("id" in item for item in sent) is kept
    plain = shown(*over, model="gpt-4.1")
    assert not any("id" in item for item in plain), "it does not think, and takes no thoughts"


def test_a_thought_that_cannot_go_back_does_not() -> None:
    cut = answered(said("a", id="msg_a"), thought(), status="incomplete")
    bare = answered(thought(encrypted=None, id="rs_9"), said("b", id="msg_b"))
    open_model = answered(thought(encrypted=None, content=["I see."], id="rs_8"), said("c", id="msg_c"))
    sent = shown(user(TextBlock("x")), cut, user(TextBlock("y")), bare, user(TextBlock("z")), open_model)
    assert [item.get("id") for item in sent] == [None, "msg_a", None, "msg_b", None, "rs_8", "msg_c"]


def test_no_id_comes_twice() -> None:
    again = answered(thought(), said("a"), call("fs_read", {}))
    results = user(ToolResultBlock("call_1", ()))
    sent = shown(user(TextBlock("x")), again, results, again, results)
    assert [item.get("id") for item in sent[1:]] == ["rs_1", "msg_1", "fc_call_1"] + [None] * 4
    assert [item["type"] for item in sent[5:]] == ["message", "function_call", "function_call_output"]


def test_results() -> None:
    picture = MediaBlock("image", "image/jpeg", data="QQ==")
    history = (
        assistant(ToolUseBlock("a", "f", Json("{}")), ToolUseBlock("b", "g h", Json("{}")),
                  ToolUseBlock("x" * 99, "g", Json("{}"))),
        user(ToolResultBlock("a", (TextBlock("one"), TextBlock("two"))),
             ToolResultBlock("b", (TextBlock("no such file"),), is_error=True),
             ToolResultBlock("x" * 99, (TextBlock("see"), picture)), TextBlock("Hurry.")),
    )  # fmt: skip
    calls, answers = shown(*history)[:3], shown(*history)[3:]
    assert calls[1]["name"] == "g_h"
    assert [each.get("output") for each in answers] == [
        "one\n\ntwo", "Error: no such file",
        [{"type": "input_text", "text": "see"},
         {"type": "input_image", "image_url": "data:image/jpeg;base64,QQ==", "detail": "auto"}], None,
    ]  # fmt: skip
    assert answers[-1]["content"] == "Hurry."


@pytest.mark.parametrize(
    ("block", "part"),
    [
        (MediaBlock("image", url="https://x/a.png"), {"type": "input_image", "image_url": "https://x/a.png",
                                                      "detail": "auto"}),
        (MediaBlock("image", file_id="file-1"), {"type": "input_image", "file_id": "file-1", "detail": "auto"}),
        (MediaBlock("file", "application/pdf", data="QQ==", name="a.pdf"),
         {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,QQ=="}),
        (MediaBlock("file", file_id="file-1"), {"type": "input_file", "file_id": "file-1"}),
        (MediaBlock("file", "application/pdf", url="https://x/a.pdf"), {"type": "input_file",
                                                                        "file_url": "https://x/a.pdf"}),
    ],
)  # fmt: skip
def test_media(block: MediaBlock, part: Any) -> None:
    (sent,) = shown(user(TextBlock("see"), block))
    assert sent["content"] == [{"type": "input_text", "text": "see"}, part]


def test_media_it_does_not_take_leave_a_note() -> None:
    (sent,) = shown(user(MediaBlock("video", "video/mp4", data="QQ=="), BlobBlock("0" * 64, 5, preview="abc")))
    assert sent["content"].startswith("[video video/mp4: left out")


def test_settings() -> None:
    written = body(
        model="gpt-4.1",
        system=(SystemPart("You are"), SystemPart(""), SystemPart("an agent.")),
        tools=[ToolSpec("f", "F.", PATH, strict=True), TOOL],
        tool_choice=ToolChoice("tool", "f", parallel=False),
        max_tokens=7,
        temperature=0.5,
        top_p=0.9,
        seed=3,
        cache_key="k",
        metadata={"user_id": "u"},
        reasoning=Reasoning("low"),
        extra_body=dump({"truncation": "auto", "top_p": 0.8}),
    )
    assert written["instructions"] == "You are\n\nan agent."
    assert (written["max_output_tokens"], written["temperature"], written["top_p"]) == (16, 0.5, 0.8)
    assert (written["prompt_cache_key"], written["metadata"], written["truncation"]) == ("k", {"user_id": "u"}, "auto")
    assert "seed" not in written
    assert "reasoning" not in written
    strict, plain = written["tools"]
    assert strict["parameters"]["properties"]["path"] == {"type": "string", "description": "minLength: 1"}
    assert (plain["strict"], plain["parameters"]) == (False, json.loads(PATH))
    assert written["tool_choice"] == {"type": "function", "name": "f"}
    assert written["parallel_tool_calls"] is False
    thinker = body(temperature=0.5, top_p=1.0, official=False, cache_key="k", metadata={"a": "b"})
    assert not {"temperature", "top_p", "prompt_cache_key", "metadata"} & set(thinker)


@pytest.mark.parametrize(
    ("reasoning", "expected"),
    [
        (None, None),
        (Reasoning(), {"summary": "auto"}),
        (Reasoning("high"), {"effort": "high", "summary": "auto"}),
        (Reasoning("none"), {"effort": "none"}),
        (Reasoning(budget_tokens=3_000, show=False), {"effort": "medium"}),
        (Reasoning(show=False), None),
    ],
)
def test_how_much_to_think(reasoning: Reasoning | None, expected: Any) -> None:
    assert body(reasoning=reasoning).get("reasoning") == expected


def test_what_the_api_does_not_have_is_said() -> None:
    with pytest.raises(UsageError, match=r"no stop sequences.*api='chat'") as caught:
        body(stop=("x",))
    assert caught.value.code == "no_stop_sequences"
    body(stop=("",))
    with pytest.raises(UsageError, match="extra_body"):
        body(extra_body=Json("[1]"))


# ---- schemas --------------------------------------------------------------------------------------------------------


class Leaf(BaseModel):
    """A leaf."""

    kind: Literal["leaf"]
    size: Annotated[int, Field(ge=1, multiple_of=2)] = 4


class Tree(BaseModel):
    kind: Literal["tree"]
    name: Annotated[str, Field(max_length=9, pattern="^a")]
    parts: list[Leaf | Tree]
    best: Leaf | None = None
    only: Annotated[Leaf, Field(description="The one.")]


def without(schema: Any) -> Any:
    """Leave out what the package lets stand though the API refuses it, and words for people."""
    if isinstance(schema, list):
        return [without(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {name: without(value) for name, value in schema.items()
            if name not in ("maxLength", "default", "description")}  # fmt: skip


def test_a_schema_of_a_model_is_what_the_vendors_own_package_makes_of_it() -> None:
    theirs = to_strict_json_schema(Tree)
    # The package writes a reference with words beside it out; that it is one says the same.
    for each in (theirs, theirs["$defs"]["Tree"]):
        each["properties"]["only"] = {"$ref": "#/$defs/Leaf"}
    ours, strict = schema_of(dump(Tree.model_json_schema()), True)
    assert strict
    assert without(ours) == without(theirs)


def test_bounds_that_cannot_be_enforced_are_told() -> None:
    schema, _ = schema_of(dump(Leaf.model_json_schema()), True)
    assert schema["properties"]["size"]["minimum"] == 1
    assert schema["properties"]["size"]["description"] == "default: 4"


class Mapping(BaseModel):
    counts: dict[str, int]


class Pair(BaseModel):
    both: tuple[int, str]


@pytest.mark.parametrize("schema", [
    Mapping.model_json_schema(), Pair.model_json_schema(), {"type": "array", "items": {"type": "string"}},
    {"type": "object", "properties": {"a": True}}, {"type": "object", "properties": {"a": {"type": "array"}}},
    {"type": "object", "properties": {"a": {"not": {"type": "string"}}}},
])  # fmt: skip
def test_what_strict_mode_cannot_say_is_sent_without_it(schema: Any) -> None:
    assert schema_of(dump(schema), True) == (schema, False)
    written = body(output_schema=OutputSchema(dump(schema), name="my answer"))
    assert written["text"]["format"] == {
        "type": "json_schema",
        "name": "my_answer",
        "schema": schema,
        "strict": False,
    }


# ---- any history ----------------------------------------------------------------------------------------------------

TEXTS = st.builds(TextBlock, st.text(max_size=4))
THOUGHTS = st.builds(
    ReasoningBlock, st.text(max_size=4), opaque=st.sampled_from([
        None, dump(thought().ends), dump(thought(encrypted=None).ends), dump(foreign().ends), Json("{}"), Json("[1]"),
    ]))  # fmt: skip


@given(
    st.lists(
        st.tuples(st.lists(TEXTS | THOUGHTS, max_size=4), st.integers(0, 2), st.sampled_from(["openai", "other"])),
        max_size=5,
    ),
    st.booleans(),
    st.sampled_from(["gpt-5", "gpt-4.1"]),
)
def test_any_history_is_one_that_the_api_accepts(turns: list[Any], retain: bool, model: str) -> None:
    history: list[Message] = []
    for number, (blocks, calls, provider) in enumerate(turns):
        ids = [f"call_{number}_{n}" for n in range(calls)]
        made = [ToolUseBlock(id, "f", Json("{}"), dump({"id": f"fc_{n % 2}"})) for n, id in enumerate(ids)]
        history += user(TextBlock("x")), assistant(*blocks, *made, provider=provider)
        history += [user(*(ToolResultBlock(id, ()) for id in ids))] if ids else []
    body(*history, model=model, reasoning=Reasoning(retain=retain))


@pytest.mark.parametrize(
    "field",
    [
        {"title": "Anything"},
        {"enum": [1, 2]},
        {"properties": {"k": {"type": "string"}}},
        {"type": "object"},
        {"type": ["object", "null"], "additionalProperties": {"type": "integer"}},
        {"type": ["array", "null"]},
        {"anyOf": [{"type": "string"}], "oneOf": [{"type": "integer"}]},
    ],
)
def test_what_strict_mode_would_refuse_or_bend_goes_without(field: Any) -> None:
    schema = {"type": "object", "properties": {"x": field}, "required": ["x"]}
    assert schema_of(dump(schema), True) == (schema, False)


def test_what_may_be_null_is_closed_too() -> None:
    one = {"type": ["object", "null"], "properties": {"k": {"type": "string"}}}
    written, strict = schema_of(dump({"type": "object", "properties": {"x": one}}), True)
    assert strict
    assert written["properties"]["x"] == {**one, "required": ["k"], "additionalProperties": False}
