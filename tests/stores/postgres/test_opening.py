"""What a URL may say, which servers are refused and how, and when the schema is made or changed."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
import asyncpg
import pytest

from kode.cli.main import run
from kode.core.errors import SchemaTooNewError, StoreError, StoreUnavailableError, UsageError
from kode.core.store import Key, SchemaSupport, open_store
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


def at(url: str, **changes: Any) -> str:
    parts = urlsplit(url)
    user, host, port = (changes.get(name, getattr(parts, name)) for name in ("username", "hostname", "port"))
    secret = f":{changes['password']}" if "password" in changes else ""
    return parts._replace(netloc=f"{user}{secret}@{host}:{port}", path=changes.get("path", parts.path)).geturl()


# ---- the URL -----------------------------------------------------------------------------------------------


async def test_a_url_opens_a_store_and_its_options_are_heard(server_url: str, schema: str) -> None:
    url = f"{server_url}?schema={schema}&pool_max=3&retry_s=0.5&pgbouncer=true&auto_migrate=always&sslmode=disable"
    async with open_store(url) as store:
        assert isinstance(store, PostgresStore)
        options = store.server.options
        assert (store.schema, options.pool_max, options.retry_s, options.pgbouncer) == (schema, 3, 0.5, True)
        await Author(store).create()
        assert abs(await store.now() - (await store.now())) < 1_000_000


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("pool_max=many", "bad_url"),
        ("pgbouncer=perhaps", "bad_url"),
        ("shema=x", "bad_url"),
        ("schema=Robert%22", "bad_schema"),
        ("auto_migrate=yes", "bad_option"),
    ],
)
def test_a_url_that_says_what_nobody_knows_is_refused(query: str, code: str) -> None:
    with pytest.raises(UsageError) as refused:
        open_store(f"postgresql://u:secret@localhost/db?{query}")
    assert refused.value.code == code
    assert "secret" not in str(refused.value)


def test_one_of_url_and_pool_is_needed() -> None:
    with pytest.raises(UsageError):
        PostgresStore()


def test_another_event_loop_is_refused(server_url: str) -> None:
    with pytest.raises(UsageError) as refused:
        anyio.run(PostgresStore(server_url).open, backend="trio")
    assert refused.value.code == "asyncio_only"


async def test_somebody_else_s_pool_is_used_and_left_open(server_url: str, schema: str) -> None:
    async with asyncpg.create_pool(server_url, min_size=1, max_size=2) as pool:
        async with PostgresStore(pool=pool, schema=schema) as store:
            await Author(store).create()
        assert await pool.fetchval(f"SELECT count(*) FROM {schema}.header") == 1


async def test_two_schemas_of_one_database_know_nothing_of_each_other(store: PostgresStore, server_url: str) -> None:
    await Author(store).create()
    other = PostgresStore(server_url, schema=f"{store.schema}_b")
    try:
        async with other:
            await Author(other, uid="uid-2").create()
            assert await other.exists("agent")
            await other.delete("agent")
        assert await store.exists("agent")
    finally:
        await _execute(server_url, f"DROP SCHEMA {other.schema} CASCADE")


# ---- servers that are refused --------------------------------------------------------------------------------


async def test_nobody_answers(server_url: str) -> None:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = PostgresStore(at(server_url, password="hush-hush", port=port))
    with pytest.raises(StoreUnavailableError) as refused:
        await store.open()
    assert (refused.value.code, refused.value.retryable) == ("cannot_connect", True)
    assert "hush-hush" not in str(refused.value)
    assert f":{port}" in str(refused.value)


async def test_a_database_that_is_not_there(server_url: str) -> None:
    with pytest.raises(StoreError) as refused:
        await PostgresStore(at(server_url, path="/nowhere")).open()
    assert refused.value.code == "no_database"


async def test_a_user_that_is_not_known(server_url: str) -> None:
    with pytest.raises(StoreError) as refused:
        await PostgresStore(at(server_url, username="nobody_here", password="hush-hush")).open()
    assert refused.value.code == "bad_login"
    assert "hush-hush" not in str(refused.value)


async def test_a_user_without_rights(store: PostgresStore, server_url: str, schema: str) -> None:
    role = f"guest_{schema}"
    await _execute(server_url, f"CREATE ROLE {role} LOGIN")
    try:
        with pytest.raises(StoreError) as refused:
            await PostgresStore(at(server_url, username=role), schema=schema).open()
        assert refused.value.code == "permission_denied"
    finally:
        await _execute(server_url, f"DROP ROLE {role}")


@pytest.mark.parametrize(
    ("setting", "error", "code"),
    [
        ("default_transaction_isolation = 'serializable'", UsageError, "bad_isolation"),
        ("default_transaction_read_only = on", StoreUnavailableError, "read_only"),
    ],
)
async def test_a_user_whose_settings_do_not_fit(
    server_url: str, schema: str, setting: str, error: type[StoreError], code: str
) -> None:
    role = f"odd_{schema}"
    await _execute(server_url, f"CREATE ROLE {role} LOGIN SUPERUSER; ALTER ROLE {role} SET {setting}")
    try:
        with pytest.raises(error) as refused:
            await PostgresStore(at(server_url, username=role), schema=schema).open()
        assert refused.value.code == code
    finally:
        await _execute(server_url, f"DROP ROLE {role}")


async def test_a_database_that_cannot_hold_every_text_is_refused(server_url: str, db: Any) -> None:
    name = f"latin_{os.getpid()}"
    await db.execute(f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    try:
        with pytest.raises(UsageError, match="has the encoding LATIN1") as raised:
            await PostgresStore(urlsplit(server_url)._replace(path=f"/{name}").geturl()).open()
        assert raised.value.code == "bad_encoding"
    finally:
        await db.execute(f"DROP DATABASE {name}")


async def test_opened_again_at_once_it_keeps_the_connections_of_its_new_pool(server_url: str, schema: str) -> None:
    """What gives unused connections back a second later must not take the next pool's for the last one's."""
    store = PostgresStore(server_url, schema=schema, pool_max=2, connect_timeout_s=2.0, retry_s=0.2)
    for _ in range(2):
        await store.open()
        for _ in range(3):
            await store.get("a", [Key("header", "", "a")])
            await asyncio.sleep(0.2)
        await store.close()
    await store.open()
    for _ in range(8):
        await store.get("a", [Key("header", "", "a")])
        await asyncio.sleep(0.2)
    await store.close()


async def test_a_password_is_in_no_repr() -> None:
    store = PostgresStore("postgresql://u:canary-7@127.0.0.1:1/d")
    assert "canary-7" not in repr(store) + repr(store.server)


async def test_durability_is_what_the_server_is_set_to(server_url: str, schema: str) -> None:
    db = await asyncpg.connect(server_url)
    sync, fsync = await db.fetchval("SHOW synchronous_commit"), await db.fetchval("SHOW fsync")
    pages = await db.fetchval("SHOW full_page_writes")
    await db.close()
    async with PostgresStore(server_url, schema=schema) as store:
        assert store.durability == ("process" if "off" in (sync, fsync, pages) else "power")


# ---- the schema ----------------------------------------------------------------------------------------------


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
    await _execute(server_url, f"UPDATE {store.schema}.migration SET checksum = 'x'")
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


async def _execute(url: str, sql: str) -> None:
    db = await asyncpg.connect(url)
    try:
        await db.execute(sql)
    finally:
        await db.close()


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
    asyncio.run(_execute(server_url, sql))
    assert says("sql", postgres_store) == ""
    assert says("upgrade", postgres_store) == "nothing to apply\n"
    assert says("status", postgres_store) == "applied 0001_pre_begin\n"
    other = f"{postgres_store.replace('schema=', 'schema=o')}"
    assert says("upgrade", "--post", other) == "applied 0001_pre_begin\n"
    asyncio.run(_execute(server_url, f"DROP SCHEMA {parse_qs(urlsplit(other).query)['schema'][0]} CASCADE"))
    for url, said in (
        ("memory:", "MemoryStore has no schema to look after"),
        ("postgresql://ann:hush-hush@127.0.0.1:1/db", "postgresql://ann:***@127.0.0.1:1/db cannot be reached"),
    ):
        assert command(["status", url]) in (1, 2)
        told = capsys.readouterr()
        assert said in told.err
        assert (told.err.count("\n"), "hush" in told.err, told.out) == (1, False, "")


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
