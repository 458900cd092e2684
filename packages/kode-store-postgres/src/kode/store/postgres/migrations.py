"""The schema: which migrations there are, which were applied, and applying them.

A migration is a file ``NNNN_{pre|post}_name.sql``. What is *pre* only adds, so that code of the version before works on
with it; it is applied before new code starts. What is *post* removes what only old code used, and is applied when
that is gone. A file that was released never changes: what was applied is remembered with its checksum.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any, Final, Literal

from kode.core.errors import SchemaTooNewError, StoreError, UsageError
from kode.core.store import SchemaStatus
from kode.store.postgres.tables import quoted, sealed

__all__ = ["AutoMigrate", "Migration", "applied", "check_schema", "migrate", "shipped", "status"]

AutoMigrate = Literal["new", "always", "never"]
_NAME: Final = re.compile(r"(\d{4})_(pre|post)_(\w+)\.sql")
_SCHEMA: Final = re.compile(r"(?!pg_)[a-z_][a-z0-9_]{0,40}")
_COLUMNS: Final = sealed(
    "SELECT pg_catalog.array_agg(a.attname::text) FROM pg_catalog.pg_class AS c "
    "JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace "
    "JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0::smallint "
    "WHERE n.nspname = $1::pg_catalog.name AND c.relname = 'migration'::pg_catalog.name"
)


@dataclass(frozen=True, slots=True)
class Migration:
    """One file."""

    number: int
    phase: str
    name: str
    text: str

    @property
    def checksum(self) -> str:
        """Of its text, which never changes."""
        return sha256(self.text.encode()).hexdigest()

    @property
    def title(self) -> str:
        """What a person calls it."""
        return f"{self.number:04}_{self.phase}_{self.name}"

    def sql(self, schema: str) -> str:
        """Its statements for a schema, and the one that remembers them."""
        there = quoted(schema)
        done = f"({self.number}, '{self.phase}', '{self.name}', '{self.checksum}')"
        told = f"INSERT INTO {there}.migration (number, phase, name, checksum) VALUES {done};"
        return f"{self.text.replace('{schema}', there)}\n{told}\n"


def check_schema(schema: str) -> str:
    """Refuse what is no plain name.

    Raises:
        UsageError: ``bad_schema``.
    """
    if _SCHEMA.fullmatch(schema) is None:
        raise UsageError(
            f"schema is {schema[:60]!r}; use up to 41 small letters, digits and _, not beginning with a digit or pg_.",
            code="bad_schema",
        )
    return schema


@cache
def shipped() -> tuple[Migration, ...]:
    """List the migrations of this wheel, in their order."""
    found: dict[int, Migration] = {}
    for file in files("kode.store.postgres").iterdir():
        name = _NAME.fullmatch(file.name)
        if name is not None:
            one = Migration(int(name[1]), name[2], name[3], file.read_text("utf-8"))
            other = found.setdefault(one.number, one)
            if other is not one:
                raise RuntimeError(f"two migrations have one number: {other.title}, {one.title}")
    return tuple(found[number] for number in sorted(found))


async def applied(db: Any, schema: str, where: str) -> Mapping[int, tuple[str, str]] | None:
    """Read the phase and checksum of what was applied; None: there is no schema of ours.

    Raises:
        StoreError: ``schema_taken``: there is one of somebody else.
    """
    # From the catalogue itself: what only looks names up may still not know what another has just made.
    columns = await db.fetchval(_COLUMNS, schema)
    if columns is None:
        return None
    if not {"number", "phase", "name", "checksum"} <= {*columns}:
        raise StoreError(
            f"{where}: schema {schema!r} has a table 'migration' of somebody else; give KODE a schema of its own "
            "(schema=…).",
            code="schema_taken",
        )
    rows = await db.fetch(f"SELECT number, phase, checksum FROM {quoted(schema)}.migration")
    return {row["number"]: (row["phase"], row["checksum"]) for row in rows}


def missing(found: Mapping[int, tuple[str, str]] | None, schema: str, where: str) -> list[Migration]:
    """Find what is to be applied still.

    Raises:
        SchemaTooNewError: Code of this version cannot work on it.
        StoreError: ``schema_changed``: what was applied is not what this wheel brings.
    """
    known = {one.number: one for one in shipped()}
    for number, (phase, checksum) in (found or {}).items():
        if number not in known:
            if phase == "post":
                raise SchemaTooNewError(
                    f"{where}: schema {schema!r} has migration {number}; this process knows up to {max(known)}. "
                    "Upgrade kode-store-postgres; nothing was changed.",
                    found=number,
                    known=max(known),
                )
        elif checksum != known[number].checksum:
            raise StoreError(
                f"{where}: migration {number} of schema {schema!r} was applied with another text than this wheel's; "
                "install the release that made it.",
                code="schema_changed",
                migration=number,
            )
    return [one for number, one in known.items() if number not in (found or {})]


async def prepare(db: Any, schema: str, where: str, auto: AutoMigrate) -> None:
    """Check the schema, and make or upgrade it as far as `auto` says.

    Raises:
        StoreError: ``schema_missing`` or ``schema_old``, and `auto` does not allow to change that.
        SchemaTooNewError: See `missing`.
    """
    found = await applied(db, schema, where)
    pending = missing(found, schema, where)
    wanted = [one for one in pending if found is None or one.phase == "pre"]
    if not wanted:
        return
    if auto == "never" or (auto == "new" and found is not None):
        code, what = ("schema_missing", "is not there") if found is None else ("schema_old", "is of an older version")
        raise StoreError(
            f"{where}: schema {schema!r} {what}; run `kode store schema upgrade URL`, or open it with "
            f"auto_migrate='{'new' if found is None else 'always'}'.",
            code=code,
            pending=[one.number for one in wanted],
        )
    await migrate(db, schema, where, post=found is None)


async def migrate(db: Any, schema: str, where: str, *, post: bool) -> list[str]:
    """Apply what is missing, all in one transaction; of several who do so at once one does it.

    Args:
        db: A connection.
        schema: Which.
        where: The server, for a person.
        post: Also what removes things that older code needs.

    Returns: the names of what was applied.
    """
    done = []
    async with db.transaction():
        # What others put on this user's path is never taken for the system's, here and in what is made here.
        await db.execute("SET LOCAL search_path = pg_catalog, pg_temp")
        await db.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0::bigint))", f"kode-schema/{schema}")
        found = await applied(db, schema, where)
        for one in missing(found, schema, where):
            if one.phase == "pre" or post:
                await db.execute(one.sql(schema))
                done.append(one.title)
    return done


async def status(db: Any, schema: str, where: str) -> SchemaStatus:
    """Tell what was applied and what is missing."""
    found = await applied(db, schema, where)
    pending = missing(found, schema, where)
    done = [one.title for one in shipped() if one not in pending]
    return SchemaStatus(done, [one.title for one in pending])
