"""Frames in, chunks out: what the vendor's own package reads from a stream is what we read, and a cut reply is none."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from openai._models import construct_type_unchecked
from openai._types import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import ResponseStreamEvent
from tests.servers.responses import Item, call, drawn, events, foreign, message, response, said, thought

from kode.core.errors import ProviderError
from kode.core.jsontext import dump, parse
from kode.core.kernel.message import Json, MediaBlock, ReasoningBlock, TextBlock, ToolUseBlock, Usage
from kode.core.kernel.words import StopReason
from kode.core.provider import Prices, Reply, fold
from kode.core.provider.openai.responses_reply import ResponsesReply
from kode.core.provider.wire.sse import SseParser


def read(frames: Iterable[Any], **more: Any) -> Reply:
    reply = ResponsesReply("openai", "m", **more)
    chunks = [chunk for frame in frames for chunk in reply.feed(frame if isinstance(frame, str) else json.dumps(frame))]
    if not reply.over:
        chunks += reply.end()
    return fold(chunks, provider="openai", model="m")


CITED = {"type": "url_citation", "url": "https://x", "title": "X", "start_index": 0, "end_index": 3}
SEARCH, NOTED = foreign(), {"text": "Two files.", "annotations": [CITED]}
ITEMS: tuple[Item, ...] = (
    thought("Let me think.", "And again."), SEARCH, message(NOTED, phase="commentary"),
    call("look", {"path": "ä😀"}, "call_a"), call("now", {}, "call_b"), thought(id="rs_2", encrypted="b2s="),
    drawn("AAAABBBB"),
)  # fmt: skip
FOLDED = (
    ReasoningBlock("Let me think.\n\nAnd again.", opaque=dump(ITEMS[0].ends)),
    ReasoningBlock("", redacted=True, opaque=dump(SEARCH.ends)),
    TextBlock("Two files.", dump({"id": "msg_1", "phase": "commentary", "annotations": [CITED]})),
    ToolUseBlock("call_a", "look", dump({"path": "ä😀"}), dump({"id": "fc_call_a", "status": "completed"})),
    ToolUseBlock("call_b", "now", Json("{}"), dump({"id": "fc_call_b", "status": "completed"})),
    ReasoningBlock("", opaque=dump(ITEMS[5].ends)),
    MediaBlock("image", "image/webp", data="AAAABBBB",
               opaque=dump({name: value for name, value in ITEMS[6].ends.items() if name != "result"})),
)  # fmt: skip


def by_type(blocks: Iterable[Any]) -> list[Any]:
    return sorted(blocks, key=lambda block: (block.type, repr(block)))


def test_items_in_a_row() -> None:
    reply = read(events(*ITEMS))
    assert reply.blocks == FOLDED
    assert (reply.stop, reply.raw_stop) == (StopReason.END_TURN, "completed")
    assert (reply.model, reply.id, reply.bad_inputs) == ("gpt-9-2026", "resp_1", ())


def test_items_interleaved() -> None:
    """A block's place is where it began, and what has nothing to stream begins when it is there."""
    reply = read(events(*ITEMS, interleaved=True))
    assert by_type(reply.blocks) == by_type(FOLDED)
    assert [block.type for block in reply.blocks] == ["reasoning", "reasoning", "tool_use", "tool_use", "reasoning",
                                                      "text", "image"]  # fmt: skip


def test_items_without_a_place() -> None:
    """As llama.cpp sends them: an item is told from another by its id alone."""
    sent = events(*ITEMS, interleaved=True)
    assert read({k: v for k, v in each.items() if k != "output_index"} for each in sent) == read(sent)


@pytest.mark.parametrize("kept", ["done only", "a document", "the end only", "no item is told of whole"])
def test_what_comes_in_one_piece(kept: str) -> None:
    sent = events(*ITEMS)
    if kept == "a document":
        sent = [sent[-1]["response"]]
    elif kept == "the end only":
        sent = [sent[0], sent[-1]]
    elif kept == "done only":
        sent = [each for each in sent if not each["type"].endswith(("delta", "added", "part.done"))]
    else:
        sent = [each for each in sent if each["type"] != "response.output_item.done"]
        del sent[-1]["response"]["output"]
        reply = read(sent)
        assert reply.text == "Two files."
        assert [block.input for _, block in reply.calls] == [dump({"path": "ä😀"}), "{}"]
        return
    assert read(sent).blocks == FOLDED


def test_open_models_show_what_they_thought() -> None:
    reply = read(events(thought(encrypted=None, content=["I ", "see."]), said("x")))
    assert reply.blocks[0] == ReasoningBlock("I \n\nsee.", opaque=reply.blocks[0].opaque)  # type: ignore[union-attr]


