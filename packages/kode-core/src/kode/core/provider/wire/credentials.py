"""What nobody may see: keys and secret headers, put on requests and kept out of everything that is shown."""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from hashlib import sha256
from urllib.parse import quote, urlsplit

import httpx

from kode.core.errors import UsageError

__all__ = ["Secrets", "place"]

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SCHEME = re.compile(r"(basic|bearer|token|key|api-?key)[ \t:=]+", re.IGNORECASE)
_SHORTEST = 8
"""Shorter ones are no secrets ("none", "ollama"), and hiding them would spoil messages."""


class Secrets(httpx.Auth):
    """Headers that nobody may see, put on each request as it leaves.

    Args:
        headers: Names and values. Where one comes twice the last one counts.
        hidden: More texts that must not be shown, such as a proxy's password.

    """

    __slots__ = ("_headers", "_hidden", "_unfit")

    def __init__(self, headers: Iterable[tuple[str, str]] = (), hidden: Iterable[str] = ()) -> None:
        self._headers = {name.lower(): value for name, value in headers}
        self._unfit = [name for name, value in self._headers.items() if not _sendable(name, value)]
        values = [_SCHEME.sub("", value.strip(), count=1) for value in self._headers.values()]
        self._hidden = sorted({form for each in (*values, *hidden) for form in _forms(each)}, key=len, reverse=True)

    def check(self) -> None:
        """Refuse what cannot be sent. Not in the constructor: its frame, and that of its caller, hold the values.

        Raises:
            UsageError: A header is not one; its value is not shown.
        """
        if self._unfit:
            raise UsageError(
                f"The header {self._unfit[0][:50]!r} cannot be sent: names and values are printable ASCII without line"
                " ends. Check the key for stray characters.",
                code="bad_header",
            )

    def __bool__(self) -> bool:
        return bool(self._headers)

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Put the headers on."""
        request.headers.update(self._headers)
        yield request

    def hide(self, text: str) -> str:
        """Blot them out in a text, in whatever case, also where it was cut in the middle of one."""
        if not self._hidden:
            return text
        text = re.sub("|".join(map(re.escape, self._hidden)), "***", text, flags=re.IGNORECASE)
        end = text[-len(self._hidden[0]) :].lower()
        for each in self._hidden:
            known = next((n for n in range(len(each) - 1, _SHORTEST - 1, -1) if end.endswith(each[:n].lower())), 0)
            if known:
                return f"{text[:-known]}***"
        return text

    def mark(self) -> str:
        """Tell one account from another: 16 bits of a digest, too few to find a secret by or to know it again."""
        return sha256(repr(sorted(self._headers.items())).encode()).hexdigest()[:4]

    def also(self, headers: Mapping[str, str] | None = None, hidden: Iterable[str] = ()) -> Secrets:
        """The same and these."""
        return Secrets([*self._headers.items(), *(headers or {}).items()], [*self._hidden, *hidden])

    def __repr__(self) -> str:
        return "Secrets(***)"


def place(url: str) -> str:
    """Show a URL without what may be secret in it: user, password, query."""
    with suppress(ValueError):
        parts = urlsplit(url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{host}{port}{parts.path}" if host else parts.path
    return "that address"


def _forms(secret: str) -> Iterator[str]:
    """Give a secret as it is, and as JSON and a URL would quote it."""
    if len(secret) >= _SHORTEST:
        yield secret
        yield json.dumps(secret)[1:-1]
        yield quote(secret, safe="")


def _sendable(name: str, value: str) -> bool:
    return _TOKEN.fullmatch(name) is not None and value.isascii() and value.isprintable()
