"""Media at the door: what is checked before a message is sent, and what is stored apart from it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Literal

from kode.core.config import Dependencies
from kode.core.errors import UsageError
from kode.core.kernel.message import Block, MediaBlock
from kode.core.provider.base import Provider, TakesUploads
from kode.core.provider.media import MediaProblem, is_text, media_type_of, problem, size_of, typed
from kode.core.store.base import Store

__all__ = ["Way", "admitted", "decoded", "stowed", "way_of"]

APART: Final = 65_536
"""Characters of base64 above which bytes are stored apart from their message."""
_SCHEMES = ("http://", "https://", "gs://", "data:")

Way = Literal["as it is", "upload", "text", "fetched", "transcript", "frames"]


def way_of(
    block: MediaBlock, size: int | None, found: MediaProblem | None, provider: Provider, deps: Dependencies
) -> Way | None:
    """Choose how a model gets to know something; None: not at all.

    Args:
        block: With its right type.
        size: Bytes; None: we have none.
        found: Why the API does not take it as it is.
        provider: Who is asked.
        deps: What may help.
    """
    rule, over = provider.capabilities.media.get(block.type), deps.upload_over
    if size is not None and rule is not None and over is not None and isinstance(provider, TakesUploads):
        fits = found is None or found.code == "media_too_large"
        if fits and min(over, rule.max_bytes) < size <= rule.max_upload_bytes:
            return "upload"
    if found is None:
        return "as it is"
    if size is not None and is_text(block, size):
        return "text"
    if block.url is not None and found.code in ("media_form", "media_refused") and deps.media_fetcher is not None:
        return "fetched"
    if size is None and block.url is None:
        return None
    if block.type == "audio" and deps.transcriber is not None:
        return "transcript"
    return "frames" if block.type == "video" and deps.frame_extractor is not None else None


async def admitted(
    message: str | Sequence[Block], agent_id: str, provider: Provider, deps: Dependencies
) -> str | Sequence[Block]:
    """Check the media of a message that is to be sent, and store what is large apart from it.

    Raises:
        UsageError: The model's API could not take it; the message says what, how large and what is allowed.
        NotFoundError: No such agent.
    """
    if not isinstance(message, list | tuple) or not any(isinstance(block, MediaBlock) for block in message):
        return message
    for block in message:
        if isinstance(block, MediaBlock):
            _check(block, provider, deps)
    return await stowed([*message], agent_id, deps.store)


def _check(block: MediaBlock, provider: Provider, deps: Dependencies) -> None:
    given = [name for name in ("url", "file_id", "data", "blob") if getattr(block, name)]
    if len(given) != 1:
        text = f"has {' and '.join(given) or 'nothing'}; give one of url, file_id, data and blob"
        raise _refused(block, "bad_media", text)
    if block.url and not block.url.startswith(_SCHEMES):
        raise _refused(block, "bad_media", f"has the URL {block.url[:60]!r}; give http, https, gs or data")
    block = typed(block)
    size = None
    if block.data is not None:
        if decoded(block.data) is None:
            raise _refused(block, "bad_media", "has data that is no base64 text; give base64.b64encode(…).decode()")
        size = size_of(block.data)
    found = problem(block, provider.capabilities, size)
    known = 0 if block.blob else size  # how large a blob is turns out when it is read
    if found is not None and way_of(block, known, found, provider, deps) is None:
        raise _refused(block, found.code, f"cannot be sent to {provider.name}:{provider.model}: {found.text}")


def _refused(block: MediaBlock, code: str, text: str) -> UsageError:
    named = f" {block.name!r}" if block.name else ""
    return UsageError(f"The {block.type}{named} {text}.", code=code, kind=block.type)


async def stowed(blocks: Sequence[Block], agent_id: str, store: Store) -> tuple[Block, ...]:
    """Store the bytes of large media as blobs, so that messages stay small; the rest is left as it is."""
    made = list(blocks)
    for at, block in enumerate(made):
        if not isinstance(block, MediaBlock):
            continue
        plain = typed(block)
        data = decoded(plain.data) if plain.data is not None and len(plain.data) > APART else None
        if data is not None:
            blob = await store.put_blob(agent_id, data, media_type_of(plain))
            made[at] = replace(plain, data=None, blob=blob)
    return tuple(made)


def decoded(data: str) -> bytes | None:
    """Read base64 text; None: it is none."""
    try:
        return base64.b64decode(data, validate=True)
    except ValueError:
        return None
