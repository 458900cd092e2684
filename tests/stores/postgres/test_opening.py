"""What a URL may say, which servers are refused and how, and when the schema is made or changed."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import anyio
import asyncpg
import pytest

from kode.core.errors import StoreError, StoreUnavailableError, UsageError
from kode.core.store import Key, open_store
from kode.core.testing.conformance.store import Author
from kode.store.postgres import PostgresStore, server

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
        ("schema=pg_kode", "bad_schema"),
        ("auto_migrate=yes", "bad_option"),
        ("pool_max=0", "bad_option"),
        ("pool_min=20", "bad_option"),
        ("pool_min=-1", "bad_option"),
        ("command_timeout_s=0", "bad_option"),
        ("connect_timeout_s=-1", "bad_option"),
        ("retry_s=nan", "bad_option"),
        ("retry_s=inf", "bad_option"),
    ],
)
def test_a_url_that_says_what_nobody_knows_is_refused(query: str, code: str) -> None:
    with pytest.raises(UsageError) as refused:
        open_store(f"postgresql://u:secret@localhost/db?{query}")
    assert refused.value.code == code
    assert query.split("=")[0] in str(refused.value)
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
        await execute(server_url, f"DROP SCHEMA {other.schema} CASCADE")


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
    await execute(server_url, f"CREATE ROLE {role} LOGIN")
    try:
        with pytest.raises(StoreError) as refused:
            await PostgresStore(at(server_url, username=role), schema=schema).open()
        assert refused.value.code == "permission_denied"
    finally:
        await execute(server_url, f"DROP ROLE {role}")


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
    await execute(server_url, f"CREATE ROLE {role} LOGIN SUPERUSER; ALTER ROLE {role} SET {setting}")
    try:
        with pytest.raises(error) as refused:
            await PostgresStore(at(server_url, username=role), schema=schema).open()
        assert refused.value.code == code
    finally:
        await execute(server_url, f"DROP ROLE {role}")


async def test_a_database_that_cannot_hold_every_text_is_refused(server_url: str, db: Any) -> None:
    name = f"latin_{os.getpid()}"
    await db.execute(f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    try:
        with pytest.raises(UsageError, match="has the encoding LATIN1") as raised:
            await PostgresStore(urlsplit(server_url)._replace(path=f"/{name}").geturl()).open()
        assert raised.value.code == "bad_encoding"
    finally:
        await db.execute(f"DROP DATABASE {name}")


async def test_opened_again_at_once_it_keeps_the_connections_of_its_new_pool(
    server_url: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What gives unused connections back a moment later must not take the next pool's for the last one's."""
    monkeypatch.setattr(server, "KEEP_S", 0.1)
    store = PostgresStore(server_url, schema=schema, pool_max=2, connect_timeout_s=2.0, retry_s=0.2)
    for times in (3, 8):
        await store.open()
        for _ in range(times):
            await store.get("a", [Key("header", "", "a")])
            await asyncio.sleep(0.02)
        if times == 8:
            while store.server.bell is not None or store.server.tasks:  # noqa: ASYNC110 - a timer ends it
                await asyncio.sleep(0.01)
            assert store.server.pool.get_idle_size() == store.server.pool.get_size(), "each was given back to its own"
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


async def execute(url: str, sql: str) -> None:
    db = await asyncpg.connect(url)
    try:
        await db.execute(sql)
    finally:
        await db.close()
