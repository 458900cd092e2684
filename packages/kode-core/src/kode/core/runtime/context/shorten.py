"""A text too long: its head and its tail, and how much lies between."""

from __future__ import annotations

from kode.core.runtime.context.estimate import text_tokens

__all__ = ["shorten"]


def shorten(text: str, tokens: int) -> str:
    """Cut a text to about so many tokens; one that fits is given back as it is."""
    size = text_tokens(text)
    if size <= tokens:
        return text
    if tokens < 30:  # no room to say how much is missing
        return f"{text[: len(text) * max(tokens - 1, 0) // size]}…"
    keep = len(text) * (tokens - 15) // size
    head, tail = keep * 2 // 3, keep // 3
    return f"{text[:head]}\n… {len(text) - head - tail:,} characters not shown …\n{text[len(text) - tail :]}"
