"""A Responses server on loopback: follows a script, is strict about requests, misbehaves on demand.

As ``ChatServer`` (see there): ``server.reply(response(said("Hi")))``. A reply is made of items; ``interleaved`` sends
the deltas of all of them in turns.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from .chat import ChatServer, Said, Seen, fail
from .responses_rules import problem

__all__ = ["Item", "ResponsesServer", "call", "drawn", "events", "foreign", "message", "response", "said", "sse",
           "thought"]  # fmt: skip

STREAM = {"content-type": "text/event-stream; charset=utf-8", "x-request-id": "req_1"}
Event = dict[str, Any]


@dataclass(frozen=True)
class Item:
    """An item of the output: as it begins, what is sent of it, as it ends."""

    begins: Event
    sent: tuple[Event, ...]
    ends: Event


def message(*parts: Mapping[str, Any], id: str = "msg_1", piece: int = 6, **more: Any) -> Item:
    """A message of several parts: ``{"text": …, "annotations": […]}`` or ``{"refusal": …}``."""
    begins = {"id": id, "type": "message", "status": "in_progress", "content": [], "role": "assistant", **more}
    sent: list[Event] = []
    whole: list[Event] = []
    for index, part in enumerate(parts):
        place = {"content_index": index}
        field = "text" if "text" in part else "refusal"
        kind = "output_text" if field == "text" else field
        rest: Event = {"annotations": part.get("annotations", []), "logprobs": []} if field == "text" else {}
        odd: Event = {"logprobs": []} if field == "text" else {}
        fresh = {"annotations": [], "logprobs": []} if field == "text" else {}
        begun = {"type": kind, field: "", **fresh}
        sent.append({"type": "response.content_part.added", **place, "part": begun})
        sent += [
            {"type": f"response.{kind}.delta", **place, "delta": each, **odd} for each in _pieces(part[field], piece)
        ]
        sent += [
            {"type": "response.output_text.annotation.added", **place, "annotation_index": at, "annotation": each}
            for at, each in enumerate(part.get("annotations", []))
        ]
        sent.append({"type": f"response.{kind}.done", **place, field: part[field], **odd})
        whole.append({"type": kind, field: part[field], **rest})
        sent.append({"type": "response.content_part.done", **place, "part": whole[-1]})
    return Item(begins, tuple(sent), {**begins, "status": "completed", "content": whole})


def said(text: str, **more: Any) -> Item:
    """A message of one text."""
    return message({"text": text}, **more)


def thought(
    *summary: str, encrypted: str | None = "c2VjcmV0", id: str = "rs_1", piece: int = 6, content: Sequence[str] = ()
) -> Item:
    """A thought, with what is told of it, or (from models that anybody serves) what it was."""
    begins = {"id": id, "type": "reasoning", "summary": []}
    sent: list[Event] = []
    for index, text in enumerate(summary):
        place = {"summary_index": index}
        sent.append({
            "type": "response.reasoning_summary_part.added", **place, "part": {"type": "summary_text", "text": ""}
        })  # fmt: skip
        sent += [
            {"type": "response.reasoning_summary_text.delta", **place, "delta": each} for each in _pieces(text, piece)
        ]
        sent.append({"type": "response.reasoning_summary_text.done", **place, "text": text})
        part = {"type": "summary_text", "text": text}
        sent.append({"type": "response.reasoning_summary_part.done", **place, "part": part})
    for index, text in enumerate(content):
        sent += [
            {"type": "response.reasoning_text.delta", "content_index": index, "delta": each}
            for each in _pieces(text, piece)
        ]
    ends: Event = {**begins, "summary": [{"type": "summary_text", "text": text} for text in summary]}
    if encrypted is not None:
        ends["encrypted_content"] = encrypted
    if content:
        ends["content"] = [{"type": "reasoning_text", "text": text} for text in content]
    return Item(begins, tuple(sent), ends)


def call(name: str, arguments: Any, id: str = "call_1", piece: int = 5, **more: Any) -> Item:
    """A call; arguments that are a string are sent as they are."""
    raw = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    begins = {"id": f"fc_{id}", "type": "function_call", "status": "in_progress", "call_id": id, "name": name,
              "arguments": "", **more}  # fmt: skip
    kind = "response.function_call_arguments"
    sent: list[Event] = [{"type": f"{kind}.delta", "delta": each} for each in _pieces(raw, piece)]
    sent.append({"type": f"{kind}.done", "arguments": raw, "name": name})
    return Item(begins, tuple(sent), {**begins, "status": "completed", "arguments": raw})


def foreign(id: str = "ws_1") -> Item:
    """The work of one of the vendor's own tools."""
    begins = {"id": id, "type": "web_search_call", "status": "in_progress", "action": {"type": "search", "query": ""}}
    sent = ({"type": "response.web_search_call.in_progress"}, {"type": "response.web_search_call.completed"})
    return Item(begins, sent, {**begins, "status": "completed", "action": {"type": "search", "query": "q"}})


