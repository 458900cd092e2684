"""The way to a project: the client, what is tried again, and writes that outlive who asked for them.

A request that is broken off may still be done by the server, after a later one; and one that is broken off while its
connection is being made loses that connection, open, to the garbage collector. So each runs in a task that the store
owns, to its end or its time-out, and whoever asked only waits for it. Writes of one agent go one after the other, in
the order in which they were begun.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import httpx

from kode.core.clock import RealClock
from kode.core.errors import StoreError, StoreUnavailableError, UsageError
from kode.store.supabase.errors import FAILURES, Refused, meaning
from supabase import AsyncClient, AsyncClientOptions, acreate_client

__all__ = ["Options", "Project"]

T = TypeVar("T")
FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 2.0
CLOSE_S: Final = 10.0
"""How long `close` waits for what is under way."""
SAID_BYTES: Final = 65_536
"""Of an error's body, what is read as JSON."""
ANSWERS: Final[dict[str, frozenset[str]]] = {
    "rest_hello_v1": frozenset({"at", "migrations", "rest", "isolation", "durable"}),
    "rest_apply_v1": frozenset({"at", "failed", "inbox"}),
    "rest_append_v1": frozenset({"at", "items"}),
    "rest_read_v1": frozenset({"at", "answers"}),
}
"""What the answers of functions consist of, those that give an object."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to ask."""

    connect_timeout_s: float = 10.0
    request_timeout_s: float = 60.0
    retry_s: float = 10.0
    max_connections: int = 20
    max_request_bytes: int = 100_000_000


