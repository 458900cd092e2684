"""What providers over HTTP have in common: an address, a key, connections, prices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from urllib.parse import urlsplit

from kode.core.clock import Clock
from kode.core.errors import NotBoundError, UsageError
from kode.core.provider.base import ModelRequest, Prices
from kode.core.provider.failure import provider_error
from kode.core.provider.prices import prices_of
from kode.core.provider.wire.credentials import Secrets
from kode.core.provider.wire.http import Http
from kode.core.provider.wire.options import HttpOptions

__all__ = ["Vendor"]


class Vendor:
    """Base of the providers.

    Args:
        name: Stored with each message.
        model: Asked when a request names none.
        address: Base URL and query, in one form.
        secrets: Sent with each request.
        host: The vendor's own, which asks for a key.
        env: Variables that may hold the key, best first, for errors.
        prices: Default: what ``PRICES`` says of the model.
        http: How to connect.
        clock: Bounds clean-up.

    Raises:
        NotBoundError: The vendor itself is to be asked and there is no key (``missing_key``).
        UsageError: A header cannot be used.
    """

    model = base_url = _query = ""  # for the repr of one that was refused in the making

    def __init__(
        self,
        name: str,
        model: str,
        address: tuple[str, str],
        secrets: Secrets,
        *,
        host: str,
        env: Sequence[str],
        prices: Prices | None,
        http: HttpOptions | None,
        clock: Clock | None,
    ) -> None:
        self.name = name
        self.model = model
        self.base_url, self._query = address
        self.official = urlsplit(self.base_url).hostname == host
        """Whether the vendor itself is asked."""
        if self.official and not secrets:
            raise NotBoundError(
                f"Provider {name!r} needs a key for {self.base_url}: set {' or '.join(env)}, or pass api_key. A server"
                " of your own needs none: give its URL (base_url, --base-url).",
                code="missing_key",
                name=name,
                env=env[0],
            )
        self.http = Http(name, secrets, http, clock)
        self._prices = prices

    def __repr__(self) -> str:
        return f"{type(self).__name__}(model={self.model!r}, base_url={self.base_url + self._query!r})"

    @property
    def account(self) -> str:
        """Whose files they are; see ``TakesUploads``."""
        return self.http.account(self.base_url)

    @property
    def prices(self) -> Prices | None:
        """What its own model costs."""
        return self._costs(self.model)

    async def close(self) -> None:
        """Close connections; see ``Provider.close``."""
        await self.http.close()

    def _named(self, request: ModelRequest) -> ModelRequest:
        return request if request.model else replace(request, model=self.model)

    def _costs(self, model: str) -> Prices | None:
        return self._prices or prices_of(self.name, model)

    def _reads(self, request: ModelRequest) -> tuple[str, str, Prices | None, Callable[[str], str]]:
        """Give what a reader of replies is made with; what is secret in a request is hidden in its reply, too."""
        model = request.model or self.model
        return self.name, model, self._costs(model), self.http.secrets.also(request.extra_headers).hide

    @contextmanager
    def _writing(self, model: str) -> Iterator[None]:
        """Turn what keeps a request from being written into a failure of the provider."""
        try:
            yield
        except UsageError as error:
            raise provider_error("bad_request", error.message, provider=self.name, model=model) from error
