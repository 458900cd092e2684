"""Google's Files API: https://ai.google.dev/gemini-api/docs/files. A file stays for two days.

It is announced, sent to the URL that the answer names, and then asked about until it is ready: a video takes a while.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from kode.core.provider.base import MediaFile, Uploaded
from kode.core.provider.failure import provider_error
from kode.core.provider.wire.http import Http
from kode.core.provider.wire.upload import answered, file_name, odd_answer

__all__ = ["upload"]

READY_S = 600.0
"""The longest that a file may take to become ready."""
LOOK_S = 2.0
"""Between two looks."""


async def upload(http: Http, base_url: str, file: MediaFile) -> Uploaded:
    """Send a file, and wait until it is ready.

    Args:
        http: Connections, with the key.
        base_url: Of the API, its version last.
        file: What to send.

    Raises:
        ProviderError: It was refused, or never became ready.
    """
    where = await _announced(http, base_url, file)
    plain = {"x-goog-upload-offset": "0", "x-goog-upload-command": "upload, finalize", "content-type": file.media_type}
    found = (await answered(http.post(where, file.data, plain=plain), http.who)).get("file")
    with http.clock.move_on_after(READY_S):
        while isinstance(found, dict) and found.get("state") == "PROCESSING" and isinstance(found.get("name"), str):
            await http.clock.sleep(LOOK_S)
            found = await answered(http.post(f"{base_url}/{found['name']}", b"", method="GET"), http.who)
    return _uploaded(found, http.who)


async def _announced(http: Http, base_url: str, file: MediaFile) -> str:
    """Announce a file; returns where to send it."""
    head, _, version = base_url.rpartition("/")
    plain = {
        "x-goog-upload-protocol": "resumable",
        "x-goog-upload-command": "start",
        "x-goog-upload-header-content-length": str(len(file.data)),
        "x-goog-upload-header-content-type": file.media_type,
    }
    body = json.dumps({"file": {"displayName": file_name(file)}}).encode()
    async with http.post(f"{head}/upload/{version}/files", body, plain=plain) as answer:
        where = answer.header("x-goog-upload-url")
        answer.complete = True
    if not where:
        raise odd_answer(http.who)
    if urlsplit(where)[:2] != urlsplit(base_url)[:2]:
        text = f"{http.who} wants a file sent to another server than the one asked: not done with a key."
        raise provider_error("protocol", text, provider=http.who)
    return where


def _uploaded(found: Any, who: str) -> Uploaded:
    uri = found.get("uri") if isinstance(found, dict) else None
    if not isinstance(uri, str) or not uri:
        raise odd_answer(who)
    state = found.get("state", "ACTIVE")
    if state != "ACTIVE":
        raise provider_error("bad_request", f"{who} took a file, but it is {str(state)[:20]!r}.", provider=who)
    return Uploaded(url=uri, expires_at=_moment(found.get("expirationTime")))


def _moment(text: Any) -> int | None:
    try:
        return round(datetime.fromisoformat(text).timestamp() * 1e6)
    except (TypeError, ValueError):
        return None
