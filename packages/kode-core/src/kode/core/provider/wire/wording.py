"""What every vendor's request says in the same words: notes for what cannot be sent, ids and names made legal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from hashlib import sha256

from kode.core.kernel.message import BlobBlock, Block, MediaBlock, Message, TextBlock, ToolResultBlock
from kode.core.provider.base import Effort, Reasoning

__all__ = ["FOLLOWS", "effort_of", "in_loop", "legal_id", "legal_name", "texts", "unpacked"]

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
