"""Frames in, chunks out: what the vendor's own package reads from a stream is what we read, and a cut reply is none."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from anthropic.lib.streaming._messages import accumulate_event
from hypothesis import example, given
from hypothesis import strategies as st
from tests.servers.anthropic import Block, error_event, events, message, redacted, text, thinking, tool_use

from kode.core.errors import ProviderError
from kode.core.jsontext import dump, parse
from kode.core.kernel.message import Json, ReasoningBlock, TextBlock, ToolUseBlock, Usage
from kode.core.kernel.words import StopReason
from kode.core.provider import Prices, Reply, ReplyError, fold
from kode.core.provider.anthropic.messages_reply import MAX_PAUSES, MessagesReply
from kode.core.provider.wire.sse import SseParser


def read(frames: Iterable[Any], *, prices: Prices | None = None, **more: Any) -> Reply:
    reply = MessagesReply("anthropic", "m", prices, **more)
    chunks = [chunk for frame in frames for chunk in reply.feed(frame if isinstance(frame, str) else json.dumps(frame))]
    if not reply.over:
        chunks += reply.end()
    return fold(chunks, provider="anthropic", model="m")


BLOCKS: tuple[Block, ...] = (
    thinking("Let me think."), redacted("opaque="), text("Two files."), tool_use("look", {"path": "ä😀"}, "toolu_1"),
    tool_use("now", {}, "toolu_2"), thinking("And?", "c2Vjb25k"),
)  # fmt: skip
FOLDED = (
    ReasoningBlock("Let me think.", "c2lnbmF0dXJl"),
    ReasoningBlock("", redacted=True, opaque=Json('{"data":"opaque="}')),
    TextBlock("Two files."),
    ToolUseBlock("toolu_1", "look", dump({"path": "ä😀"})),
    ToolUseBlock("toolu_2", "now", Json("{}")),
    ReasoningBlock("And?", "c2Vjb25k"),
)


@pytest.mark.parametrize("interleaved", [False, True])
def test_blocks_by_index(interleaved: bool) -> None:
    reply = read(events(*BLOCKS, interleaved=interleaved))
    assert reply.blocks == FOLDED
    assert (reply.stop, reply.raw_stop, reply.model, reply.id) == (StopReason.END_TURN, "tool_use", "claude-9", "msg_1")
    assert reply.bad_inputs == ()


def test_odd_indices_and_blocks_without_a_type_here_take_no_number() -> None:
    server = ({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
              [{"type": "input_json_delta", "partial_json": '{"q":1}'}])  # fmt: skip
    result = ({"type": "web_search_tool_result", "tool_use_id": "s", "content": []}, [])
    sent = events(text("a"), server, result, text("b"), tool_use("f", {}))
    for each in sent:
        if "index" in each:
            each["index"] = each["index"] * 3 + 7
    reply = read(sent)
    assert [block.type for block in reply.blocks] == ["text", "text", "tool_use"]
    assert reply.text == "ab"


def test_usage_counts_what_went_through_the_cache_once() -> None:
    began = {"input_tokens": 3, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 20}
    ended = {"output_tokens": 9, "output_tokens_details": {"thinking_tokens": 4}}
    reply = read(events(text("a"), usage=began, output=ended), prices=Prices(3.0, 15.0, 0.3, 3.75))
    assert reply.usage == Usage(123, 9, 100, 20, 4, cost_nanos=9_000 + 30_000 + 75_000 + 135_000)
    later = read(events(text("a"), usage={"input_tokens": 1}, output={"input_tokens": 7, "cache_read_input_tokens": 2}))
    assert later.usage == Usage(9, 5, 2)
    odd = {"input_tokens": None, "cache_read_input_tokens": "9", "output_tokens": 2**60}
    assert read(events(text("a"), usage=odd, output={"output_tokens": -1})).usage == Usage(0, 2**53 - 1)


@pytest.mark.parametrize(
    ("word", "stop"),
    [
        ("end_turn", StopReason.END_TURN), ("stop_sequence", StopReason.END_TURN), ("max_tokens", StopReason.LENGTH),
        ("model_context_window_exceeded", StopReason.LENGTH), ("refusal", StopReason.REFUSAL),
        ("something_new", StopReason.END_TURN),
    ],
)  # fmt: skip
def test_why_it_stopped(word: str, stop: StopReason) -> None:
    reply = read(events(text("a"), stop=word))
    assert (reply.stop, reply.raw_stop) == (stop, word)


def test_length_in_the_middle_of_arguments() -> None:
    reply = read(events(text("a"), tool_use("f", '{"x": "lo'), stop="max_tokens"))
    assert reply.stop is StopReason.LENGTH
    assert [bad.block for bad in reply.bad_inputs] == [1]


def test_what_a_block_begins_with_counts() -> None:
    start = ({"type": "text", "text": "Be"}, [{"type": "text_delta", "text": "gun"}])
    whole = ({"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}}, [])
    signed = ({"type": "thinking", "thinking": "t", "signature": "s"}, [])
    assert read(events(start, signed, whole)).blocks == (
        TextBlock("Begun"), ReasoningBlock("t", "s"), ToolUseBlock("a", "f", Json('{"x":1}'))
    )  # fmt: skip


def test_the_last_signature_counts_as_in_the_vendors_own_package() -> None:
    twice = ({"type": "thinking", "thinking": "t", "signature": "a"}, [{"type": "signature_delta", "signature": "b"}])
    assert read(events(twice, text("x"))).blocks[0] == ReasoningBlock("t", "b")


def test_a_message_in_one_piece() -> None:
    whole = {
        "type": "message", "id": "msg_1", "model": "claude-9", "role": "assistant", "stop_reason": "tool_use",
        "usage": {"input_tokens": 3, "output_tokens": 2},
        "content": [{"type": "thinking", "thinking": "t", "signature": "s"}, {"type": "text", "text": "x"},
                    {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}}],
    }  # fmt: skip
    reply = read([whole])
    assert reply.blocks == (ReasoningBlock("t", "s"), TextBlock("x"), ToolUseBlock("a", "f", Json('{"x":1}')))
    assert (reply.usage, reply.model) == (Usage(3, 2), "claude-9")


def test_arguments_that_stand_for_the_answer_are_text() -> None:
    reply = read(events(tool_use("answer", {"n": 1})), output_tool="answer")
    assert reply.text == '{"n": 1}'
    assert reply.calls == ()


# ---- pauses ---------------------------------------------------------------------------------------------------------


def test_a_pause_goes_on_as_one_reply() -> None:
    server = ({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
              [{"type": "input_json_delta", "partial_json": each} for each in ('{"q":', "1}")])  # fmt: skip
    found = ({"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"type": "x"}]}, [])
    reply = MessagesReply("anthropic", "m", may_pause=True)
    first = events(thinking("hm"), text("I look."), server, stop="pause_turn", id="msg_1")
    chunks = [chunk for frame in first for chunk in reply.feed(json.dumps(frame))]
    assert reply.paused == [
        {"type": "thinking", "thinking": "hm", "signature": "c2lnbmF0dXJl"},
        {"type": "text", "text": "I look."},
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"q": 1}},
    ]
    reply.resume()
    second = events(found, text("Found."), stop="end_turn", id="msg_2")
    chunks += [chunk for frame in second for chunk in reply.feed(json.dumps(frame))]
    assert reply.paused is None
    whole = fold(chunks)
    assert whole.blocks == (ReasoningBlock("hm", "c2lnbmF0dXJl"), TextBlock("I look."), TextBlock("Found."))
    assert (whole.usage, whole.id) == (Usage(20, 10), "msg_1")


def test_pauses_have_an_end() -> None:
    reply = MessagesReply(may_pause=True)
    chunks: list[Any] = []
    for _ in range(MAX_PAUSES + 1):
        chunks += [chunk for frame in events(text("a"), stop="pause_turn") for chunk in reply.feed(json.dumps(frame))]
        if reply.paused is None:
            break
        reply.resume()
    assert fold(chunks).text == "a" * (MAX_PAUSES + 1)


# ---- complete or cut ------------------------------------------------------------------------------------------------


def test_the_mark_of_the_end_is_not_needed_behind_a_reason() -> None:
    assert read(events(text("a"))[:-1]).text == "a"


@pytest.mark.parametrize("upto", range(len(events(text("a"), tool_use("f", {}))) - 2))
def test_what_ends_before_was_cut(upto: int) -> None:
    with pytest.raises(ProviderError) as caught:
        read(events(text("a"), tool_use("f", {}))[:upto])
    assert (caught.value.code, caught.value.retryable) == ("truncated", True)


def test_an_end_without_a_reason_is_a_cut() -> None:
    sent = events(text("a"))
    with pytest.raises(ProviderError, match="in the middle of the reply"):
        read([*sent[:-2], sent[-1]])


@pytest.mark.parametrize(
    ("frame", "code", "retryable"),
    [
        (error_event(), "overloaded", True),
        (error_event("api_error", "Internal server error"), "overloaded", True),
        (error_event("rate_limit_error", "Slow down."), "rate_limited", True),
        (error_event("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"),
         "context_too_long", False),
        (error_event("authentication_error", "invalid x-api-key"), "authentication", False),
        ("nonsense", "protocol", True),
        ("[1]", "protocol", True),
        ("[" * 100_000, "protocol", True),
        ({"type": "content_block_delta", "index": 77, "delta": {"type": "text_delta", "text": "x"}}, "protocol", True),
    ],
)  # fmt: skip
def test_errors_in_mid_stream(frame: Any, code: str, retryable: bool) -> None:
    sent = events(text("a"))
    with pytest.raises(ProviderError) as caught:
        read([*sent[:4], frame, *sent[4:]])
    assert (caught.value.code, caught.value.retryable) == (code, retryable)


@pytest.mark.parametrize("late", [error_event(), "nonsense", {"type": "ping"}])
def test_an_error_behind_a_complete_reply_is_of_no_account(late: Any) -> None:
    sent = events(text("a"))
    assert read([*sent[:-1], late, sent[-1], late]).text == "a"


def test_a_stream_that_begins_with_nonsense_is_another_protocol() -> None:
    with pytest.raises(ProviderError) as caught:
        read(["nonsense"])
    assert (caught.value.code, caught.value.retryable) == ("protocol", False)


def test_a_call_that_never_comes_is_no_empty_success() -> None:
    with pytest.raises(ProviderError, match="sent no call"):
        read(events(text("a"), stop="tool_use"))


def test_what_the_server_says_of_itself_is_fit_to_be_shown() -> None:
    reply = MessagesReply(hide=lambda said: said.replace("sk-1", "***"))
    chunks = [c for f in events(text("a"), model="m\x1b sk-1", stop="sk-1") for c in reply.feed(json.dumps(f))]
    assert fold(chunks).model == "m ***"
    assert fold(chunks).raw_stop == "***"


# ---- any stream -----------------------------------------------------------------------------------------------------

WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
PIECE = st.integers(1, 7)
ANY_BLOCK = st.one_of(
    st.builds(text, WORDS, PIECE),
    st.builds(thinking, WORDS, st.just("c2ln"), PIECE),
    st.builds(redacted, st.just("abc=")),
    st.builds(tool_use, st.just("f"), st.dictionaries(WORDS, WORDS | st.integers(-9, 9), max_size=2), WORDS, PIECE),
)  # fmt: skip


def own_package(sent: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the vendor's own package makes of a stream."""
    snapshot, buffers = None, {}
    for each in sent:
        if each["type"] != "ping":
            snapshot = accumulate_event(event=each, current_snapshot=snapshot, json_bufs=buffers)  # type: ignore[arg-type]
    assert snapshot is not None
    return [block.to_dict() for block in snapshot.content]


