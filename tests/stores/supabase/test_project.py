"""What a project must have, who may do what there, and what is said when something is missing."""

from __future__ import annotations

import socket
import traceback
from contextlib import closing
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import httpx
import pytest
from tests.stores.supabase.conftest import MAX_ROWS, Project, sign

from kode.core.errors import SchemaTooNewError, StoreError, StoreUnavailableError, UsageError
from kode.core.store import open_store
from kode.core.store.contract import Scan
from kode.core.testing.conformance.store import Author
from kode.store.postgres import PostgresStore
from kode.store.supabase import SupabaseStore
from kode.store.supabase import schema as shipped

pytestmark = [pytest.mark.anyio, pytest.mark.integration]


def at(project: Project, schema: str, key: str | None = None) -> SupabaseStore:
    return SupabaseStore(project.url, key or project.key, schema=schema, retry_s=0.2)


async def refused(store: SupabaseStore) -> StoreError:
    with pytest.raises(StoreError) as error:
        await store.open()
    return error.value


# ---- the URL and the key -------------------------------------------------------------------------------------


async def test_a_url_opens_a_store_and_the_key_comes_from_the_environment(
    project: Project, bare: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await project.execute(shipped.sql(bare))
    monkeypatch.setenv("SUPABASE_KEY", project.key)
    url = f"supabase://{project.url.removeprefix('http://')}?tls=false&schema={bare}&retry_s=0.5&max_connections=3"
    async with open_store(url) as store:
        assert isinstance(store, SupabaseStore)
        options = store.project.options
        assert (store.schema, options.retry_s, options.max_connections) == (bare, 0.5, 3)
        await Author(store).create()
        assert await store.exists("agent")
    monkeypatch.setenv("SUPABASE_SERVICE_ROLE_KEY", "the-better-one")
    assert SupabaseStore(project.url).project.key == "the-better-one"


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("supabase://x.supabase.co?retry_s=long", "bad_url"),
        ("supabase://x.supabase.co?tls=perhaps", "bad_url"),
        ("supabase://x.supabase.co?shema=x", "bad_url"),
        ("supabase://x.supabase.co?key=hush-hush", "bad_url"),
        ("supabase://hush-hush@x.supabase.co", "bad_url"),
        ("supabase://me:hush-hush@x.supabase.co", "bad_url"),
        ("supabase:", "bad_url"),
        ("supabase://", "bad_url"),
        ("supabase://x y.supabase.co", "bad_url"),
        ("supabase://x.supabase.co?schema=Robert%22", "bad_schema"),
    ],
)
def test_a_url_that_says_what_nobody_knows_or_all_may_read_is_refused(url: str, code: str) -> None:
    with pytest.raises(UsageError) as error:
        open_store(url)
    assert error.value.code == code
    assert "hush-hush" not in str(error.value)


async def test_no_key_is_a_clear_error_but_the_file_can_be_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUPABASE_KEY", raising=False)
    monkeypatch.delenv("SUPABASE_SERVICE_ROLE_KEY", raising=False)
    store = SupabaseStore("https://x.supabase.co", schema="other")
    assert 'CREATE TABLE "other".header' in store.schema_sql()["schema"]
    assert '"kode"' not in store.schema_sql()["schema"]
    with pytest.raises(UsageError, match="SUPABASE_SERVICE_ROLE_KEY") as error:
        await store.open()
    assert error.value.code == "no_key"


def test_another_event_loop_is_refused(project: Project) -> None:
    with pytest.raises(UsageError) as error:
        anyio.run(at(project, project.kept).open, backend="trio")
    assert error.value.code == "asyncio_only"


async def test_nobody_answers(project: Project) -> None:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        error = await refused(SupabaseStore(f"http://127.0.0.1:{free.getsockname()[1]}", "hush-hush"))
    assert isinstance(error, StoreUnavailableError)
    assert (error.code, error.retryable) == ("cannot_connect", True)


