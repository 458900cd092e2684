"""What media the Messages API takes: pages "Vision", "PDF support" and "Files API" of the Claude developer platform."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from kode.core.provider.base import MediaKind, MediaRule

__all__ = ["MAX_MEDIA", "media_rules"]

_MB = 1024 * 1024
MAX_MEDIA = 30 * _MB
"""Of base64 text in one request of 32 MB: the rest is for what else it says."""
_IMAGES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_FILES = frozenset({"application/pdf", "text/plain"})
_IMAGE = MediaRule(_IMAGES, max_bytes=10 * _MB * 3 // 4, max_items=100, file_ids="file_")
"""The vendor counts the base64 text of an image, up to 10 MB."""
_PDF = frozenset({"application/pdf"})
_FILE = MediaRule(_FILES, max_bytes=MAX_MEDIA * 3 // 4, url_types=_PDF, file_ids="file_")
_KEPT = 500 * _MB


def media_rules(*, official: bool) -> Mapping[MediaKind, MediaRule]:
    """Give the rules by kind; only the vendor itself keeps files."""
    if not official:
        return {"image": _IMAGE, "file": _FILE}
    image = replace(_IMAGE, max_upload_bytes=_IMAGE.max_bytes)
    return {"image": image, "file": replace(_FILE, max_upload_bytes=_KEPT)}
