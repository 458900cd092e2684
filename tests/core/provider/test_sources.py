"""Where a text comes from (citations, annotations, grounding) is kept with it, and no reply is lost over it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from tests.servers import anthropic as claude
from tests.servers import gemini, responses

from kode.core.jsontext import dump, parse
from kode.core.kernel.message import Json, Message, ReasoningBlock, TextBlock, ToolUseBlock
from kode.core.provider import ModelRequest, Reply, fold
from kode.core.provider.anthropic.messages_reply import MessagesReply
from kode.core.provider.gemini.content_reply import ContentReply
from kode.core.provider.openai.chat_reply import ChatReply
from kode.core.provider.openai.chat_request import request_body
from kode.core.provider.openai.responses_reply import ResponsesReply
from kode.core.provider.presets import PRESETS
from kode.core.provider.wire.stream import ReplyReader

SOURCE = {"url": "https://x", "title": "X"}
GROUND = {"groundingChunks": [{"web": {"uri": "https://x"}}]}
ANNOTATION = {"type": "url_citation", "url_citation": SOURCE}


def read(reader: ReplyReader, frames: Iterable[Any]) -> Reply:
    chunks = [chunk for frame in frames for chunk in reader.feed(json.dumps(frame))]
    return fold(chunks if reader.over else [*chunks, *reader.end()])


def delta(finish: str | None = None, **fields: Any) -> Any:
    return {"id": "c", "choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


def _claude() -> Any:
    start, deltas = claude.text("It is so.")
    return claude.events((start, [*deltas, {"type": "citations_delta", "citation": SOURCE}]))


def _claude_whole() -> Any:
    return claude.events(({"type": "text", "text": "It is so.", "citations": [SOURCE]}, []))


def _google(*parts: Any) -> Any:
    return gemini.frames(*(parts or (gemini.said("It is so."),)), groundingMetadata=GROUND)


@pytest.mark.parametrize(
    ("reader", "frames", "kept"),
    [
        (MessagesReply(), _claude(), [{"citations": [SOURCE]}]),
        (MessagesReply(), _claude_whole(), [{"citations": [SOURCE]}]),
        (ContentReply(), _google(), [{"groundingMetadata": GROUND}]),
        (ContentReply(), _google(gemini.said("It is so.", "c2ln")),
         [{"thoughtSignature": "c2ln", "groundingMetadata": GROUND}]),
        (ContentReply(), _google(gemini.said("It is so."), gemini.call("f", {})), [{"groundingMetadata": GROUND}]),
        (ContentReply(), [*gemini.frames(gemini.said("It is so.", "c2ln")),
                          {"candidates": [{"index": 0, "groundingMetadata": GROUND}]}],
         [{"thoughtSignature": "c2ln"}, {"groundingMetadata": GROUND}]),
        (ResponsesReply(), responses.events(responses.message({"text": "It is so.", "annotations": [SOURCE]})),
         [{"id": "msg_1", "annotations": [SOURCE]}]),
        (ChatReply(), [delta(content="It is so."), delta(annotations=[ANNOTATION]), delta("stop")],
         [{"annotations": [ANNOTATION]}]),
        (ChatReply(), [delta(content="It is so.", annotations=[ANNOTATION]), delta("stop", annotations=[ANNOTATION])],
         [{"annotations": [ANNOTATION] * 2}]),
        (ChatReply(), [delta("stop", annotations=["x"])], [{"annotations": ["x"]}]),
    ],
)  # fmt: skip
def test_sources_are_kept_with_the_text(reader: ReplyReader, frames: Any, kept: list[Any]) -> None:
    reply = read(reader, frames)
    assert reply.text in ("It is so.", "")
    texts = [block for block in reply.blocks if isinstance(block, TextBlock)]
    assert [None if block.opaque is None else parse(block.opaque) for block in texts] == kept


@pytest.mark.parametrize("odd", [None, 1, "x", {"a": 1}, [None], [[]], float("nan")])
def test_odd_sources_lose_no_reply(odd: Any) -> None:
    start, deltas = claude.text("a")
    cited = claude.events((start, [*deltas, {"type": "citations_delta", "citation": odd}]))
    assert read(MessagesReply(), cited).text == "a"
    assert (
        read(ContentReply(), gemini.frames(gemini.said("a"), groundingMetadata=odd, citationMetadata=odd)).text == "a"
    )
    chat = [delta(content="a", annotations=odd, reasoning_details=odd), delta("stop")]
    assert read(ChatReply(), chat).text == "a"
    item = responses.message({"text": "a"})
    item.ends["content"][0]["annotations"] = odd
    assert read(ResponsesReply(), responses.events(item)).text == "a"


# ---- what OpenRouter tells of a model's reasoning -------------------------------------------------------------------


def test_details_of_reasoning_go_back_to_openrouter_and_to_nobody_else() -> None:
    """They come in fragments, and some of them behind the text they stand before."""

    def text(piece: str | None, signature: str | None = None) -> Any:
        return {"type": "reasoning.text", "index": 0, "text": piece, "signature": signature, "format": "f-1"}

    sealed = {"type": "reasoning.encrypted", "index": 1, "data": "c2VjcmV0", "id": "rs_1"}
    call = {"index": 0, "id": "call_1", "function": {"name": "f", "arguments": "{}"}}
    reply = read(ChatReply("openrouter"), [
        delta(reasoning="Let ", reasoning_details=[text("Let ")]),
        delta(reasoning="me.", reasoning_details=[text("me.")]), delta(reasoning_details=[text(None, "c2ln")]),
        delta(content="Hm."), delta(tool_calls=[call], reasoning_details=[sealed]), delta("tool_calls"),
    ])  # fmt: skip
    details = [text("Let me.", "c2ln"), sealed]
    assert reply.blocks == (
        ReasoningBlock("Let me."), TextBlock("Hm."), ToolUseBlock("call_1", "f", Json("{}")),
        ReasoningBlock("", redacted=True, opaque=dump({"reasoning_details": details})),
    )  # fmt: skip

    def sent(to: str, model: str = "m") -> Any:
        said = Message(1, "assistant", reply.blocks, 0, provider="openrouter")
        request = ModelRequest(model, (Message(0, "user", (TextBlock("hi"),), 0), said))
        speaks: Any = PRESETS[to].speaks
        return json.loads(request_body(request, speaks, name=to))["messages"][1]

    assert sent("openrouter")["reasoning_details"] == details
    assert "reasoning" not in sent("openrouter")
    for other in ("deepseek", "groq", "qwen"):
        assert set(sent(other)) == {"role", "content", "tool_calls"}