async def test_a_url_where_there_is_no_api(project: Project) -> None:
    error = await refused(SupabaseStore(f"{project.url}/elsewhere", project.key))
    assert error.code == "no_project"


# ---- who may -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "code"),
    [
        ("no-key-at-all", "bad_key"),
        (sign("service_role", exp=1), "bad_key"),
        (sign("anon"), "permission_denied"),
        (sign("authenticated", sub="u1"), "permission_denied"),
        ("hush-hush\n", "bad_key"),
        ("hush\r-hush", "bad_key"),
        ("hush hush", "bad_key"),
        ("hush-hu\u0161", "bad_key"),
    ],
)
async def test_a_key_that_is_not_the_service_s(project: Project, key: str, code: str) -> None:
    store = at(project, project.kept, key)
    error = await refused(store)
    assert error.code == code
    told = "".join(traceback.format_exception(error))
    assert key not in told
    assert repr(key)[1:-1] not in told
    assert (error.__context__, error.__cause__) == (None, None)
    assert not store.project.is_open


EVERY_RIGHT = "SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER"


async def test_what_the_file_makes_is_closed_to_everybody_else(project: Project) -> None:
    """Not by the tables, not by any function; and row level security is on for each table by itself."""
    db = await asyncpg.connect(project.dsn)
    try:
        tables = await db.fetch(
            "SELECT oid::regclass::text AS name, relrowsecurity AS closed, relkind, reloptions FROM pg_class "
            "WHERE relnamespace = to_regnamespace($1) AND relkind IN ('r', 'v')",
            project.kept,
        )
        assert len(tables) == 16
        assert [one["name"] for one in tables if one["relkind"] == b"r" and not one["closed"]] == []
        # As who asks, not as who owns the tables; and there is no policy by which anybody sees a row.
        assert [one["reloptions"] for one in tables if one["relkind"] == b"v"] == [["security_invoker=true"]]
        assert await db.fetchval("SELECT count(*) FROM pg_policies WHERE schemaname = $1", project.kept) == 0
        functions = await db.fetch(
            "SELECT oid::regprocedure::text AS name, proname, proconfig, prosecdef FROM pg_proc "
            "WHERE pronamespace = to_regnamespace($1)",
            project.kept,
        )
        assert [one["name"] for one in functions if one["prosecdef"]] == []
        for role in ("anon", "authenticated"):
            for one in tables:
                assert not await db.fetchval("SELECT has_table_privilege($1, $2, $3)", role, one["name"], EVERY_RIGHT)
            for one in functions:
                assert not await db.fetchval("SELECT has_function_privilege($1, $2, 'EXECUTE')", role, one["name"])
        # What a caller's search_path says changes nothing in what writes.
        served = {"USAGE", "SELECT", "INSERT", "UPDATE", "DELETE", "EXECUTE"}
        assert await rights(project, project.kept, "service_role", "header", "rest_apply_v1(jsonb)") == served
        open_to_all = {
            one["proname"] for one in functions if "search_path=pg_catalog, pg_temp" not in (one["proconfig"] or ())
        }
        # These two are inlined where they are called from, which a path of their own would forbid.
        assert open_to_all == {"int_key_v1", "key_int_v1"}
    finally:
        await db.close()


async def test_of_an_expired_key_the_error_says_so(project: Project) -> None:
    assert "has expired" in str(await refused(at(project, project.kept, sign("service_role", exp=1))))


async def test_what_was_open_before_the_file_came_is_closed_by_it(project: Project, bare: str) -> None:
    await project.execute(
        f"CREATE SCHEMA {bare}; GRANT ALL ON SCHEMA {bare} TO anon; "
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA {bare} GRANT ALL ON TABLES TO anon, authenticated; "
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA {bare} GRANT ALL ON FUNCTIONS TO anon, authenticated"
    )
    await project.execute(shipped.sql(bare))
    for role in ("anon", "authenticated"):
        assert await rights(project, bare, role, "header", "rest_apply_v1(jsonb)") == set()


