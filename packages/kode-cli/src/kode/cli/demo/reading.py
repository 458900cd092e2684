"""Reads all of something from the store, page by page: `await every(store.read_messages)`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from kode.cli.demo.settings import AGENT_ID
from kode.core.store import Page

__all__ = ["every"]

T = TypeVar("T")
C = TypeVar("C")


async def every(read: Callable[..., Awaitable[Page[T, C]]]) -> list[T]:
    """Read every page of the agent's."""
    page = await read(AGENT_ID)
    found = [*page.items]
    while page.next is not None:
        page = await read(AGENT_ID, after=page.next)
        found += page.items
    return found
