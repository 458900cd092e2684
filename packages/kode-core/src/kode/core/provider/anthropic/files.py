"""Anthropic's Files API: https://platform.claude.com/docs/en/build-with-claude/files.

A file stays until it is deleted.
"""

from __future__ import annotations

from kode.core.provider.base import MediaFile, Uploaded
from kode.core.provider.wire.http import Http
from kode.core.provider.wire.upload import odd_answer, sent_form

__all__ = ["FILES_BETA", "upload"]

FILES_BETA = "files-api-2025-04-14"
"""The feature is asked for by this name."""


async def upload(http: Http, url: str, file: MediaFile, *, version: str) -> Uploaded:
    """Send a file.

    Raises:
        ProviderError: It was refused.
    """
    plain = {"anthropic-version": version, "anthropic-beta": FILES_BETA}
    found = (await sent_form(http, url, {}, file, plain)).get("id")
    if not isinstance(found, str) or not found:
        raise odd_answer(http.who)
    return Uploaded(file_id=found)