def test_a_refusal() -> None:
    for items in (events(message({"text": "Hm. "}, {"refusal": "I can't."})),):
        reply = read(items)
        assert (reply.stop, reply.text) == (StopReason.REFUSAL, "Hm. I can't.")
    sent = events(message({"refusal": "I can't."}))
    assert read([each for each in sent if "delta" not in each["type"]]).stop is StopReason.REFUSAL


def test_usage() -> None:
    usage = {"input_tokens": 123, "output_tokens": 9, "input_tokens_details": {"cached_tokens": 100,
             "cache_write_tokens": 20}, "output_tokens_details": {"reasoning_tokens": 4}}  # fmt: skip
    reply = read(events(said("a"), usage=usage), prices=Prices(3.0, 15.0, 0.3, 3.75))
    assert reply.usage == Usage(123, 9, 100, 20, 4, cost_nanos=9_000 + 30_000 + 75_000 + 135_000)
    odd = {"input_tokens": 3, "input_tokens_details": {"cached_tokens": 9}, "output_tokens": "x"}
    assert read(events(said("a"), usage=odd)).usage == Usage(3, 0, 3)


@pytest.mark.parametrize(
    ("status", "reason", "stop"),
    [
        ("completed", None, StopReason.END_TURN),
        ("incomplete", "max_output_tokens", StopReason.LENGTH),
        ("incomplete", "content_filter", StopReason.CONTENT_FILTER),
        ("incomplete", "max_messages", StopReason.LENGTH),
        ("incomplete", None, StopReason.LENGTH),
    ],
)
def test_why_it_stopped(status: str, reason: str | None, stop: StopReason) -> None:
    reply = read(events(said("a"), status=status, reason=reason))
    assert (reply.stop, reply.raw_stop) == (stop, reason or status)


def test_length_in_the_middle_of_arguments() -> None:
    reply = read(events(said("a"), call("f", '{"x": "lo'), status="incomplete", reason="max_output_tokens"))
    assert [bad.block for bad in reply.bad_inputs] == [1]


# ---- complete or cut ------------------------------------------------------------------------------------------------

SHORT = events(said("a"), call("f", {}))


@pytest.mark.parametrize("upto", range(len(SHORT)))
def test_what_ends_before_the_end_was_cut(upto: int) -> None:
    for tail in ([], ["[DONE]"]):
        with pytest.raises(ProviderError) as caught:
            read([*SHORT[:upto], *tail])
        assert (caught.value.code, caught.value.retryable) == ("truncated", True)
    assert read([*SHORT, "[DONE]", "nonsense"]).text == "a"


def failed(code: str, told: str = "No.") -> dict[str, Any]:
    return events(status="failed", error={"code": code, "message": told})[-1]


@pytest.mark.parametrize(
    ("frame", "code", "retryable"),
    [
        (failed("server_error"), "overloaded", True),
        (failed("rate_limit_exceeded"), "rate_limited", True),
        (failed("vector_store_timeout"), "overloaded", True),
        (failed("invalid_prompt"), "content_filtered", False),
        (failed("image_content_policy_violation"), "content_filtered", False),
        (failed("image_too_large"), "bad_request", False),
        (failed("invalid_base64_image"), "bad_request", False),
        (failed("context_length_exceeded"), "context_too_long", False),
        (events(status="failed")[-1], "overloaded", True),
        (events(status="cancelled")[-1], "overloaded", True),
        ({"type": "error", "code": "server_error", "message": "Oops.", "param": None}, "overloaded", True),
        ({"type": "error", "error": {"type": "insufficient_quota", "message": "Pay."}}, "quota", False),
        ({"error": {"message": "Oops.", "code": 500}}, "overloaded", True),
        ("nonsense", "protocol", True),
        ("[" * 100_000, "protocol", True),
        ({"type": "response.function_call_arguments.delta", "output_index": 7, "delta": "x"}, "protocol", True),
        ({"type": "response.output_text.delta", "output_index": 1, "delta": "x"}, "protocol", True),
        ({"type": "response.output_text.delta", "output_index": 0, "delta": "behind its end"}, "protocol", True),
    ],
)
def test_errors_in_mid_stream(frame: Any, code: str, retryable: bool) -> None:
    with pytest.raises(ProviderError) as caught:
        read([*SHORT[:-2], frame, *SHORT[-2:]])
    assert (caught.value.code, caught.value.retryable) == (code, retryable)


