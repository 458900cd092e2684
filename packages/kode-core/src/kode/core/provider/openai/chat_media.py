"""What a model draws and says aloud in a chat completion: pictures whole, sound in pieces."""

from __future__ import annotations

import base64
from typing import Any

from kode.core.kernel.message import MediaBlock
from kode.core.provider.media import bytes_of, kind_of, typed

__all__ = ["Made"]

PCM = "audio/pcm;rate=24000"
"""What is streamed: 16 bits, one channel, without a header."""


class Made:
    """Collects the media of one reply."""

    __slots__ = ("_pictures", "_sound")

    def __init__(self) -> None:
        self._pictures: list[MediaBlock] = []
        self._sound: list[bytes] = []

    def take(self, delta: dict[str, Any]) -> str:
        """Take what a delta brings; returns what was said with it in words."""
        pictures = delta.get("images")
        for each in pictures if isinstance(pictures, list) else []:
            self._draw(each)
        sound = delta.get("audio")
        if not isinstance(sound, dict):
            return ""
        data, words = sound.get("data"), sound.get("transcript")
        if isinstance(data, str):
            self._sound.append(bytes_of(data))
        return words if isinstance(words, str) else ""

    def blocks(self) -> list[MediaBlock]:
        """All of it, once the reply is complete; it is empty then."""
        made, sound = self._pictures, b"".join(self._sound)
        self._pictures, self._sound = [], []
        if sound:
            block = typed(MediaBlock("audio", data=base64.b64encode(sound).decode()))
            made = [*made, block if block.media_type else MediaBlock("audio", PCM, data=block.data)]
        return made

    def _draw(self, picture: Any) -> None:
        """A picture is named as one that a user sends: by a URL that may hold it."""
        inner = picture.get("image_url") if isinstance(picture, dict) else None
        url = inner.get("url") if isinstance(inner, dict) else None
        if isinstance(url, str) and url:
            block = typed(MediaBlock("image", url=url))
            known = block.media_type is not None and kind_of(block.media_type) == "image"
            self._pictures.append(block if known or block.data is None else MediaBlock("image", data=block.data))
