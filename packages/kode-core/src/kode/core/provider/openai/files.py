"""OpenAI's Files API: https://platform.openai.com/docs/api-reference/files/create."""

from __future__ import annotations

from kode.core.provider.base import MediaFile, Uploaded
from kode.core.provider.wire.http import Http
from kode.core.provider.wire.upload import odd_answer, sent_form

__all__ = ["upload"]

KEPT_S = 30 * 24 * 3600
"""How long the vendor is asked to keep a file: the longest that it can be told."""


async def upload(http: Http, url: str, file: MediaFile) -> Uploaded:
    """Send a file that goes by itself after a month.

    Raises:
        ProviderError: It was refused.
    """
    fields = {
        "purpose": "vision" if file.kind == "image" else "user_data",
        "expires_after[anchor]": "created_at",
        "expires_after[seconds]": str(KEPT_S),
    }
    said = await sent_form(http, url, fields, file)
    found, until = said.get("id"), said.get("expires_at")
    if not isinstance(found, str) or not found:
        raise odd_answer(http.who)
    return Uploaded(file_id=found, expires_at=until * 1_000_000 if isinstance(until, int) else None)
