"""Sets of writes and of reads give what one after the other gives, and hinder nobody."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kode.core.errors import KodeError, NotFoundError, UsageError
from kode.core.store import Condition, Key, Record, SqliteStore, lookups
from kode.core.store.contract import Scan
from kode.core.store.lookups import Get, Lookup
from kode.core.store.records import int_key
from kode.core.store.sqlite import reads, rows, sets
from kode.core.store.sqlite.file import connect
from kode.core.store.sqlite.sets import Append, Apply
from kode.core.testing.conformance.store import Author
from kode.core.testing.conformance.store.records import row

pytestmark = pytest.mark.anyio
BIG = 2**63 - 1


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with SqliteStore(tmp_path / "agents.db", durability="process") as store:
        yield store


@contextmanager
def database() -> Iterator[sqlite3.Connection]:
    with tempfile.TemporaryDirectory() as folder:
        db = connect(f"{folder}/x.db", durability="process", busy_timeout_s=1)
        try:
            yield db
        finally:
            db.close()


def content(db: sqlite3.Connection) -> dict[str, list[Any]]:
    return {kind: sorted(db.execute(f'SELECT * FROM "{kind}"').fetchall(), key=repr) for kind in rows.TABLES}


# ---- together is as one by one -----------------------------------------------------------------------------

AGENTS = st.sampled_from("abcd")
TIMES = st.none() | st.sampled_from([0, 1, 2, 2**53 + 1, BIG])
# What JSON and SQLite might not agree on.
TEXTS = st.sampled_from(["", "x", 'q"\\', "é", "\U0010ffff", "\x01\n", "nul\0behind", "nul", "\\u0000"])


def header(
    agent: str, wake_at: int | None, seen: int, most: int, tenant: str | None, parked: str | None = None
) -> Record:
    return row(
        "header",
        agent,
        "",
        agent_id=agent,
        uid=f"uid-{agent}",
        version=seen,
        wake_at=wake_at,
        seen=seen,
        tenant=tenant,
        parked=parked,
        max_inbox=most,
        max_message_bytes=5,
    )


HEADERS = st.builds(
    header,
    AGENTS,
    TIMES,
    st.integers(0, 2),
    st.integers(0, 2),
    st.none() | TEXTS,
    st.sampled_from([None, None, "crash_loop"]),
)
UIDS = AGENTS.map("uid-{}".format)


def owned(uids: st.SearchStrategy[str]) -> st.SearchStrategy[Record]:
    lease = st.builds(
        lambda uid, holder, until, fence: row("lease", "", uid, holder=holder, until=until, fence=fence),
        uids,
        st.none() | TEXTS,
        TIMES,
        TIMES,
    )
    inbox = st.builds(
        lambda uid, n, id: row("inbox", int_key(n), uid, id=id, kind="message", size=1),
        uids,
        st.integers(1, 4),
        st.sampled_from("xyz"),
    )
    consumed = st.builds(
        lambda uid, id, until: row("consumed", id, uid, position=1, run=1, expires_at=until),
        uids,
        st.sampled_from("xyz"),
        TIMES,
    )
    message = st.builds(lambda uid, key, body: row("message", key, uid, body), uids, TEXTS, st.binary(max_size=3))
    return lease | inbox | consumed | message


ROWS = HEADERS | owned(UIDS)
KEYS = ROWS.map(lambda r: r.address)


def condition(record: Record) -> st.SearchStrategy[Condition]:
    """Ask something about a record as it might be."""
    key, columns = record.address, record.columns
    asked = [Condition("absent", key)]
    if key.kind == "lease":
        asked += [Condition("equals", key, name, columns[name]) for name in ("holder", "fence")]
        asked += [Condition("free", key, value=columns["fence"])]
    if key.kind == "header":
        asked += [Condition("equals", key, name, columns[name]) for name in ("tenant", "version", "wake_at")]
    if key.kind in ("inbox", "message"):
        asked += [Condition("no_inbox_after", Key("inbox", key.uid, ""), value=key.key)]
    return st.sampled_from(asked)


def applies(agent: str) -> st.SearchStrategy[Apply]:
    """Touch one's own, and anybody's header."""
    rows = HEADERS | owned(st.just(f"uid-{agent}"))
    return st.builds(
        Apply,
        st.just(agent),
        st.lists(rows.flatmap(condition), max_size=2),
        st.lists(rows, max_size=6),
        st.lists(rows.map(lambda r: r.address), max_size=6),
        st.none() | st.integers(0, 3).map(lambda n: (f"uid-{agent}", int_key(n))),
    )


APPLIES = AGENTS.flatmap(applies)
APPENDS = st.builds(
    lambda agent, uid, id, kind, size, not_before, now, bounded: Append(
        agent, row("inbox", "", uid, id=id, kind=kind, size=size, not_before=not_before), now, bounded
    ),
    AGENTS,
    st.just("") | UIDS,
    st.sampled_from(["x", "y", "z", "nul\0"]),
    st.sampled_from(["message", "decision"]),
    st.integers(4, 6),
    TIMES,
    st.integers(0, 3),
    st.booleans(),
)
WORKS = APPLIES | APPENDS


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(ROWS, max_size=12), st.lists(st.lists(WORKS, max_size=9), min_size=1, max_size=4))
@example([], [[Apply(a, (), [header(a, None, 0, 1, None)]) for a in "abc"]])
def test_sets_give_what_one_by_one_gives(begun: list[Record], batches: list[list[Any]]) -> None:
    with database() as together, database() as alone:
        for db in (together, alone):
            rows.put_all(db, begun)
        for works in batches:
            together.execute("BEGIN IMMEDIATE")
            answers = sets.run(together, works)
            together.execute("COMMIT")
            assert answers == [work(alone) for work in works]
            assert content(together) == content(alone)


PLANS = st.lists(
    st.one_of(
        st.lists(KEYS, max_size=3).map(lambda keys: Get(tuple(keys))),
        st.builds(lambda uid, n: Scan("inbox", uid, after=int_key(n)), UIDS, st.integers(0, 3)),
        st.builds(lambda uid, key: Scan("inbox", uid, after=key), UIDS, TEXTS),
        st.builds(lambda uid: Scan("message", uid), UIDS),
    ),
    max_size=4,
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ROWS, max_size=12), st.lists(PLANS, max_size=6))
def test_plans_read_together_what_they_read_alone(begun: list[Record], asked: list[list[Any]]) -> None:
    def lookup(asks: list[Any]) -> Lookup[list[Any]]:
        found: list[Any] = []
        for ask in asks:
            found += [(yield ask)]
        if len(asks) == 3:
            raise NotFoundError(f"{len(found)}")
        return found

    def alone(asks: list[Any]) -> tuple[Any, Any]:
        try:
            return rows.run_lookup(db, lookup(asks)), None
        except NotFoundError as error:
            return None, str(error)

    with database() as db:
        rows.put_all(db, begun)
        found = reads.run(db, {n: lookup(asks) for n, asks in enumerate(asked)})
        for n, asks in enumerate(asked):
            value, error = found[n]
            assert (value, None if error is None else str(error)) == alone(asks)


def test_a_large_body_is_not_read_through_json() -> None:
    with database() as db:
        bodies = [b"", b"\0\xff" * 3, b"x" * 8_192, b"y" * 8_193]
        for n, body in enumerate(bodies):
            rows.put(db, row("header", f"{n}", "", body, created_at=BIG, updated_at=-BIG - 1))
        wanted = [Key("header", "", f"{n}") for n in range(5)]
        found = reads.run(db, dict(enumerate([lookups.get(*wanted), lookups.get(*wanted[::-1])])))
        assert found[0][0] == rows.get(db, wanted) == found[1][0][::-1]
        assert [r and r.body for r in found[0][0]] == [*bodies, None]


# ---- many rows ---------------------------------------------------------------------------------------------

COUNTS = (0, 1, 3, 4, 5, 15, 16, 17, 63, 64, 65, 129, 256, 257, 600)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("limit", [250_000, 999, 40])
def test_rows_are_put_and_deleted_in_portions(count: int, limit: int) -> None:
    with database() as db:
        db.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, limit)
        records = [row("message", int_key(n), "u", b"%d" % n, at=n) for n in range(count)]
        others = [row("header", f"{n}", "", uid=f"{n}") for n in range(count)]
        for _ in range(2):  # inserted, then replaced
            rows.put_all(db, [r for pair in zip(records, others, strict=True) for r in pair])
            assert rows.scan(db, Scan("message", "u", limit=10_000)) == records
            assert len(rows.agents(db, "", "", 10_000, None)) == count
        rows.delete_all(db, [r.address for r in records[1:]] + [Key("run", "u", "none")] * 5)
        assert rows.scan(db, Scan("message", "u", limit=10_000)) == records[:1]


def test_of_two_records_with_one_key_the_last_stays() -> None:
    with database() as db:
        for large in (range(0), range(10), range(9, 10), range(1)):
            twice = [row("run", "k", "u", b"%d" % n * (300_000 if n in large else 1)) for n in range(10)]
            rows.put_all(db, twice)
            assert rows.get(db, [Key("run", "u", "k")]) == [twice[-1]]


def test_a_thousand_works_take_few_statements() -> None:
    with database() as db:
        said: list[str] = []
        works: list[Any] = [Apply(f"{n}", (), [header(f"{n}", None, 0, 9, None)]) for n in range(1_000)]
        sets.run(db, works)
        db.set_trace_callback(said.append)
        works = [
            Apply(
                f"{n}",
                [
                    Condition("equals", Key("header", "", f"{n}"), "uid", f"uid-{n}"),
                    Condition("equals", Key("header", "", f"{n}"), "version", 0),
                    Condition("free", Key("lease", f"uid-{n}", ""), value=1),
                    Condition("no_inbox_after", Key("inbox", f"uid-{n}", ""), value=int_key(0)),
                ],
                [row("lease", "", f"uid-{n}"), row("message", int_key(0), f"uid-{n}")],
                [Key("inbox", f"uid-{n}", int_key(1))],
                look=(f"uid-{n}", ""),
            )
            for n in range(1_000)
        ]
        assert sets.run(db, works) == [(None, [])] * 1_000
        assert len(said) <= 40
        del said[:]
        appends = [Append(f"{n}", row("inbox", "", "", id="i", size=1), 5, True) for n in range(1_000)]
        assert {done.position for done in sets.run(db, appends)} == {1}
        assert len(said) <= 20


def test_look_ups_of_sets_are_answered_from_an_index() -> None:
    with database() as db:
        statements = [sets._MORE, sets._WAKE]
        for kind, table in rows.TABLES.items():
            statements += [table.delete_all, sets._select(kind, table.names, ())]
        for sql in statements:
            steps = [step[3] for step in db.execute(f"EXPLAIN QUERY PLAN {sql}", ("[]",)).fetchall()]
            assert not [s for s in steps if s.startswith("SCAN") and "VIRTUAL TABLE" not in s], (sql, steps)


# ---- one spoils nothing for the others ---------------------------------------------------------------------


@pytest.mark.parametrize("poison", ["number", "surrogate", "column"])
async def test_a_poisoned_job_in_a_set_fails_alone(store: SqliteStore, poison: str) -> None:
    outcomes: dict[int, Any] = {}

    async def put(n: int) -> None:
        record = row("message", int_key(n), f"u{n}", at=n)
        conditions = [Condition("absent", record.address)]
        if n == 7 and poison == "number":
            record = row("message", int_key(n), f"u{n}", at=2**64)
        elif n == 7 and poison == "surrogate":
            conditions = [Condition("absent", Key("message", "u7", "\ud800"))]
        elif n == 7:
            record = Record("message", "u7", "k", {}, b"")
        if n % 5 == 4:
            conditions.append(Condition("equals", record.address, "at", n))
        try:
            outcomes[n] = await store.apply(f"{n}", conditions, [record], ())
        except (UsageError, KeyError) as error:
            outcomes[n] = type(error)

    async with anyio.create_task_group() as tasks:
        for n in range(40):
            tasks.start_soon(put, n)
    expected: dict[int, Any] = {n: 1 if n % 5 == 4 else None for n in range(40)}
    assert outcomes == expected | {7: KeyError if poison == "column" else UsageError}
    for n in range(40):
        found = await store.scan(f"{n}", Scan("message", f"u{n}", limit=9))
        assert [r.columns["at"] for r in found] == ([n] if expected[n] is None and n != 7 else [])


async def test_enqueues_to_many_agents_at_once(store: SqliteStore) -> None:
    authors = [Author(store, f"agent-{n}", f"uid-{n}") for n in range(200)]
    async with anyio.create_task_group() as tasks:
        for author in authors:
            tasks.start_soon(author.create)
    found: list[tuple[str, str, int]] = []

    async def send(agent: str, id: str) -> None:
        try:
            done = await store.append_inbox(agent, row("inbox", "", "", id=id, size=1), now=5, bounded=True)
            found.append((agent, done.outcome, done.position))
        except KodeError as error:  # pragma: no cover - it would be a defect
            found.append((agent, error.code, 0))

    async with anyio.create_task_group() as tasks:
        for id in ("x", "y", "x"):
            for author in authors:
                tasks.start_soon(send, author.state.agent_id, id)
        tasks.start_soon(send, "nobody", "x")
    assert len(found) == 601
    assert ("nobody", "gone", 0) in found
    for author in authors:
        mine = sorted((outcome, position) for agent, outcome, position in found if agent == author.state.agent_id)
        assert [outcome for outcome, _ in mine] == ["new", "new", "waiting"]
        assert sorted(position for _, position in mine[:2]) == [1, 2]
    due = await store.due(5, 1_000)
    assert {one.agent_id for one in due} >= {author.state.agent_id for author in authors}
