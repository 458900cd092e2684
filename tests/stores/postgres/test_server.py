"""What costs what, and what a server that goes away in the middle does to what was acknowledged."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest
from tests.stores.postgres.retention import fill, prune_beside_others
from tests.stores.postgres.server import PostgresServer

from kode.core.errors import KodeError, StoreUnavailableError
from kode.core.store import Condition, Key, Record
from kode.core.store.contract import Scan
from kode.core.store.layers.forks import Copy
from kode.core.store.records import int_key
from kode.core.store.support.questions import Question, Test
from kode.core.testing.conformance.store import Author
from kode.core.testing.conformance.store.author import item, row, text_of
from kode.store.postgres import PostgresStore, reads, select
from kode.store.postgres.rows import Act
from kode.store.postgres.writes import Writes

pytestmark = [pytest.mark.anyio, pytest.mark.integration]


@pytest.fixture
async def store(server_url: str, schema: str) -> AsyncIterator[PostgresStore]:
    async with PostgresStore(server_url, schema=schema) as store:
        yield store


# ---- costs -------------------------------------------------------------------------------------------------


async def test_commits_of_many_agents_share_transactions(store: PostgresStore) -> None:
    before = store._queue.sent
    async with anyio.create_task_group() as tasks:
        for n in range(1_000):
            tasks.start_soon(Author(store, f"agent-{n}", f"uid-{n}").create)
    assert store._queue.sent - before <= 20
    assert len(await store.list_agents(limit=2_000)) == 1_000


async def test_a_commit_is_one_round_trip_and_a_load_two(store: PostgresStore) -> None:
    author = Author(store)
    await author.create()
    await author.drive()
    await author.say("hi")
    told: list[str] = []
    fetch = store.server.fetch

    async def telling(query: str, *values: Any, again: frozenset[str]) -> list[Any]:
        told.append(query)
        return await fetch(query, *values, again=again)

    store.server.fetch = telling  # type: ignore[method-assign]
    await author.say("one", "two", events=3)
    assert len(told) == 1
    told.clear()
    loaded = await store.load("agent", recipe=True)
    assert loaded is not None
    assert len(loaded.window) == 3
    assert len(told) == 2


async def test_a_write_that_cannot_be_hinders_nobody_else(store: PostgresStore) -> None:
    outcomes: dict[int, str] = {}

    async def put(n: int) -> None:
        try:
            await store.apply(f"a{n}", (), [row("message", int_key(n), run=2**70 if n == 3 else n)], ())
            outcomes[n] = "ok"
        except KodeError as error:
            outcomes[n] = error.code

    async with anyio.create_task_group() as tasks:
        for n in range(8):
            tasks.start_soon(put, n)
    assert outcomes == {n: "bad_value" if n == 3 else "ok" for n in range(8)}
    assert len(await store.scan("", Scan("message", "u", limit=99))) == 7


async def test_look_ups_are_answered_from_an_index(store: PostgresStore, db: Any) -> None:
    there = f'"{store.schema}"'
    records = [
        Record("header", "", f"a{n}", {**_columns("header"), "agent_id": f"a{n}", "uid": f"u{n}", "wake_at": n}, b"1")
        for n in range(3_000)
    ]
    records += [row("inbox", int_key(n), f"u{n}", id=f"i{n}") for n in range(3_000)]
    records += [row("call", "11.11.11", f"u{n}", tool="t", asked_at=n) for n in range(3_000)]
    await store.apply("a", (), records, ())
    await db.execute(f"ANALYZE {there}.header; ANALYZE {there}.inbox; ANALYZE {there}.call; ANALYZE {there}.lease")
    question = Question("call", "asked_at", agents=(Test("agent_id", "in", ("a7",)),))
    keys = reads.Together((reads.Get((Key("header", "", "a1"), Key("lease", "u1", ""))), Scan("inbox", "u1")))
    statements = {
        "due": reads.due(there, 10**15, 10, None),
        "scan": reads.scan(there, Scan("inbox", "u1", after="1", limit=10)),
        "agents": reads.agents(there, "a1", "", 10, None),
        "together": reads.Merged([keys]).statement(there),
        "look": reads.look(there, "a1"),
        "select": select.select(there, question),
    }
    for name, (sql, values) in statements.items():
        plan = "\n".join(line[0] for line in await db.fetch(f"EXPLAIN {sql}", *values))
        assert "Seq Scan on header" not in plan, (name, plan)
        assert "Seq Scan on inbox" not in plan, (name, plan)
        assert "Seq Scan on call" not in plan, (name, plan)
        if name == "due":
            assert "header_due" in plan
            assert "Sort" not in plan


def _columns(kind: Any) -> dict[str, Any]:
    from kode.core.store.records import COLUMNS

    return {name: None for name, _ in COLUMNS[kind]}


async def test_nothing_is_left_of_who_was_cancelled_while_he_waited(store: PostgresStore) -> None:
    queue: Writes = store._queue
    await Author(store).create()
    scope = anyio.CancelScope()

    async def say(n: int) -> None:
        await store.enqueue("agent", item(f"{n}"))

    async def cut() -> None:
        with scope:
            await say(99)

    async with anyio.create_task_group() as tasks:
        for n in range(3):
            tasks.start_soon(say, n)
        tasks.start_soon(cut)
        await anyio.lowlevel.checkpoint()
        scope.cancel()
    assert {i.id for i in await store.read_inbox("agent", "uid-1")} >= {"0", "1", "2"}
    assert not queue._busy
    assert not queue._waiting


async def test_what_touches_one_agent_is_never_in_two_batches_at_once() -> None:
    sent: list[list[str]] = []
    gate = asyncio.Event()
    tasks: set[asyncio.Task[None]] = set()

    async def carry(works: Any) -> list[str]:
        sent.append([work.agent_id for work in works])
        await gate.wait()
        return sent[-1]

    async def never(*_: Any) -> Any:
        raise AssertionError("nothing was in the way")

    queue = Writes(carry, lambda work: tasks.add(asyncio.get_running_loop().create_task(work)), never)

    def bring(agent_id: str) -> asyncio.Future[Any]:
        return queue.bring(Act(agent_id, (), (), ()))

    first = bring("a")
    await anyio.wait_all_tasks_blocked()
    first.cancel()
    later = [bring("a"), bring("b"), bring("a")]
    await anyio.wait_all_tasks_blocked()
    assert sent == [["a"], ["b"]]
    gate.set()
    await asyncio.gather(*later)
    assert sent == [["a"], ["b"], ["a"], ["a"]]
    assert not queue._busy


async def test_what_may_have_been_written_is_not_written_again_by_itself_but_read_again(store: PostgresStore) -> None:
    use, cuts = store.server.use, [True]

    async def cut(work: Any) -> Any:
        value = await use(work)
        if cuts.pop():
            raise StoreUnavailableError("The connection is gone, as the test wants.", code="connection_lost")
        cuts.append(False)
        return value

    store.server.use = cut  # type: ignore[method-assign]
    new = row("message", "11")
    with pytest.raises(StoreUnavailableError) as lost:
        await store.apply("a", [Condition("absent", new.address)], [new], ())
    assert lost.value.code == "connection_lost"
    cuts[:] = [False, True]
    assert await store.get("a", [new.address]) == [new]


# ---- a server that goes away ---------------------------------------------------------------------------------


@pytest.fixture
def own_server(new_server: Callable[..., PostgresServer]) -> PostgresServer:
    """One that can be stopped, and keeps what it acknowledged."""
    server = new_server()
    server.start()
    return server


async def test_a_store_whose_server_is_gone_says_so_and_works_again_when_it_is_back(own_server: PostgresServer) -> None:
    async with PostgresStore(own_server.url, retry_s=0.2) as store:
        author = Author(store)
        await author.create()
        await asyncio.to_thread(own_server.stop)
        commit = author.make()
        with pytest.raises(StoreUnavailableError):
            await store.commit(commit)
        with pytest.raises(StoreUnavailableError):
            await store.load("agent")
        await asyncio.to_thread(own_server.start)
        assert (await store.commit(commit)).version == 2


async def test_a_hundred_forks_cost_what_one_costs(store: PostgresStore) -> None:
    author = Author(store)
    await author.create()
    for n in range(40):
        await author.say(f"{n}", "x" * 2_000, events=1)
    await store.put_blob("agent", b"picture")
    fetch, told = store.server.fetch, [0]

    async def counting(query: str, *values: Any, again: frozenset[str]) -> list[Any]:
        told[0] += 1
        return await fetch(query, *values, again=again)

    store.server.fetch = counting  # type: ignore[method-assign]
    await store.fork("agent", "one", new_uid="uid-one")
    single, told[0] = told[0], 0
    made = await store.batch_fork("agent", {f"f{n}": f"uid-f{n}" for n in range(100)})
    assert told[0] <= single + 4, "what is done for one fork is done for all of them at once"
    assert [state.agent_id for state in made] == [f"f{n}" for n in range(100)]
    for n in (0, 99):
        assert [text_of(m) for m in (await store.read_messages(f"f{n}")).items] == [
            text_of(m) for m in (await store.read_messages("agent")).items
        ]
    assert (await store.check_consistency("f50")).ok


async def test_nothing_is_copied_for_who_has_lost_his_mark(store: PostgresStore) -> None:
    await store.apply("a", (), [row("message", "11", "u"), row("message", "12", "u")], ())
    marks = [row("staged", uid, "", at=at) for uid, at in (("mine", 5), ("taken", 6))]
    await store.apply("a", (), marks, ())
    copies = [Copy(uid, uid, Condition("equals", Key("staged", "", uid), "at", 5)) for uid in ("mine", "taken", "none")]
    read = await store.scan("a", Scan("message", "u", limit=9))
    assert await store.copy_rows(read, copies) == [True, False, False]
    assert [
        [one.key for one in await store.scan("a", Scan("message", uid, limit=9))] for uid in ("mine", "taken", "none")
    ] == [
        ["11", "12"],
        [],
        [],
    ]


async def test_much_is_removed_in_small_bites_while_others_go_on(store: PostgresStore) -> None:
    rows = int(os.environ.get("KODE_TORTURE_ROWS", "14000"))
    author = await fill(store, rows)
    before = await store.sizes()
    told = await prune_beside_others(store, author)
    print(told)
    assert told.removed == rows + rows // 2
    assert before["message"] > (await store.sizes())["lease"] > 0
    assert (await store.read_state("old")).first_cursor == rows + 1
    # A bite is a page: however much there is, none takes long.
    assert told.longest_s < 2.0
    assert len((await store.read_messages("busy-0", limit=10_000)).items) > 10
