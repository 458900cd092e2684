"""When the schema is made or changed, what is told of it, and schemas that are somebody else's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.stores.postgres.test_opening import at, execute

from kode.cli.main import run
from kode.core.errors import SchemaTooNewError, StoreError
from kode.core.store import SchemaSupport, open_store
from kode.core.store.migrating import tend_schema
from kode.core.testing.conformance.store import Author
from kode.store.postgres import PostgresStore, migrations
from kode.store.postgres.__main__ import main
from kode.store.postgres.migrations import Migration

pytestmark = [pytest.mark.anyio, pytest.mark.integration]


@pytest.fixture
async def store(server_url: str, schema: str) -> AsyncIterator[PostgresStore]:
    async with PostgresStore(server_url, schema=schema) as store:
        yield store


async def test_an_empty_database_gets_its_schema_once_however_many_come(server_url: str, schema: str) -> None:
    stores = [PostgresStore(server_url, schema=schema) for _ in range(4)]
    await asyncio.gather(*(store.open() for store in stores))
    status = await stores[0].schema_status()
    assert (list(status.applied), list(status.pending)) == (["0001_pre_begin"], [])
    for store in stores:
        await store.close()


async def test_never_means_never(server_url: str, schema: str) -> None:
    never = PostgresStore(server_url, schema=schema, auto_migrate="never")
    with pytest.raises(StoreError) as refused:
        await never.open()
    assert refused.value.code == "schema_missing"
    assert await never.migrate(post=True) == ["0001_pre_begin"]
    assert await never.migrate(post=True) == []
    async with never:
        await Author(never).create()


async def test_telling_of_the_schema_opens_and_closes_nothing(server_url: str, schema: str) -> None:
    store = PostgresStore(server_url, schema=schema)
    assert list((await store.schema_status()).pending) == ["0001_pre_begin"]
    assert not await store.exists("agent")  # it opens itself, as if nothing had been asked
    assert (await store.schema_status()).pending == []
    assert not await store.exists("agent")
    await store.close()
    assert (await store.schema_status()).pending == []
    with pytest.raises(StoreError, match="is closed"):
        await store.exists("agent")
    async with store:
        assert not await store.exists("agent")


async def test_a_store_opened_while_its_schema_is_told_of_keeps_its_connections(store: PostgresStore) -> None:
    await store.close()
    reach = store.server._reach

    async def slowly() -> Any:
        pool = await reach()
        store.server._reach = reach  # type: ignore[method-assign]
        await store.open()
        await store.exists("agent")
        return pool

    store.server._reach = slowly  # type: ignore[method-assign]
    assert (await store.schema_status()).pending == []
    assert len(store.server.kept) == 1
    assert not await store.exists("agent")


@asynccontextmanager
async def making(schema: str, db: Any) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Hold up whoever makes a schema; gives what waits until somebody is held up."""

    async def waiting() -> None:
        sql = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = $1"
        here = await db.fetchval("SELECT oid FROM pg_database WHERE datname = current_database()")
        while not await db.fetchval(sql, here):  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.01)

    async with asyncio.timeout(30), db.transaction():
        await db.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"kode-schema/{schema}")
        yield waiting


async def test_nobody_uses_a_schema_that_is_still_being_made(server_url: str, schema: str, db: Any) -> None:
    store = PostgresStore(server_url, schema=schema)
    async with making(schema, db) as waiting:
        acts = [asyncio.create_task(store.exists("agent"))]
        await waiting()
        acts += [asyncio.create_task(store.exists(f"{n}")) for n in range(3)]
        assert list((await store.schema_status()).pending) == ["0001_pre_begin"]
    assert await asyncio.gather(*acts) == [False] * 4
    await store.close()


async def test_a_store_closed_while_it_is_opened_is_closed(server_url: str, schema: str, db: Any) -> None:
    store = PostgresStore(server_url, schema=schema)
    async with making(schema, db) as waiting:
        opening = asyncio.create_task(store.open())
        await waiting()
        closing = asyncio.create_task(store.close())
        await asyncio.sleep(0)
    await asyncio.gather(opening, closing)
    assert (store.server.pool, store.server.was_open) == (None, True)


async def test_who_owns_a_schema_needs_no_right_to_make_one(server_url: str, schema: str) -> None:
    await execute(server_url, f"CREATE ROLE o_{schema} LOGIN; CREATE SCHEMA {schema} AUTHORIZATION o_{schema}")
    try:
        async with PostgresStore(at(server_url, username=f"o_{schema}"), schema=schema) as store:
            await Author(store).create()
    finally:
        await execute(server_url, f"DROP OWNED BY o_{schema} CASCADE; DROP ROLE o_{schema}")


@pytest.mark.parametrize("table", ["migration", "message"])
async def test_a_schema_with_tables_of_somebody_else_s_is_left_alone(
    server_url: str, schema: str, table: str, db: Any
) -> None:
    await db.execute(f"CREATE SCHEMA {schema}; CREATE TABLE {schema}.{table} (id integer)")
    store = PostgresStore(server_url, schema=schema)
    for call in (store.open, lambda: store.migrate(post=True)):
        with pytest.raises(
            StoreError, match=rf"(?s){table}.*of (somebody else|that name)|of that name.*{table}"
        ) as refused:
            await call()
        assert refused.value.code == "schema_taken"
    assert await db.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = $1", schema) == 1