async def test_what_is_made_there_later_is_the_service_s_alone(project: Project, bare: str) -> None:
    """As by a migration of the PostgreSQL store, also for a login that may see the schema, as the guide allows."""
    await project.execute(
        f"CREATE SCHEMA {bare}; ALTER DEFAULT PRIVILEGES IN SCHEMA {bare} GRANT ALL ON TABLES TO anon, authenticated"
    )
    await project.execute(shipped.sql(bare))
    await project.execute(
        f"GRANT USAGE ON SCHEMA {bare} TO authenticated; CREATE TABLE {bare}.later (n int); "
        f"CREATE FUNCTION {bare}.later_v1() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM {bare}.later'; "
        "NOTIFY pgrst, 'reload schema'"
    )
    assert await rights(project, bare, "authenticated", "later", "later_v1()") <= {"USAGE", "EXECUTE"}
    assert await rights(project, bare, "anon", "later", "later_v1()") <= {"EXECUTE"}
    async with httpx.AsyncClient(headers={"content-profile": bare, "accept-profile": bare}) as client:
        for role, status in (("anon", 401), ("authenticated", 403), ("service_role", 200)):
            client.headers["apikey"] = sign(role)
            assert (await client.post(f"{project.url}/rest/v1/rpc/later_v1", json={})).status_code == status
            assert (await client.get(f"{project.url}/rest/v1/later")).status_code == status


async def rights(project: Project, schema: str, role: str, table: str, function: str) -> set[str]:
    """What a role may do in a schema, with a table and with a function."""
    db = await asyncpg.connect(project.dsn)
    try:
        may = "SELECT has_{}_privilege($1, $2, $3)".format
        asked = {
            **{right: (may("schema"), schema) for right in ("USAGE", "CREATE")},
            **{right: (may("table"), f"{schema}.{table}") for right in EVERY_RIGHT.split(", ")},
            "EXECUTE": (may("function"), f"{schema}.{function}"),
        }
        return {right for right, (sql, of) in asked.items() if await db.fetchval(sql, role, of, right)}
    finally:
        await db.close()


async def test_a_tenant_reads_his_own_agents_by_the_policy_of_the_guide(project: Project, bare: str) -> None:
    await project.execute(shipped.sql(bare))
    guide = Path(__file__).parents[3] / "docs/guides/supabase.md"
    policy = guide.read_text().split("```sql\n")[1].split("```")[0]
    await project.execute(
        "CREATE SCHEMA IF NOT EXISTS auth; CREATE OR REPLACE FUNCTION auth.jwt() RETURNS jsonb LANGUAGE sql STABLE AS "
        "$$ SELECT current_setting('request.jwt.claims', true)::jsonb $$; GRANT USAGE ON SCHEMA auth TO authenticated"
    )
    await project.execute(policy.replace("kode.", f"{bare}.").replace("SCHEMA kode", f"SCHEMA {bare}"))
    async with at(project, bare) as store:
        for n, tenant in enumerate(("red", "blue", None)):
            author = Author(store, f"agent-{tenant}", f"uid-{n}")
            await author.create(state={"tenant": tenant})
    key = sign("authenticated", app_metadata={"tenant": "red"})
    async with httpx.AsyncClient(headers={"apikey": key, "accept-profile": bare}) as client:
        seen = await client.get(f"{project.url}/rest/v1/header")
        assert [row["agent_id"] for row in seen.json()] == ["agent-red"]
        assert (await client.get(f"{project.url}/rest/v1/message")).status_code == 403
        assert (await client.get(f"{project.url}/rest/v1/agents")).status_code == 403
        body = {"content-profile": bare}
        assert (await client.post(f"{project.url}/rest/v1/rpc/rest_hello_v1", json={}, headers=body)).status_code == 403
        # Who names no tenant sees nobody, not those that have none; what users say of themselves counts for nothing.
        for claims in ({}, {"app_metadata": {"tenant": None}}, {"user_metadata": {"tenant": "red"}}):
            nobody = {"apikey": sign("authenticated", **claims)}
            assert (await client.get(f"{project.url}/rest/v1/header", headers=nobody)).json() == []
        assert (await client.get(f"{project.url}/rest/v1/header", headers={"apikey": sign("anon")})).status_code == 401
        # Again, as with each new release: what the guide gives stays, and what it warns of goes.
        await project.execute(
            f"GRANT ALL ON SCHEMA {bare} TO authenticated; GRANT ALL ON {bare}.header TO authenticated; "
            f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {bare} TO authenticated"
        )
        await project.execute(shipped.sql(bare))
        assert await rights(project, bare, "authenticated", "header", "rest_apply_v1(jsonb)") == {"USAGE", "SELECT"}
        seen = await client.get(f"{project.url}/rest/v1/header")
        assert [row["agent_id"] for row in seen.json()] == ["agent-red"]


