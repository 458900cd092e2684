"""A Messages server on loopback: follows a script, is strict about requests, misbehaves on demand.

As ``ChatServer`` (see there), with the API of Anthropic: ``server.reply(message(text("Hi")))``. A reply is made of
blocks; ``interleaved`` sends the deltas of all of them in turns.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

from . import anthropic_rules as rules
from .chat import ChatServer, Said, Seen

__all__ = [
    "MessagesServer",
    "error_event",
    "events",
    "message",
    "redacted",
    "refuse",
    "sse",
    "text",
    "thinking",
    "tool_use",
]

IDS = {"request-id": "req_1", "x-request-id": ""}
STREAM = {"content-type": "text/event-stream; charset=utf-8", **IDS}
Event = dict[str, Any]
Block = tuple[Event, list[Event]]


def text(said: str, piece: int = 6) -> Block:
    """A block of text, in pieces."""
    return {"type": "text", "text": ""}, [{"type": "text_delta", "text": each} for each in _pieces(said, piece)]


def thinking(thought: str, signature: str = "c2lnbmF0dXJl", piece: int = 6) -> Block:
    """A block of thinking, with its signature last."""
    deltas: list[Event] = [{"type": "thinking_delta", "thinking": each} for each in _pieces(thought, piece)]
    deltas.append({"type": "signature_delta", "signature": signature})
    return {"type": "thinking", "thinking": "", "signature": ""}, deltas


def redacted(data: str) -> Block:
    """A block of thinking that is not shown."""
    return {"type": "redacted_thinking", "data": data}, []


def tool_use(name: str, arguments: Any, id: str = "toolu_1", piece: int = 5) -> Block:
    """A call; arguments that are a string are sent as they are."""
    raw = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    deltas: list[Event] = [{"type": "input_json_delta", "partial_json": each} for each in ["", *_pieces(raw, piece)]]
    return {"type": "tool_use", "id": id, "name": name, "input": {}}, deltas


def events(
    *blocks: Block,
    stop: str | None = None,
    usage: Mapping[str, Any] | None = None,
    output: Mapping[str, Any] | None = None,
    model: str = "claude-9",
    interleaved: bool = False,
    id: str = "msg_1",
) -> list[Event]:
    """All events of a message."""
    began = {
        "id": id, "type": "message", "role": "assistant", "model": model, "content": [], "stop_reason": None,
        "stop_sequence": None, "usage": {"input_tokens": 10, "output_tokens": 1, **(usage or {})},
    }  # fmt: skip
    called = any(start["type"] == "tool_use" for start, _ in blocks)
    ended = {"stop_reason": stop or ("tool_use" if called else "end_turn"), "stop_sequence": None}
    return [
        {"type": "message_start", "message": began},
        {"type": "ping"},
        *(_in_turns(blocks) if interleaved else _in_a_row(blocks)),
        {"type": "message_delta", "delta": ended, "usage": {"output_tokens": 5, **(output or {})}},
        {"type": "message_stop"},
    ]


def message(*blocks: Block, **more: Any) -> Said:
    """A whole reply."""
    return sse(events(*blocks, **more))


def sse(sent: list[Event]) -> Said:
    """Events on the wire."""
    lines = [f"event: {each['type']}\ndata: {json.dumps(each, ensure_ascii=False)}\n\n" for each in sent]
    return Said(body="".join(lines).encode(), headers=STREAM)


def error_event(kind: str = "overloaded_error", told: str = "Overloaded") -> Event:
    """An error in mid-stream."""
    return {"type": "error", "error": {"type": kind, "message": told}, "request_id": "req_1"}


def refuse(status: int, kind: str, told: str, **headers: str) -> Said:
    """An error as the API reports it."""
    body = json.dumps(error_event(kind, told)).encode()
    return Said(status=status, body=body, headers={"content-type": "application/json", **IDS, **headers})


class MessagesServer(ChatServer):
    """See the module."""

    def choose(self, seen: Seen) -> Said:
        if self.key is not None and seen.headers.get("x-api-key") != self.key:
            return refuse(401, "authentication_error", "invalid x-api-key")
        if "anthropic-version" not in seen.headers:
            return refuse(400, "invalid_request_error", "anthropic-version: header is required")
        counts = seen.path == "/v1/messages/count_tokens"
        if seen.method != "POST" or not (counts or seen.path == "/v1/messages"):
            return refuse(404, "not_found_error", f"Not found: {seen.path}")
        wrong = rules.count_problem(seen.body) if counts else rules.problem(seen.body)
        if wrong is None and self._replies:
            return self._replies.pop(0)
        wrong = wrong or "The test queued no reply for this request."
        self.refused.append(wrong)
        return refuse(400, "invalid_request_error", wrong)


def _pieces(said: str, size: int) -> list[str]:
    return [said[at : at + size] for at in range(0, len(said), size)]


def _start(index: int, block: Event) -> Event:
    return {"type": "content_block_start", "index": index, "content_block": block}


def _in_a_row(blocks: tuple[Block, ...]) -> Iterator[Event]:
    for index, (start, deltas) in enumerate(blocks):
        yield _start(index, start)
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}


def _in_turns(blocks: tuple[Block, ...]) -> Iterator[Event]:
    for index, (start, _) in enumerate(blocks):
        yield _start(index, start)
    for turn in zip_longest(*(deltas for _, deltas in blocks)):
        for index, delta in enumerate(turn):
            if delta is not None:
                yield {"type": "content_block_delta", "index": index, "delta": delta}
    for index in range(len(blocks)):
        yield {"type": "content_block_stop", "index": index}
