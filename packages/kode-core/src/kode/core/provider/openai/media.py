"""What media OpenAI's APIs take, and those of others who speak them.

Sources: pages "Images and vision", "File inputs", "Audio and speech" and "Files" of the OpenAI developer documentation,
and the pages on vision of the other vendors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from kode.core.provider.base import MediaKind, MediaRule

__all__ = ["MAX_MEDIA", "media_rules"]

_MB = 1024 * 1024
MAX_MEDIA = 48 * _MB
"""Of base64 text in one request of 50 MB: the rest is for what else it says."""
_IMAGES = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif"})
_INLINE = 36 * _MB
_KEPT = 50 * _MB
"""Of a file that a request refers to; more can be uploaded, but is not read."""
_IMAGE = MediaRule(_IMAGES, 20 * _MB, max_items=500, file_ids=None)
_BYTES = MediaRule(_IMAGES, 20 * _MB, urls=False, file_ids=None)
_AUDIO = MediaRule(frozenset({"audio/wav", "audio/mpeg"}), 20 * _MB, urls=False, file_ids=None)
_PDF = frozenset({"application/pdf"})
_SENT = MediaRule(_PDF, _INLINE, urls=False)
_FILE = MediaRule(_PDF, _INLINE, urls=False, max_upload_bytes=_KEPT, file_ids="file-")

_CHAT: Mapping[MediaKind, MediaRule] = {"image": _IMAGE, "audio": _AUDIO, "file": _FILE}
_RESPONSES: Mapping[MediaKind, MediaRule] = {
    "image": MediaRule(_IMAGES, 20 * _MB, max_items=500, max_upload_bytes=20 * _MB, file_ids="file-"),
    "file": MediaRule(_PDF, _INLINE, max_upload_bytes=_KEPT, file_ids="file-"),
}
_SEERS = {"deepseek": re.compile("vision"), "glm": re.compile(r"\dv"), "groq": re.compile("llama-4|vision")}
"""Vendors most of whose models only read, and the names of those that see."""
_OTHERS: Mapping[str, Mapping[MediaKind, MediaRule]] = {
    # By the provider's name. Who is not listed is taken to read images, sound and PDF files as bytes.
    "deepseek": {"image": MediaRule(_IMAGES, 32 * _MB, file_ids=None)},
    "glm": {"image": MediaRule(_IMAGES, 5 * _MB, file_ids=None)},
    "groq": {"image": MediaRule(_IMAGES, 3 * _MB, max_items=5, file_ids=None)},
    "kimi": {"image": _BYTES},
    "mistral": {"image": MediaRule(_IMAGES, 10 * _MB, max_items=8, file_ids=None)},
    "ollama": {"image": _BYTES},
    "openrouter": {"image": _IMAGE, "audio": _AUDIO, "file": _SENT},
    "qwen": {"image": MediaRule(_IMAGES, 7 * _MB, file_ids=None)},
    "xai": {"image": MediaRule(frozenset({"image/png", "image/jpeg"}), 20 * _MB, file_ids=None)},
}


def media_rules(name: str, model: str, *, api: str = "chat", official: bool = False) -> Mapping[MediaKind, MediaRule]:
    """Give the rules by kind; only the vendor itself keeps files.

    Args:
        name: The provider's.
        model: Some vendors have few that see.
        api: ``chat`` or ``responses``.
        official: Whether requests go to the vendor itself.
    """
    sees = _SEERS.get(name)
    if sees is not None and not sees.search(model):
        return {}
    if api == "responses":
        return _RESPONSES if official else {"image": _IMAGE, "file": _SENT}
    return _CHAT if official else _OTHERS.get(name, {"image": _IMAGE, "audio": _AUDIO, "file": _SENT})