# ---- the file ------------------------------------------------------------------------------------------------


async def test_a_project_without_the_file_and_one_that_hides_the_schema(project: Project, bare: str) -> None:
    missing, hidden = at(project, bare), at(project, "nowhere")
    assert (await refused(missing)).code == "schema_missing"
    assert "kode store schema sql --all URL" in str(await refused(missing))
    assert (await refused(hidden)).code == "schema_hidden"
    assert list((await missing.schema_status()).pending) == ["schema"]
    with pytest.raises(UsageError, match="SQL editor") as error:
        await missing.migrate()
    assert error.value.code == "by_hand"
    (sql,) = missing.schema_sql().values()
    await project.execute(sql)
    assert list((await missing.schema_status()).applied) == ["schema"]
    assert await missing.migrate() == []
    async with missing:
        await Author(missing).create()
    # Again: what is there stays.
    await project.execute(sql)
    async with at(project, bare) as store:
        assert await store.exists("agent")


async def test_a_schema_that_is_older_newer_or_other(project: Project, bare: str) -> None:
    await project.execute(shipped.sql(bare))
    change = f"CREATE OR REPLACE FUNCTION {bare}.rest_hello_v1() RETURNS json LANGUAGE sql STABLE AS $$ %s $$"
    hello = (
        "SELECT json_build_object('at', 1, 'rest', %s, 'migrations', "
        f"(SELECT json_agg(json_build_array(number, phase, checksum)) FROM {bare}.migration), "
        "'isolation', '%s', 'durable', true)"
    )
    await project.execute(change % hello % (0, "read committed"))
    assert (await refused(at(project, bare))).code == "schema_old"
    assert list((await at(project, bare).schema_status()).pending) == ["schema"]
    await project.execute(change % hello % (2, "read committed"))  # newer functions keep the old ones
    async with at(project, bare) as store:
        assert store.durability == "power"
    await project.execute(change % hello % (1, "serializable"))
    with pytest.raises(UsageError, match="read committed"):
        await at(project, bare).open()
    await project.execute(shipped.sql(bare))
    await project.execute(f"INSERT INTO {bare}.migration VALUES (9999, 'pre', 'more', 'x')")
    async with at(project, bare):
        pass
    await project.execute(f"UPDATE {bare}.migration SET phase = 'post' WHERE number = 9999")
    assert isinstance(await refused(at(project, bare)), SchemaTooNewError)
    await project.execute(
        f"DELETE FROM {bare}.migration WHERE number = 9999; UPDATE {bare}.migration SET checksum = 'x'"
    )
    assert (await refused(at(project, bare))).code == "schema_changed"


