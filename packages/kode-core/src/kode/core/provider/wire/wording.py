"""What every vendor's request says in the same words: notes for what cannot be sent, ids and names made legal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from hashlib import sha256

from kode.core.kernel.message import (
    BlobBlock,
    Block,
    MediaBlock,
    Message,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from kode.core.provider.base import Effort, Reasoning

__all__ = ["FOLLOWS", "as_error", "effort_of", "in_loop", "legal_id", "legal_name", "set_apart", "texts", "unpacked"]

FOLLOWS = "(What the tool returned beside text follows in the next message.)"


def texts(blocks: Iterable[Block]) -> Iterator[str]:
    """Give what can be said in words: text, and a note for what cannot be sent."""
    for block in blocks:
        if isinstance(block, TextBlock):
            if block.text:
                yield block.text
        elif isinstance(block, MediaBlock):
            what = " ".join(filter(None, (block.type, block.media_type, block.name)))
            yield f"[{what}: left out, this model's API cannot take it]"
        elif isinstance(block, BlobBlock):
            yield f"{block.preview}\n[{block.size} bytes of {block.media_type}: left out]".lstrip()


def as_error(text: str) -> str:
    """Say of a result that it is an error, where an API has no mark for that; one that says so stays."""
    return text if text[:5].lower() == "error" else f"Error: {text}"


def unpacked(block: MediaBlock) -> MediaBlock:
    """Take media out of a ``data:`` URL, which not every API reads."""
    head, comma, data = (block.url or "").partition(",")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        return block
    kind = head.removeprefix("data:").removesuffix(";base64")
    return replace(block, url=None, data=data, media_type=block.media_type or kind or None)


def legal_id(id: str, most: int = 64, others: str = "") -> str:
    """Keep an id that the API takes; a longer or odd one of another vendor becomes its digest.

    Args:
        id: As the history has it.
        most: Characters.
        others: What may stand in it beside letters, digits, ``_`` and ``-``.
    """
    if 0 < len(id) <= most and not _ODD.search(id.translate({ord(each): None for each in others})):
        return id
    return f"call_{sha256(id.encode('utf-8', 'replace')).hexdigest()[:32]}"


def set_apart(messages: Sequence[Message]) -> Sequence[Message]:
    """Give each call of a history an id of its own, and its result with it.

    Some vendors count calls anew in each reply, or send no ids; others refuse an id that comes twice in a request. What
    a call is named depends on the messages before it alone, so that it is named the same in every later request.
    """
    taken: set[str] = set()
    named: dict[str, str] = {}  # what an id means now
    times: dict[str, int] = {}
    out: list[Message] = []
    for message in messages:
        blocks = []
        for block in message.blocks:
            if isinstance(block, ToolUseBlock):
                id = block.id
                while id in taken:
                    times[block.id] = times.get(block.id, 1) + 1
                    id = f"{block.id}-{times[block.id]}"
                taken.add(id)
                named[block.id] = id
                block = block if id == block.id else replace(block, id=id)
            elif isinstance(block, ToolResultBlock):
                id = named.get(block.tool_use_id, block.tool_use_id)
                block = block if id == block.tool_use_id else replace(block, tool_use_id=id)
            blocks.append(block)
        same = all(a is b for a, b in zip(blocks, message.blocks, strict=True))
        out.append(message if same else replace(message, blocks=tuple(blocks)))
    return out


def legal_name(name: str, most: int = 64) -> str:
    """Make a name the API takes of one that a model made up."""
    return _ODD.sub("_", name)[:most] or "unnamed"


_ODD = re.compile(r"[^A-Za-z0-9_-]")


def effort_of(reasoning: Reasoning) -> Effort | None:
    """Give the effort asked for, or the one that a budget comes to."""
    budget = reasoning.budget_tokens
    if reasoning.effort is not None or budget is None:
        return reasoning.effort
    if budget <= 0:
        return "none"
    return "low" if budget <= 2_048 else "medium" if budget <= 16_384 else "high"


def in_loop(messages: Iterable[Message]) -> int:
    """Tell from which message on the model is still at work on what the user said last.

    Vendors want reasoning back there, whatever becomes of that of earlier turns.
    """
    since = 0
    for at, message in enumerate(messages):
        if message.role == "user" and not any(isinstance(block, ToolResultBlock) for block in message.blocks):
            since = at + 1
    return since
