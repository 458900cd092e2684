"""Asking a provider, and the tool that agents of these tests have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kode.core import tool
from kode.core.kernel.message import Message, TextBlock
from kode.core.provider import ModelRequest, Provider, Reply, fold


def ask(*blocks: Any, **more: Any) -> ModelRequest:
    """A request of one message, which greets unless it is told what to say."""
    return ModelRequest("", (Message(0, "user", blocks or (TextBlock("hi"),), 0),), **more)


async def answer(provider: Provider, request: ModelRequest | None = None) -> Reply:
    """The whole reply."""
    async with provider.stream(request or ask()) as chunks:
        return fold([chunk async for chunk in chunks], provider=provider.name)


@tool(readonly=True)
def look(path: str) -> str:
    """Look at a file.

    Args:
        path: Which one.
    """
    return f"content of {path}"


def kept_in(folder: Path) -> bytes:
    """All that lies in the files below it."""
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
