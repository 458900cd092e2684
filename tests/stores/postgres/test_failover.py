"""A server that is restarted under load, that fails over to its replica, that only reads."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator

import anyio
import asyncpg
import pytest
from tests.stores.postgres.load import Load
from tests.stores.postgres.server import PostgresServer
from tests.stores.postgres.torture import torture

from kode.core.errors import StoreUnavailableError
from kode.core.store import open_store
from kode.core.testing.conformance.store import Author
from kode.core.testing.conformance.store.author import item
from kode.store.postgres import PostgresStore

pytestmark = [pytest.mark.anyio, pytest.mark.integration]

SECONDS = float(os.environ.get("KODE_TORTURE_S", "4"))


async def test_nothing_acknowledged_is_lost_while_it_is_restarted_and_killed(
    new_server: Callable[..., PostgresServer],
) -> None:
    server = new_server()
    await asyncio.to_thread(server.start)
    told = await torture(server, SECONDS)
    assert told.keys() == {"stopped in order", "stopped at once", "killed", "cut off", "commits", "runs"}, told


@pytest.fixture
def pair(new_server: Callable[..., PostgresServer]) -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """A primary that acknowledges what its replica has on its disk too, and that replica."""
    primary = new_server("synchronous_standby_names=*")
    replica = primary.standby()
    primary.start()
    replica.start()
    yield primary, replica
    replica.remove()


def both(*servers: PostgresServer) -> str:
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    return f"postgresql://postgres@{hosts}/postgres"


@pytest.mark.parametrize(
    ("option", "alive"), [("", False), ("&target_session_attrs=read-write", True)], ids=["by default", "said"]
)
async def test_when_the_primary_is_killed_in_mid_commit_its_replica_has_all_that_was_acknowledged(
    pair: tuple[PostgresServer, PostgresServer], option: str, alive: bool
) -> None:
    primary, replica = pair
    # The replica first: it is asked, and is not taken while it is one. When both are primaries it is the old one.
    hosts = both(primary, replica) if alive else both(replica, primary)
    async with open_store(f"{hosts}?retry_s=60&pool_max=6{option}") as store:
        load = Load(store)
        async with anyio.create_task_group() as tasks:
            for n in range(6):
                tasks.start_soon(load.write, f"w{n}")
            for n in range(2):
                tasks.start_soon(load.run, f"a{n}")
            await load.more(100)
            if alive:
                await asyncio.to_thread(replica.promote)
                await _cut_off_who_waits(primary)
            await asyncio.to_thread(primary.stop, signal.SIGKILL)
            if not alive:
                await asyncio.to_thread(replica.promote)
            await load.more(100)
            load.stopped = True
        await load.judge(store)
        assert isinstance(store, PostgresStore)
        assert await store.server.fetch("SELECT pg_is_in_recovery()", again=frozenset()) == [(False,)]


async def _cut_off_who_waits(server: PostgresServer) -> None:
    """Whoever waits for the standby that left has written here, and here only; and finds it again when he repeats."""
    db = await asyncpg.connect(server.url)
    for what in ("_v1(", "pg_logical_emit_message"):
        sql = "FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE $1"
        while not await db.fetchval(f"SELECT count(*) {sql}", f"%{what}%"):  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.01)
        await db.execute(f"SELECT pg_terminate_backend(pid) {sql}", f"%{what}%")
    await db.close()


async def test_a_replica_is_refused_in_one_sentence_and_taken_once_it_is_promoted(
    pair: tuple[PostgresServer, PostgresServer],
) -> None:
    primary, replica = pair
    async with PostgresStore(primary.url) as store:
        await Author(store).create()
    for url in (replica.url, f"{replica.url}?target_session_attrs=any"):
        late = open_store(url)
        with pytest.raises(StoreUnavailableError) as refused:
            await late.open()
        assert (refused.value.code, refused.value.retryable) == ("read_only", True)
        assert "give the URL of the primary" in str(refused.value)
    await asyncio.to_thread(primary.stop, signal.SIGKILL)
    await asyncio.to_thread(replica.promote)
    async with late:
        assert await late.exists("agent")


async def test_a_primary_that_only_reads_for_a_while_is_waited_for(new_server: Callable[..., PostgresServer]) -> None:
    server = new_server()
    await asyncio.to_thread(server.start)
    async with PostgresStore(server.url, retry_s=0.2) as store:
        author = Author(store)
        await author.create()
        await _set(server, "on")
        commit = author.make()
        with pytest.raises(StoreUnavailableError) as refused:
            await store.commit(commit)
        assert refused.value.code == "read_only"
        assert await store.exists("agent")
        async with PostgresStore(server.url, retry_s=60) as patient, anyio.create_task_group() as tasks:
            tasks.start_soon(patient.enqueue, "agent", item("waits"))
            await asyncio.sleep(0.1)
            await _set(server, "off")
        assert [one.id for one in await store.read_inbox("agent", "uid-1")] == ["waits"]
        assert (await store.commit(commit)).version == 2


async def test_what_no_standby_has_is_not_acknowledged_however_often_it_is_repeated(
    new_server: Callable[..., PostgresServer],
) -> None:
    """Who waits for the standby and is cut off has written: the next who looks finds it there, on one disk only."""
    server = new_server()
    await asyncio.to_thread(server.start)
    db = await asyncpg.connect(server.url)
    await db.execute("CREATE ROLE kode SUPERUSER LOGIN; ALTER ROLE postgres SET synchronous_commit = local")
    await db.close()
    db = await asyncpg.connect(server.url)

    async def waiting(query: str) -> list[int]:
        sql = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE $1"
        while len(found := await db.fetch(sql, f"%{query}%")) < 2:  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.01)
        return [pid for (pid,) in found]

    async with PostgresStore(server.url.replace("postgres@", "kode@"), retry_s=60) as store:
        authors = [Author(store, id, f"uid-{id}") for id in ("a", "b")]
        for author in authors:
            await author.create()
        await _set(server, "nobody", "synchronous_standby_names")
        async with asyncio.timeout(50), asyncio.TaskGroup() as tasks:
            commit = tasks.create_task(store.commit(authors[0].make()))
            enqueue = tasks.create_task(store.enqueue("b", item("i")))
            for pid in await waiting("_v1("):
                await db.execute("SELECT pg_terminate_backend($1)", pid)
            await waiting("pg_logical_emit_message")
            assert await db.fetchval("SELECT version FROM kode.header WHERE agent_id = 'a'") == 2
            assert not commit.done()
            assert not enqueue.done()
            await _set(server, "", "synchronous_standby_names")
        assert (commit.result().repeated, enqueue.result().duplicate) == (True, True)
    await db.close()


async def _set(server: PostgresServer, value: str, name: str = "default_transaction_read_only") -> None:
    """Say it to the server, and wait until it counts: it reads its settings again when it comes to it."""
    db = await asyncpg.connect(server.url)
    try:
        await db.execute("SET default_transaction_read_only = off")
        await db.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        await db.execute("SELECT pg_reload_conf()")
    finally:
        await db.close()
    for _ in range(500):
        db = await asyncpg.connect(server.url)
        try:
            if await db.fetchval(f"SHOW {name}") == value:
                return
        finally:
            await db.close()
        await asyncio.sleep(0.01)
    raise AssertionError("the server does not take the setting")
