"""What others put on the path of a user is never taken for what is PostgreSQL's own."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

import anyio
import asyncpg
import pytest

from kode.core.store import Condition, Key
from kode.core.store.contract import Scan
from kode.core.store.records import int_key
from kode.core.testing.conformance.store.author import Author, head, item, row
from kode.store.postgres import PostgresStore

pytestmark = [pytest.mark.anyio, pytest.mark.integration]

OPERATORS = ["=", "<>", "<", ">", "<=", ">=", "||", "+", "-", "*", "/"]
TYPES = ["text", "bigint", "integer", "numeric", "name", "boolean", "jsonb", "timestamp with time zone", "interval"]
# For each of PostgreSQL's functions and operators that we may name, one that comes first and says that it was called.
TRAP = """
DO $do$
DECLARE
  one record;
  parameters text;
BEGIN
  CREATE SCHEMA {trap};
  CREATE DOMAIN {trap}.text AS pg_catalog.bytea;
  FOR one IN SELECT p.proname, p.oid, pg_get_function_result(p.oid) AS gives FROM pg_proc AS p
    WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname = ANY ('{words}') AND p.prokind IN ('f', 'a')
      AND 'internal'::regtype <> ALL (p.proargtypes) AND p.prorettype NOT IN ('internal'::regtype, 'trigger'::regtype)
      AND '"any"'::regtype <> ALL (p.proargtypes) AND p.provariadic = 0
  LOOP
    -- Without their defaults, which are copies of what the system has.
    SELECT string_agg(format('a%s %s', n, format_type(t, NULL)), ', ') INTO parameters
      FROM (SELECT t, n FROM pg_proc AS p, unnest(p.proargtypes) WITH ORDINALITY AS u(t, n) WHERE p.oid = one.oid) AS a;
    EXECUTE format('CREATE FUNCTION {trap}.%I(%s) RETURNS %s LANGUAGE plpgsql AS %L', one.proname,
      coalesce(parameters, ''), one.gives, format('BEGIN RAISE ''the trap %% was sprung'', %L; END', one.proname));
  END LOOP;
  FOR one IN SELECT o.oprname, o.oid, o.oprleft::regtype AS l, o.oprright::regtype AS r, o.oprresult::regtype AS gives
    FROM pg_operator AS o WHERE o.oprname = ANY ('{operators}') AND o.oprnamespace = 'pg_catalog'::regnamespace
      AND o.oprkind = 'b' AND format_type(o.oprleft, NULL) = ANY ('{types}')
      AND format_type(o.oprright, NULL) = ANY ('{types}')
  LOOP
    EXECUTE format('CREATE FUNCTION {trap}.%I(%s, %s) RETURNS %s LANGUAGE plpgsql AS %L', 'o' || one.oid, one.l, one.r,
      one.gives, format('BEGIN RAISE ''the trap %% was sprung'', %L; END', one.oprname));
    EXECUTE format('CREATE OPERATOR {trap}.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = {trap}.%I)', one.oprname, one.l,
      one.r, 'o' || one.oid);
  END LOOP;
  CREATE ROLE {trap} SUPERUSER LOGIN;
  ALTER ROLE {trap} SET search_path = {trap}, pg_catalog;
END $do$;
"""


@pytest.fixture
async def trapped(server_url: str, schema: str, db: Any) -> AsyncIterator[str]:
    """The server's URL for a user with traps on the path."""
    sources = [file for file in files("kode.store.postgres").iterdir() if file.name.endswith((".py", ".sql"))]
    words = {word for file in sources for word in re.findall(r"\w+", file.read_text())}
    trap = f"trap_{schema}"
    listed = [",".join(f'"{one}"' for one in many) for many in (words, OPERATORS, TYPES)]
    values = dict(zip(("words", "operators", "types"), (f"{{{one}}}" for one in listed), strict=True))
    await db.execute(TRAP.format(trap=trap, **values))
    yield urlsplit(server_url)._replace(netloc=f"{trap}@{urlsplit(server_url).netloc.rpartition('@')[2]}").geturl()
    await db.execute(f"DROP SCHEMA {trap} CASCADE; DROP OWNED BY {trap} CASCADE; DROP ROLE {trap}")


@pytest.mark.parametrize("way", ["URL", "pool"])
async def test_nothing_but_the_systems_own_is_used(trapped: str, schema: str, way: str) -> None:
    """A pool, or PgBouncer, has the path of its user; where we connect it is ours."""

    async def lay(db: Any) -> None:
        # The driver itself names nothing with its schema when it learns of types.
        await db.fetch("SELECT $1::bytea[], $2::bigint[]", [], [])
        await db.execute(f"SET search_path = trap_{schema}, pg_catalog")

    path = {"search_path": "pg_catalog"}
    pool = asyncpg.create_pool(trapped, min_size=0, max_size=3, init=lay, reset=_nothing, server_settings=path)
    async with pool:
        with pytest.raises(asyncpg.RaiseError, match="sprung"):
            await pool.fetchval("SELECT 1::bigint + 1::bigint")
        given: dict[str, Any] = {"dsn": trapped} if way == "URL" else {"pool": pool}
        async with PostgresStore(**given, schema=schema) as store:
            await work(store)


async def _nothing(_connection: Any) -> None:
    """What the driver does by itself would take the path back."""


async def work(store: PostgresStore) -> None:
    """Take each way by which a statement goes to the server."""
    now = await store.now()
    author = Author(store)
    await author.create()
    await author.drive()
    async with store.watch("agent", poll_s=0.05) as changes:
        with anyio.fail_after(20):
            if store.server.dsn is not None:
                await store._ears.listening.wait()
            await author.say("hi", events=1)
            await changes.wait()
    await author.say("how", "are", "you")
    rare = Condition("equals", Key("blob", "uid-1", "k"), "size", 1)
    for conditions, failed in (([rare], 0), ([], None), ([rare], None)):
        put = [row("blob", "k", "uid-1", size=1), head("other", "uid-2", wake_at=now)]
        assert await store.apply("other", conditions, put, [Key("document", "uid-1", "none")]) == failed
    for _ in range(2):
        await store.enqueue("agent", item("a"))
    assert len(await store.read_inbox("agent", "uid-1")) == 1
    assert (
        len(await store.scan("agent", Scan("message", "uid-1", prefix="1", before=int_key(2), limit=9, reverse=True)))
        == 2
    )
    assert (await store.load("agent")) is not None
    assert await store.lease_of("agent") is not None
    assert "other" in {one.agent_id for one in await store.due(now + 10**12, 9)}
    assert [one.key for one in await store.agents("ag", "", 9)] == ["agent"]
    found = await store.query_messages(sort="at", limit=2)
    assert (await store.query_messages(sort="at", limit=2, after=found.next)).items
    assert len((await store.query_agents(prefix="a", status=["READY"])).items) == 1
    assert await store.sizes()
    await store.batch_fork("agent", {"one": "uid-3", "two": "uid-4"})
    await store.delete("one", force=True)
