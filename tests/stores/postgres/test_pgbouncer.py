"""The store works behind PgBouncer in transaction mode, where two statements hardly ever meet one session."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest

from kode.core.errors import StoreError
from kode.core.testing.conformance.store import Author
from kode.core.testing.conformance.store.author import item
from kode.store.postgres import PostgresStore

pytestmark = [pytest.mark.anyio, pytest.mark.integration]


@pytest.fixture
def bouncer(server_url: str, component: Callable[[str, str], str]) -> Iterator[str]:
    """The URL of a PgBouncer with two sessions for all."""
    program = component("pgbouncer", "apt-get install pgbouncer")
    behind = urlsplit(server_url)
    folder = Path(tempfile.mkdtemp(prefix="kode-bouncer-", dir="/tmp"))
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.chmod(0o755)
    (folder / "users").write_text(f'"{behind.username}" "{behind.password or ""}"\n')
    (folder / "ini").write_text(
        f"[databases]\n* = host={behind.hostname} port={behind.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {folder}/users\n"
        "pool_mode = transaction\ndefault_pool_size = 2\nmax_client_conn = 200\n"
    )
    for name in ("users", "ini"):
        (folder / name).chmod(0o644)
    # It refuses to run as root.
    other: dict[str, Any] = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, folder / "ini"], stdout=log, stderr=log, **other)
    try:
        for _ in range(1_500):
            with closing(socket.socket()) as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.02)
        yield f"postgresql://{behind.username}@127.0.0.1:{port}{behind.path}"
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(folder)


async def test_many_agents_work_through_two_sessions(bouncer: str, schema: str) -> None:
    async with PostgresStore(bouncer, schema=schema, pgbouncer=True, pool_max=8) as store:

        async def work(n: int) -> None:
            author = Author(store, f"a{n}", f"u{n}")
            await author.create()
            await author.drive()
            for k in range(5):
                await author.say(f"{k}", events=1)
                await store.enqueue(author.id, item(f"{k}"))
                loaded = await store.load(author.id)
                assert loaded is not None
                assert (len(loaded.window), len(loaded.inbox)) == (k + 1, k + 1)

        async with anyio.create_task_group() as tasks:
            for n in range(40):
                tasks.start_soon(work, n)
        assert len(await store.due(await store.now() + 10**12, 100)) == 40


async def test_a_database_that_is_not_behind_it_is_an_error_of_ours(bouncer: str, schema: str) -> None:
    store = PostgresStore(bouncer.rsplit("/", 1)[0] + "/nowhere", schema=schema, pgbouncer=True, retry_s=0.1)
    with pytest.raises(StoreError):
        await store.open()
