"""`SqliteStore` keeps the contract, and what is its own: group commit, files, other processes."""

from __future__ import annotations

import os
import resource
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from kode.core.errors import KodeError, SchemaTooNewError, StoreError, StoreUnavailableError, UsageError
from kode.core.store import Key, Record, SqliteStore, Store
from kode.core.store.contract import Scan
from kode.core.store.records import int_key
from kode.core.store.sqlite import rows
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store import Author, StoreConformance
from kode.core.testing.conformance.store.author import Place, item
from kode.core.testing.conformance.store.records import row

pytestmark = pytest.mark.anyio


class TestSqliteStore(StoreConformance):
    @pytest.fixture
    async def store(self, clock: VirtualClock, tmp_path: Path) -> AsyncIterator[Store]:
        async with SqliteStore(tmp_path / "agents.db", durability="process", clock=clock) as store:
            yield store

    def place(self, store: Any) -> Place:
        return partial(SqliteStore, store.path, durability="process", busy_timeout_s=60)

    async def spoil(self, store: Any, key: Key) -> bool:
        with closing(sqlite3.connect(store.path)) as db, db:
            db.execute(f"UPDATE {key.kind} SET body = x'FF' WHERE owner = ? AND \"key\" = ?", (key.uid, key.key))
        return True

    async def make_newer(self, store: Any) -> bool:
        with closing(sqlite3.connect(store.path)) as db:
            db.execute("PRAGMA user_version = 99")
        return True


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with SqliteStore(tmp_path / "agents.db", durability="process") as store:
        yield store


# ---- group commit ------------------------------------------------------------------------------------------


async def test_concurrent_commits_share_transactions(store: SqliteStore) -> None:
    before = store._writer.transactions
    async with anyio.create_task_group() as tasks:
        for n in range(1_000):
            tasks.start_soon(Author(store, f"agent-{n}", f"uid-{n}").create)
    assert store._writer.transactions - before <= 60
    assert len(await store.list_agents(limit=2_000)) == 1_000


async def test_a_job_that_raises_hinders_nobody_else(store: SqliteStore) -> None:
    outcomes: dict[int, str] = {}

    async def put(n: int) -> None:
        # What SQLite cannot hold is found only while it is written, in the middle of the others' transaction.
        bad = n == 3
        try:
            await store.apply("a", (), [row("message", int_key(n), run=2**70 if bad else n)], ())
            outcomes[n] = "ok"
        except KodeError as error:
            outcomes[n] = error.code

    async with anyio.create_task_group() as tasks:
        for n in range(8):
            tasks.start_soon(put, n)
    assert outcomes == {n: "bad_value" if n == 3 else "ok" for n in range(8)}
    found = await store.scan("a", Scan("message", "u", limit=99))
    assert [r.key for r in found] == [int_key(n) for n in range(8) if n != 3]


async def test_cancelled_callers_leave_the_queue_in_order(store: SqliteStore) -> None:
    done: list[int] = []

    async def put(n: int) -> None:
        await store.apply("a", (), [row("message", int_key(n))], ())
        done.append(n)

    for cancelled in ({0}, {1}, {1, 2}, {0, 1, 2, 3}, {3}, set(range(6))):
        scopes = [anyio.CancelScope() for _ in range(6)]

        async def one(n: int, scopes: list[anyio.CancelScope] = scopes) -> None:
            with scopes[n]:
                await put(n)

        async with anyio.create_task_group() as tasks:
            for n in range(6):
                tasks.start_soon(one, n)
            await anyio.wait_all_tasks_blocked() if len(cancelled) % 2 else await anyio.lowlevel.checkpoint()
            for n in cancelled:
                scopes[n].cancel()
        with anyio.fail_after(20):
            await put(99)
    assert done.count(99) == 6


async def test_a_store_may_be_used_from_one_loop_after_another(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "x.db")
    await Author(store).create()
    await anyio.to_thread.run_sync(lambda: anyio.run(store.load, "agent"))
    assert await store.exists("agent")
    await store.close()


