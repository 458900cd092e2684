"""What can go wrong on the way to a server and back: one table of the library's exceptions, in our codes and words."""

from __future__ import annotations

import httpx

from kode.core.provider.wire.options import HttpOptions

__all__ = ["broken", "text_of"]

_BROKEN: dict[type[Exception], tuple[str, str]] = {
    # The first that fits counts.
    httpx.ConnectTimeout: ("timeout", "could not be connected to at {where} within {o.connect_timeout_s} s."),
    httpx.PoolTimeout: ("timeout", "had all {o.max_connections} connections busy for {o.pool_timeout_s} s."),
    httpx.TimeoutException: ("timeout", "was silent for {o.idle_timeout_s} s; raise HttpOptions.idle_timeout_s."),
    httpx.ConnectError: ("connection", "cannot be reached at {where}: {told}. Check the base URL and the network."),
    httpx.ProxyError: ("connection", "cannot be reached through the proxy: {told}."),
    httpx.RemoteProtocolError: ("protocol", "does not speak HTTP at {where}: {told}. Check the base URL."),
    httpx.NetworkError: ("connection", "broke the connection {when}: {told}."),
    OSError: ("connection", "broke the connection {when}: {told}."),
    Exception: ("protocol", "could not be asked at {where}: {name}: {told}."),
}


def broken(error: Exception, told: str, begun: bool, where: str, options: HttpOptions) -> tuple[str, str, bool | None]:
    """Give code, text and whether to try again (None: as the code says).

    Args:
        error: What happened.
        told: Its text, fit to be shown.
        begun: Whether the server had begun to answer.
        where: The address, fit to be shown.
        options: In force.
    """
    kind = next((kind for kind in _BROKEN if isinstance(error, kind)), Exception)
    code, text = _BROKEN[kind]
    retryable: bool | None = None
    if kind is httpx.ConnectError and "certificate" in told.lower():
        text, retryable = "cannot be trusted at {where}: {told}. Check the address, or give HttpOptions.tls.", False
    elif kind is httpx.RemoteProtocolError and told.startswith(("Server disconnected", "peer closed")):
        code = "truncated" if begun else "connection"
        text = "ended the connection {when}: {told}."
    when = "in the middle of the reply" if begun else "before it answered"
    name = type(error).__name__
    return code, text.format(where=where, when=when, told=told.rstrip("."), name=name, o=options), retryable


def text_of(error: Exception) -> str:
    """Give what an error says, or the first one behind it that says anything."""
    at: BaseException | None = error
    while at is not None:
        if str(at):
            return str(at)
        at = at.__cause__ or at.__context__
    return type(error).__name__
