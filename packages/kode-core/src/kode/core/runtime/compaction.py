"""Compaction: shortening what a model is shown. The mechanical digest needs no model and cannot fail."""

from __future__ import annotations

from collections.abc import Sequence

from kode.core.kernel.message import Message, ReasoningBlock, TextBlock, ToolResultBlock, ToolUseBlock

__all__ = ["digest_of"]


def digest_of(messages: Sequence[Message], chars: int = 200) -> str:
    """Sum up messages line by line: who, and the first characters of each block."""
    lines = ["Summary of the conversation so far:"]
    for message in messages:
        for block in message.blocks:
            if isinstance(block, TextBlock):
                text = block.text
            elif isinstance(block, ToolUseBlock):
                text = f"calls {block.name} {block.input}"
            elif isinstance(block, ToolResultBlock):
                text = "result: " + " ".join(b.text for b in block.content if isinstance(b, TextBlock))
            elif isinstance(block, ReasoningBlock):
                continue
            else:
                text = f"[{block.type}]"
            lines.append(f"{message.role}: {' '.join(text.split())[:chars]}")
    return "\n".join(lines)