def test_a_stream_that_begins_with_nonsense_is_another_protocol() -> None:
    with pytest.raises(ProviderError) as caught:
        read(["nonsense"])
    assert (caught.value.code, caught.value.retryable) == ("protocol", False)


def test_what_the_server_says_of_itself_is_fit_to_be_shown() -> None:
    def hide(told: str) -> str:
        return told.replace("sk-1", "***")

    reply = read(events(said("a"), model="m\x1b sk-1", status="incomplete", reason="sk-1"), hide=hide)
    assert (reply.model, reply.raw_stop) == ("m ***", "***")
    with pytest.raises(ProviderError, match=r"bad key \*\*\*"):
        read([failed("server_error", "bad key sk-1")], hide=hide)


def test_what_no_store_could_hold_is_not_kept() -> None:
    sent = events(thought(), said("a"))
    sent[3]["item"]["x"] = float("nan")
    assert read(sent).blocks[0] == ReasoningBlock("")


# ---- any stream -----------------------------------------------------------------------------------------------------

WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
PIECE = st.integers(1, 7)
MAKERS = (
    lambda id, words, piece: said(words, id=f"msg_{id}", piece=piece),
    lambda id, words, piece: message({"text": words}, {"refusal": words}, id=f"msg_{id}", piece=piece),
    lambda id, words, piece: thought(words, "x", id=f"rs_{id}", piece=piece),
    lambda id, words, piece: call("f", {words: [piece, words]}, id=f"call_{id}", piece=piece),
    lambda id, words, piece: foreign(f"ws_{id}"),
)


def own_package(sent: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the vendor's own package adds up from the deltas, and has in the end."""
    state: Any = ResponseStreamState(input_tools=omit, text_format=omit)
    for each in sent:
        event: Any = construct_type_unchecked(type_=cast(Any, ResponseStreamEvent), value=each)
        assert type(event).__module__.startswith("openai.types.responses"), f"it has no type for {each['type']}"
        state.handle_event(event)
    final = [item.to_dict() for item in state._completed_response.output]
    for at, item in enumerate(final):
        grown = state._output_items[at]
        if item["type"] == "function_call":
            assert grown.arguments == item["arguments"]
        elif item["type"] == "message":
            assert grown.content[0].text == item["content"][0]["text"]
    return final


def as_theirs(item: dict[str, Any]) -> list[Any]:
    if item["type"] == "message":
        return [TextBlock(part.get("text") or part["refusal"]) for part in item["content"]]
    if item["type"] == "function_call":
        return [ToolUseBlock(item["call_id"], item["name"], dump(json.loads(item["arguments"])))]
    return [json.dumps(item, sort_keys=True)]


def as_ours(block: Any) -> Any:
    if isinstance(block, ReasoningBlock):
        return json.dumps(parse(block.opaque or Json("null")), sort_keys=True)
    return TextBlock(block.text) if isinstance(block, TextBlock) else ToolUseBlock(block.id, block.name, block.input)


@given(
    st.lists(st.tuples(st.sampled_from(MAKERS), WORDS, PIECE), min_size=1, max_size=5), st.booleans(),
    st.lists(st.integers(0, 9_000), max_size=30), st.sampled_from(["\n", "\r\n", "\r"]),
)  # fmt: skip
@example([(make, "ä😀", 1) for make in MAKERS], True, list(range(9_000)), "\r\n")
def test_any_chunking_gives_what_the_vendors_own_package_reads(
    made: list[Any], interleaved: bool, cuts: list[int], newline: str
) -> None:
    items = [make(id, words, piece) for id, (make, words, piece) in enumerate(made)]
    body = response(*items, interleaved=interleaved).body
    assert body is not None
    body = (b": comment\n\n" + body).replace(b"\n", newline.encode())
    parser, reply, at, chunks = SseParser(), ResponsesReply(), 0, []
    for cut in [*sorted(cut % (len(body) + 1) for cut in cuts), len(body)]:
        for event in parser.feed(body[at:cut]):
            chunks += reply.feed(event.data)
        at = cut
    theirs = own_package(events(*items, interleaved=interleaved))
    ours = [as_ours(block) for block in fold(chunks).blocks]
    assert sorted(map(repr, ours)) == sorted(repr(each) for item in theirs for each in as_theirs(item))
    if not interleaved:
        assert ours == [each for item in theirs for each in as_theirs(item)]


FIELDS = ["type", "output_index", "content_index", "delta", "item", "part", "response", "usage", "text", "arguments",
          "error", "status", "id", "name", "call_id", "content", "summary", "output", "input_tokens", "annotations",
          "incomplete_details", "result"]  # fmt: skip


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=4)
        | st.sampled_from(["message", "function_call", "reasoning", "output_text", "image_generation_call"]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner),
        max_leaves=12,
    ),
    st.sampled_from([*ResponsesReply._READERS]),
)  # fmt: skip
def test_no_frame_whatever_it_holds_gets_through_as_another_error(value: Any, kind: str) -> None:
    frames: list[Any] = [value, {"type": kind}, {"type": kind, "item": value, "delta": value, "response": value}]
    frames += [{"type": kind, "output_index": value, "content_index": value, "delta": "x", "error": value}]
    frames += [{"type": kind, "response": {"output": value, "status": "completed", "usage": value, "id": value}}]
    for item in ("message", "function_call", "reasoning", "image_generation_call"):
        frames.append({"type": kind, "output_index": 9, "item": {"type": item, "content": value, "result": value,
                      "summary": value, "arguments": value, "call_id": value, "output_format": value}})  # fmt: skip
    for frame in frames:
        try:
            read([*SHORT[:4], frame, *SHORT[4:]])
        except ProviderError:
            pass


