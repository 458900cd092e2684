"""Send a file to a vendor, in a form (RFC 7578) or as it is; what comes back is one JSON object."""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from kode.core.provider.base import MediaFile
from kode.core.provider.failure import provider_error
from kode.core.provider.wire.frames import load
from kode.core.provider.wire.http import EventStream, Http

__all__ = ["answered", "file_name", "odd_answer", "sent_form"]

_SUFFIXES = {
    # Vendors tell files apart by the end of their names too.
    "image/jpeg": ".jpg",
    "audio/mpeg": ".mp3",
    "text/plain": ".txt",
    "text/markdown": ".md",
    "video/quicktime": ".mov",
}


async def sent_form(
    http: Http, url: str, fields: Mapping[str, str], file: MediaFile, plain: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Post a form with a file in it, and give what the vendor says of it.

    Raises:
        ProviderError: It was refused.
    """
    body, kind = _in_form(fields, file)
    return await answered(http.post(url, body, plain={**(plain or {}), "content-type": kind}), http.who)


async def answered(answer: EventStream, who: str) -> dict[str, Any]:
    """Send a request, and read the JSON object that answers it.

    Raises:
        ProviderError: It was refused, or answered otherwise.
    """
    async with answer:
        events = await answer.read()
        answer.complete = True
    found = load(events[0].data) if events else None
    if found is None:
        raise odd_answer(who)
    return found


def odd_answer(who: str) -> Exception:
    """The vendor took a file, but does not say where it is."""
    return provider_error("protocol", f"{who} took a file, but did not say under which id.", provider=who)


def _in_form(fields: Mapping[str, str], file: MediaFile) -> tuple[bytes, str]:
    """Write the body and its content type; the boundary is one that the file does not hold."""
    digest = sha256(file.data).hexdigest()
    boundary = f"kode-{digest}"
    parts = [f'--{boundary}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
             for name, value in fields.items()]  # fmt: skip
    head = (
        f'--{boundary}\r\ncontent-disposition: form-data; name="file"; filename="{file_name(file)}"\r\n'
        f"content-type: {file.media_type}\r\n\r\n"
    ).encode()
    body = b"".join([*parts, head, file.data, f"\r\n--{boundary}--\r\n".encode()])
    return body, f"multipart/form-data; boundary={boundary}"


def file_name(file: MediaFile) -> str:
    """Name it in letters that every header takes; the end says its type."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", file.name)[-100:].strip("._") or file.kind
    kind = file.media_type.partition(";")[0]
    suffix = _SUFFIXES.get(kind) or "." + re.sub(r"^x-|[^a-z0-9]", "", kind.rpartition("/")[2])[:8]
    return name if "." in name else name + suffix
