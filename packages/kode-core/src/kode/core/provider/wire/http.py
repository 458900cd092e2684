"""HTTP to a model vendor: shared connections, time-outs, streams of events, and every failure as a ``ProviderError``.

* Connections are shared by all that one ``Http`` serves, one client per event loop: a socket belongs to its loop.
* Nothing is tried again here (``retry`` does that, where a new attempt can be announced), and no redirect is followed:
  the key would go where nobody meant it to.
* Proxies of the environment are not used unless asked for: a proxy sees prompts, and in plain HTTP the key.
* What is secret (the key, extra headers, a proxy's password) lives in a ``Secrets``, which shows itself nowhere. Errors
  are raised without the error of the library behind them, whose frames hold the headers.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from functools import cache
from itertools import count
from types import TracebackType
from typing import Final
from urllib.parse import unquote, urlsplit

import httpx
from anyio.lowlevel import RunVar

from kode.core.clock import Clock, RealClock
from kode.core.errors import ProviderError, UsageError
from kode.core.provider.failure import provider_error
from kode.core.provider.wire.broken import broken, text_of
from kode.core.provider.wire.credentials import Secrets, place
from kode.core.provider.wire.options import HttpOptions
from kode.core.provider.wire.refusal import excerpt, phrase, read_refusal, retry_after
from kode.core.provider.wire.sse import SseEvent, SseParser

__all__ = ["EventStream", "Http"]

CLOSE_S: Final = 2.0
"""What giving a connection back may take."""
ERROR_S: Final = 10.0
"""What reading the body of a refusal may take."""
ERROR_BYTES: Final = 65_536
LINGER_S: Final = 2.0
"""How long, all in all, a complete reply waits for what servers may send behind it: usage, or the mark of the end.
Content begins it anew: some servers say early, or with each piece, that the model has stopped."""


class Http:
    """The connections of one provider.

    Args:
        who: The provider's name, for errors.
        secrets: Put on each request.
        options: How to connect.
        clock: Bounds clean-up, and reads dates of ``Retry-After``.

    Raises:
        UsageError: A header cannot be sent.
    """

    def __init__(
        self, who: str, secrets: Secrets, options: HttpOptions | None = None, clock: Clock | None = None
    ) -> None:
        self.who = who
        self.options = options or HttpOptions()
        self.clock: Clock = clock or RealClock()
        password = urlsplit(self.options.proxy or "").password or ""
        self.secrets = secrets.also(hidden=(password, unquote(password)))
        self.secrets.check()
        # By a name of its own: older releases of anyio find such a variable by that.
        self._clients: RunVar[httpx.AsyncClient | None] = RunVar(f"kode.http.{next(_number)}", None)

    def post(
        self,
        url: str,
        body: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        plain: Mapping[str, str] | None = None,
        model: str | None = None,
        method: str = "POST",
    ) -> EventStream:
        """Ask. Entering what this returns sends the request.

        Args:
            url: Where to.
            body: JSON.
            headers: More of them, treated as secret.
            plain: More that are no secret.
            model: For errors.
            method: Of HTTP.
        """
        secrets = self.secrets.also(headers) if headers else self.secrets
        return EventStream(self, url, body, secrets, model, plain, method)

    def account(self, url: str) -> str:
        """Tell whose account this is: provider, server, and so little of the key's digest that it tells nothing."""
        return f"{self.who} {urlsplit(url).netloc} {self.secrets.mark()}"

    @property
    def connected(self) -> bool:
        """Whether the running event loop has a client, which may hold connections."""
        return self._clients.get() is not None

    def client(self) -> httpx.AsyncClient:
        """The client of the running event loop."""
        client, given = self._clients.get(), self.options.client
        if isinstance(given, httpx.AsyncClient):
            return given
        if client is None:
            client = given() if given is not None else self._make()
            self._clients.set(client)
        return client

    async def close(self) -> None:
        """Close the connections of this event loop; those of others end with theirs. A later request opens new ones."""
        client = self._clients.get()
        if client is not None:
            self._clients.set(None)
            with self.clock.move_on_after(CLOSE_S, shield=True):
                await client.aclose()

    def _make(self) -> httpx.AsyncClient:
        options = self.options
        return httpx.AsyncClient(
            verify=options.tls or _tls(options.env_proxy),
            proxy=options.proxy,
            trust_env=options.env_proxy,
            limits=httpx.Limits(max_connections=options.max_connections, max_keepalive_connections=100),
            timeout=httpx.Timeout(
                connect=options.connect_timeout_s,
                read=options.idle_timeout_s,
                write=options.idle_timeout_s,
                pool=options.pool_timeout_s,
            ),
        )