def of(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", **fields}


SAID = {"type": "message", "id": "m", "content": [{"type": "output_text", "text": "Hello"}]}
CALLED = {"type": "function_call", "id": "fc", "call_id": "c", "name": "rm", "arguments": '{"path":"x"}'}
BARE = {**CALLED, "arguments": ""}
THOUGHT = {"type": "reasoning", "id": "m", "summary": [], "encrypted_content": "x"}
AT = {"output_index": 0}


@pytest.mark.parametrize(
    "frames",
    [
        # Items by place, deltas by id only.
        [of("output_item.added", **AT, item={"type": "message", "id": "m"}),
         of("output_text.delta", item_id="m", delta="Hello"), of("output_item.done", **AT, item=SAID)],
        # The other way round.
        [of("output_item.added", item={"type": "message", "id": "m"}),
         of("output_text.delta", **AT, item_id="m", delta="Hello"), of("output_item.done", item=SAID)],
        # Parts counted from 1.
        [of("output_text.delta", **AT, content_index=1, delta="Hello"), of("output_item.done", **AT, item=SAID)],
        # Told in every way there is.
        [of("output_text.delta", **AT, item_id="m", delta="Hello"),
         of("output_text.done", **AT, item_id="m", text="Hello"),
         of("output_text.done", **AT, item_id="m", content_index=1, text="Hello"),
         of("output_item.done", **AT, item=SAID), of("output_text.done", **AT, text="Hello"),
         of("completed", response={"output": [{**SAID, "id": "another"}]})],
        # In one piece only.
        [of("output_text.done", **AT, text="Hello")],
        [of("output_item.added", **AT, item={"type": "message", "id": "m"}),
         of("completed", response={"output": [SAID]})],
        # Behind a thought that streamed, under the same id.
        [of("output_item.done", **AT, item=THOUGHT), of("completed", response={"output": [THOUGHT, SAID]})],
        # The place in the list is not that of the stream.
        [of("output_item.added", output_index=1, item={"type": "message", "id": "m"}),
         of("output_text.delta", output_index=1, delta="Hello"), of("completed", response={"output": [SAID]})],
    ],
)  # fmt: skip
def test_text_is_read_once_however_it_is_told(frames: list[Any]) -> None:
    assert read([*frames, of("completed", response={})]).text == "Hello"


@pytest.mark.parametrize(
    "frames",
    [
        [of("function_call_arguments.done", **AT, item_id="fc", arguments=CALLED["arguments"])],
        [of("function_call_arguments.done", item_id="fc", arguments=CALLED["arguments"])],
        [of("completed", response={"output": [CALLED]})],
        [of("completed", response={"output": [{**CALLED, "id": "fc_0"}]})],
        [of("function_call_arguments.done", **AT, arguments=CALLED["arguments"]),
         of("completed", response={"output": [CALLED]})],
    ],
)  # fmt: skip
def test_no_call_loses_its_arguments(frames: list[Any]) -> None:
    reply = read([of("output_item.added", **AT, item=BARE), *frames, of("completed", response={})])
    assert [(block.id, block.name, block.input) for _, block in reply.calls] == [("c", "rm", '{"path":"x"}')]


@pytest.mark.parametrize("frames", [[], [of("output_item.added", **AT, item=BARE)]])
def test_a_complete_reply_that_lacks_what_it_should_hold_is_none(frames: list[Any]) -> None:
    with pytest.raises(ProviderError) as caught:
        read([*frames, of("completed", response={"output": []})])
    assert (caught.value.code, caught.value.retryable) == ("protocol", True)
