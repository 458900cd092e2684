"""`PostgresStore`: agents in PostgreSQL, for any number of processes on any number of machines."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Final, Self, TypeVar
from urllib.parse import SplitResult, urlencode

from kode.core.clock import Clock, RealClock
from kode.core.errors import StoreError, StoreUnavailableError, UsageError
from kode.core.store import (
    Appended,
    Changes,
    Commit,
    Committed,
    Condition,
    Due,
    Enqueued,
    Item,
    Key,
    Loaded,
    Question,
    Record,
    SchemaStatus,
    SchemaSupport,
    Store,
    ahead,
)
from kode.core.store.contract import Copy, Scan
from kode.core.store.lookups import Get, Lookup
from kode.core.store.open import url_options
from kode.core.store.server_time import ServerTime
from kode.store.postgres import alone, copying, migrations, reads, rows, select
from kode.store.postgres.batches import Batches
from kode.store.postgres.ears import Ears
from kode.store.postgres.errors import LOST, NOT_WRITTEN
from kode.store.postgres.migrations import AutoMigrate
from kode.store.postgres.server import Options, Server, option
from kode.store.postgres.tables import LAYOUTS, quoted
from kode.store.postgres.writes import CONTENDED, Writes

__all__ = ["PostgresStore"]

T = TypeVar("T")
READERS: Final = 4
"""Statements at once that read for many callers; others read by statements of their own."""
LARGEST: Final = 800_000_000
"""Bytes of one act. Beyond 1 GiB, with what is around it, the server breaks the connection off without a word."""
UNIQUE_VIOLATION: Final = "23505"
AGAIN: Final = NOT_WRITTEN - CONTENDED
"""After which a batch is sent again as it is. An agent that somebody has locked is taken out of it first."""
NOW: Final = "SELECT (extract(epoch FROM pg_catalog.clock_timestamp()) OPERATOR(pg_catalog.*) 1000000)::bigint"
SETUP: Final = "SELECT {}, pg_catalog.pg_is_in_recovery()".format(
    ", ".join(
        f"pg_catalog.current_setting('{name}')"
        for name in ("transaction_isolation", "synchronous_commit", "fsync", "full_page_writes", "server_encoding")
    )
)
DROPPED: Final = 5_000
"""Rows removed in one transaction."""
DRIVER: Final = (
    "sslmode",
    "sslcert",
    "sslkey",
    "sslrootcert",
    "sslcrl",
    "target_session_attrs",
    "host",
    "port",
    "user",
)
"""Options of a URL that are the driver's."""


