"""What media the Gemini API takes.

Sources: pages "File input methods", "Files API", and those on images, audio, video and documents of the Gemini API
documentation.
"""

from __future__ import annotations

from collections.abc import Mapping

from kode.core.provider.base import MediaKind, MediaRule

__all__ = ["MAX_MEDIA", "MEDIA"]

_MB = 1024 * 1024
MAX_MEDIA = 95 * _MB
"""Of base64 text in one request of 100 MB: the rest is for what else it says."""
_SCHEMES = ("https://", "http://", "gs://")
_INLINE = 70 * _MB
_KEPT = 2 * 1024 * _MB
MEDIA: Mapping[MediaKind, MediaRule] = {
    "image": MediaRule(
        frozenset({"image/png", "image/jpeg", "image/webp", "image/heic", "image/heif"}),
        _INLINE,
        max_items=3_600,
        max_upload_bytes=_KEPT,
        schemes=_SCHEMES,
    ),
    "audio": MediaRule(
        frozenset({"audio/wav", "audio/mpeg", "audio/aiff", "audio/aac", "audio/ogg", "audio/flac", "audio/mp4"}),
        _INLINE,
        max_upload_bytes=_KEPT,
        schemes=_SCHEMES,
    ),
    "video": MediaRule(
        frozenset(
            {"video/mp4", "video/mpeg", "video/quicktime", "video/x-msvideo", "video/x-flv", "video/mpg", "video/webm",
             "video/wmv", "video/x-ms-wmv", "video/3gpp"}
        ),
        _INLINE,
        max_items=10,
        max_upload_bytes=_KEPT,
        schemes=_SCHEMES,
    ),
    "file": MediaRule(
        frozenset(
            {"application/pdf", "application/json", "text/plain", "text/html", "text/css", "text/csv", "text/markdown",
             "text/xml", "text/rtf", "text/javascript", "text/x-python"}
        ),
        50 * _MB,
        max_upload_bytes=50 * _MB,
        schemes=_SCHEMES,
    ),
}  # fmt: skip
"""By kind. Its files are named by URLs, those of others on the web are fetched."""
