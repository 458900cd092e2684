"""`SupabaseStore`: agents in a Supabase project, by its API alone."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Final, Self, TypeVar
from urllib.parse import SplitResult, urlsplit

from kode.core.clock import Clock, RealClock
from kode.core.errors import StoreError, UsageError
from kode.core.store import (
    Appended,
    Commit,
    Committed,
    Condition,
    Due,
    Enqueued,
    Item,
    Key,
    Loaded,
    Record,
    SchemaStatus,
    SchemaSupport,
    Store,
    ahead,
)
from kode.core.store.contract import Scan
from kode.core.store.lookups import Get, Lookup
from kode.core.store.open import redact, url_options
from kode.core.store.server_time import ServerTime
from kode.store.supabase import rows
from kode.store.supabase import schema as shipped
from kode.store.supabase.errors import LOST, NOT_WRITTEN
from kode.store.supabase.project import Options, Project

__all__ = ["SupabaseStore"]

T = TypeVar("T")
KEYS: Final = ("SUPABASE_SERVICE_ROLE_KEY", "SUPABASE_KEY")
"""Where the key comes from when none is given."""
DROPPED: Final = 5_000
"""Rows removed in one request."""


class SupabaseStore(Store, SchemaSupport):
    """Keeps agents in one schema of a Supabase project. Needs asyncio: its client knows no other event loop.

    Everything goes by functions of the project (RPC), so a commit is one request and one transaction, and no answer
    is cut by the API's limit of rows. They are made by one file that a person runs in the project: `schema_sql`.
    Cancelling a caller never disturbs another. Use one object from one event loop.

    What was lost on the way is repeated as long as `retry_s` allows: reads, and writes that were certainly not done;
    commits and items also when nobody knows whether they landed, for they say who they are.

    Args:
        url: ``https://<project>.supabase.co``.
        key: The project's service_role (secret) key; None: that of the environment, SUPABASE_SERVICE_ROLE_KEY or
            SUPABASE_KEY. It is written nowhere.
        schema: Where the tables and functions are; it must be among the exposed schemas.
        connect_timeout_s: How long to wait for a connection.
        request_timeout_s: How long any request may take; the functions give up after 30 s by themselves.
        retry_s: How long what failed in passing is tried again.
        max_connections: Requests at once.
        max_request_bytes: What is larger is not sent; gateways refuse it.
        clock: None or a real one: leases expire by the server's. A virtual one for tests tells the time itself.

    Raises:
        UsageError: ``bad_url``, ``bad_schema``.
    """

    # Commits that are larger go in parts; gateways bound a request, and memory what they keep of it.
    max_batch_bytes = 8_388_608

    def __init__(
        self, url: str, key: str | None = None, *, schema: str = "kode", clock: Clock | None = None, **options: Any
    ) -> None:
        super().__init__(clock)
        self.url = _checked(url)
        self.schema = shipped.check_schema(schema)
        self.project = Project(self.url, key or _key_of_environment(), self.schema, Options(**options))
        self._tells_time = clock is not None and not isinstance(clock, RealClock)
        self._server_time = ServerTime(self.project.clock)

    @classmethod
    def from_url(cls, url: SplitResult, *, clock: Clock | None = None) -> Self:
        """``supabase://<project>.supabase.co``; options as the arguments are called, and ``tls=false`` for a local one.

        The key comes from the environment: URLs are printed.

        Raises:
            UsageError: It holds a secret, names no project, or has an option that is none or has no such value.
        """
        if "@" in url.netloc:
            raise UsageError(
                f"{redact(url.geturl())!r} holds a secret; put the key into {KEYS[0]} or give SupabaseStore key=.",
                code="bad_url",
            )
        numbers = {field.name: int if field.type == "int" else float for field in fields(Options)}
        given: dict[str, Any] = dict(url_options(url, "schema", "tls", *numbers))
        tls = given.pop("tls", "true")
        if tls not in ("true", "false"):
            raise UsageError(f"tls is {tls[:40]!r}; give true or false.", code="bad_url", option="tls")
        for name in given.keys() & numbers.keys():
            given[name] = _number(name, given[name], numbers[name])
        place = url._replace(scheme="https" if tls == "true" else "http", query="", fragment="")
        return cls(place.geturl(), clock=clock, **given)

    # ---- open and close ------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Ask the project whether it has what is needed.

        Raises:
            StoreUnavailableError: ``cannot_connect``, ``project_paused``, ``starting``, …
            StoreError: ``bad_key``, ``permission_denied``, ``schema_hidden``, ``schema_missing``, ``schema_old``,
                ``schema_changed``.
            SchemaTooNewError: Newer code has changed the schema so that this cannot work on it.
            UsageError: ``asyncio_only``, ``no_key``.
        """
        project = self.project
        async with project.opening:
            if project.is_open:
                return
            await project.open()
            try:
                self._prepare(await self._hello())
            except BaseException:
                await asyncio.shield(project.give_up())
                raise

    async def close(self) -> None:
        """Finish what was begun and disconnect."""
        await asyncio.shield(asyncio.get_running_loop().create_task(self.project.close()))

    def schema_sql(self) -> Mapping[str, str]:
        """See `SchemaSupport.schema_sql`; it is to be run in the project's SQL editor."""
        return {shipped.TITLE: shipped.sql(self.schema)}

    async def schema_status(self) -> SchemaStatus:
        """See `SchemaSupport.schema_status`."""
        opened = not self.project.is_open
        if opened:
            await self.project.open()
        try:
            shipped.check(await self._hello(), self.schema, self.project.where)
        except StoreError as error:
            if error.code not in ("schema_missing", "schema_old"):
                raise
            return SchemaStatus([], [shipped.TITLE])
        finally:
            if opened:
                await asyncio.shield(self.project.give_up())
        return SchemaStatus([shipped.TITLE], [])

    async def migrate(self, *, post: bool = False) -> list[str]:
        """See `SchemaSupport.migrate`. A project's API makes no tables, so this only looks whether there is any need.

        Raises:
            UsageError: ``by_hand``: run the file in the project's SQL editor.
        """
        if not (await self.schema_status()).pending:
            return []
        raise UsageError(
            "A project's API makes no tables; run what `kode store schema sql --all URL` shows in its SQL editor, and "
            f"add {self.schema!r} to the exposed schemas.",
            code="by_hand",
        )

    async def now(self) -> int:
        """Tell the time by the server's clock; it was asked no longer than a second ago, or is asked now."""
        if self._tells_time:
            return self.clock.now()
        if not self._server_time.fresh:
            await self._read([])
        return self._server_time.now()

    # ---- writing -------------------------------------------------------------------------------------------

    async def apply(
        self, agent_id: str, conditions: Sequence[Condition], puts: Sequence[Record], deletes: Sequence[Key]
    ) -> int | None:
        """See `Records.apply`."""
        failed, _ = await self._act(agent_id, rows.acts(agent_id, conditions, puts, deletes, None))
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
        return await self._act(agent_id, rows.acts(agent_id, conditions, puts, deletes, (uid, after)))

    async def append_inbox(self, agent_id: str, record: Record, *, now: int, bounded: bool) -> Appended:
        """See `Records.append_inbox`."""
        item = rows.item(agent_id, record, now, bounded)
        return rows.appended(await self._send(agent_id, "rest_append_v1", item, NOT_WRITTEN))

    async def drop(self, agent_id: str, uid: str) -> None:
        """See `Records.drop`."""
        while uid and await self._send(agent_id, "drop_v1", {"uid": uid, "most": DROPPED}, LOST):
            pass

    async def commit(self, commit: Commit) -> Committed:
        """See `Store.commit`. A connection that breaks in the middle is no matter: it is repeated."""
        return await self._repeating(lambda: super(SupabaseStore, self).commit(commit))

    async def enqueue(self, agent_id: str, item: Item, *, uid: str | None = None) -> Enqueued:
        """See `Store.enqueue`. A connection that breaks in the middle is no matter: it is repeated.

        `Enqueued.duplicate` may then mean the first of these attempts.
        """
        return await self._repeating(lambda: super(SupabaseStore, self).enqueue(agent_id, item, uid=uid))

    # ---- reading -------------------------------------------------------------------------------------------

    async def look_up(self, agent_id: str, lookup: Lookup[T]) -> T:
        """Run a lookup, one request for each thing it asks."""
        try:
            ask: Any = next(lookup)
            while True:
                answer: Any
                if isinstance(ask, ahead.Together):
                    answer = await self._gather(ask)
                elif isinstance(ask, Get):
                    answer = await self.get(agent_id, ask.keys)
                else:
                    answer = await self._scan(ask)
                ask = lookup.send(answer)
        except StopIteration as end:
            value: T = end.value
            return value

    async def load(self, agent_id: str, *, recipe: bool = False) -> Loaded | None:
        """See `Store.load`; two requests, and more for a long window."""
        now = await self._time()

        def live(lease: Record | None, header: Record) -> Any:
            return self._live_lease(lease, header, now)

        return await self._settled(agent_id, lambda: ahead.load(agent_id, live, now, recipe=recipe))

    async def get(self, agent_id: str, keys: Sequence[Key]) -> list[Record | None]:
        """See `Records.get`."""
        if not keys:
            return []
        asks = rows.gets(keys)
        return rows.found(keys, await self._read(asks))

    async def scan(self, agent_id: str, ask: Scan) -> list[Record]:
        """See `Records.scan`."""
        return await self._scan(ask)

    async def due(self, now: int, limit: int, after: Due | None = None) -> list[Due]:
        """See `Records.due`."""
        found: list[Due] = []
        last = after or Due("", -(2**63))
        while len(found) < limit:
            most = min(limit - len(found), rows.PAGE)
            place = {"now": now, "wake_at": last.wake_at, "agent": last.agent_id, "most": most}
            page = [Due(*row) for row in await self._ask("rest_due_v1", place)]
            found += page
            if len(page) < most:
                break
            last = page[-1]
        return found

    async def agents(self, prefix: str, after: str, limit: int, tenant: str | None = None) -> list[Record]:
        """See `Records.agents`."""
        return await self._scan(Scan("header", "", prefix=prefix, after=after, limit=limit), tenant)

    async def look(self, agent_id: str | None) -> object:
        """See `WatchSupport.look`; one request."""
        return None if agent_id is None else (await self._read([{"look": agent_id}]))[0]

    # ---- inside --------------------------------------------------------------------------------------------

    async def _act(self, agent_id: str, acts: dict[str, Any]) -> tuple[int | None, list[Record]]:
        return rows.applied(await self._send(agent_id, "rest_apply_v1", {"acts": acts}, NOT_WRITTEN))

    async def _send(self, agent_id: str, name: str, arguments: dict[str, Any], again: frozenset[str]) -> Any:
        await self._opened()
        return self._told(await self.project.write(agent_id, name, arguments, again))

    async def _ask(self, name: str, arguments: dict[str, Any]) -> Any:
        await self._opened()
        return self._told(await self.project.ask(name, arguments, LOST))

    async def _read(self, asks: Sequence[rows.Ask]) -> list[Any]:
        answers: list[Any] = (await self._ask("rest_read_v1", {"asks": asks}))["answers"]
        return answers

    async def _gather(self, wanted: ahead.Together) -> tuple[list[Record | None], list[list[Record]]]:
        """Read records and whole ranges: the first page of each range comes with the records, of one moment.

        What has more pages is of that moment too, if the records are the same behind the last one.
        """
        keys = wanted.get.keys
        gets = rows.gets(keys)
        asks = [*gets, *map(rows.scan, wanted.scans)]
        for _ in range(ahead.JOURNEYS):
            answers = await self._read(asks)
            found, pages = answers[: len(gets)], answers[len(gets) :]
            ranges = [await self._scan(scan, first=page) for scan, page in zip(wanted.scans, pages, strict=True)]
            whole = all(there == len(page) < rows.PAGE for there, page in pages)
            if whole or await self._read(gets) == found:
                break
        return rows.found(keys, found), ranges

    async def _scan(self, ask: Scan, tenant: str | None = None, *, first: Any = None) -> list[Record]:
        """Read a range, page after page; `first` is the answer for its first page."""
        found: list[Record] = []
        while len(found) < ask.limit:
            rest = rows.behind(ask, found)
            there, page = first or (await self._read([rows.scan(rest, tenant)]))[0]
            first = None
            found += [rows.record(ask.kind, row) for row in page]
            if len(page) == there < min(rest.limit, rows.PAGE):
                break
        return found

    async def _repeating(self, call: Callable[[], Awaitable[T]]) -> T:
        return await self.project.repeat(call, frozenset({"connection_lost"}))

    async def _opened(self) -> None:
        if not self.project.is_open:
            if self.project.was_open:
                raise self.project.closed()
            await self.open()

    async def _hello(self) -> dict[str, Any]:
        said: dict[str, Any] = await self.project.ask("rest_hello_v1", {}, LOST - {"cannot_connect"})
        return said

    def _prepare(self, said: dict[str, Any]) -> None:
        where = self.project.where
        shipped.check(said, self.schema, where)
        if said["isolation"] != "read committed":
            raise UsageError(
                f"{where} has default_transaction_isolation = {said['isolation']!r}; set it to 'read committed': acts "
                "wait for each other's locks and must then see what the other did.",
                code="bad_isolation",
            )
        self.durability = "power" if said["durable"] else "process"
        self._told(said)

    # ---- time ----------------------------------------------------------------------------------------------

    def _told(self, answer: Any) -> Any:
        """Take in what the server's clock said."""
        if isinstance(answer, dict):
            self._server_time.hear(answer["at"])
        return answer


def _checked(url: str) -> str:
    """Refuse what is no URL of a project."""
    parts = urlsplit(url)
    if (
        parts.scheme not in ("http", "https")
        or not re.fullmatch(r"[\w.:-]+", parts.hostname or "")
        or "@" in parts.netloc
        or parts.query
    ):
        raise UsageError(
            f"{redact(url)!r} is no URL of a project; give https://<project>.supabase.co, and the key apart from it.",
            code="bad_url",
        )
    return url.rstrip("/")


def _key_of_environment() -> str | None:
    return next((value for value in map(os.environ.get, KEYS) if value), None)


def _number(name: str, value: str, kind: type[float]) -> float:
    try:
        return kind(value)
    except ValueError:
        raise UsageError(f"{name} is {value[:40]!r}; give a number.", code="bad_url", option=name) from None