def drawn(data: str, id: str = "ig_1") -> Item:
    """An image."""
    begins = {"id": id, "type": "image_generation_call", "status": "in_progress"}
    sent = ({"type": "response.image_generation_call.partial_image", "partial_image_index": 0,
             "partial_image_b64": data[:4]},)  # fmt: skip
    return Item(begins, sent, {**begins, "status": "completed", "output_format": "webp", "result": data})


def events(
    *items: Item,
    status: str = "completed",
    reason: str | None = None,
    error: Event | None = None,
    usage: Mapping[str, Any] | None = None,
    model: str = "gpt-9-2026",
    interleaved: bool = False,
    id: str = "resp_1",
) -> list[Event]:
    """All events of a response."""
    began: Event = {
        "id": id, "object": "response", "created_at": 1_700_000_000, "status": "in_progress", "error": None,
        "incomplete_details": None, "instructions": None, "metadata": {}, "model": model, "output": [],
        "parallel_tool_calls": True, "temperature": 1.0, "tool_choice": "auto", "tools": [], "top_p": 1.0,
        "usage": None, "store": False,
    }  # fmt: skip
    used = {
        "input_tokens": 10, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0}, "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 15, **(usage or {}),
    }  # fmt: skip
    ended = {
        **began, "status": status, "output": [item.ends for item in items], "usage": used, "error": error,
        "incomplete_details": None if reason is None else {"reason": reason},
    }  # fmt: skip
    sent = [
        {"type": "response.created", "response": began},
        {"type": "response.in_progress", "response": began},
        *(_in_turns(items) if interleaved else _in_a_row(items)),
        {"type": f"response.{status}", "response": ended},
    ]
    return [{**each, "sequence_number": number} for number, each in enumerate(sent)]


def response(*items: Item, **more: Any) -> Said:
    """A whole reply."""
    return sse(events(*items, **more))


def sse(sent: Sequence[Event]) -> Said:
    """Events on the wire."""
    lines = [f"event: {each['type']}\ndata: {json.dumps(each, ensure_ascii=False)}\n\n" for each in sent]
    return Said(body="".join(lines).encode(), headers=STREAM)


class ResponsesServer(ChatServer):
    """See the module."""

    def choose(self, seen: Seen) -> Said:
        if self.key is not None and seen.headers.get("authorization") != f"Bearer {self.key}":
            return fail(401, "Incorrect API key provided.", type="invalid_request_error", code="invalid_api_key")
        if seen.method != "POST" or seen.path != "/v1/responses":
            return fail(404, f"Invalid URL ({seen.method} {seen.path})", type="invalid_request_error")
        wrong = problem(seen.body)
        if wrong is None and self._replies:
            return self._replies.pop(0)
        wrong = wrong or "The test queued no reply for this request."
        self.refused.append(wrong)
        return fail(400, wrong, type="invalid_request_error")


def _pieces(said: str, size: int) -> list[str]:
    return [said[at : at + size] for at in range(0, len(said), size)]


def _of(index: int, item: Item) -> list[Event]:
    return [{**each, "output_index": index, "item_id": item.begins["id"]} for each in item.sent]


def _added(index: int, item: Item) -> Event:
    return {"type": "response.output_item.added", "output_index": index, "item": item.begins}


def _ended(index: int, item: Item) -> Event:
    return {"type": "response.output_item.done", "output_index": index, "item": item.ends}


def _in_a_row(items: tuple[Item, ...]) -> Iterator[Event]:
    for index, item in enumerate(items):
        yield _added(index, item)
        yield from _of(index, item)
        yield _ended(index, item)


def _in_turns(items: tuple[Item, ...]) -> Iterator[Event]:
    for index, item in enumerate(items):
        yield _added(index, item)
    for turn in zip_longest(*(_of(index, item) for index, item in enumerate(items))):
        yield from (each for each in turn if each is not None)
    for index, item in enumerate(items):
        yield _ended(index, item)
