"""Base URLs as people give them, in one form."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from kode.core.errors import UsageError

__all__ = ["base_url"]


def base_url(url: str, *, version: str = "v1", endpoint: str = "/chat/completions") -> tuple[str, str]:
    """Bring a base URL into one form, no final slash, with a version, without the endpoint; and give its query.

    Args:
        url: As given.
        version: Added to a URL that names none.
        endpoint: Cut off, should the URL end with it.

    Raises:
        UsageError: It is none, or holds what would be logged (``bad_base_url``).
    """
    try:
        parts = urlsplit(url.strip())
        host = parts.hostname if parts.port != 0 else None
    except ValueError:
        parts, host = urlsplit(""), None
    problem = None
    if parts.scheme not in ("http", "https") or not host:
        problem = "has no http:// or https:// with a host, or an odd port"
    elif parts.username is not None or parts.password is not None:
        problem = "holds a user or password, which would be logged: give api_key or extra_headers"
    elif parts.fragment or (parts.query and not _QUERY.fullmatch(parts.query)):
        problem = "has a fragment, or more of a query than api-version, which would be logged: give keys as api_key"
    if problem is not None:
        shown = f"{parts.scheme}://{host}{parts.path}" if host else "given"
        example = f"http://localhost:8000/{version}"
        raise UsageError(f"The base URL {shown} {problem}; such as {example}.", code="bad_base_url")
    path = parts.path.rstrip("/").removesuffix(endpoint).rstrip("/")
    if not parts.query and not any(_VERSION.fullmatch(part) for part in path.split("/")):
        path += f"/{version}"
    return f"{parts.scheme}://{parts.netloc}{path}", f"?{parts.query}" if parts.query else ""


_QUERY = re.compile(r"api-version=[\w.-]{1,40}", re.ASCII)
_VERSION = re.compile(r"v\d+\w*")