@dataclass(eq=False)
class Project:
    """One project. Used from one event loop."""

    url: str
    key: str | None = field(repr=False)
    schema: str
    options: Options
    clock: RealClock = field(default_factory=RealClock)
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    was_open: bool = False
    _client: AsyncClient | None = field(default=None, repr=False)
    _http: httpx.AsyncClient | None = field(default=None, repr=False)
    _lines: dict[str, asyncio.Task[Any]] = field(default_factory=dict, repr=False)
    """The last write of each agent that is not done yet."""
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set, repr=False)

    @property
    def where(self) -> str:
        """The project, for a person."""
        return f"The Supabase project at {self.url}"

    @property
    def is_open(self) -> bool:
        """Whether it can be asked."""
        return self._client is not None

    async def open(self) -> None:
        """Make the client; nobody is asked."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise UsageError(
                "SupabaseStore needs asyncio, for its client knows no other event loop; run it by anyio.run(…) or "
                "asyncio.run(…).",
                code="asyncio_only",
            ) from None
        if not self.key:
            raise UsageError(
                "SupabaseStore has no key; give key=, or set SUPABASE_SERVICE_ROLE_KEY or SUPABASE_KEY.", code="no_key"
            )
        if not (self.key.isascii() and self.key.isprintable() and " " not in self.key):
            # It goes into a header, and the client would refuse it there in words that repeat it.
            raise StoreError(
                f"{self.where}: the key holds a blank, a line end or another character that is in no key (was it read "
                "from a file?); give it as the dashboard shows it.",
                code="bad_key",
            )
        options = self.options
        # Of HTTP/2, the library below writes every header to its debug log, the key too; and with one connection for
        # each request, one that is broken off disturbs no other. No redirect is followed: it would take the key along.
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(options.request_timeout_s, connect=options.connect_timeout_s),
            limits=httpx.Limits(
                max_connections=options.max_connections, max_keepalive_connections=options.max_connections
            ),
            event_hooks={"request": [self._check_size], "response": [_check_answer]},
            follow_redirects=False,
        )
        # The schema belongs into the options: `client.schema(…)` would make another HTTP client.
        given = AsyncClientOptions(
            schema=self.schema, httpx_client=self._http, auto_refresh_token=False, persist_session=False
        )
        self._client = await acreate_client(self.url, self.key, given)

    async def close(self) -> None:
        """Let what is under way end, and disconnect; a call says then that the store is closed."""
        if self._client is not None:
            self.was_open = True
            await self.give_up()

    async def give_up(self) -> None:
        """Let what is under way end, and disconnect. What takes too long is broken off."""
        try:
            if self._tasks:
                _, late = await asyncio.wait(self._tasks, timeout=CLOSE_S)
                for task in late:
                    task.cancel()
        finally:
            await self._disconnect()

    def closed(self) -> StoreError:
        """Make the error for a call to a store that was closed."""
        return StoreError(f"The store of {self.where} is closed; open it again.", code="closed")

    # ---- asking --------------------------------------------------------------------------------------------

    async def ask(self, name: str, arguments: dict[str, Any], again: frozenset[str]) -> Any:
        """Call a function and give its answer."""
        return await self.repeat(lambda: self._call(name, arguments), again)

    async def write(self, agent_id: str, name: str, arguments: dict[str, Any], again: frozenset[str]) -> Any:
        """Call a function behind all earlier writes of that agent, whatever becomes of who asked."""
        before = self._lines.get(agent_id)

        async def turn() -> Any:
            if before is not None:
                await asyncio.wait([before])
            return await self.ask(name, arguments, again)

        task = self._own(turn())
        self._lines[agent_id] = task
        task.add_done_callback(lambda done: self._left(agent_id, done))
        return await asyncio.shield(task)

    async def repeat(self, call: Callable[[], Awaitable[T]], codes: frozenset[str]) -> T:
        """Call again, later and later, while it fails with one of these codes and time is left.

        Not before the time that an answer asks to wait (``Retry-After``); if that is too long, the error comes at once.
        """
        end = self.clock.monotonic() + self.options.retry_s
        pause = FIRST_PAUSE_S
        while True:
            try:
                return await call()
            except StoreUnavailableError as error:
                wait = max(pause, error.fields.get("wait_s", 0.0))
                if error.code not in codes or self.clock.monotonic() + wait > end:
                    raise
            await self.clock.sleep(wait)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    # ---- inside --------------------------------------------------------------------------------------------

    async def _call(self, name: str, arguments: dict[str, Any]) -> Any:
        return await asyncio.shield(self._own(self._request(name, arguments)))

    async def _request(self, name: str, arguments: dict[str, Any]) -> Any:
        if self._client is None:
            raise self.closed()
        try:
            # Always POST, reads too: what asks by GET may be answered by a replica that lags behind.
            async with asyncio.timeout(self.options.request_timeout_s):
                answer: Any = (await self._client.rpc(name, arguments).execute()).data
        except FAILURES as error:
            failure = meaning(self.where, error, self.key or "")
        else:
            if isinstance(answer, str):
                raise StoreError(f"{self.where} does not answer in JSON; check the URL.", code="no_project")
            if not _is_answer(name, answer):
                raise StoreError(
                    f"{self.where} does not answer as KODE's functions do (something between that says yes to all?); "
                    "check the URL.",
                    code="no_project",
                )
            return answer
        raise failure

    async def _disconnect(self) -> None:
        http, self._http, self._client = self._http, None, None
        if http is not None:
            with suppress(httpx.TransportError, OSError, TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await http.aclose()

    def _own(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # who asked may be gone

    def _left(self, agent_id: str, task: asyncio.Task[Any]) -> None:
        if self._lines.get(agent_id) is task:
            del self._lines[agent_id]

    async def _check_size(self, request: httpx.Request) -> None:
        size, most = int(request.headers.get("content-length", 0)), self.options.max_request_bytes
        if size > most:
            raise UsageError(
                f"A request to {self.where} would have {size} bytes, max_request_bytes is {most}; send less at once, "
                "or raise it if the project takes more.",
                code="too_large",
                size=size,
                limit=most,
            )


def _is_answer(name: str, answer: Any) -> bool:
    """Tell whether a function can have answered that."""
    if name in ANSWERS:
        return isinstance(answer, dict) and answer.keys() >= ANSWERS[name]
    return isinstance(answer, bool if name == "drop_v1" else list)


async def _check_answer(response: httpx.Response) -> None:
    """Take an error as it comes: the client would lose its status."""
    if response.is_success:
        return
    body = await response.aread()
    said: Any = None
    with suppress(ValueError, RecursionError):
        said = json.loads(body[:SAID_BYTES])
    wait = response.headers.get("retry-after", "")
    wait_s = float(wait) if re.fullmatch(r"[0-9]{1,6}", wait) else 0.0  # or a date, which no gateway here sends
    raise Refused(response.status_code, said if isinstance(said, dict) else {}, wait_s)