class EventStream:
    """One answer on its way: an async context manager to ``read`` from."""

    __slots__ = (
        "_body", "_bytes", "_ends", "_first", "_headers", "_http", "_method", "_model", "_parser", "_response",
        "_secrets", "_seen", "_url", "complete",
    )  # fmt: skip

    def __init__(
        self,
        http: Http,
        url: str,
        body: bytes,
        secrets: Secrets,
        model: str | None,
        plain: Mapping[str, str] | None = None,
        method: str = "POST",
    ) -> None:
        self.complete = False
        """Set by who reads when the reply is whole: what is left matters less, and the connection can be kept."""
        self._ends: float | None = None  # when a complete reply waits no longer, by the monotonic clock
        self._http = http
        self._method = method
        self._url = url
        self._body = body
        self._headers = {**_HEADERS, **(plain or {})}
        self._secrets = secrets
        self._model = model
        self._response: httpx.Response | None = None
        self._bytes: AsyncIterator[bytes] | None = None
        self._parser: SseParser | None = None
        self._first = b""
        self._seen = 0

    async def __aenter__(self) -> EventStream:
        failure: ProviderError | None = None
        try:
            self._secrets.check()
            client = self._http.client()
            request = client.build_request(self._method, self._url, content=self._body, headers=self._headers)
            self._response = response = await client.send(
                request, auth=self._secrets, stream=True, follow_redirects=False
            )
            self._bytes = response.aiter_bytes()
            if response.status_code != 200:
                failure = await self._refused(response)
            elif _packed(response):
                text = "packed its answer, though it was asked not to. Have it, or the proxy before it, send it plain."
                failure = self._error("protocol", text, 200)
            elif _content_type(response).lower() not in ("application/json", "text/html"):
                self._parser = SseParser(self._http.options.max_event_bytes)
        except BaseException as error:
            await self._leave()
            if not isinstance(error, Exception):
                raise
            failure = self._explain(error)
        if failure is not None:
            await self._leave()
            raise failure  # outside of the handler: it must not carry the error it stands for
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave()

    async def read(self) -> list[SseEvent] | None:
        """Wait for the next events, at least one; None at the clean end of the body.

        An answer that is one JSON document is one event.

        Raises:
            ProviderError: The connection broke, was silent for too long, or what came is no stream of events.
        """
        failure: ProviderError | None = None
        try:
            if self._parser is None:
                return await self._read_document()
            with self._http.clock.move_on_after(self._patience()):
                return await self._read_events(self._parser)
            return None
        except Exception as error:  # noqa: BLE001 - nothing else leaves a provider
            failure = self._explain(error)
        raise failure

    def settle(self, complete: bool, grew: bool) -> None:
        """Note whether the reply is complete now, and whether what was read last was more of it."""
        self.complete = complete
        if grew:
            self._ends = None

    def header(self, name: str) -> str:
        """Give a header of the answer, while it is open; empty if it has none of that name."""
        return "" if self._response is None else str(self._response.headers.get(name, ""))

    # ---- reading

    def _patience(self) -> float | None:
        """Give the seconds that are left to wait; once the reply is complete they run out, whatever still comes."""
        if not self.complete:
            return None
        now = self._http.clock.monotonic()
        self._ends = now + LINGER_S if self._ends is None else self._ends
        return max(0.0, self._ends - now)

    async def _read_events(self, parser: SseParser) -> list[SseEvent] | None:
        while True:
            data = await self._next()
            if data is None:
                break
            events = parser.feed(data)
            if events:
                self._first = b"data:"
                return events
            if len(self._first) < 1_000:
                self._first += data[:1_000]
        if not self._first.lstrip(_BOM_AND_BLANKS).startswith(_FIELDS):
            raise self._no_stream(self._first.decode("utf-8", "replace"))
        return None

    async def _read_document(self) -> list[SseEvent] | None:
        if self._seen:
            return None
        pieces: list[bytes] = []
        most = self._http.options.max_event_bytes
        while (data := await self._next()) is not None:
            pieces.append(data)
            if self._seen > most:
                raise self._error("protocol", f"sent a reply of more than {most:,} bytes; {_SEE}max_event_bytes.")
        text = b"".join(pieces).decode("utf-8", "replace")
        if not text.lstrip().startswith(("{", "[")):
            raise self._no_stream(text)
        self._seen += 1
        return [SseEvent(text)]

    async def _next(self) -> bytes | None:
        assert self._bytes is not None
        data = await anext(self._bytes, None)
        if data is not None:
            self._seen += len(data)
            most = self._http.options.max_reply_bytes
            if self._seen > most:
                raise self._error("protocol", f"sent more than {most:,} bytes; {_SEE}max_reply_bytes.")
        return data

    async def _leave(self) -> None:
        """Give the connection back: drained if the reply is whole, else closed."""
        response, rest = self._response, self._bytes
        self._response = self._bytes = None
        if response is None or rest is None:
            return
        with self._http.clock.move_on_after(CLOSE_S, shield=True), suppress(Exception):
            if self.complete:
                with self._http.clock.move_on_after(_DRAIN_S):
                    async for _ in rest:
                        pass
            await response.aclose()
            # Its generators are nested and must all end here: a loop complains of those it has to end itself. With
            # the connection closed they give what was read before, then fail.
            async for _ in rest:
                pass

    # ---- failures

    async def _refused(self, response: httpx.Response) -> ProviderError:
        body = bytearray()
        with self._http.clock.move_on_after(ERROR_S), suppress(Exception):
            while len(body) < ERROR_BYTES and not _packed(response) and (data := await self._next()) is not None:
                body += data
        status, headers = response.status_code, response.headers
        hide = self._secrets.hide
        if status < 400:
            text = f"answered {status} {phrase(status)}".rstrip() + ", which is no reply. Check the base URL."
            if "location" in headers:
                where = excerpt(place(headers["location"]), hide)
                text = f"answered {status} and sends us on to {where}: not followed with a key. Mend the base URL."
            return self._error("protocol", text, status)
        text = bytes(body).decode("utf-8", "replace")
        refusal = read_refusal(status, text, excerpt(_content_type(response), hide), hide)
        again = {"true": True, "false": False}.get(headers.get("x-should-retry", ""))
        return refusal.error(
            self._http.who,
            model=self._model,
            request_id=self._request_id(),
            retry_after_s=retry_after(headers, self._http.clock.now()),
            retryable=again,
        )

    def _no_stream(self, text: str) -> ProviderError:
        response = self._response
        kind = excerpt(_content_type(response), self._secrets.hide) if response is not None else ""
        shown = excerpt(text, self._secrets.hide)
        if not shown:
            return self._error("truncated", "answered 200 with nothing in it.", 200)
        return self._error(
            "protocol",
            f"answered 200, but with {kind or 'no content type'} that is no stream of events: {shown!r}. Check that the"
            " base URL is that of the API.",
            200,
        )

    def _explain(self, error: Exception) -> ProviderError:
        """Turn whatever went wrong into one of our errors, with its text but without itself."""
        if isinstance(error, ProviderError):
            return error
        if isinstance(error, UsageError):
            return self._error("bad_request", f"cannot be asked: {error.message}")
        told = excerpt(text_of(error), self._secrets.hide)
        begun = self._response is not None
        code, text, retryable = broken(error, told, begun, place(self._url), self._http.options)
        return self._error(code, text, retryable=retryable)

    def _error(
        self, code: str, text: str, status: int | None = None, *, retryable: bool | None = None
    ) -> ProviderError:
        return provider_error(
            code,
            f"{self._http.who} {text}",
            retryable=retryable,
            provider=self._http.who,
            model=self._model,
            status=status,
            request_id=self._request_id(),
        )

    def _request_id(self) -> str | None:
        headers = self._response.headers if self._response is not None else {}
        found: str = headers.get("x-request-id") or headers.get("request-id") or ""
        fine = found and len(found) <= 100 and found.isprintable() and self._secrets.hide(found) == found
        return found if fine else None


# ---- pieces ------------------------------------------------------------------------------------------------

_number = count()
_SEE = "see HttpOptions."
_DRAIN_S = 0.25
_HEADERS = {
    "content-type": "application/json",
    "accept": "text/event-stream, application/json",
    # A packed stream is held back by whoever packs it.
    "accept-encoding": "identity",
    "user-agent": "kode-python",
}
_BOM_AND_BLANKS = b"\xef\xbb\xbf\r\n"
_FIELDS = (b"data", b"event", b"id", b"retry", b":")


@cache
def _tls(environment: bool) -> ssl.SSLContext:
    # Made once: it reads all authorities, which takes longer than a request on loopback.
    return httpx.create_ssl_context(trust_env=environment)


def _content_type(response: httpx.Response) -> str:
    return str(response.headers.get("content-type", "")).partition(";")[0].strip()


def _packed(response: httpx.Response) -> bool:
    # A few bytes of such can unpack to more than memory holds.
    return str(response.headers.get("content-encoding", "")).strip().lower() not in ("", "identity")
