"""How to connect to a model vendor: time-outs, bounds, proxy and trust."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import httpx

from kode.core.errors import UsageError
from kode.core.provider.wire.sse import MAX_EVENT_BYTES

__all__ = ["HttpOptions"]

_POSITIVE: Final = (
    "connect_timeout_s", "idle_timeout_s", "pool_timeout_s", "max_connections", "max_reply_bytes", "max_event_bytes",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """How to connect. The defaults fit a vendor on the internet and a server on the same machine.

    Raises:
        UsageError: A time-out or bound is not positive.
    """

    connect_timeout_s: float = 10.0
    """For a connection, its name included, and as long again for TLS."""
    idle_timeout_s: float = 300.0
    """The longest silence, before the first byte and between two. Models think for minutes; the whole reply is bounded
    by ``Limits.model_timeout_s``."""
    pool_timeout_s: float = 60.0
    """How long to wait for a free connection."""
    max_connections: int = 1_000
    """At once, per event loop. A vendor's rate limit comes sooner."""
    max_reply_bytes: int = 64 * 1024 * 1024
    """Of one whole reply; one that sends more is broken off (``protocol``)."""
    max_event_bytes: int = MAX_EVENT_BYTES
    """Of one event of a stream, and of a reply that comes as one document."""
    proxy: str | None = field(default=None, repr=False)
    """Such as ``http://user:password@proxy:3128``."""
    env_proxy: bool = False
    """Use ``HTTPS_PROXY`` and its like, and ``SSL_CERT_FILE``, of the environment."""
    tls: ssl.SSLContext | None = None
    """How to trust; None: the public authorities that ``certifi`` lists."""
    client: httpx.AsyncClient | Callable[[], httpx.AsyncClient] | None = field(default=None, repr=False)
    """A client of yours, which is never closed here and serves one event loop; or what makes one, for each loop and
    again after each close, and those are closed. Of this table only the bounds count then."""

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            value = getattr(self, name)
            if not value > 0:
                raise UsageError(f"HttpOptions.{name} is {value!r}; give more than 0.", code="bad_http_options")
