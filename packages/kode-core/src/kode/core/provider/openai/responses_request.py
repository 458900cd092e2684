"""Write a ``ModelRequest`` for the Responses API: https://platform.openai.com/docs/api-reference/responses/create.

Nothing is left with the vendor (``store`` is off): each request holds the whole history as a list of items. What the
vendor made itself goes back whole and in its place, thoughts as the ciphertext they came in; what another vendor's
model thought is left out, and media that the API does not take stand in the text as a note.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from kode.core.errors import UsageError
from kode.core.kernel.message import (
    Block,
    MediaBlock,
    Message,
    ReasoningBlock,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from kode.core.provider.base import ModelRequest, OutputSchema, Reasoning, ToolChoice, ToolSpec
from kode.core.provider.openai.chat_request import Dialect
from kode.core.provider.openai.strict import schema_of
from kode.core.provider.wire.body import encode, opaque_of, overlaid
from kode.core.provider.wire.wording import as_error, effort_of, in_loop, legal_id, legal_name, set_apart, texts

__all__ = ["request_body"]

LEAST_TOKENS = 16
"""A smaller bound on the reply is refused."""
_PLAIN = ("gpt-3", "gpt-4", "gpt-5-chat", "chatgpt-")
"""Beginnings of models that do not think. A name that is newer than this table is taken for a new model."""

Item = dict[str, Any]


def request_body(request: ModelRequest, dialect: Dialect, *, official: bool = False, name: str = "openai") -> bytes:
    """Write the whole body.

    Args:
        request: What to ask.
        dialect: Of its model.
        official: Whether it goes to the vendor itself: other servers refuse, or stumble over, what is its alone.
        name: The provider's: whose reasoning is its own.

    Raises:
        UsageError: ``extra_body`` or a tool's schema is no JSON object, or it asks for what the API does not have.
    """
    if any(request.stop):
        raise UsageError(
            "The Responses API has no stop sequences (ModelRequest.stop). Leave them out, or ask by chat completions:"
            " OpenAIProvider(api='chat'), or 'openai-chat:MODEL'.",
            code="no_stop_sequences",
        )
    thinks = not request.model.rpartition("/")[2].lower().startswith(_PLAIN)
    body: dict[str, Any] = {"model": request.model, "input": _write_input(request, name, thinks=thinks)}
    system = "\n\n".join(part.text for part in request.system_parts if part.text)
    wanted = request.output_schema
    given: dict[str, Any] = {
        "instructions": system or None,
        "tools": [_tool(tool) for tool in request.tools] or None,
        "tool_choice": _choice(request.tool_choice) if request.tools else None,
        "parallel_tool_calls": request.tool_choice.parallel if request.tools and request.tool_choice else None,
        "max_output_tokens": max(request.max_tokens, LEAST_TOKENS) if request.max_tokens else None,
        "temperature": request.temperature if dialect.sampling else None,
        "top_p": request.top_p if dialect.sampling else None,
        "reasoning": (_reasoning(request.reasoning) or None) if thinks else None,
        "text": None if wanted is None else {"format": {"type": "json_schema", **_schema(wanted)}},
        "metadata": dict(request.metadata) if request.metadata and official else None,
        "prompt_cache_key": request.cache_key if official else None,
        "store": False,
        "include": ["reasoning.encrypted_content"] if thinks else None,
        "stream": True,
    }
    body.update((field, value) for field, value in given.items() if value is not None)
    return encode(overlaid(body, request))


def _schema(wanted: OutputSchema) -> Item:
    schema, strict = schema_of(wanted.schema, wanted.strict)
    return {"name": legal_name(wanted.name), "schema": schema, "strict": strict}


def _reasoning(wanted: Reasoning | None) -> Item:
    effort = None if wanted is None else effort_of(wanted)
    out: Item = {} if effort is None else {"effort": effort}
    if wanted is not None and wanted.show and effort != "none":
        out["summary"] = "auto"
    return out


def _tool(tool: ToolSpec) -> Item:
    """Write a tool; strict must be denied, or the vendor takes it for granted."""
    schema, strict = schema_of(tool.input_schema, tool.strict)
    return {
        "type": "function",
        "name": legal_name(tool.name),
        "description": tool.description,
        "parameters": schema,
        "strict": strict,
    }


def _choice(choice: ToolChoice | None) -> Any:
    if choice is None or choice.mode != "tool":
        return None if choice is None else choice.mode
    return {"type": "function", "name": legal_name(choice.tool or "")}


# ---- the history -------------------------------------------------------------------------------------------


def _write_input(request: ModelRequest, name: str, *, thinks: bool = True) -> list[Item]:
    """Write the history as items.

    Args:
        request: What to ask.
        name: The provider's: whose items are its own.
        thinks: Whether its model takes thoughts back; others refuse them.
    """
    out: list[Item] = []
    retain = request.reasoning is None or request.reasoning.retain
    since = in_loop(request.messages)
    seen: set[str] = set()
    for at, message in enumerate(set_apart(request.messages)):
        if message.role == "assistant":
            own = thinks and message.provider == name and (retain or at >= since)
            items = _joined(_said(message, own))
            ids = [item["id"] for item in items if "id" in item]
            if len({*ids}) < len(ids) or not seen.isdisjoint(ids):
                items = _joined(_said(message, False))  # no id may come twice
            else:
                seen.update(ids)
            out += items
        else:
            out += _shown(message)
    return out or [_message("user", "(Go on.)")]


def _joined(items: Iterable[Item]) -> list[Item]:
    """Put the parts of one message together again."""
    out: list[Item] = []
    for item in items:
        last = out[-1] if out else {}
        if item["type"] == "message" and "id" in item and item["id"] == last.get("id"):
            last["content"] += item["content"]
        else:
            out.append(item)
    return out


def _said(message: Message, own: bool) -> Iterator[Item]:
    """Write what a model said. Items of its own go back whole, with their ids, for a thought names what follows it.

    A thought that nothing follows was cut, and would be refused.
    """
    waiting: list[Item] = []
    for block in message.blocks:
        opaque = opaque_of(block) if own else {}
        if isinstance(block, ReasoningBlock):
            kept = opaque if _returns(opaque) else None
            if kept is not None and kept["type"] == "reasoning":
                waiting.append(kept)
                continue
            written = [] if kept is None else [kept]
        elif isinstance(block, ToolUseBlock):
            call = {"call_id": legal_id(block.id), "name": legal_name(block.name), "arguments": block.input}
            written = [{**opaque, "type": "function_call", **call}]
        elif isinstance(block, TextBlock):
            written = [_text(block.text, opaque)] if block.text else []
        elif isinstance(block, MediaBlock) and opaque.get("type") == "image_generation_call" and block.data:
            written = [{**opaque, "result": block.data}]
        else:
            written = [_message("assistant", text) for text in texts((block,))]
        if written:
            yield from waiting
            waiting.clear()
            yield from written


def _text(text: str, opaque: Item) -> Item:
    phase = {"phase": opaque["phase"]} if "phase" in opaque else {}
    if "id" not in opaque:
        return {**_message("assistant", text), **phase}
    part = {"type": "output_text", "text": text, "annotations": opaque.get("annotations", [])}
    return {
        "type": "message",
        "id": opaque["id"],
        "role": "assistant",
        "status": "completed",
        "content": [part],
        **phase,
    }


def _returns(item: Item) -> bool:
    """Whether an item may go back: a thought that is not encrypted would be looked for where nothing is kept."""
    kind = item.get("type")
    return isinstance(kind, str) and (kind != "reasoning" or bool(item.get("encrypted_content") or item.get("content")))


def _shown(message: Message) -> Iterator[Item]:
    """Write what a model is shown: answers to calls first."""
    rest: list[Block] = []
    for block in message.blocks:
        if isinstance(block, ToolResultBlock):
            content = _content(block.content)
            if isinstance(content, str) and block.is_error:
                content = as_error(content)
            yield {"type": "function_call_output", "call_id": legal_id(block.tool_use_id), "output": content}
        else:
            rest.append(block)
    content = _content(rest)
    if content:
        yield _message(message.role, content)


def _content(blocks: Iterable[Block]) -> str | list[Item]:
    """Write text as text, and as parts only where media stand beside it."""
    parts: list[Item] = []
    for block in blocks:
        media = _media(block) if isinstance(block, MediaBlock) else None
        parts += [media] if media is not None else [{"type": "input_text", "text": text} for text in texts((block,))]
    if any(part["type"] != "input_text" for part in parts):
        return parts
    return "\n\n".join(part["text"] for part in parts)


def _message(role: str, content: str | list[Item]) -> Item:
    return {"type": "message", "role": role, "content": content}


# ---- media -------------------------------------------------------------------------------------------------


def _media(block: MediaBlock) -> Item | None:
    """Write media as the API takes it, or None where it has no form for it."""
    write = _MEDIA.get(block.type)
    return None if write is None else write(block)


def _image(block: MediaBlock) -> Item | None:
    if block.file_id is not None:
        return {"type": "input_image", "file_id": block.file_id, "detail": "auto"}
    url = _url(block, "image/png")
    return None if url is None else {"type": "input_image", "image_url": url, "detail": "auto"}


def _file(block: MediaBlock) -> Item | None:
    if block.file_id is not None:
        return {"type": "input_file", "file_id": block.file_id}
    if block.data is not None:
        return {"type": "input_file", "filename": block.name or "file.pdf", "file_data": _url(block, "application/pdf")}
    return None if block.url is None else {"type": "input_file", "file_url": block.url}


_MEDIA: Mapping[str, Callable[[MediaBlock], Item | None]] = {"image": _image, "file": _file}


def _url(block: MediaBlock, guess: str) -> str | None:
    return block.url if block.data is None else f"data:{block.media_type or guess};base64,{block.data}"