async def test_what_runs_alone_has_no_transaction_and_shares_none(store: SqliteStore) -> None:
    seen: list[tuple[str, bool]] = []

    async def work(name: str, alone: bool) -> None:
        await store._writer.run(lambda db: seen.append((name, db.in_transaction)), alone=alone)

    await store.open()
    before = store._writer.transactions
    async with anyio.create_task_group() as tasks:
        for n, alone in enumerate((False, False, True, True, False, False)):
            tasks.start_soon(work, f"{n}", alone)
    assert sorted(seen) == [(f"{n}", n not in (2, 3)) for n in range(6)]
    assert store._writer.transactions - before >= 3


# ---- the file ----------------------------------------------------------------------------------------------


async def test_it_is_made_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "agents.db"
    async with SqliteStore(path) as store:
        await Author(store).create()
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        for part in ("", "-wal", "-shm"):
            assert stat.S_IMODE(path.with_name(path.name + part).stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["agents.db"]
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA application_id").fetchone() == (0x4B4F4445,)
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
    db.close()


async def test_what_was_there_is_found_again_and_a_closed_store_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a#b?c d%20.db"  # nothing in a name is special
    store = SqliteStore(path)
    await Author(store).create()
    await store.close()
    await store.close()
    with pytest.raises(StoreError) as closed:
        await store.load("agent")
    assert closed.value.code == "closed"
    await store.open()
    assert await store.exists("agent")
    await store.close()
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("durability", ["power", "process"])
async def test_durability_is_what_the_engine_was_told(tmp_path: Path, durability: Any) -> None:
    async with SqliteStore(tmp_path / "x.db", durability=durability) as store:
        told = await store._writer.run(lambda db: db.execute("PRAGMA synchronous").fetchone()[0])
        mode = await store._writer.run(lambda db: db.execute("PRAGMA journal_mode").fetchone()[0])
        assert (store.durability, told, mode) == (durability, {"power": 2, "process": 1}[durability], "wal")


def _foreign(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE theirs (x)")
    db.close()


def _newer(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA application_id = 0x4B4F4445")
        db.execute("PRAGMA user_version = 99")
        db.execute("CREATE TABLE header (x)")
    db.close()


@pytest.mark.parametrize(
    ("make", "kind", "code"),
    [
        (_foreign, StoreError, "foreign_file"),
        (_newer, SchemaTooNewError, "schema_too_new"),
        (lambda path: path.write_bytes(b"not a database" * 100), StoreError, "not_a_database"),
        (lambda path: path.mkdir(), StoreError, "is_a_directory"),
        (lambda path: path.symlink_to(path), StoreError, "cannot_open"),
    ],
)
async def test_files_that_are_not_ours_are_refused_and_left_alone(
    tmp_path: Path, make: Any, kind: Any, code: str
) -> None:
    path = tmp_path / "x.db"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    store = SqliteStore(path)
    for _ in range(2):
        with pytest.raises(kind) as refused:
            await store.open()
        assert refused.value.code == code
        assert str(path) in str(refused.value)
    await store.close()
    assert before is None or path.read_bytes() == before


async def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        await SqliteStore(tmp_path / "file" / "x.db").open()
    for path in (":memory:", ""):
        with pytest.raises(UsageError):
            SqliteStore(path)


@pytest.mark.parametrize("lock", ["BEGIN", "BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
async def test_a_new_file_that_another_opens_too_is_waited_for(tmp_path: Path, lock: str) -> None:
    """The other may be stopped in the middle of its opening, for as long as a busy machine likes."""
    path = tmp_path / "agents.db"
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute(lock)
        other.execute("SELECT count(*) FROM sqlite_master").fetchone()
        freed = threading.Timer(0.3, lambda: other.execute("COMMIT"))
        freed.start()
        async with SqliteStore(path) as store:
            await Author(store).create()
            assert await store.exists("agent")
        freed.join()


async def test_a_lock_held_too_long_is_said_and_may_be_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    async with SqliteStore(path, busy_timeout_s=0.05) as store:
        author = Author(store)
        await author.create()
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        commit = author.make()
        with pytest.raises(StoreUnavailableError) as locked:
            await store.commit(commit)
        assert (locked.value.code, locked.value.retryable) == ("store_locked", True)
        assert await store.exists("agent")  # reading goes on
        other.execute("ROLLBACK")
        other.close()
        assert (await store.commit(commit)).version == 2


async def test_a_full_disk_loses_nothing_and_the_commit_may_be_repeated(tmp_path: Path) -> None:
    async with SqliteStore(tmp_path / "x.db") as store:
        author = Author(store)
        await author.create()
        pages = await store._writer.run(lambda db: db.execute("PRAGMA page_count").fetchone()[0])
        await store._writer.run(lambda db: db.execute(f"PRAGMA max_page_count = {pages}").fetchone())
        commit = author.make()
        big = Record("document", "uid-1", "a/b/c", {"digest": "c", "at": 1}, b"x" * 100_000)
        with pytest.raises(StoreUnavailableError) as full:
            await store.apply("agent", (), [big], ())
        assert full.value.code == "disk_full"
        await store._writer.run(lambda db: db.execute("PRAGMA max_page_count = 1000000").fetchone())
        assert (await store.commit(commit)).version == 2
        assert await store.get("agent", [big.address]) == [None]


@pytest.mark.parametrize("how", ["removed", "replaced"])
async def test_nothing_is_acknowledged_in_a_file_that_is_gone(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who restores a backup under a running process must hear of it, and not lose what comes after."""
    path, aside = tmp_path / "x.db", tmp_path / "aside.db"
    monkeypatch.chdir(tmp_path)
    async with SqliteStore("x.db", durability="process") as store:
        monkeypatch.chdir("/")
        author = Author(store)
        await author.create()
        path.rename(aside)
        if how == "replaced":
            path.write_bytes(aside.read_bytes())
        for act in (partial(author.say, "lost"), partial(store.load, "agent"), store.list_agents):
            with pytest.raises(StoreUnavailableError, match=r"moved, removed or replaced") as gone:
                await act()
            assert gone.value.code == "file_gone"
        assert path.exists() == (how == "replaced")  # nobody makes an empty one in its place
        aside.rename(path)
        await author.say("kept")
        assert await store.load("agent")
        monkeypatch.chdir(tmp_path)
    path.unlink()
    async with store:
        assert not await store.exists("agent")


async def test_an_error_of_the_disk_makes_no_empty_file(tmp_path: Path) -> None:
    """What cannot be trusted any more is opened again, and must be there."""
    async with SqliteStore(tmp_path / "x.db", durability="process") as store:
        await Author(store).create()

        def fails(db: sqlite3.Connection) -> None:
            (tmp_path / "x.db").unlink()
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR
            raise error

        with pytest.raises(StoreUnavailableError):
            await store._writer.run(fails)
        with pytest.raises(StoreError, match="cannot be opened"):
            await store.enqueue("agent", item("i"))
        assert not (tmp_path / "x.db").exists()


async def test_without_descriptors_it_may_be_tried_again(tmp_path: Path) -> None:
    store, limits, taken = SqliteStore(tmp_path / "x.db"), resource.getrlimit(resource.RLIMIT_NOFILE), []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, limits[0]), limits[1]))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        with pytest.raises(StoreUnavailableError) as full:
            await store.open()
        for descriptor in taken[-2:]:
            os.close(descriptor)
        del taken[-2:]
        with pytest.raises(StoreUnavailableError) as half:
            await store.open()
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert {full.value.code, half.value.code} <= {"io_error", "too_many_files"}
    async with store:
        assert not await store.exists("agent")


async def test_damage_is_said_and_nothing_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    async with SqliteStore(path) as store:
        author = Author(store)
        await author.create()
        await author.say(*["x" * 2_000] * 50)
    data = bytearray(path.read_bytes())
    data[4_096:] = b"\xff" * (len(data) - 4_096)
    path.write_bytes(data)
    store = SqliteStore(path)
    with pytest.raises(StoreError) as corrupt:
        await store.load("agent")
    assert corrupt.value.code == "store_corrupt"
    await store.close()
    assert path.read_bytes() == bytes(data)


async def flipped(path: Path, tree: str, at: int) -> SqliteStore:
    """Make a file of agents in which one byte of the root page of a table or an index is another."""
    async with SqliteStore(path, durability="process") as store:
        for n in range(20):
            await Author(store, f"agent-{n}", f"uid-{n}").create()
    flip(path, tree, at)
    return SqliteStore(path, durability="process")


def flip(path: Path, tree: str, at: int) -> None:
    with closing(sqlite3.connect(path)) as db:
        ((page,),) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (tree,))
        ((size,),) = db.execute("PRAGMA page_size")
    data = bytearray(path.read_bytes())
    data[(page - 1) * size + at] ^= 20  # where `at` is 4, of the number of records on it: none are left
    path.write_bytes(data)


async def test_a_page_that_says_it_is_empty_is_not_believed(tmp_path: Path) -> None:
    """SQLite finds no fault when it searches such an index: it finds nothing."""
    async with await flipped(tmp_path / "x.db", "sqlite_autoindex_header_1", 4) as store:
        assert await store.get("agent-1", [Key("header", "", "agent-1")]) == [None]
        for listing in (store.list_agents(), store.agents("", "", 1)):
            with pytest.raises(StoreError) as corrupt:
                await listing
            assert corrupt.value.code == "store_corrupt"
        assert (await store.list_agents("agent-1")) == []  # of some it may be so
        health = await store.check_health()
        assert health.agents is None
        assert len(health.problems) >= 2  # what cannot be listed, and what SQLite says of its file


async def test_damage_that_no_listing_meets_is_found_by_looking_thoroughly(tmp_path: Path) -> None:
    async with await flipped(tmp_path / "x.db", "sqlite_autoindex_document_1", 7) as store:
        assert len(await store.list_agents()) == 20
        assert (await store.check_health()).healthy
        assert await store.find_damage() == []
        (found,) = (await store.check_health(thorough=True)).problems
        assert f"{tmp_path}/x.db is damaged (Page " in found
    async with SqliteStore(tmp_path / "sound.db") as sound:
        assert await sound.list_agents() == []
        assert await sound.find_damage(thorough=True) == []


async def test_erased_text_is_not_left_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    async with SqliteStore(path, durability="process") as store:
        author = Author(store)
        await author.create()
        await author.say(*["unmistakable"] * 50)
        await store.erase("agent")
        for part in ("", "-wal"):
            assert b"unmistakable" not in path.with_name(path.name + part).read_bytes()


# ---- costs -------------------------------------------------------------------------------------------------


async def test_look_ups_are_answered_from_an_index(store: SqliteStore) -> None:
    statements = {
        rows._DUE: (1, 1, "", 9),
        rows._INBOX_ID: ("u", "x"),
        rows._INBOX_LAST: ("u",),
        rows._INBOX_AFTER: ("u", "x"),
        rows._INBOX_FULL: ("u", "message", "reminder", 9),
        rows._WAKE: (1, "a"),
        **{table.select + ' AND "key" > ? ORDER BY "key" DESC LIMIT 9': ("u", "") for table in rows.TABLES.values()},
        **{table.drop: ("u",) for table in rows.TABLES.values()},
    }
    for sql, values in statements.items():
        plan = await store._read(lambda db, s=sql, v=values: db.execute(f"EXPLAIN QUERY PLAN {s}", v).fetchall())
        steps = [step[3] for step in plan]
        assert not [s for s in steps if s.startswith("SCAN") and "subquery" not in s and "CONSTANT" not in s], (
            sql,
            steps,
        )
        assert not [s for s in steps if "TEMP B-TREE" in s], (sql, steps)


async def test_the_file_is_hardly_larger_than_what_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    async with SqliteStore(path, durability="process") as store:
        author = Author(store, uid="0123456789abcdef" * 2)
        await author.create()
        for _ in range(10):
            await author.say(*["x" * 950] * 200, events=0)
        found = await store.load("agent")
        assert found is not None
        payload = sum(len(record.body) for record in found.window)
    assert path.stat().st_size <= 1.5 * payload


async def test_get_of_a_header_is_by_key(store: SqliteStore) -> None:
    await Author(store).create()
    (found,) = await store.get("agent", [Key("header", "", "agent")])
    assert found is not None
    assert found.columns["uid"] == "uid-1"
