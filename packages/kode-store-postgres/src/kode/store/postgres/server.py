"""The way to a server: a pool, tasks of the store's own, and what is tried again.

Whoever waits for an answer may be cancelled at any moment; a query that is cut off in the middle would leave a
connection that nobody can use. So every query runs in a task that the store owns, to its end or its time-out, and who
asked only waits for it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final, TypeVar

import asyncpg

from kode.core.clock import RealClock
from kode.core.errors import StoreError, StoreUnavailableError, UsageError
from kode.core.store import redact
from kode.store.postgres.errors import map_errors

__all__ = ["Options", "Server", "option"]

T = TypeVar("T")
FIRST_PAUSE_S: Final = 0.02
LONGEST_PAUSE_S: Final = 1.0
KEEP_S: Final = 1.0
"""How long connections are kept between two uses, at most."""
CLOSE_S: Final = 10.0
"""How long `close` waits for what is under way."""
# Plans stay in use while tables grow, so they must not depend on how small those were; and with sequential scans as
# a last resort only, costs mean nothing to the compiler. Names without a schema are the system's: what others have put
# on the path of this user is never taken for a function of PostgreSQL's.
SETTINGS: Final = {
    "application_name": "kode",
    "enable_seqscan": "off",
    "jit": "off",
    "search_path": "pg_catalog, pg_temp",
    # `command_timeout_s` bounds them: what is broken off here while it waits for a synchronous standby would be told as
    # done, with a warning.
    "statement_timeout": "0",
}


@dataclass(frozen=True, slots=True)
class Options:
    """How to connect."""

    pool_min: int = 0
    pool_max: int = 10
    connect_timeout_s: float = 10.0
    command_timeout_s: float = 60.0
    retry_s: float = 10.0
    pgbouncer: bool = False

    def __post_init__(self) -> None:
        least = {"pool_min": 0, "pool_max": 1, "connect_timeout_s": 0.001, "command_timeout_s": 0.001, "retry_s": 0.0}
        for name, low in least.items():
            value = getattr(self, name)
            if not low <= value < inf:  # nor what is no number
                raise UsageError(f"{name} is {value}; give {low} or more.", code="bad_option", option=name)
        if self.pool_min > self.pool_max:
            raise UsageError(
                f"pool_min is {self.pool_min}, which is more than pool_max ({self.pool_max}).",
                code="bad_option",
                option="pool_min",
            )


class _Connection(asyncpg.Connection):  # type: ignore[misc]  # the driver has no types
    """No session state is ever made, so none need be reset: that would be a round trip for each query."""

    __slots__ = ()

    def get_reset_query(self) -> str:
        """Give nothing to run."""
        return ""


@dataclass(eq=False)
class Server:
    """One database, by its URL or by somebody else's pool. Used from one event loop."""

    dsn: str | None = field(repr=False)  # it may hold a password, and reporters of errors show what `self` is
    given: Any
    options: Options
    pool: Any = None
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    clock: RealClock = field(default_factory=RealClock)
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    was_open: bool = False
    kept: list[Any] = field(default_factory=list)
    """Connections that were used just now: to give one back and take it again would cost a commit two turns."""
    bell: asyncio.TimerHandle | None = None
    """Gives them back; there is one for all, and none while nothing was kept since it rang."""
    asking: int = 0
    """Who waits for a connection."""

    @property
    def where(self) -> str:
        """The server, for a person."""
        return "The PostgreSQL pool" if self.dsn is None else redact(self.dsn)

    @property
    def _timeouts(self) -> dict[str, Any]:
        return {"timeout": self.options.connect_timeout_s, "command_timeout": self.options.command_timeout_s}

    async def open(self, prepare: Callable[[Any], Awaitable[None]]) -> None:
        """Connect and prepare, if that was not done; nobody uses what is not prepared yet."""
        async with self.opening:
            if self.pool is None:
                pool = await self._reach()
                try:
                    await asyncio.shield(self.own(self._use(pool, prepare)))
                except BaseException:
                    await asyncio.shield(self.own(self._disconnect(pool)))
                    raise
                self.pool = pool

    async def apart(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Do something with a connection, also of a server that is not open, which it does not open."""
        if self.pool is not None:
            return await asyncio.shield(self.own(self.use(work)))
        pool = await self._reach()
        try:
            return await asyncio.shield(self.own(self._use(pool, work)))
        finally:
            await asyncio.shield(self.own(self._disconnect(pool)))

    async def _reach(self) -> Any:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise UsageError(
                "PostgresStore needs asyncio, for its driver knows no other event loop; run it by anyio.run(…) or "
                "asyncio.run(…).",
                code="asyncio_only",
            ) from None
        return self.given or await self._connect()

    async def _connect(self) -> Any:
        options = self.options
        with map_errors(self.where, connecting=True):
            try:
                return await asyncpg.create_pool(
                    self.dsn,
                    min_size=options.pool_min,
                    max_size=options.pool_max,
                    **self._timeouts,
                    **self._whom,
                    connection_class=_Connection,
                    statement_cache_size=0 if options.pgbouncer else 200,
                    server_settings={} if options.pgbouncer else SETTINGS,
                )
            except ssl.SSLError:  # one about a certificate is a ValueError too
                raise
            except ValueError:
                raise UsageError(f"{self.where} cannot be read as a URL; check it.", code="bad_url") from None

    async def connect(self) -> Any:
        """Make a connection outside the pool, for what must be told of."""
        with map_errors(self.where, connecting=True):
            return await asyncpg.connect(
                self.dsn,
                **self._timeouts,
                **self._whom,
                server_settings={**SETTINGS, "application_name": "kode watch"},
            )

    @property
    def _whom(self) -> dict[str, Any]:
        """Of several hosts only the primary: a replica may not know yet what was acknowledged. Asks nothing more.

        PostgreSQL says it by itself when a connection begins; behind PgBouncer one would have to ask.
        """
        told = self.dsn is None or "target_session_attrs" in self.dsn or self.options.pgbouncer
        return {} if told else {"target_session_attrs": "primary"}

    async def close(self) -> None:
        """Wait for what is under way, and disconnect. What takes too long is broken off."""
        async with self.opening:  # what somebody is opening just now would stay open
            if self.pool is None:
                return
            self.was_open = True
            if self.tasks:
                await asyncio.wait(self.tasks, timeout=CLOSE_S)
            pool, self.pool = self.pool, None
            if self.bell is not None:  # it would ring into the next pool
                self.bell.cancel()
                self.bell = None
            await self._give_back(pool)
            await self._disconnect(pool)

    async def _disconnect(self, pool: Any) -> None:
        """Let go of a pool; somebody else's stays open."""
        if pool is self.given:
            return
        try:
            async with asyncio.timeout(CLOSE_S):
                await pool.close()
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            pool.terminate()

    def closed(self) -> StoreError:
        """Make the error for a call to a store that was closed."""
        return StoreError(f"The store of {self.where} is closed; open it again.", code="closed")

    def own(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run something in a task of the store's own."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def ask(self, query: str, *values: Any, again: frozenset[str]) -> list[Any]:
        """Run a statement and give its rows, whatever becomes of who asked."""
        return await asyncio.shield(self.own(self.fetch(query, *values, again=again)))

    async def fetch(self, query: str, *values: Any, again: frozenset[str]) -> list[Any]:
        """Run a statement and give its rows; not to be cancelled."""

        async def work(db: Any) -> list[Any]:
            found: list[Any]
            try:
                found = await db.fetch(query, *values)
            except asyncpg.ReadOnlySQLTransactionError:
                await pool.expire_connections()  # it was a primary once; the next ones look for who is one now
                raise
            return found

        pool = self.pool
        return await self.repeat(lambda: self.use(work), again)

    async def use(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Do something with a connection; not to be cancelled."""
        if self.pool is None:
            raise self.closed()
        return await self._use(self.pool, work)

    async def _use(self, pool: Any, work: Callable[[Any], Awaitable[T]]) -> T:
        db = await self._take(pool)
        try:
            with map_errors(self.where):
                done = await work(db)
        except BaseException:
            await _release(pool, db)
            raise
        if self.asking or pool is self.given or pool is not self.pool:
            await _release(pool, db)
        else:
            self._keep(pool, db)
        return done

    async def _take(self, pool: Any) -> Any:
        while self.kept and pool is self.pool:
            db = self.kept.pop()
            if _lives(db):
                return db
            await _release(pool, db)
        self.asking += 1
        try:
            with map_errors(self.where, connecting=True):
                return await pool.acquire(timeout=self.options.connect_timeout_s + self.options.command_timeout_s)
        finally:
            self.asking -= 1

    def _keep(self, pool: Any, db: Any) -> None:
        if self.bell is None:
            self.bell = asyncio.get_running_loop().call_later(KEEP_S, self._ring, pool)
        self.kept.append(db)

    def _ring(self, pool: Any) -> None:
        self.bell = None
        if self.kept:
            self.own(self._give_back(pool))

    async def _give_back(self, pool: Any) -> None:
        """Let the pool have its connections: it knows how old they may become."""
        kept, self.kept = self.kept, []
        for db in kept:
            await _release(pool, db)

    async def repeat(self, call: Callable[[], Awaitable[T]], codes: frozenset[str]) -> T:
        """Call again, later and later, while it fails with one of these codes and time is left."""
        end = self.clock.monotonic() + self.options.retry_s
        pause = FIRST_PAUSE_S
        while True:
            try:
                return await call()
            except StoreUnavailableError as error:
                if error.code not in codes or self.clock.monotonic() + pause > end:
                    raise
            await self.clock.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)


def _lives(db: Any) -> bool:
    try:
        return not db.is_closed()
    except asyncpg.InterfaceError:  # the pool has taken it back: it was cut off
        return False


async def _release(pool: Any, db: Any) -> None:
    # Of one that was cut off the pool may know already, and calls that an internal error.
    with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
        await pool.release(db)


_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false"}


def option(name: str, value: str, kind: Any) -> Any:
    """Read an option of a URL, of the kind that `Options` gives it."""
    try:
        if kind == "bool":
            return {"true": True, "1": True, "false": False, "0": False}[value.lower()]
        return {"int": int, "float": float}.get(kind, str)(value)
    except (KeyError, ValueError):
        raise UsageError(
            f"{name} is {value[:40]!r}; give {_KINDS.get(kind, kind)}.", code="bad_url", option=name
        ) from None
