"""The bound of a result: what is too long is cut, and says so."""

from __future__ import annotations

from kode.core.kernel.message import ResultContent, TextBlock
from kode.core.runtime.context.showing import marker

__all__ = ["MAX_MEDIA", "cap"]

MAX_MEDIA = 10_485_760
"""Characters of base64 in a result; a tool that has more to show gives a URL or a blob."""
BLOCK_BYTES = 16
"""A block of a result counts for at least so many."""


def cap(content: tuple[ResultContent, ...], allowed: int) -> tuple[tuple[ResultContent, ...], int]:
    """Keep a result within its bound: of a text that is too long, head and tail stay and the cut is said.

    Each block counts for some bytes beside its text. Media in the result itself have a bound of their own.
    """
    kept: list[ResultContent] = []
    left, media, cut, dropped = allowed, MAX_MEDIA, 0, 0
    for block in content:
        if not isinstance(block, TextBlock):
            size = len(getattr(block, "data", None) or "")
            media -= size
            kept.append(block if media >= 0 or not size else TextBlock(f"{marker(block)} (left out: {size:,} bytes)"))
            if kept[-1] is not block:
                media += size
            continue
        data = block.text.encode(errors="replace")
        if left <= 0:
            dropped += len(data)
        elif len(data) > left:
            gone = len(data) - left
            head = data[: left * 2 // 3].decode(errors="ignore")
            tail = data[len(data) - left // 3 :].decode(errors="ignore") if left >= 3 else ""
            kept.append(TextBlock(f"{head}\n… {gone} bytes cut …\n{tail}"))
            cut += gone
            left = 0
        else:
            kept.append(block)
            left -= max(len(data), BLOCK_BYTES)
    if dropped:
        kept.append(TextBlock(f"… {dropped} bytes more cut …"))
    return tuple(kept), cut + dropped
