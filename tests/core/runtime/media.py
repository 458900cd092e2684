"""Media to send, small and large, and what a provider takes of them."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

from kode.core.kernel.message import MediaBlock

CANARY = "sk-canary-0123456789"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 400  # 102 kB: apart from its message
PDF = b"%PDF-1.7\n" + bytes(5_000_000)
SMALL = b"\x89PNG\r\n\x1a\n" + bytes(100)


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def image(data: bytes = PNG, **more: Any) -> MediaBlock:
    return MediaBlock("image", more.pop("kind", "image/png"), data=text(data), **more)


def blocks(request: Any, at: int = 0) -> list[Any]:
    return list(request.messages[at].blocks)


def narrowed(provider: Any, **changes: Any) -> Any:
    """A scripted provider that takes less."""
    kinds = changes.pop("kinds", None)
    media = {kind: replace(rule, **changes) for kind, rule in provider.capabilities.media.items()}
    kept = media if kinds is None else {kind: media[kind] for kind in kinds}
    provider.capabilities = replace(provider.capabilities, media=kept)
    return provider
