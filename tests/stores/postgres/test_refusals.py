"""What may be wrong with a server: one clear error each, no password in it, and the store works on afterwards."""

from __future__ import annotations

import asyncio
import inspect
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import anyio
import asyncpg
import pytest
from tests.stores.postgres.server import FAST, PostgresServer, find_programs
from tests.stores.postgres.test_opening import at

from kode.core.errors import KodeError, StoreError, StoreUnavailableError, UsageError
from kode.core.store import Condition, Key, Lease, Question, open_store
from kode.core.store.contract import Footing, Scan
from kode.core.store.layers.forks import Copy
from kode.core.store.lookups import Get
from kode.core.testing.conformance.store import Author
from kode.core.testing.conformance.store.author import head, item, row
from kode.store.postgres import PostgresStore

pytestmark = [pytest.mark.anyio, pytest.mark.integration]

SECRET = "hush-canary-9"


@asynccontextmanager
async def role(url: str, name: str, options: str) -> AsyncIterator[None]:
    """A role of the test's own, with all rights on the database, so that it can make a schema."""
    await execute(url, f"CREATE ROLE {name} LOGIN {options}; GRANT ALL ON DATABASE postgres TO {name}")
    try:
        yield
    finally:
        await execute(url, f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


async def execute(url: str, sql: str) -> None:
    db = await asyncpg.connect(url)
    try:
        await db.execute(sql)
    finally:
        await db.close()


# ---- getting in ----------------------------------------------------------------------------------------------


async def test_a_wrong_password(new_server: Callable[..., PostgresServer]) -> None:
    server = new_server(*FAST)
    await asyncio.to_thread(server.start)
    await execute(server.url, f"CREATE ROLE ann SUPERUSER LOGIN PASSWORD '{SECRET}'")
    access = server.data / "pg_hba.conf"
    access.write_text(f"host all ann 127.0.0.1/32 scram-sha-256\n{access.read_text()}")
    await execute(server.url, "SELECT pg_reload_conf()")
    with pytest.raises(StoreError) as refused:
        await PostgresStore(at(server.url, username="ann", password=f"{SECRET}-not")).open()
    assert refused.value.code == "bad_login"
    assert SECRET not in f"{refused.value!r} {refused.value.fields}"
    # What works tells the password as little, on whatever way it fails later.
    async with PostgresStore(at(server.url, username="ann", password=SECRET), retry_s=0.1) as store:
        author = Author(store)
        await author.create()
        commit = author.make()
        await asyncio.to_thread(server.stop)
        with pytest.raises(StoreUnavailableError) as gone:
            await store.commit(commit)
        chain: BaseException | None = gone.value
        while chain is not None:
            assert SECRET not in f"{chain!r} {chain}"
            chain = chain.__cause__ or chain.__context__
        await asyncio.to_thread(server.start)
        assert (await store.commit(commit)).version == 2


async def test_no_connection_is_left(server_url: str, schema: str) -> None:
    name = f"few_{schema}"
    async with role(server_url, name, "CONNECTION LIMIT 1"):
        url = at(server_url, username=name)
        only = await asyncpg.connect(url)
        store = PostgresStore(url, schema=schema, retry_s=0.1)
        with pytest.raises(StoreUnavailableError) as refused:
            await store.open()
        assert (refused.value.code, refused.value.retryable) == ("too_many_connections", True)
        await only.close()
        while True:  # the server lets go of it a moment later
            with suppress(StoreUnavailableError):
                await store.open()
                break
        await Author(store).create()
        await store.close()


async def test_fewer_connections_than_the_pool_wants_are_enough(server_url: str, schema: str) -> None:
    name = f"some_{schema}"
    async with role(server_url, name, "CONNECTION LIMIT 2"):
        async with PostgresStore(at(server_url, username=name), schema=schema, retry_s=30, pool_max=10) as store:

            async def work(n: int) -> None:
                author = Author(store, f"a{n}", f"u{n}")
                await author.create()
                for _ in range(5):
                    await author.say("hi")
                    assert await store.load(author.id) is not None

            async with anyio.create_task_group() as tasks:
                for n in range(20):
                    tasks.start_soon(work, n)
            assert len(await store.list_agents()) == 20


async def test_rights_that_are_taken_away_and_given_back(server_url: str, schema: str) -> None:
    name = f"poor_{schema}"
    async with PostgresStore(server_url, schema=schema) as owner:
        await Author(owner).create()
    async with role(server_url, name, ""):
        grant = (
            f'GRANT USAGE ON SCHEMA "{schema}" TO {name}; '
            f'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA "{schema}" TO {name}; '
            f'GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA "{schema}" TO {name}'
        )
        # What the README says is enough is enough.
        await execute(server_url, grant)
        async with PostgresStore(at(server_url, username=name), schema=schema, auto_migrate="never") as store:
            author = Author(store, "mine", "uid-m")
            await author.create()
            await execute(server_url, f'REVOKE INSERT ON "{schema}".message FROM {name}')
            commit = author.make()
            with pytest.raises(StoreError) as refused:
                await author.say("hi")
            assert (refused.value.code, refused.value.retryable) == ("permission_denied", False)
            assert await store.exists("agent")
            await execute(server_url, grant)
            assert (await store.commit(commit)).version == 2
            await store.delete("agent")


async def test_tables_that_vanish(server_url: str, schema: str) -> None:
    async with PostgresStore(server_url, schema=schema) as store:
        await Author(store).create()
        await execute(server_url, f'DROP SCHEMA "{schema}" CASCADE')
        for call in (lambda: store.load("agent"), lambda: Author(store, "b", "u").create()):
            with pytest.raises(StoreError) as refused:
                await call()
            assert refused.value.code == "schema_missing"
        assert await store.migrate(post=True) == ["0001_pre_begin"]
        await Author(store).create()


async def test_more_than_a_statement_takes(server_url: str, schema: str) -> None:
    async with PostgresStore(server_url, schema=schema) as store:
        much = bytes(1_000_000)
        # Shared, so that it is large only on the way.
        rows = [replace(row("blob", f"{n}", size=1), body=much) for n in range(900)]
        with pytest.raises(UsageError) as refused:
            await store.apply("a", (), rows, ())
        assert (refused.value.code, refused.value.fields["size"] > 900_000_000) == ("bad_value", True)
        await Author(store).create()


# ---- what is on the server -----------------------------------------------------------------------------------


@pytest.fixture
def small_disk(missing: Callable[[str], NoReturn], tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB."""
    place = Path(f"/tmp/kode-small-{os.getpid()}")
    place.mkdir()
    if os.geteuid() or sys.platform != "linux":
        place.rmdir()
        pytest.skip("only root of a Linux system can make a file system for this test")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m,mode=777", "tmpfs", place], check=False)
    if done.returncode:
        place.rmdir()
        pytest.skip("no file system can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)
        place.rmdir()


async def test_a_full_disk(new_server: Callable[..., PostgresServer], small_disk: Path) -> None:
    server = new_server(*FAST)
    await asyncio.to_thread(server.start)
    tables = small_disk / "tables"
    tables.mkdir()
    if os.geteuid() == 0:
        shutil.chown(tables, "nobody", "nogroup")
    await execute(server.url, f"CREATE TABLESPACE small LOCATION '{tables}'")
    await execute(server.url, "CREATE DATABASE small TABLESPACE small")
    async with PostgresStore(server.url_of("small"), retry_s=0.1) as store:
        author = Author(store)
        await author.create()
        filler = small_disk / "filler"
        free = shutil.disk_usage(small_disk).free
        filler.write_bytes(bytes(max(free - 65_536, 0)))
        with pytest.raises(StoreUnavailableError) as refused:
            await _fill(author)
        assert (refused.value.code, refused.value.retryable) == ("disk_full", True)
        assert await store.exists("agent")
        filler.unlink()
        assert author.last is not None
        await author.write(author.last)
        assert len((await store.read_messages("agent", limit=2_000)).items) == author.state.next_seq > 0
        assert (await store.check_consistency("agent")).ok


async def _fill(author: Author) -> None:
    for _ in range(1_000):
        await author.say(secrets.token_hex(20_000))


@pytest.mark.parametrize("bounced", [False, True], ids=["direct", "as behind PgBouncer"])
async def test_functions_that_others_put_on_the_path_are_not_called(
    server_url: str, schema: str, bounced: bool
) -> None:
    name, trap = f"victim_{schema}", f"trap_{schema}"
    async with role(server_url, name, ""):
        # Each would be the better match for what our statements and functions say without a schema.
        await execute(
            server_url,
            f"""
            CREATE SCHEMA {trap};
            GRANT USAGE ON SCHEMA {trap} TO PUBLIC;
            CREATE TABLE {trap}.sprung (how text);
            GRANT INSERT ON {trap}.sprung TO PUBLIC;
            CREATE FUNCTION {trap}.hashtextextended(text, int) RETURNS bigint LANGUAGE sql AS
              $$ INSERT INTO {trap}.sprung VALUES ('hash'); SELECT 1::bigint $$;
            CREATE FUNCTION {trap}.pg_advisory_xact_lock(bigint) RETURNS void LANGUAGE sql AS
              $$ INSERT INTO {trap}.sprung VALUES ('lock') $$;
            CREATE FUNCTION {trap}.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS
              $$ INSERT INTO {trap}.sprung VALUES ('clock'); SELECT now() $$;
            CREATE FUNCTION {trap}.format(text, text, text) RETURNS text LANGUAGE sql AS
              $$ INSERT INTO {trap}.sprung VALUES ('format'); SELECT 'SELECT 1' $$;
            CREATE TABLE {trap}.header (LIKE pg_class);
            ALTER ROLE {name} SET search_path = {trap}{"" if bounced else ", pg_catalog"};
            """,
        )
        try:
            url = at(server_url, username=name)
            async with PostgresStore(url, schema=schema, pgbouncer=bounced) as store:
                author = Author(store)
                await author.create()
                await author.drive()
                await author.say("hi", events=1)
                await store.enqueue("agent", item("a"))
                assert await store.load("agent") is not None
                assert await store.due(await store.now() + 10**9, 9)
                await store.delete("agent", force=True)
            db = await asyncpg.connect(server_url)
            sprung = await db.fetch(f"SELECT how FROM {trap}.sprung")
            await db.close()
            assert sprung == []
        finally:
            await execute(server_url, f"DROP SCHEMA {trap} CASCADE")


async def test_an_encrypted_way(
    new_server: Callable[..., PostgresServer], tmp_path: Path, component: Callable[[str, str], str]
) -> None:
    openssl = component("openssl", "apt-get install openssl")
    programs = find_programs(system=True)
    if programs is None:
        pytest.skip("the server of the wheel does not encrypt; get the system's by: apt-get install postgresql")
    server = new_server(*FAST, "ssl=on", programs=programs)
    for name in ("server", "other"):
        _certify(openssl, server.data / f"{name}.key", server.data / f"{name}.crt")
        (server.data / f"{name}.crt").chmod(0o644)  # the server may be another user
        shutil.copy(server.data / f"{name}.crt", tmp_path / f"{name}.crt")
    await asyncio.to_thread(server.start)
    async with open_store(f"{server.url}?sslmode=verify-full&sslrootcert={tmp_path}/server.crt") as store:
        assert isinstance(store, PostgresStore)
        sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        assert await store.server.fetch(sql, again=frozenset()) == [(True,)]
    with pytest.raises(StoreUnavailableError) as refused:
        await open_store(f"{server.url}?sslmode=verify-full&sslrootcert={tmp_path}/other.crt").open()
    assert (refused.value.code, "certificate" in str(refused.value)) == ("cannot_connect", True)


def _certify(openssl: str, key: Path, cert: Path) -> None:
    """Make a certificate that nobody else has signed."""
    options = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([openssl, *options.split(), "-keyout", key, "-out", cert], check=True, capture_output=True)
    key.chmod(0o600)
    if os.geteuid() == 0:
        shutil.chown(key, "nobody", "nogroup")


async def test_a_server_that_does_not_encrypt(server_url: str) -> None:
    with pytest.raises(StoreUnavailableError) as refused:
        await open_store(f"{server_url}?sslmode=require").open()
    assert (refused.value.code, "does not encrypt; turn TLS on" in str(refused.value)) == ("cannot_connect", True)


# ---- nothing of the driver's crosses the edge ------------------------------------------------------------------


def _calls(store: PostgresStore, author: Author) -> dict[str, Callable[[], Any]]:
    """Every method that goes to the server, called so that it must."""
    lease = Lease("agent", "uid-1", "h", 1, 2**60, 1, 0)
    key = Key("header", "", "agent")
    footing = Footing("agent", "uid-1", 1, 0, None, 1)
    plain = {
        name: (lambda name=name: getattr(store, name)("agent"))
        for name in (
            "check_consistency delete erase exists lease_of list_snapshots load load_messages load_messages_paginated "
            "look read_calls read_documents read_events read_messages read_runs read_state"
        ).split()
    }
    bare = {
        name: (lambda name=name: getattr(store, name)())
        for name in (
            "aggregate_stats expire list_agents migrate now query_agents query_messages query_tool_calls schema_status "
            "sizes sweep"
        ).split()
    }
    return {
        **plain,
        **bare,
        "acquire": lambda: store.acquire("agent", "h", 9),
        "acquire_on": lambda: store.acquire_on(footing, "h", 9),
        "agents": lambda: store.agents("", "", 9),
        "append_inbox": lambda: store.append_inbox("agent", _item_row(), now=1, bounded=False),
        "append_message": lambda: store.append_message("agent", "user", "hi"),
        "apply": lambda: store.apply("agent", (), [row("message", "11")], ()),
        "apply_and_look": lambda: store.apply_and_look("agent", (), [row("message", "11")], (), uid="u", after=""),
        "batch_fork": lambda: store.batch_fork("agent", {"b": "uid-b"}),
        "commit": lambda: store.commit(author.make()),
        "consumed_by": lambda: store.consumed_by("agent", "i"),
        "copy_rows": lambda: store.copy_rows(
            [row("message", "11")], [Copy("b", "uid-b", Condition("equals", key, "at", 1))]
        ),
        "delete_document": lambda: store.delete_document("agent", "kind"),
        "delete_snapshot": lambda: store.delete_snapshot("agent", "s"),
        "drop": lambda: store.drop("agent", "uid-1"),
        "due": lambda: store.due(2**60, 9),
        "enqueue": lambda: store.enqueue("agent", item("i")),
        "fork": lambda: store.fork("agent", "b", new_uid="uid-b"),
        "get": lambda: store.get("agent", [key]),
        "get_blob": lambda: store.get_blob("agent", "0" * 64),
        "leases_of": lambda: store.leases_of(["agent"]),
        "load_document": lambda: store.load_document("agent", "kind"),
        "load_snapshot": lambda: store.load_snapshot("agent", "s"),
        "prune": lambda: store.prune("agent", before=None),
        "put_blob": lambda: store.put_blob("agent", b"x"),
        "read_call": lambda: store.read_call("agent", "1.1.0"),
        "read_document": lambda: store.read_document("agent", "kind", "name"),
        "read_inbox": lambda: store.read_inbox("agent", "uid-1"),
        "look_up": lambda: store.look_up("agent", _plan(key)),
        "read_run": lambda: store.read_run("agent", 1),
        "release": lambda: store.release(lease),
        "remains": lambda: store.remains("agent", "uid-1"),
        "renew": lambda: store.renew(lease, 9),
        "save_document": lambda: store.save_document("agent", "kind", "name", {}),
        "save_messages": lambda: store.save_messages("agent", []),
        "save_snapshot": lambda: store.save_snapshot("agent", "s"),
        "scan": lambda: store.scan("agent", Scan("message", "uid-1", limit=9)),
        "select": lambda: store.select(Question("header", "agent_id")),
        "set_expiry": lambda: store.set_expiry("agent", 1),
        "settle": lambda: store.settle("agent", head("agent", "uid-1", staged="s")),
    }


def _item_row() -> Any:
    return row("inbox", "11", "uid-1", id="i", kind="message", at=1, priority=0, size=1)


def _plan(key: Key) -> Any:
    return (yield Get((key,)))


async def test_no_error_of_the_driver_s_leaves_the_store_whatever_is_called(
    new_server: Callable[..., PostgresServer],
) -> None:
    server = new_server(*FAST)
    await asyncio.to_thread(server.start)
    async with PostgresStore(server.url, retry_s=0, clock=None) as store:
        author = Author(store)
        await author.create()
        calls = _calls(store, author)
        public = {name for name, what in inspect.getmembers(PostgresStore, inspect.iscoroutinefunction)}
        silent = {"open", "close", "check_health", "find_damage", *(name for name in public if name.startswith("_"))}
        assert calls.keys() == public - silent, "a method came or went: say here how to call it"
        await asyncio.to_thread(server.stop)
        await asyncio.sleep(1.1)  # what the server's clock said is counted on for a second
        outcomes: dict[str, str] = {}
        for name, call in calls.items():
            with pytest.raises(KodeError) as failed:
                await call()
            outcomes[name] = failed.value.code
            assert "postgresql://***@127.0.0.1" in failed.value.message, name
        assert set(outcomes.values()) <= {"cannot_connect", "connection_lost"}, outcomes
        health = await store.check_health()
        assert (health.reachable, health.healthy) == (False, False)
        assert "cannot be reached" in " ".join(health.problems)
        await asyncio.to_thread(server.start)
        # The object is as good as new.
        assert (await store.commit(author.make())).version == 2
        assert (await store.check_health()).healthy
