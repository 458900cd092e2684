"""Frames in, chunks out: what the vendor's own package reads from a stream is what we read, and a cut reply is none."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Any

import pytest
from google.genai import types
from hypothesis import example, given
from hypothesis import strategies as st
from tests.servers.gemini import call, content, frames, said, thought

from kode.core.errors import ProviderError
from kode.core.jsontext import dump, parse
from kode.core.kernel.message import Json, MediaBlock, ReasoningBlock, TextBlock, ToolUseBlock, Usage
from kode.core.kernel.words import StopReason
from kode.core.provider import Prices, Reply, fold
from kode.core.provider.gemini.content_reply import ContentReply
from kode.core.provider.wire.sse import SseParser


def read(sent: Iterable[Any], *, prices: Prices | None = None) -> Reply:
    reply = ContentReply("gemini", "m", prices)
    chunks = [chunk for each in sent for chunk in reply.feed(each if isinstance(each, str) else json.dumps(each))]
    if not reply.over:
        chunks += reply.end()
    return fold(chunks, provider="gemini", model="m")


def opaque(signature: str | None = None, id: str | None = None) -> Json:
    return dump({key: value for key, value in (("thoughtSignature", signature), ("id", id)) if value})


def test_parts_become_blocks_and_keep_their_signatures() -> None:
    reply = read(frames(
        thought("Let me "), thought("think."), said("Two "), said("files.", "c2ln"), [said("More.")],
        [call("look", {"path": "ä😀"}, "c2lnMg==", "id-1"), call("look", {}), call("now", None)],
    ))  # fmt: skip
    assert reply.blocks == (
        ReasoningBlock("Let me think."), TextBlock("Two files.", opaque("c2ln")), TextBlock("More."),
        ToolUseBlock("id-1", "look", dump({"path": "ä😀"}), opaque("c2lnMg==", "id-1")),
        ToolUseBlock("call-4", "look", Json("{}")), ToolUseBlock("call-5", "now", Json("{}")),
    )  # fmt: skip
    assert (reply.stop, reply.raw_stop, reply.model, reply.id) == (StopReason.END_TURN, "STOP", "gemini-9", "resp-1")
    assert reply.bad_inputs == ()


def test_a_signature_without_text_signs_the_text_before_it() -> None:
    assert read(frames(said("Hello"), said("", "c2ln"))).blocks == (TextBlock("Hello", opaque("c2ln")),)
    assert read(frames(thought("Hm."), thought("", "c2ln"), said("x"))).blocks == (
        ReasoningBlock("Hm.", "c2ln"), TextBlock("x")
    )  # fmt: skip
    assert read(frames(thought("Hm."), said("", "c2ln"))).blocks == (
        ReasoningBlock("Hm."), TextBlock("", opaque("c2ln"))
    )  # fmt: skip


def test_media_and_parts_without_a_type_here() -> None:
    picture = {"inlineData": {"mimeType": "image/png", "data": "QQ=="}, "thoughtSignature": "c2ln"}
    reply = read(frames(said("a"), {"executableCode": {"code": "1"}}, picture, said("b")))
    assert reply.blocks == (
        TextBlock("a"), MediaBlock("image", "image/png", data="QQ==", opaque=opaque("c2ln")), TextBlock("b")
    )  # fmt: skip


def test_usage_counts_thoughts_as_output() -> None:
    usage = {"promptTokenCount": 100, "cachedContentTokenCount": 60, "candidatesTokenCount": 7, "thoughtsTokenCount": 3}
    reply = read(frames(said("a"), said("b"), usage=usage), prices=Prices(1.0, 10.0, 0.1))
    assert reply.usage == Usage(100, 10, 60, 0, 3, cost_nanos=40_000 + 6_000 + 100_000)
    odd = {"promptTokenCount": -1, "cachedContentTokenCount": 5, "candidatesTokenCount": 2**60, "thoughtsTokenCount": 1}
    assert read(frames(said("a"), usage=odd)).usage == Usage(0, 2**53 - 1, 0, 0, 1)
    assert read(frames(said("a"), usage={"toolUsePromptTokenCount": 5})).usage.input == 15


@pytest.mark.parametrize(
    ("word", "stop"),
    [
        ("STOP", StopReason.END_TURN), ("MAX_TOKENS", StopReason.LENGTH), ("SAFETY", StopReason.CONTENT_FILTER),
        ("RECITATION", StopReason.CONTENT_FILTER), ("PROHIBITED_CONTENT", StopReason.CONTENT_FILTER),
        ("SOMETHING_NEW", StopReason.END_TURN),
    ],
)  # fmt: skip
def test_why_it_stopped(word: str, stop: StopReason) -> None:
    reply = read(frames(said("a"), finish=word))
    assert (reply.stop, reply.raw_stop, reply.text) == (stop, word, "a")


def test_a_filter_leaves_no_answer_and_is_no_error() -> None:
    reply = read([{"candidates": [{"finishReason": "SAFETY", "index": 0}]}])
    assert (reply.blocks, reply.stop) == ((), StopReason.CONTENT_FILTER)


@pytest.mark.parametrize(
    ("word", "code", "retryable"),
    [
        ("MALFORMED_FUNCTION_CALL", "protocol", True), ("UNEXPECTED_TOOL_CALL", "protocol", True),
        ("OTHER", "protocol", True), ("MISSING_THOUGHT_SIGNATURE", "bad_request", False),
    ],
)  # fmt: skip
def test_reasons_that_are_faults(word: str, code: str, retryable: bool) -> None:
    with pytest.raises(ProviderError, match=f"'{word}': Malformed call: f") as caught:
        read(frames(said("a"), finish=word, finishMessage="Malformed call: f."))
    assert (caught.value.code, caught.value.retryable) == (code, retryable)


def test_nothing_at_all_is_no_answer() -> None:
    with pytest.raises(ProviderError, match="but said nothing") as caught:
        read([{"candidates": [{"content": {"role": "model"}, "finishReason": "STOP"}]}])
    assert caught.value.retryable


def test_a_refused_request() -> None:
    with pytest.raises(ProviderError, match="refused the request: PROHIBITED_CONTENT") as caught:
        read([{"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {"promptTokenCount": 3}}])
    assert (caught.value.code, caught.value.retryable) == ("content_filtered", False)


def test_all_frames_in_one_list_and_other_candidates() -> None:
    assert read([frames(said("a"), said("b"))]).text == "ab"
    sent = frames(said("a"))
    sent[0]["candidates"].insert(0, {"index": 1, "content": {"parts": [said("other")]}})
    assert read(sent).text == "a"


# ---- complete or cut ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("upto", range(3))
def test_what_ends_before_the_reason_was_cut(upto: int) -> None:
    with pytest.raises(ProviderError) as caught:
        read(frames(said("a"), said("b"), call("f", {}))[:upto])
    assert (caught.value.code, caught.value.retryable) == ("truncated", True)


@pytest.mark.parametrize(
    ("frame", "code", "retryable"),
    [
        ({"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}, "overloaded", True),
        ({"error": {"code": 429, "message": "Quota.", "status": "RESOURCE_EXHAUSTED"}}, "rate_limited", True),
        ({"error": {"code": 400, "status": "INVALID_ARGUMENT",
                    "message": "The input token count (9) exceeds the maximum number of tokens allowed (8)."}},
         "context_too_long", False),
        ("nonsense", "protocol", True),
        ("[1]", "protocol", True),
        ("[" * 100_000, "protocol", True),
    ],
)  # fmt: skip
def test_errors_in_mid_stream(frame: Any, code: str, retryable: bool) -> None:
    sent = frames(said("a"), said("b"))
    with pytest.raises(ProviderError) as caught:
        read([sent[0], frame, sent[1]])
    assert (caught.value.code, caught.value.retryable) == (code, retryable)


@pytest.mark.parametrize("late", [{"error": {"code": 500, "message": "Late."}}, "nonsense", {"usageMetadata": {}}])
def test_an_error_behind_a_complete_reply_is_of_no_account(late: Any) -> None:
    assert read([*frames(said("a")), late]).text == "a"


def test_a_stream_that_begins_with_nonsense_is_another_protocol() -> None:
    with pytest.raises(ProviderError) as caught:
        read(["nonsense"])
    assert (caught.value.code, caught.value.retryable) == ("protocol", False)


def test_what_the_server_says_of_itself_is_fit_to_be_shown() -> None:
    reply = ContentReply(hide=lambda text: text.replace("sk-1", "***"))
    (sent,) = frames(said("a"), finish="sk-1")
    chunks = reply.feed(json.dumps({**sent, "modelVersion": "m\x1b sk-1"}))
    assert (fold([*chunks, *reply.end()]).model, fold([*chunks, *reply.end()]).raw_stop) == ("m ***", "***")


# ---- any stream -----------------------------------------------------------------------------------------------------

WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
SIGNATURES = st.sampled_from([None, None, "c2ln"])
ANY_PART = st.one_of(
    st.builds(said, WORDS, SIGNATURES),
    st.builds(thought, WORDS, SIGNATURES),
    st.builds(said, st.just(""), st.just("c2ln")),
    st.builds(call, st.just("f"), st.dictionaries(WORDS, WORDS | st.integers(-9, 9), max_size=2), SIGNATURES,
              st.none() | st.just("id")),
)  # fmt: skip


def own_package(sent: list[Any]) -> tuple[str, str, list[Any], list[str]]:
    """What the vendor's own package makes of a stream: text, thoughts, calls, signatures."""
    parts = [
        part
        for each in sent
        for candidate in types.GenerateContentResponse.model_validate(each).candidates or ()
        for part in (candidate.content and candidate.content.parts) or ()
    ]
    return (
        "".join(part.text for part in parts if part.text and not part.thought),
        "".join(part.text for part in parts if part.text and part.thought),
        [(part.function_call.name, part.function_call.args) for part in parts if part.function_call],
        [base64.b64encode(part.thought_signature).decode() for part in parts if part.thought_signature],
    )


