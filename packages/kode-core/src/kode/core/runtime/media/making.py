"""What the functions of ``Dependencies`` make of media for models that neither hear nor see, stored with the agent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

from kode.core.config import Dependencies
from kode.core.provider.base import MediaFile
from kode.core.runtime.media.shelf import Shelf

__all__ = ["MAKERS"]

MAX_FRAMES: Final = 600
"""Pictures of one video; no API takes many more in one request."""

Made: TypeAlias = list[dict[str, Any]]


async def _transcript(shelf: Shelf, deps: Dependencies, file: MediaFile) -> Made:
    call = deps.transcriber
    assert call is not None
    head = " ".join(filter(None, ("[Transcript of the audio", file.name)))
    text = f"{head}]\n{(await call(file)).strip()}"
    return [await shelf.put("text", "text/plain", text.encode("utf-8", "replace"))]


async def _frames(shelf: Shelf, deps: Dependencies, file: MediaFile) -> Made:
    call = deps.frame_extractor
    assert call is not None
    frames = await call(file)
    if len(frames) > MAX_FRAMES:
        raise ValueError(f"{len(frames):,} frames came; give at most {MAX_FRAMES} of a video")
    for frame in frames:
        if frame.kind != "image":
            raise ValueError(f"a frame is of the kind {frame.kind!r}, not an image")
    told = f"[The video {file.name or ''} as {len(frames)} pictures, in their order]"
    return await shelf.put_list([{"text": told}, *[await shelf.put(f.kind, f.media_type, f.data) for f in frames]])


async def _fetched(shelf: Shelf, deps: Dependencies, file: MediaFile) -> Made:
    call = deps.media_fetcher
    assert call is not None
    found = await call(file.url or "")
    return [await shelf.put(found.kind, found.media_type, found.data)]


MAKERS: dict[str, Callable[[Shelf, Dependencies, MediaFile], Awaitable[Made]]] = {
    "transcript": _transcript,
    "frames": _frames,
    "fetched": _fetched,
}
"""By the way."""