def as_theirs(block: Any) -> dict[str, Any]:
    if isinstance(block, TextBlock):
        return {"type": "text", "text": block.text}
    if isinstance(block, ToolUseBlock):
        return {"type": "tool_use", "name": block.name, "input": parse(block.input)}
    if block.redacted:
        return {"type": "redacted_thinking", **parse(block.opaque)}
    return {"type": "thinking", "thinking": block.text, "signature": block.signature}


@given(
    st.lists(ANY_BLOCK, min_size=1, max_size=5), st.booleans(), st.lists(st.integers(0, 5_000), max_size=30),
    st.sampled_from(["\n", "\r\n", "\r"]),
)  # fmt: skip
@example([*BLOCKS], True, list(range(5_000)), "\r\n")
def test_any_chunking_gives_what_the_vendors_own_package_reads(
    blocks: list[Block], interleaved: bool, cuts: list[int], newline: str
) -> None:
    sent = events(*blocks, interleaved=interleaved)
    body = message(*blocks, interleaved=interleaved).body
    assert body is not None
    body = b": comment\n\n" + body
    body = body.replace(b"\n", newline.encode())
    parser, reply, at, chunks = SseParser(), MessagesReply(), 0, []
    for cut in [*sorted(cut % (len(body) + 1) for cut in cuts), len(body)]:
        for event in parser.feed(body[at:cut]):
            chunks += reply.feed(event.data)
        at = cut
    ours = [as_theirs(block) for block in fold(chunks).blocks]
    theirs = [{k: v for k, v in each.items() if k in ("type", "text", "thinking", "signature", "name", "input", "data")}
              for each in own_package(sent)]  # fmt: skip
    assert ours == theirs


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.sampled_from(["text", "tool_use"]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
            st.sampled_from(["type", "index", "delta", "content_block", "message", "usage", "text", "input", "error",
                             "stop_reason", "id", "name", "partial_json", "content", "input_tokens"]), inner),
        max_leaves=12,
    ),
    st.sampled_from(["message_start", "content_block_start", "content_block_delta", "content_block_stop",
                     "message_delta", "message", "error"]),
)  # fmt: skip
def test_no_frame_whatever_it_holds_gets_through_as_another_error(value: Any, kind: str) -> None:
    frames: list[Any] = [value, {"type": kind}, {"type": kind, "index": 0, "content_block": value, "delta": value}]
    frames += [{"type": kind, "message": value, "usage": value, "content": value, "error": value, "index": value}]
    frames += [{"type": kind, "index": 0, "content_block": {"type": "text", "text": value}, "delta": value}]
    for frame in frames:
        try:
            read([*events(text("a"))[:3], frame, *events(text("a"))[-2:]], may_pause=True)
        except ProviderError:
            pass


@pytest.mark.parametrize("ended", [False, True])
def test_a_part_that_does_not_fit_its_block_may_fit_the_next_time(ended: bool) -> None:
    begun = {"type": "content_block_start", "index": 0, "content_block": {"type": "text" if ended else "thinking"}}
    more = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x"}}
    reply = MessagesReply()
    for frame in (begun, *([{"type": "content_block_stop", "index": 0}] if ended else [])):
        reply.feed(json.dumps(frame))
    (failure,) = reply.feed(json.dumps(more))
    assert isinstance(failure, ReplyError)
    assert (failure.error.code, failure.error.retryable) == ("protocol", True)