def ours(reply: Reply) -> tuple[str, str, list[Any], list[str]]:
    signatures = [
        block.signature if isinstance(block, ReasoningBlock) else parse(block.opaque).get("thoughtSignature")
        for block in reply.blocks
        if isinstance(block, ReasoningBlock) or (isinstance(block, (TextBlock, ToolUseBlock)) and block.opaque)
    ]
    return (
        reply.text,
        "".join(block.text for block in reply.blocks if isinstance(block, ReasoningBlock)),
        [(block.name, parse(block.input)) for _, block in reply.calls],
        [each for each in signatures if each],
    )


@given(
    st.lists(ANY_PART, min_size=1, max_size=6), st.lists(st.integers(0, 5_000), max_size=30),
    st.sampled_from(["\n", "\r\n", "\r"]),
)  # fmt: skip
@example([thought("Hm. 😀"), said("Grüße"), call("f", {"ä": "😀"}, "c2ln", "id")], list(range(5_000)), "\r\n")
def test_any_chunking_gives_what_the_vendors_own_package_reads(parts: list[Any], cuts: list[int], newline: str) -> None:
    sent = frames(*parts)
    body = content(sent).body
    assert body is not None
    body = body.replace(b"\r\n", newline.encode())
    parser, reply, at, chunks = SseParser(), ContentReply(), 0, []
    for cut in [*sorted(cut % (len(body) + 1) for cut in cuts), len(body)]:
        for event in parser.feed(body[at:cut]):
            chunks += reply.feed(event.data)
        at = cut
    assert ours(fold([*chunks, *reply.end()])) == own_package(sent)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.sampled_from(["STOP", "SAFETY"]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
            st.sampled_from(["candidates", "content", "parts", "text", "thought", "thoughtSignature", "functionCall",
                             "args", "name", "id", "inlineData", "finishReason", "error", "usageMetadata", "index",
                             "promptFeedback", "blockReason", "promptTokenCount", "details"]), inner),
        max_leaves=12,
    )
)  # fmt: skip
def test_no_frame_whatever_it_holds_gets_through_as_another_error(value: Any) -> None:
    shapes: list[Any] = [value, {"candidates": value}, {"candidates": [value]}, {"error": value}]
    shapes += [{"candidates": [{"content": {"parts": value}}], "usageMetadata": value, "promptFeedback": value}]
    shapes += [{"candidates": [{"content": {"parts": [value]}, "finishReason": "STOP"}]}]
    shapes += [{"candidates": [{"content": {"parts": [{"functionCall": value}, {"inlineData": value}]}}]}]
    for shape in shapes:
        try:
            read([shape])
        except ProviderError:
            pass
