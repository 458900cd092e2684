"""What media an API takes, judged before anything is sent: pure functions over a provider's ``Capabilities.media``.

The type that counts is that of the bytes: a PNG that calls itself a JPEG is sent as what it is. What an API has no form
for becomes a line of text, so that a history from anywhere can go on; what is only too large is refused by name.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from kode.core.errors import UsageError
from kode.core.kernel.message import Block, MediaBlock, Message, ResultContent, TextBlock, ToolResultBlock
from kode.core.provider.base import Capabilities, MediaKind, MediaRule, ModelRequest
from kode.core.provider.wire.wording import unpacked

__all__ = [
    "LIKELY",
    "MAX_TEXT",
    "MediaProblem",
    "as_text",
    "bytes_of",
    "fitted",
    "is_text",
    "kind_of",
    "left_out",
    "media_type_of",
    "problem",
    "size_of",
    "sniffed",
    "typed",
]

MAX_TEXT: Final = 262_144
"""Bytes of a text file that is shown as text where an API takes no such file."""
_HEAD: Final = 64
"""Characters of base64 that tell the type."""


@dataclass(frozen=True, slots=True)
class MediaProblem:
    """Why an API cannot take something."""

    code: str
    """``media_kind``, ``media_type``, ``media_form`` (it may not come this way) or ``media_too_large``."""
    text: str
    """What it is, what is allowed, what to do; no sentence mark at its end."""


# ---- types -------------------------------------------------------------------------------------------------

_BRANDS: dict[bytes, tuple[MediaKind, str]] = {
    # Of files of the ISO kind, by the word behind ``ftyp``; others are videos.
    b"heic": ("image", "image/heic"),
    b"heix": ("image", "image/heic"),
    b"mif1": ("image", "image/heif"),
    b"avif": ("image", "image/avif"),
    b"M4A ": ("audio", "audio/mp4"),
    b"qt  ": ("video", "video/quicktime"),
}
_BEGINNINGS: tuple[tuple[bytes, tuple[MediaKind, str]], ...] = (
    (b"\x89PNG\r\n\x1a\n", ("image", "image/png")),
    (b"\xff\xd8\xff", ("image", "image/jpeg")),
    (b"GIF87a", ("image", "image/gif")),
    (b"GIF89a", ("image", "image/gif")),
    (b"II*\x00", ("image", "image/tiff")),
    (b"MM\x00*", ("image", "image/tiff")),
    (b"%PDF-", ("file", "application/pdf")),
    (b"ID3", ("audio", "audio/mpeg")),
    (b"fLaC", ("audio", "audio/flac")),
    (b"PK\x03\x04", ("file", "application/zip")),
)
_RIFF: dict[bytes, tuple[MediaKind, str]] = {
    b"WEBP": ("image", "image/webp"),
    b"WAVE": ("audio", "audio/wav"),
    b"AVI ": ("video", "video/x-msvideo"),
}


def sniffed(head: bytes) -> tuple[MediaKind, str] | None:
    """Tell kind and type by the first bytes, where these leave no doubt."""
    if head[:4] == b"RIFF":
        return _RIFF.get(head[8:12])
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], ("video", "video/mp4"))
    return next((found for beginning, found in _BEGINNINGS if head.startswith(beginning)), None)


def typed(block: MediaBlock, head: bytes | None = None) -> MediaBlock:
    """Take a block out of its ``data:`` URL, and give it the kind and type that its bytes have.

    Args:
        block: As it came.
        head: The first bytes, where they lie elsewhere.
    """
    block = unpacked(block)
    if head is None:
        if block.data is None:
            return block
        head = bytes_of(block.data[:_HEAD])
    found = sniffed(head)
    if found is None or _same(found, block):
        return block
    return replace(block, type=found[0], media_type=found[1])


def _same(found: tuple[MediaKind, str], block: MediaBlock) -> bool:
    declared = block.media_type or ""
    if found[1] == "application/zip":
        return declared != ""  # office files and many others are such inside
    # A container of sound and pictures is what it is said to be.
    if found[1] == "video/mp4" and block.type in ("audio", "video") and declared:
        return True
    return found == (block.type, _ALIASES.get(declared, declared))


_ALIASES = {
    "image/jpg": "image/jpeg",
    "audio/x-wav": "audio/wav",
    "audio/wave": "audio/wav",
    "audio/vnd.wave": "audio/wav",
    "audio/mp3": "audio/mpeg",
    "audio/x-flac": "audio/flac",
    "audio/m4a": "audio/mp4",
    "audio/x-m4a": "audio/mp4",
    "video/mov": "video/quicktime",
    "video/avi": "video/x-msvideo",
    "application/x-pdf": "application/pdf",
}
LIKELY = {"image": "image/png", "audio": "audio/wav", "video": "video/mp4", "file": "application/pdf"}
"""What media are taken for that do not say their MIME type."""


def media_type_of(block: MediaBlock) -> str:
    """Tell the MIME type by its usual name; where a block has none, the most likely."""
    declared = (block.media_type or LIKELY[block.type]).partition(";")[0].strip().lower()
    return _ALIASES.get(declared, declared)


def kind_of(media_type: str) -> MediaKind:
    """Tell the kind by a MIME type."""
    return _KINDS.get(media_type.partition("/")[0], "file")


_KINDS: dict[str, MediaKind] = {"image": "image", "audio": "audio", "video": "video"}

# ---- what an API takes -------------------------------------------------------------------------------------


def size_of(data: str) -> int:
    """Bytes that a base64 text stands for."""
    return len(data) * 3 // 4 - data[-2:].count("=")


def problem(block: MediaBlock, capabilities: Capabilities, size: int | None = None) -> MediaProblem | None:
    """Say why an API cannot take a block as it is; None: it can.

    Args:
        block: With its right type (``typed``).
        capabilities: Of the provider.
        size: Bytes, where they lie elsewhere.
    """
    rule = capabilities.media.get(block.type)
    if rule is None:
        taken = ", ".join(sorted(capabilities.media)) or "text only"
        return MediaProblem("media_kind", f"this model's API takes no {block.type} (it takes: {taken})")
    kind = media_type_of(block)
    if rule.types and kind not in rule.types and (block.media_type or block.url is None):
        text = f"this model's API takes no {kind} (it takes: {', '.join(sorted(rule.types))})"
        return MediaProblem("media_type", text)
    return _form(block, rule, size)


def _form(block: MediaBlock, rule: MediaRule, size: int | None) -> MediaProblem | None:
    """Judge how it comes."""
    if block.file_id is not None:
        if rule.file_ids is None or not block.file_id.startswith(rule.file_ids):
            return MediaProblem("media_form", "the id is no file of this vendor's; send the bytes")
    elif block.url is not None:
        if not rule.urls:
            return MediaProblem("media_form", "this model's API fetches no URL; send the bytes")
        if not block.url.startswith(rule.schemes):
            return MediaProblem("media_form", f"this model's API fetches no {block.url[:5]!r} URL; send the bytes")
        if rule.url_types and media_type_of(block) not in rule.url_types:
            return MediaProblem("media_form", f"this model's API fetches no {media_type_of(block)}; send the bytes")
    else:
        size = size_of(block.data) if size is None and block.data is not None else size or 0
        if size > rule.max_bytes:
            text = f"it has {size:,} bytes, and this model's API takes at most {rule.max_bytes:,} of one {block.type}"
            return MediaProblem("media_too_large", f"{text}; send a smaller one")
    return None


def left_out(block: MediaBlock, why: str) -> TextBlock:
    """The line of text that stands for what is not sent."""
    what = " ".join(filter(None, (block.type, block.media_type, block.name)))
    return TextBlock(f"[{what}: left out, {why}]")


def is_text(block: MediaBlock, size: int) -> bool:
    """Whether it is a text file, and short enough to be shown as text."""
    kind = media_type_of(block)
    return block.type == "file" and size <= MAX_TEXT and (kind.startswith("text/") or kind in _TEXTS)


def as_text(block: MediaBlock, data: bytes) -> TextBlock | None:
    """Show a text file as text; None: it is none, or too long."""
    if not is_text(block, len(data)):
        return None
    return TextBlock(f"{block.name or 'A file'} ({media_type_of(block)}):\n{data.decode('utf-8', 'replace')}")


_TEXTS = frozenset({"application/json", "application/xml", "application/yaml", "application/toml", "application/csv"})


def fitted(request: ModelRequest, capabilities: Capabilities) -> ModelRequest:
    """Give a request whose media this API takes, in their right types; the one given stays as it is.

    What the API has no form for becomes a line of text.

    Raises:
        UsageError: ``media_too_large`` or ``too_many_media``: it would be refused after it was sent.
    """
    if not any(map(_has_media, request.messages)):
        return request
    bounds = _Bounds(capabilities)
    messages = [_message(message, bounds) for message in request.messages]
    bounds.check()
    return replace(request, messages=messages)


def _has_media(message: Message) -> bool:
    return any(
        isinstance(block, MediaBlock)
        or (isinstance(block, ToolResultBlock) and any(isinstance(one, MediaBlock) for one in block.content))
        for block in message.blocks
    )


class _Bounds:
    """Counts what goes into one request."""

    def __init__(self, capabilities: Capabilities) -> None:
        self.capabilities = capabilities
        self._items: Counter[MediaKind] = Counter()
        self._bytes = 0

    def fit(self, block: MediaBlock) -> MediaBlock | TextBlock:
        block = typed(block)
        found = problem(block, self.capabilities)
        if found is None:
            self._items[block.type] += 1
            self._bytes += len(block.data or "")
            usual = media_type_of(block)
            return block if block.media_type in (None, usual) else replace(block, media_type=usual)
        if found.code == "media_too_large":
            raise UsageError(f"{_called(block)} cannot be sent: {found.text}.", code=found.code)
        text = as_text(block, bytes_of(block.data)) if block.data is not None else None
        return text or left_out(block, found.text)

    def check(self) -> None:
        """Judge the whole."""
        rules: Mapping[MediaKind, MediaRule] = self.capabilities.media
        for kind, count in self._items.items():
            most = rules[kind].max_items
            if most is not None and count > most:
                raise UsageError(
                    f"The request has {count:,} of the kind {kind!r}, and this model's API takes at most {most:,}; send"
                    " fewer.",
                    code="too_many_media",
                )
        limit = self.capabilities.max_media_bytes
        if limit is not None and self._bytes > limit:
            raise UsageError(
                f"The media of the request are {self._bytes:,} bytes of base64 together, and this model's API takes at"
                f" most {limit:,}; send fewer, or smaller ones.",
                code="media_too_large",
            )


def _called(block: MediaBlock) -> str:
    return f"The {block.type} {block.name!r}" if block.name else f"The {block.type}"


def _message(message: Message, bounds: _Bounds) -> Message:
    if not _has_media(message):
        return message
    return replace(message, blocks=_blocks(message.blocks, bounds))


def _blocks(blocks: Sequence[Block], bounds: _Bounds) -> tuple[Any, ...]:
    made: list[Block] = []
    for block in blocks:
        if isinstance(block, MediaBlock) and (block.data or block.url or block.file_id):
            made.append(bounds.fit(block))
        elif isinstance(block, ToolResultBlock):
            content: tuple[ResultContent, ...] = _blocks(block.content, bounds)
            made.append(replace(block, content=content))
        else:
            made.append(block)
    return tuple(made)


def bytes_of(data: str) -> bytes:
    """Give the bytes of a base64 text; none of one that is broken."""
    try:
        return base64.b64decode(data)
    except ValueError:
        return b""