class PostgresStore(Store, SchemaSupport):
    """Keeps agents in one schema of a PostgreSQL database. Needs asyncio: the driver knows no other event loop.

    A commit is one round trip and one transaction, which commits of other agents that come at the same moment share
    (see `writes`). It makes no session state, so it works behind PgBouncer in transaction mode (`pgbouncer=True`).
    Cancelling a caller never disturbs another. Use one object from one event loop.

    What was lost on the way is repeated as long as `retry_s` allows: reads, and writes that the server has rolled back;
    commits and items also when nobody knows whether they landed, for they say who they are.

    Args:
        dsn: ``postgresql://user:password@host:5432/database``, with what asyncpg takes as options.
        pool: A pool of asyncpg's instead; it stays open when the store is closed.
        schema: Where the tables are; several may be in one database.
        auto_migrate: ``new``: make the schema where there is none, change none that is there. ``always``: upgrade
            it too. ``never``: neither.
        pool_min: Connections that are kept, however long nobody uses them.
        pool_max: Connections at most; two of them write.
        connect_timeout_s: How long to wait for a new one.
        command_timeout_s: How long any statement may take.
        retry_s: How long what failed in passing is tried again.
        pgbouncer: Prepare no statements under a name and set nothing for the session.
        clock: None or a real one: leases expire by the server's. A virtual one for tests tells the time itself.

    Raises:
        UsageError: ``bad_url``, ``bad_schema``.
    """

    # One record may be larger; a larger commit goes in parts. A statement of PostgreSQL has room for 1 GB.
    max_batch_bytes = 134_217_728

    def __init__(
        self,
        dsn: str | None = None,
        *,
        pool: Any = None,
        schema: str = "kode",
        auto_migrate: AutoMigrate = "new",
        clock: Clock | None = None,
        **options: Any,
    ) -> None:
        super().__init__(clock)
        if (dsn is None) == (pool is None):
            raise UsageError("Give PostgresStore either a URL or a pool.", code="bad_url")
        if auto_migrate not in ("new", "always", "never"):
            raise UsageError(f"auto_migrate is {auto_migrate!r}; give new, always or never.", code="bad_option")
        self.dsn = dsn
        self.schema = migrations.check_schema(schema)
        self.server = Server(dsn, pool, Options(**options))
        self._auto: AutoMigrate = auto_migrate
        self._tells_time = clock is not None and not isinstance(clock, RealClock)
        self._server_time = ServerTime(self.server.clock)
        self._there = quoted(schema)
        self._queue = Writes(self._carry, self.server.own, self.server.repeat)
        self._ears = Ears(self.server, self._there, self._changed)
        self._readers = Batches(self._look_up, self.server.own, width=READERS)
        marks = ", ".join(f"${n}" for n in range(1, 10 + 3 * len(LAYOUTS)))
        self._apply_sql = f"SELECT * FROM {self._there}.apply_v1({marks})"
        marks = ", ".join(f"${n}" for n in range(1, 1 + alone.ARGUMENTS))
        self._commit_sql = f"SELECT * FROM {self._there}.commit_v1({marks})"
        self._append_sql = f"SELECT * FROM {self._there}.append_v1($1, $2, $3, $4)"

    @classmethod
    def from_url(cls, url: SplitResult, *, clock: Clock | None = None) -> Self:
        """``postgresql://user:password@host:5432/database``; options as the arguments are called, and the driver's."""
        own = {field.name: field.type for field in fields(Options)}
        given = url_options(url, "schema", "auto_migrate", *own, *DRIVER)
        driver = urlencode({name: value for name, value in given.items() if name in DRIVER})
        options: dict[str, Any] = {
            name: option(name, value, own.get(name, "str")) for name, value in given.items() if name not in DRIVER
        }
        return cls(url._replace(query=driver).geturl(), **options, clock=clock)

    # ---- open and close ------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect, check the server and its schema, and make that if `auto_migrate` says so.

        Raises:
            StoreUnavailableError: ``cannot_connect``, ``read_only``, ``too_many_connections``.
            StoreError: ``bad_login``, ``no_database``, ``permission_denied``, ``schema_missing``, ``schema_old``,
                ``schema_taken``.
            SchemaTooNewError: Newer code has changed the schema so that this cannot work on it.
            UsageError: ``asyncio_only``.
        """
        await self.server.open(self._prepare)

    async def close(self) -> None:
        """Finish what was begun and disconnect."""
        await asyncio.shield(asyncio.get_running_loop().create_task(self._end()))

    def schema_sql(self) -> Mapping[str, str]:
        """See `SchemaSupport.schema_sql`."""
        return {one.title: one.sql(self.schema) for one in migrations.shipped()}

    async def schema_status(self) -> SchemaStatus:
        """See `SchemaSupport.schema_status`."""
        return await self.server.apart(lambda db: migrations.status(db, self.schema, self.server.where))

    async def migrate(self, *, post: bool = False) -> list[str]:
        """See `SchemaSupport.migrate`; all in one transaction, and of several who do so at once one does it."""
        where = self.server.where
        return await self.server.apart(lambda db: migrations.migrate(db, self.schema, where, post=post))

    async def now(self) -> int:
        """Tell the time by the server's clock; it was asked no longer than a second ago, or is asked now."""
        if self._tells_time:
            return self.clock.now()
        if not self._server_time.fresh:
            (row,) = await self._read((NOW, []))
            self._server_time.hear(row[0])
        return self._server_time.now()

    # ---- writing -------------------------------------------------------------------------------------------

    async def apply(
        self, agent_id: str, conditions: Sequence[Condition], puts: Sequence[Record], deletes: Sequence[Key]
    ) -> int | None:
        """See `Records.apply`."""
        failed: int | None
        failed, _ = await self._bring(rows.Act(agent_id, conditions, puts, deletes))
        return failed

    async def apply_and_look(
        self,
        agent_id: str,
        conditions: Sequence[Condition],
        puts: Sequence[Record],
        deletes: Sequence[Key],
        *,
        uid: str,
        after: str,
    ) -> tuple[int | None, list[Record]]:
        """See `Records.apply_and_look`; it looks."""
        done: tuple[int | None, list[Record]]
        done = await self._bring(rows.Act(agent_id, conditions, puts, deletes, (uid, after)))
        return done

    async def append_inbox(self, agent_id: str, record: Record, *, now: int, bounded: bool) -> Appended:
        """See `Records.append_inbox`."""
        done: Appended = await self._bring(rows.Item(agent_id, record, now, bounded))
        return done

    async def drop(self, agent_id: str, uid: str) -> None:
        """See `Records.drop`."""
        while uid and await self._bring(rows.Drop(agent_id, uid)):
            pass

    async def copy_rows(self, records: Sequence[Record], copies: Sequence[Copy]) -> Sequence[bool]:
        """See `Forking.copy_rows`; the server copies what it has, in one statement."""
        found = await self._read(copying.copy(self._there, records, copies))
        held = {row[0] for row in found}
        return [copy.uid in held for copy in copies]

    async def commit(self, commit: Commit) -> Committed:
        """See `Store.commit`. A connection that breaks in the middle is no matter: it is repeated."""

        async def once() -> Committed:
            done = await super(PostgresStore, self).commit(commit)
            if done.repeated:
                await self._sure(reads.landed(self._there, commit))
            return done

        return await self._repeating(once)

    async def enqueue(self, agent_id: str, item: Item, *, uid: str | None = None) -> Enqueued:
        """See `Store.enqueue`. A connection that breaks in the middle is no matter: it is repeated.

        `Enqueued.duplicate` may then mean the first of these attempts.
        """

        async def once() -> Enqueued:
            done = await super(PostgresStore, self).enqueue(agent_id, item, uid=uid)
            if done.duplicate:
                await self._sure(reads.arrived(self._there, agent_id, item))
            return done

        return await self._repeating(once)

    # ---- reading -------------------------------------------------------------------------------------------

    async def look_up(self, agent_id: str, lookup: Lookup[T]) -> T:
        """Run a lookup, one round trip for each thing it asks."""
        try:
            ask: Any = next(lookup)
            while True:
                if isinstance(ask, ahead.Together):
                    found, *listed = await self._gather(reads.Together((ask.get, *ask.scans)))
                    answer: Any = found, listed
                    ask = lookup.send(answer)
                elif isinstance(ask, Get) and ask.keys:
                    (found,) = await self._gather(reads.Together((ask,)))
                    ask = lookup.send(found)
                elif isinstance(ask, Get):
                    ask = lookup.send([])
                else:
                    ask = lookup.send([*await self.scan(agent_id, ask)])
        except StopIteration as end:
            value: T = end.value
            return value

    async def load(self, agent_id: str, *, recipe: bool = False) -> Loaded | None:
        """See `Store.load`; two round trips."""
        now = await self._time()

        def live(lease: Record | None, header: Record) -> Any:
            return self._live_lease(lease, header, now)

        return await self._settled(agent_id, lambda: ahead.load(agent_id, live, now, recipe=recipe))

    async def get(self, agent_id: str, keys: Sequence[Key]) -> list[Record | None]:
        """See `Records.get`."""
        if not keys:
            return []
        (found,) = await self._gather(reads.Together((Get(tuple(keys)),)))
        records: list[Record | None] = found
        return records

    async def scan(self, agent_id: str, ask: Scan) -> list[Record]:
        """See `Records.scan`."""
        if ask.kind == "inbox" and not ask.prefix and not ask.reverse:
            # Every agent that works looks into its inbox now and then.
            (found,) = await self._gather(reads.Together((ask,)))
            waiting: list[Record] = found
            return waiting
        layout = LAYOUTS[ask.kind]
        return [layout.record(ask.uid, row) for row in await self._read(reads.scan(self._there, ask))]

    async def due(self, now: int, limit: int, after: Due | None = None) -> list[Due]:
        """See `Records.due`."""
        return [Due(*row) for row in await self._read(reads.due(self._there, now, limit, after))]

    async def agents(self, prefix: str, after: str, limit: int, tenant: str | None = None) -> list[Record]:
        """See `Records.agents`."""
        found = await self._read(reads.agents(self._there, prefix, after, limit, tenant))
        return [LAYOUTS["header"].record("", row) for row in found]

    async def select(self, question: Question) -> list[tuple[str, Record]]:
        """See `QuerySupport.select`; one statement."""
        return select.found(question.kind, await self._read(select.select(self._there, question)))

    def watch(self, agent_id: str | None = None, *, poll_s: float = 1.0, clock: Clock | None = None) -> Changes:
        """See `Store.watch`. The server tells of changes at once; looking at intervals is for when it cannot."""
        changes = super().watch(agent_id, poll_s=poll_s, clock=clock)
        if self.server.pool is not None or not self.server.was_open:  # once closed, nobody would end it
            self._ears.listen()
        return changes

    async def look(self, agent_id: str | None) -> object:
        """See `WatchSupport.look`; one statement."""
        if agent_id is None:
            return None
        return [tuple(row) for row in await self._read(reads.look(self._there, agent_id))]

    async def sizes(self) -> dict[str, int]:
        """Tell how many bytes each table takes on the server's disk, with its indexes and what lies beside it."""
        return {row[0]: row[1] for row in await self._read(reads.sizes(self.schema))}

    # ---- inside --------------------------------------------------------------------------------------------

    async def _read(self, statement: tuple[str, list[Any]]) -> list[Any]:
        sql, values = statement
        if self.server.pool is None:
            await self._opened()
        return await self.server.ask(sql, *values, again=LOST)

    async def _gather(self, wanted: reads.Together) -> Any:
        if self.server.pool is None:
            await self._opened()
        return await self._readers.bring(wanted)

    async def _look_up(self, wanted: Sequence[reads.Together]) -> Sequence[Any]:
        """Read for many callers in one round trip."""
        merged = reads.Merged(wanted)
        sql, values = merged.statement(self._there)
        return merged.answers(await self.server.fetch(sql, *values, again=LOST))

    async def _bring(self, work: rows.Act | rows.Drop | rows.Item) -> Any:
        if self.server.pool is None:
            await self._opened()
        if isinstance(work, rows.Act | rows.Item) and work.weight > LARGEST:
            raise UsageError(
                f"{self.server.where}: {work.weight:,} bytes in one act are more than PostgreSQL can take at once; "
                f"send less than {LARGEST:,}.",
                code="bad_value",
                size=work.weight,
            )
        return await self._queue.bring(work)

    async def _opened(self) -> None:
        if self.server.was_open:
            raise self.server.closed()
        await self.open()

    async def _carry(self, works: Sequence[Any]) -> Sequence[Any]:
        """Write works of one kind in one round trip."""
        first = works[0]
        if isinstance(first, rows.Drop):
            sql = f"SELECT {self._there}.drop_v1($1, $2)"
            return [row[0] for row in await self.server.fetch(sql, first.uid, DROPPED, again=LOST)]
        if isinstance(first, rows.Act):
            if len(works) == 1 and (done := await self._commit(first)) is not None:
                return [done]
            time, *found = await self.server.fetch(self._apply_sql, *rows.apply(works), again=AGAIN)
            self._server_time.hear(time["failed"])
            return rows.applied(works, found)
        time, *found = await self.server.fetch(self._append_sql, *rows.append(works), again=AGAIN)
        self._server_time.hear(time["position"])
        return rows.appended(works, found)

    async def _commit(self, act: rows.Act) -> tuple[None, list[Record]] | None:
        """Write one commit alone; None if it is none, or was not to be written: then `apply_v1` says why."""
        arguments = alone.commit(act)
        if arguments is None:
            return None
        try:
            found = await self.server.fetch(self._commit_sql, *arguments, again=AGAIN)
        except StoreError as error:
            if error.fields.get("sqlstate") != UNIQUE_VIOLATION:
                raise
            return None
        if not found:
            return None
        self._server_time.hear(found[0]["now"])
        return None, [rows.waiting(row) for row in found[1:]]

    async def _sure(self, statement: reads.Statement) -> None:
        """Wait until what was found there is as durable as what is acknowledged.

        A synchronous standby may lack it still: whoever wrote it was cut off while he waited for that. One statement
        finds it and waits, for the next may be another server's.
        """
        sql, values = statement
        if not await self.server.ask(sql, *values, again=frozenset()):
            raise StoreUnavailableError(
                f"{self.server.where}: what was there is there no more; repeat it.", code="connection_lost"
            )

    async def _repeating(self, call: Callable[[], Awaitable[T]]) -> T:
        return await self.server.repeat(call, LOST - CONTENDED)

    async def _prepare(self, db: Any) -> None:
        where = self.server.where
        isolation, sync, fsync, pages, encoding, standby = await db.fetchrow(SETUP)
        if standby:
            raise StoreUnavailableError(f"{where} is a replica; give the URL of the primary.", code="read_only")
        if isolation != "read committed":
            raise UsageError(
                f"{where} has default_transaction_isolation = {isolation!r}; set it to 'read committed' for this user "
                "(ALTER ROLE … SET …): acts wait for each other's locks and must then see what the other did.",
                code="bad_isolation",
            )
        if encoding != "UTF8":
            raise UsageError(
                f"The database of {where} has the encoding {encoding}, which cannot hold every text; make one with "
                "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0.",
                code="bad_encoding",
            )
        self.durability = "process" if "off" in (sync, fsync, pages) else "power"
        auto = "never" if self._auto == "new" and not self.makes_schema else self._auto
        await migrations.prepare(db, self.schema, where, auto)

    async def _end(self) -> None:
        await self.server.close()
        await self._ears.stop()
