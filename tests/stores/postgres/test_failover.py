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

SECONDS = float(os.environ.get("KODE_TORTURE_S", "6"))


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


@pytest.mark.parametrize("option", ["", "&target_session_attrs=read-write"], ids=["by default", "said"])
async def test_when_the_primary_is_killed_in_mid_commit_its_replica_has_all_that_was_acknowledged(
    pair: tuple[PostgresServer, PostgresServer], option: str
) -> None:
    primary, replica = pair
    # The replica first: it is asked, and is not taken while it is one.
    async with open_store(f"{both(replica, primary)}?retry_s=60&pool_max=6{option}") as store:
        load = Load(store)
        async with anyio.create_task_group() as tasks:
            for n in range(6):
                tasks.start_soon(load.write, f"w{n}")
            for n in range(2):
                tasks.start_soon(load.run, f"a{n}")
            await load.more(100)
            await asyncio.to_thread(primary.stop, signal.SIGKILL)
            await asyncio.to_thread(replica.promote)
            await load.more(100)
            load.stopped = True
        await load.judge(store)
        assert isinstance(store, PostgresStore)
        assert await store.server.fetch("SELECT pg_is_in_recovery()", again=frozenset()) == [(False,)]


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


async def _set(server: PostgresServer, value: str) -> None:
    """Say it to the server, and wait until it counts: it reads its settings again when it comes to it."""
    db = await asyncpg.connect(server.url)
    try:
        await db.execute("SET default_transaction_read_only = off")
        await db.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
        await db.execute("SELECT pg_reload_conf()")
    finally:
        await db.close()
    for _ in range(500):
        db = await asyncpg.connect(server.url)
        try:
            if await db.fetchval("SHOW default_transaction_read_only") == value:
                return
        finally:
            await db.close()
        await asyncio.sleep(0.01)
    raise AssertionError("the server does not take the setting")