def test_two_migrations_of_one_number_are_a_mistake_of_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(migrations, "files", lambda _package: tmp_path)
    for name in ("0002_post_b.sql", "0001_pre_a.sql", "0010_pre_c.sql", "notes.sql"):
        (tmp_path / name).touch()
    assert [one.number for one in migrations.shipped.__wrapped__()] == [1, 2, 10]
    (tmp_path / "0002_pre_d.sql").touch()
    with pytest.raises(RuntimeError, match="0002_"):
        migrations.shipped.__wrapped__()


NEXT = Migration(2, "pre", "colour", "ALTER TABLE {schema}.header ADD COLUMN colour text DEFAULT 'red';")
LAST = Migration(3, "post", "bleach", "ALTER TABLE {schema}.header DROP COLUMN colour;")


async def test_old_code_works_on_a_new_schema_until_its_last_step(
    store: PostgresStore, server_url: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = migrations.shipped()
    author = Author(store)
    await author.create()

    def release(*more: Migration) -> None:
        monkeypatch.setattr(migrations, "shipped", lambda: (*shipped, *more))

    release(NEXT, LAST)
    new = PostgresStore(server_url, schema=schema)
    with pytest.raises(StoreError) as refused:
        await new.open()
    assert refused.value.code == "schema_old"
    async with PostgresStore(server_url, schema=schema, auto_migrate="always") as new:
        assert list((await new.schema_status()).pending) == ["0003_post_bleach"]
        # The old code, open all along, and opened anew.
        await author.say("hi", events=1)
        release()
        async with PostgresStore(server_url, schema=schema) as old:
            author.store = old
            await author.say("again", events=1)
        release(NEXT, LAST)
        assert await tend_schema(new, "upgrade") == ["nothing to apply"]
        assert await tend_schema(new, "upgrade", post=True) == ["applied 0003_post_bleach"]
    release()
    with pytest.raises(SchemaTooNewError):
        await PostgresStore(server_url, schema=schema).open()


async def test_a_migration_that_was_changed_afterwards_is_found_out(store: PostgresStore, server_url: str) -> None:
    await execute(server_url, f"UPDATE {store.schema}.migration SET checksum = 'x'")
    with pytest.raises(StoreError) as refused:
        await PostgresStore(server_url, schema=store.schema).open()
    assert refused.value.code == "schema_changed"


def test_the_first_migration_is_what_is_drawn() -> None:
    from importlib.util import module_from_spec, spec_from_file_location
    from pathlib import Path

    spec = spec_from_file_location(
        "draw_schema", Path(__file__).parents[3] / "packages/kode-store-postgres/draw_schema.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    assert migrations.shipped()[0].text == module.draw()


# ---- the command ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", [main, lambda words: run(["store", "schema", *words])], ids=["python -m", "kode store schema"]
)
def test_the_command_looks_after_the_schema(
    command: Callable[[list[str]], int], postgres_store: str, server_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def says(*words: str) -> str:
        assert command([*words]) == 0
        return capsys.readouterr().out

    assert says("status", postgres_store) == "missing 0001_pre_begin\n"
    sql = says("sql", postgres_store)
    asyncio.run(execute(server_url, sql))
    assert says("sql", postgres_store) == ""
    assert says("upgrade", postgres_store) == "nothing to apply\n"
    assert says("status", postgres_store) == "applied 0001_pre_begin\n"
    other = f"{postgres_store.replace('schema=', 'schema=o')}"
    assert says("upgrade", "--post", other) == "applied 0001_pre_begin\n"
    asyncio.run(execute(server_url, f"DROP SCHEMA {parse_qs(urlsplit(other).query)['schema'][0]} CASCADE"))
    for url, said in (
        ("memory:", "MemoryStore has no schema to look after"),
        ("postgresql://ann:hush-hush@127.0.0.1:1/db", "postgresql://ann:***@127.0.0.1:1/db cannot be reached"),
    ):
        assert command(["status", url]) in (1, 2)
        told = capsys.readouterr()
        assert said in told.err
        assert (told.err.count("\n"), "hush" in told.err, told.out) == (1, False, "")


@pytest.mark.parametrize("words", [["agents"], ["show", "a"], ["store", "check"]], ids=" ".join)
def test_a_command_that_only_looks_makes_no_schema(
    postgres_store: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*words, "--store", postgres_store]) != 0
    told = capsys.readouterr()
    assert "is not there; run `kode store schema upgrade URL`" in told.err + told.out
    assert run(["store", "schema", "status", postgres_store]) == 0
    assert capsys.readouterr().out == "missing 0001_pre_begin\n"


def test_the_whole_sql_needs_no_server(capsys: pytest.CaptureFixture[str]) -> None:
    url = "postgresql://ann@127.0.0.1:1/db?schema=mine"
    assert run(["store", "schema", "sql", "--all", url]) == 0
    store = open_store(url)
    assert isinstance(store, SchemaSupport)
    assert capsys.readouterr().out == "".join(f"{text}\n" for text in store.schema_sql().values())
    assert 'CREATE TABLE "mine".header' in store.schema_sql()["0001_pre_begin"]


def test_the_whole_sql_is_found_by_who_shows_a_store_s() -> None:
    shown = [one.name for one in files("kode.store.postgres").iterdir() if one.name.endswith(".sql")]
    assert sorted(shown) == [f"{one.title}.sql" for one in migrations.shipped()]
