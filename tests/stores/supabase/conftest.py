"""A stand-in for a Supabase project (`postgrest.py`) before a real PostgreSQL, both started once per process."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import jwt
import pytest

from kode.store.supabase import schema as shipped

SECRET = "a-secret-of-forty-characters-for-the-tests"
MAX_ROWS = 1
"""Far below what a project has (1,000): whatever depends on it fails."""
ROLES = """
DO $$ BEGIN
  IF to_regrole('authenticator') IS NULL THEN
    CREATE ROLE anon NOLOGIN; CREATE ROLE authenticated NOLOGIN; CREATE ROLE service_role NOLOGIN BYPASSRLS;
    CREATE ROLE authenticator LOGIN NOINHERIT; GRANT anon, authenticated, service_role TO authenticator;
  END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;  -- another process of the run was first
END $$
"""


@pytest.fixture
def anyio_backend() -> str:
    """The client knows asyncio only."""
    return "asyncio"


def sign(role: str, **claims: Any) -> str:
    """Make a key."""
    return jwt.encode({"role": role, "iss": "supabase", **claims}, SECRET, "HS256")


@dataclass(frozen=True)
class Project:
    """A running stand-in."""

    url: str
    dsn: str
    """Of the database behind it, for its owner."""
    kept: str
    """A schema that has all, for what is emptied by who uses it."""
    bare: str
    """A name that is exposed; whoever makes a schema of it removes it."""
    key: str = sign("service_role")

    async def execute(self, sql: str, *values: Any) -> None:
        """Do something beneath the API."""
        db = await asyncpg.connect(self.dsn)
        try:
            await db.execute(sql, *values)
        finally:
            await db.close()


@pytest.fixture(scope="session")
def project(postgres_url: str) -> Iterator[Project]:
    """A project that has its schema."""
    yield from _serve(postgres_url)


def _serve(dsn: str) -> Iterator[Project]:
    kept, bare = f"kode_{os.getpid()}_sb", f"kode_{os.getpid()}_bare"
    parts = urlsplit(dsn)
    authenticator = parts._replace(netloc=f"authenticator@{parts.hostname}:{parts.port}").geturl()
    settings = {
        "dsn": authenticator, "secret": SECRET, "schemas": ["public", kept, bare], "max_rows": MAX_ROWS, "pool": 10,
    }  # fmt: skip
    asyncio.run(_execute(dsn, ROLES))
    asyncio.run(_execute(dsn, shipped.sql(kept)))
    program = Path(__file__).with_name("postgrest.py")
    with subprocess.Popen(
        [sys.executable, str(program), json.dumps(settings)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield Project(f"http://127.0.0.1:{int(process.stdout.readline())}", dsn, kept, bare)
        process.stdin.close()
        process.wait(10)
    asyncio.run(_execute(dsn, f"DROP SCHEMA {kept} CASCADE"))


async def _execute(dsn: str, sql: str) -> None:
    db = await asyncpg.connect(dsn)
    try:
        await db.execute(sql)
    finally:
        await db.close()


@pytest.fixture
async def bare(project: Project) -> AsyncIterator[str]:
    """The name of an exposed schema that is not there, removed afterwards."""
    yield project.bare
    await project.execute(f"DROP SCHEMA IF EXISTS {project.bare} CASCADE; NOTIFY pgrst, 'reload schema'")
