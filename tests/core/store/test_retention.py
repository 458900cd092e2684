"""How long things are kept: what goes, what stays, and that nothing is left of who was erased."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kode.core.errors import (
    ConflictError,
    LeaseLostError,
    NotFoundError,
    RecordCorruptError,
    UsageError,
)
from kode.core.kernel.events import Event
from kode.core.kernel.message import Message, TextBlock
from kode.core.kernel.state import RunRecord
from kode.core.kernel.toolcall import CallStatus
from kode.core.kernel.window import Range, Snapshot, Window
from kode.core.kernel.words import StopReason
from kode.core.store import MemoryStore, Store
from kode.core.store import records as rec
from kode.core.store.contract import Key, Scan
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store.author import AT, Author, compaction, item, open_call
from kode.core.testing.faulty import Fault, FaultyStore

S = 1_000_000


def snapshot(id: str, seq: int, start: int = 0, at: int = AT) -> Snapshot:
    return Snapshot(id, seq, at, Window(ranges=(Range(start),)))


async def history(store: Store, *snapshots: Snapshot, start: int = 6, pinned: tuple[int, ...] = ()) -> Author:
    """Ten messages, one a second, each with an event; the window shows those from `start` on."""
    author = Author(store, "a", "u-a")
    await author.create()
    for n in range(10):
        message = Message(n, "user", (TextBlock(str(n)),), AT + n * S)
        event = Event("done", AT + n * S, n + 1)
        await author.commit(
            messages=[message],
            events=[event],
            calls=[replace(open_call(n, status=CallStatus.COMPLETED), seq=n)],
            state={"next_seq": n + 1, "next_cursor": n + 2, "next_run": 9, "step": 1, "next_n": n + 1},
        )
    window = Window("c", pinned, (Range(start),))
    await author.commit(state={"window": window}, compactions=[compaction("c", 0, start)], snapshots=list(snapshots))
    return author


async def kept(store: Store, id: str = "a") -> tuple[list[int], list[int], list[str]]:
    """Numbers of messages and events, names of snapshots."""
    messages = (await store.read_messages(id)).items
    events = (await store.read_events(id)).items
    return [m.seq for m in messages], [e.cursor for e in events], [s.id for s in await store.list_snapshots(id)]


async def test_messages_go_up_to_what_is_shown(store: Store) -> None:
    await history(store, snapshot("s", 5, 3))
    pruned = await store.prune("a", before=AT + 8 * S, keep_messages=0)
    assert (pruned.messages, pruned.calls, pruned.events, pruned.snapshots) == (3, 3, 8, 0)
    assert await kept(store) == ([3, 4, 5, 6, 7, 8, 9], [9, 10], ["s"])
    assert len((await store.read_calls("a")).items) == 7
    assert (await store.read_messages("a")).pruned
    loaded = await store.load("a")
    assert loaded is not None
    assert [rec.read_message(row).seq for row in loaded.window] == [6, 7, 8, 9]
    assert (await store.check_consistency("a")).ok
    # The snapshot goes, and then what only it showed.
    assert (await store.prune("a", before=None, keep_snapshots=0, keep_messages=0)).messages == 3
    assert await kept(store) == ([6, 7, 8, 9], [], [])
    assert (await store.check_consistency("a")).ok
    assert (await store.prune("a", before=None, keep_snapshots=0, keep_messages=0)) == type(pruned)()


@pytest.mark.parametrize(
    ("start", "pinned", "options", "first"),
    [
        (6, (), {"before": None, "keep_messages": 0}, 6),
        (6, (), {"before": None, "keep_messages": 7}, 3),
        (6, (), {"before": None, "keep_messages": 99}, 0),
        (6, (), {"before": AT + 2 * S, "keep_messages": 0}, 2),
        (6, (), {"before": AT + 2 * S, "keep_messages": 9}, 1),
        (6, (), {"before": None}, 0),
        (6, (4,), {"before": None, "keep_messages": 0}, 4),
        (10, (), {"before": None, "keep_messages": 0}, 10),
    ],
)
async def test_by_age_and_by_count(
    memory: Store, start: int, pinned: tuple[int, ...], options: dict[str, Any], first: int
) -> None:
    store = memory
    await history(store, start=start, pinned=pinned)
    assert (await store.prune("a", keep_events=99, **options)).messages == first
    assert await kept(store) == (list(range(first, 10)), list(range(1, 11)), [])
    assert (await store.append_message("a", "user", "next")).seq == 10
    assert (await store.check_consistency("a")).ok


async def test_events_runs_and_snapshots_by_count(store: Store) -> None:
    author = await history(store, *(snapshot(f"s{n}", n, at=AT + n * S) for n in range(4)))
    runs = [
        RunRecord(n, "ok", StopReason.END_TURN, AT, AT + n * S, None, 1, 0, 0, 1, 1, 1, 0, author.state.usage_total, 0)
        for n in range(1, 5)
    ]
    await author.commit(runs=runs, state={"next_run": 5})
    pruned = await store.prune("a", before=None, keep_events=4, keep_runs=1, keep_snapshots=1)
    assert (pruned.events, pruned.runs, pruned.snapshots, pruned.messages) == (6, 3, 3, 0)
    assert await kept(store) == (list(range(10)), [7, 8, 9, 10], ["s3"])
    assert (await store.prune("a", before=AT + 3 * S, keep_snapshots=0)).snapshots == 0  # it is not older
    assert (await store.prune("a", before=AT + 3 * S + 1, keep_snapshots=0)).snapshots == 1


async def test_a_fork_past_a_prune_is_refused_and_forks_stay(store: Store) -> None:
    await history(store, snapshot("s", 5, 3))
    await store.fork("a", "b", new_uid="u-b")
    before = [
        await store.scan("b", Scan(kind, "u-b", limit=99)) for kind in rec.COLUMNS if kind not in ("header", "lease")
    ]
    await store.prune("a", before=None, keep_snapshots=0, keep_messages=0)
    # Someone kept the name of a snapshot that was taken out of the way: put it back, it shows what is gone.
    await store.apply("a", [], [rec.snapshot_record("u-a", snapshot("s", 5, 3))], [])
    with pytest.raises(UsageError) as error:
        await store.fork("a", "c", new_uid="u-c", at="s")
    assert error.value.code == "pruned"
    assert not (await store.check_consistency("a")).ok
    await store.erase("a")
    after = [
        await store.scan("b", Scan(kind, "u-b", limit=99)) for kind in rec.COLUMNS if kind not in ("header", "lease")
    ]
    assert after == before
    assert (await store.check_consistency("b")).ok


async def test_messages_stay_while_somebody_drives(store: Store) -> None:
    await history(store)
    lease = await store.acquire("a", "driver", 30)
    with pytest.raises(LeaseLostError):
        await store.prune("a", before=None, keep_messages=0, keep_events=99)
    assert (await kept(store))[0] == list(range(10))
    await store.release(lease)


async def test_a_prune_that_broke_off_shows_nothing_and_goes_on(clock: VirtualClock) -> None:
    inner = MemoryStore(clock)
    await history(inner)
    store = FaultyStore(inner, clock=clock)
    # The commit that raises the floors lands, what follows does not.
    store.faults.append(Fault("apply", nth=1, times=None))
    with pytest.raises(Exception, match="refused"):
        await store.prune("a", before=None, keep_messages=0)
    assert len(await inner.scan("a", Scan("message", "u-a", limit=99))) == 10
    assert await kept(inner) == ([6, 7, 8, 9], [], [])
    assert [f.seq for f in (await inner.query_messages()).items] == [6, 7, 8, 9]
    assert (await inner.check_consistency("a")).ok  # what is still to go is no fault
    assert (await inner.prune("a", before=None, keep_messages=0)).messages == 6
    assert (await inner.check_consistency("a")).ok


async def test_a_snapshot_that_cannot_be_read_keeps_all(store: Store) -> None:
    """Nobody knows what it shows."""
    await history(store, snapshot("s", 5, 3))
    (row,) = await store.get("a", [Key("snapshot", "u-a", "s")])
    assert row is not None
    await store.apply("a", [], [replace(row, body=b"1{")], [])
    for options in ({"keep_messages": 0}, {"keep_snapshots": 0}):
        with pytest.raises(RecordCorruptError, match="u-a/s"):
            await store.prune("a", before=None, **options)  # type: ignore[arg-type]
    assert len(await store.scan("a", Scan("message", "u-a", limit=99))) == 10
    assert len(await store.scan("a", Scan("snapshot", "u-a", limit=99))) == 1


# ---- agents whose time is over -------------------------------------------------------------------------------


async def test_agents_expire(store: Store, clock: VirtualClock) -> None:
    for n, id in enumerate("abcd"):
        await Author(store, id, f"u-{id}").create()
        await store.set_expiry(id, AT + n * S if id != "d" else None)
    assert (await store.read_state("b")).expires_at == AT + S
    assert (await store.list_agents())[1].expires_at == AT + S
    await clock.advance(1.0)
    lease = await store.acquire("a", "driver", 30)
    found = await store.expire()
    assert (found.erased, found.held, found.failed) == (("b",), ("a",), ())
    await store.release(lease)
    assert (await store.expire(limit=1)).erased == ("a",)
    assert (await store.expire()).erased == ()
    assert (await store.expire(now=AT + 2 * S)).erased == ("c",)
    assert [info.agent_id for info in await store.list_agents()] == ["d"]
    for id in "abc":
        assert await store.remains(id, f"u-{id}") == {}


async def test_who_was_given_more_time_stays(store: Store) -> None:
    await Author(store, "a", "u-a").create()
    await store.set_expiry("a", AT)
    version = (await store.load("a")).version  # type: ignore[union-attr]
    await store.set_expiry("a", AT)
    assert (await store.load("a")).version == version  # type: ignore[union-attr]
    await store.set_expiry("a", AT + S)
    with pytest.raises(ConflictError) as error:
        await store.erase("a", expired_by=AT)
    assert error.value.code == "not_expired"
    await store.set_expiry("a", None)
    with pytest.raises(ConflictError, match="never"):
        await store.erase("a", expired_by=AT)
    # Also when that comes between the look and the act.
    await store.set_expiry("a", AT)
    apply, again = store.apply, [True]

    async def late(agent_id: str, conditions: Any, puts: Any, deletes: Any) -> int | None:
        if again and deletes and deletes[0].kind == "header":
            again.clear()
            await store.set_expiry("a", AT + 9 * S)
        return await apply(agent_id, conditions, puts, deletes)

    store.apply = late  # type: ignore[method-assign]
    assert (await store.expire(now=AT)).erased == ()
    assert not again
    assert await store.exists("a")
    for wrong in (-1, 1 << 62):
        with pytest.raises(UsageError):
            await store.set_expiry("a", wrong)
    with pytest.raises(NotFoundError):
        await store.set_expiry("nobody", None)


async def test_one_that_cannot_be_erased_hinders_no_other(store: Store) -> None:
    for id in "ab":
        await Author(store, id, f"u-{id}").create()
        await store.set_expiry(id, AT)
    drop = store.drop

    async def broken(agent_id: str, uid: str) -> None:
        if uid == "u-a":
            raise RecordCorruptError("broken")
        await drop(agent_id, uid)

    store.drop = broken  # type: ignore[method-assign]
    found = await store.expire()
    assert (found.erased, [str(error) for error in found.failed]) == (("b",), ["broken"])


async def test_what_remains_is_counted(store: Store) -> None:
    await history(store, snapshot("s", 5))
    await store.enqueue("a", item("i"))
    await store.put_blob("a", b"x")
    await store.release(await store.acquire("a", "driver", 30))
    assert await store.remains("a", "u-a") == {
        "header": 1,
        "lease": 1,
        "message": 10,
        "call": 10,
        "events": 10,
        "inbox": 1,
        "compaction": 1,
        "snapshot": 1,
        "blob": 1,
    }
    await store.erase("a")
    assert await store.remains("a", "u-a") == {}
