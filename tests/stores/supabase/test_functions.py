"""The functions of the file by themselves, with no API before them."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import asyncpg
import pytest
from tests.stores.supabase.conftest import Project

from kode.core.errors import StoreUnavailableError
from kode.core.store import Record
from kode.core.store.records import COLUMNS
from kode.core.testing.conformance.store import Author
from kode.store.supabase import SupabaseStore, rows
from kode.store.supabase import schema as shipped

pytestmark = [pytest.mark.anyio, pytest.mark.integration]


@pytest.fixture
async def db(project: Project, bare: str) -> Any:
    db = await asyncpg.connect(project.dsn)
    await db.execute(shipped.sql(bare))
    yield db
    await db.close()


async def call(db: Any, schema: str, name: str, *values: Any) -> Any:
    marks = ", ".join(f"${n}" for n in range(1, len(values) + 1))
    return json.loads(await db.fetchval(f"SELECT {schema}.{name}({marks})", *values))


def lease(owner: str, holder: str | None, until: int) -> Record:
    return Record("lease", owner, "", {"holder": holder, "fence": 2**62 + 1, "until": until, "takes": None}, b"\0\xff")


async def test_many_acts_in_one_call_are_each_judged_by_themselves(db: Any, bare: str) -> None:
    good = rows.acts("a", [], [lease("u1", "", 1)], [], ("u1", ""))
    both = {name: [*values] for name, values in good.items()}
    both["agents"] = ["a", "b", "c"]
    both["lease"] += [[2, *row[1:]] for row in rows.acts("b", [], [lease("u2", "x", 2)], [], None)["lease"]]
    both["lease"] += [[3, *row[1:]] for row in rows.acts("c", [], [lease("u3", None, 3)], [], None)["lease"]]
    both["lease_b"] *= 3
    # Number, number of the condition, value, …: the second act wants what is not there.
    both["plain"] = [
        [2, 4, None, "equals", "header", "", "b", "uid", "u2"],
        [3, 0, None, "absent", "header", "", "c", "", None],
    ]
    answer = await call(db, bare, "rest_apply_v1", json.dumps(both))
    assert answer["failed"] == [[2, 4]]
    assert await db.fetchval(f"SELECT array_agg(owner ORDER BY owner) FROM {bare}.lease") == ["u1", "u3"]


async def test_values_come_back_as_they_were(db: Any, bare: str) -> None:
    """Numbers of 64 bits, null apart from the empty text, quotes and any letters, any bytes."""
    odd = "'\"\\ \n\u2028 \U0010ffff {}%s"
    put = [lease(odd, "", 2**63 - 1), lease("u2", None, -(2**63)), lease("u3", odd, 0)]
    await call(db, bare, "rest_apply_v1", json.dumps(rows.acts("a", [], put, [], None)))
    keys = [record.address for record in put]
    answer = await call(db, bare, "rest_read_v1", json.dumps(rows.gets(keys)))
    assert rows.found(keys, answer["answers"]) == put


@pytest.mark.parametrize("kind", ["migration", "watcher", "header; DROP TABLE header", "pg_class", ""])
async def test_what_is_no_kind_is_not_read(db: Any, bare: str, kind: str) -> None:
    ask = {"owner": "", "after": "", "prefix": "", "limit": 5, "bytes": 100}
    for asked in ({"kind": kind, "at": [["", ""]]}, {"kind": kind, **ask}):
        with pytest.raises(asyncpg.PostgresError):
            await call(db, bare, "rest_read_v1", json.dumps([asked]))
    assert await db.fetchval(f"SELECT count(*) FROM {bare}.header") == 0


async def test_every_kind_and_column_of_the_closed_list_is_carried(db: Any, bare: str) -> None:
    put = [
        Record(
            kind,
            "u",
            "k",
            {name: f"{kind} {name}" if sort == "text" else n for n, (name, sort) in enumerate(columns)},
            b"b",
        )
        for kind, columns in COLUMNS.items()
    ]
    await call(db, bare, "rest_apply_v1", json.dumps(rows.acts("a", [], put, [], None)))
    for record in put:
        assert await db.fetchval(f"SELECT encode(body, 'base64') FROM {bare}.{record.kind}") == b64encode(b"b").decode()
        answer = await call(db, bare, "rest_read_v1", json.dumps(rows.gets([record.address])))
        assert rows.found([record.address], answer["answers"]) == [record]


async def test_a_write_that_waits_too_long_ends_in_the_server_and_does_not_land_later(
    project: Project, db: Any, bare: str
) -> None:
    """So it cannot overtake what its caller does after he gave up."""
    for name in ("rest_apply_v1", "rest_append_v1", "rest_read_v1", "rest_due_v1"):
        settings = await db.fetchval("SELECT proconfig FROM pg_proc WHERE oid = $1::regproc", f"{bare}.{name}")
        assert "statement_timeout=30s" in settings
    async with SupabaseStore(project.url, project.key, schema=bare, retry_s=0.1) as store:
        author = Author(store)
        await author.create()
        # Who is locked gives up sooner; here it is the limit of the whole statement that ends it.
        await db.execute(
            f"ALTER FUNCTION {bare}.apply_v1 RESET lock_timeout; "
            f"ALTER FUNCTION {bare}.rest_apply_v1 SET statement_timeout = '200ms'; NOTIFY pgrst, 'reload schema'"
        )
        async with db.transaction():
            await db.execute(f"SELECT * FROM {bare}.header FOR UPDATE")
            with pytest.raises(StoreUnavailableError) as error:
                await author.say("hi", events=1)
            assert error.value.code == "timeout"
        await db.execute(
            f"ALTER FUNCTION {bare}.rest_apply_v1 SET statement_timeout = '30s'; NOTIFY pgrst, 'reload schema'"
        )
        assert (await store.read_messages("agent")).items == ()
        await author.say("again", events=1)