def test_the_file_is_what_is_drawn() -> None:
    """From the PostgreSQL wheel's: whoever changes that runs draw_sql.py."""
    folder = Path(__file__).parents[3] / "packages/kode-store-supabase"
    spec = spec_from_file_location("draw_sql", folder / "draw_sql.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    assert shipped.sql("kode") == module.draw()


async def test_the_postgresql_store_works_on_the_same_schema_at_the_same_time(project: Project, bare: str) -> None:
    await project.execute(shipped.sql(bare))
    async with at(project, bare) as rest, PostgresStore(project.dsn, schema=bare) as direct:
        author = Author(rest)
        await author.create()
        for n, store in enumerate((direct, rest, direct, rest)):
            author.store = store
            await author.say(f"word {n}", events=1)
        by_rest, directly = await rest.read_messages("agent"), await direct.read_messages("agent")
        assert by_rest == directly
        assert len(directly.items) == 4
        mine, theirs = await rest.load("agent"), await direct.load("agent")
        assert mine == theirs


# ---- rows ----------------------------------------------------------------------------------------------------


async def test_no_answer_is_cut_by_the_api_s_limit_of_rows(project: Project, bare: str) -> None:
    """Which cuts without a word: here after one."""
    await project.execute(shipped.sql(bare))
    many = MAX_ROWS + 20
    async with at(project, bare) as store:
        author = Author(store)
        await author.create()
        for n in range(many):
            await author.say(f"word {n}", events=1)
            await Author(store, f"other-{n:03}", f"uid-{n:03}").create(wake_at=1)
        assert len((await store.read_messages("agent", limit=1_000)).items) == many
        assert len(await store.list_agents(limit=1_000)) == many + 1
        assert len(await store.due(2**60, 1_000)) == many
        loaded = await store.load("agent")
        assert loaded is not None
        assert len(loaded.window) == many
    async with httpx.AsyncClient(headers={"apikey": project.key, "accept-profile": bare}) as client:
        assert len((await client.get(f"{project.url}/rest/v1/message")).json()) == MAX_ROWS


async def test_ranges_come_in_pages_bounded_by_count_and_bytes(
    project: Project, bare: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kode.store.supabase import rows

    await project.execute(shipped.sql(bare))
    async with at(project, bare) as store:
        author = Author(store)
        await author.create()
        for n in range(12):
            await author.say("x" * 1_000 if n % 4 else "y" * 9_000, events=1)
        whole = await store.scan("agent", Scan("message", "uid-1", limit=100))
        asked: list[Any] = []
        read = store._read

        async def counted(asks: Any) -> Any:
            asked.extend(asks)
            return await read(asks)

        monkeypatch.setattr(store, "_read", counted)
        for page, page_bytes, requests in ((5, 2**30, 3), (1_000, 4_000, 4), (1_000, 1, 12)):
            monkeypatch.setattr(rows, "PAGE", page)
            monkeypatch.setattr(rows, "PAGE_BYTES", page_bytes)
            asked.clear()
            assert await store.scan("agent", Scan("message", "uid-1", limit=100)) == whole
            assert len(asked) == requests
            assert await store.scan("agent", Scan("message", "uid-1", limit=100, reverse=True)) == whole[::-1]
            assert await store.scan("agent", Scan("message", "uid-1", limit=7)) == whole[:7]


async def test_an_agent_is_loaded_in_two_requests(project: Project, bare: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await project.execute(shipped.sql(bare))
    async with at(project, bare) as store:
        author = Author(store)
        await author.create()
        await author.say("hi", "there", events=2)
        await store.now()
        asked: list[str] = []
        ask = store.project.ask

        async def counted(name: str, *rest: Any) -> Any:
            asked.append(name)
            return await ask(name, *rest)

        monkeypatch.setattr(store.project, "ask", counted)
        loaded = await store.load("agent", recipe=True)
        assert loaded is not None
        assert len(loaded.window) == 2
        assert asked == ["rest_read_v1", "rest_read_v1"]
