"""Forks: many at once, and of who goes on, is pruned or erased meanwhile; and that only what is meant is erased."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.core.store.test_retention import history, kept, snapshot

from kode.core.errors import AgentExistsError, ConflictError, NotFoundError, StoreUnavailableError, UsageError
from kode.core.kernel.window import Range, Window
from kode.core.store import MemoryStore, Store
from kode.core.store import records as rec
from kode.core.store.contract import Scan
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store.author import AT, Author
from kode.core.testing.faulty import FaultyStore

# ---- many forks ----------------------------------------------------------------------------------------------


async def test_many_forks_from_one_read(clock: VirtualClock) -> None:
    inner = MemoryStore(clock)
    await history(inner, snapshot("s", 5, 3))
    store = FaultyStore(inner, clock=clock)
    made = await store.batch_fork("a", {f"f/{n}": f"u-{n}" for n in range(5)})
    assert [(state.agent_id, state.uid, state.next_seq) for state in made] == [
        (f"f/{n}", f"u-{n}", 10) for n in range(5)
    ]
    many = store.calls["look_up"]
    store.calls.clear()
    await store.fork("a", "g", new_uid="u-g")
    assert many == store.calls["look_up"]
    wanted = [replace(row, uid="") for row in await inner.scan("g", Scan("message", "u-g", limit=99))]
    for n in range(5):
        assert [replace(row, uid="") for row in await inner.scan("f", Scan("message", f"u-{n}", limit=99))] == wanted
        assert (await inner.check_consistency(f"f/{n}")).ok
    assert await inner.scan("", Scan("staged", "", limit=9)) == []


async def test_forks_of_a_snapshot_and_again(store: Store) -> None:
    await history(store, snapshot("s", 5, 3))
    forks = {"b": "u-b", "c": "u-c"}
    made = await store.batch_fork("a", forks, at="s")
    assert [state.next_seq for state in made] == [5, 5]
    # Repeating it makes what is missing and gives what is there.
    assert await store.batch_fork("a", {**forks, "d": "u-d"}, at="s") == (*made, await store.read_state("d"))
    assert await store.batch_fork("a", {}) == ()


async def test_one_that_cannot_begin_hinders_no_other(store: Store) -> None:
    await history(store)
    await Author(store, "taken", "u-t").create()
    await store.apply("d", [], [rec.orphan_record("u-d", "d", "drop", AT)], [])
    with pytest.raises(AgentExistsError, match="taken") as refused:
        await store.batch_fork("a", {"b": "u-b", "taken": "u-c", "d": "u-d", "e": "u-e"})
    assert refused.value.fields["failed"] == ["taken", "d"]
    assert [await store.exists(id) for id in ("b", "d", "e")] == [True, False, True]
    assert await store.remains("taken", "u-c") == {}


async def test_none_is_made_of_what_makes_no_sense(store: Store) -> None:
    await history(store)
    for wrong in ({"b": "u-b", "c": "u-b"}, {"../b": "u-b"}, {"b": ""}):
        with pytest.raises(UsageError):
            await store.batch_fork("a", wrong)
    with pytest.raises(NotFoundError):
        await store.batch_fork("nobody", {"b": "u-b"})
    assert not await store.exists("b")
    assert await store.remains("b", "u-b") == {}
    assert await store.scan("", Scan("staged", "", limit=9)) == []


async def test_a_fork_that_is_overtaken_hinders_no_other(store: Store) -> None:
    """Another agent takes one id while the forks are being copied."""
    await history(store)
    apply, again = store.apply, [True]

    async def late(agent_id: str, conditions: Any, puts: Any, deletes: Any) -> int | None:
        if again and puts and puts[0].kind == "message" and puts[0].uid == "u-c":
            again.clear()
            await Author(store, "b", "u-other").create()
        return await apply(agent_id, conditions, puts, deletes)

    store.apply = late  # type: ignore[method-assign]
    with pytest.raises(AgentExistsError):
        await store.batch_fork("a", {"b": "u-b", "c": "u-c"})
    assert not again
    assert (await store.read_state("b")).uid == "u-other"
    assert await store.remains("b", "u-b") == {}
    assert (await store.read_state("c")).next_seq == 10
    assert (await store.check_consistency("c")).ok


# ---- forks of what goes on -----------------------------------------------------------------------------------


def meanwhile(store: Store, kind: str, act: Callable[[], Awaitable[object]], times: int = 1) -> list[int]:
    """Do something before the first records of that kind are copied to a fork."""
    apply, left = store.apply, [times]

    async def late(agent_id: str, conditions: Any, puts: Any, deletes: Any) -> int | None:
        if left[0] and puts and puts[0].kind == kind and puts[0].uid == "u-f":
            left[0] -= 1
            await act()
        return await apply(agent_id, conditions, puts, deletes)

    store.apply = late  # type: ignore[method-assign]
    return left


async def talker(store: Store) -> Author:
    """More messages than a fork reads at once; the window shows the last ten."""
    author = Author(store, "a", "u-a")
    await author.create()
    await author.say(*["x"] * 1_200, events=0)
    await author.commit(state={"window": Window(ranges=(Range(1_190),))})
    return author


async def whole_fork(store: Store) -> None:
    state, found = await store.read_state("f"), await store.check_consistency("f")
    assert (state.next_seq, found.problems) == (1_200, ())
    assert await store.scan("", Scan("staged", "", limit=9)) == []


async def test_a_fork_begins_anew_when_its_source_is_pruned(store: Store) -> None:
    await talker(store)
    left = meanwhile(store, "message", lambda: store.prune("a", before=None, keep_messages=0))
    await store.fork("a", "f", new_uid="u-f")
    assert left == [0]
    await whole_fork(store)
    assert (await store.read_state("f")).first_seq == 1_190


async def test_a_fork_gives_up_where_a_prune_comes_again(store: Store) -> None:
    await talker(store)
    await store.save_snapshot("a", "s")
    keep = [400, 200]
    left = meanwhile(store, "snapshot", lambda: store.prune("a", before=None, keep_messages=keep.pop(0)), times=2)
    with pytest.raises(ConflictError, match="removed while it was being forked"):
        await store.fork("a", "f", new_uid="u-f")
    assert left == [0]
    assert not await store.exists("f")
    assert await store.remains("f", "u-f") == {}
    assert await store.scan("", Scan("staged", "", limit=9)) == []
    await store.fork("a", "f", new_uid="u-f")
    await whole_fork(store)


async def test_no_fork_of_who_is_erased_meanwhile(store: Store) -> None:
    """Nor are copies left."""
    await talker(store)
    meanwhile(store, "message", lambda: store.erase("a"))
    with pytest.raises(NotFoundError):
        await store.fork("a", "f", new_uid="u-f")
    assert await store.remains("f", "u-f") == {}
    assert await store.scan("", Scan("staged", "", limit=9)) == []


async def test_a_fork_whose_snapshots_lose_their_documents(store: Store) -> None:
    """The snapshot is copied, then it goes, and with it what it named."""
    await history(store)
    await store.save_document("a", "todo", "", {"v": 1})
    await store.save_snapshot("a", "s")
    await store.save_document("a", "todo", "", {"v": 2})

    async def prune() -> None:
        await store.prune("a", before=None, keep_snapshots=0)
        await store.prune("a", before=AT + 10**15, keep_snapshots=0)

    left = meanwhile(store, "snapshot", prune)
    await store.fork("a", "f", new_uid="u-f")
    assert left == [0]
    found = await store.check_consistency("f")
    assert found.problems == ()
    assert await store.list_snapshots("f") == ()


async def test_a_fork_that_broke_off_is_begun_anew(store: Store) -> None:
    """What the first try has brought, and the second would not, is removed."""
    await history(store, snapshot("s", 5, 3))

    async def away() -> None:
        raise StoreUnavailableError("gone")

    left = meanwhile(store, "events", away)
    with pytest.raises(StoreUnavailableError):
        await store.fork("a", "f", new_uid="u-f")
    assert (left, await store.exists("f")) == ([0], False)
    assert len(await store.scan("f", Scan("message", "u-f", limit=99))) == 10
    await store.fork("a", "f", new_uid="u-f", at="s")
    assert (await store.check_consistency("f")).problems == ()
    assert len(await store.scan("f", Scan("message", "u-f", limit=99))) == 5


async def test_a_fork_that_another_goes_on_with_is_not_cleared(memory: Store) -> None:
    """Of two that clear the same remains, the first stops when the second comes."""
    store = memory
    await history(store)
    await store.apply("f", [], [rec.orphan_record("u-f", "f", "fork", AT)], [])
    apply, again = store.apply, [True]

    async def late(agent_id: str, conditions: Any, puts: Any, deletes: Any) -> int | None:
        if again and deletes and deletes[0].kind == "lease":
            again.clear()
            store.apply = apply  # type: ignore[method-assign]
            await store.fork("a", "f", new_uid="u-f")
        return await apply(agent_id, conditions, puts, deletes)

    store.apply = late  # type: ignore[method-assign]
    await store.fork("a", "f", new_uid="u-f")
    assert (await store.check_consistency("f")).problems == ()
    assert len(await store.scan("f", Scan("message", "u-f", limit=99))) == 10


async def test_two_forks_begun_in_one_moment_are_told_apart(memory: Store) -> None:
    """The first lost its mark to the second, though the clock says the same; so it writes nothing any more."""
    store = memory
    await history(store)
    await store.apply("f", [], [rec.orphan_record("u-f", "f", "fork", AT)], [])
    apply, again = store.apply, [True]

    async def late(agent_id: str, conditions: Any, puts: Any, deletes: Any) -> int | None:
        if again and deletes and deletes[0].kind == "lease":
            again.clear()
            with pytest.raises(StoreUnavailableError):
                await store.fork("a", "f", new_uid="u-f")
        if not again and puts and puts[0].kind == "events" and store.apply == late:
            store.apply = apply  # type: ignore[method-assign]
            raise StoreUnavailableError("gone")
        return await apply(agent_id, conditions, puts, deletes)

    store.apply = late  # type: ignore[method-assign]
    with pytest.raises(ConflictError, match="came between"):
        await store.fork("a", "f", new_uid="u-f")
    assert len(await store.scan("f", Scan("message", "u-f", limit=99))) == 10


# ---- only what is meant --------------------------------------------------------------------------------------


async def test_a_wrong_id_erases_nobody(store: Store) -> None:
    await history(store)
    before = await kept(store)
    for wrong in ("b", "a/2"):
        if await store.remains(wrong, "u-a"):  # where one looks by identity alone
            with pytest.raises(NotFoundError):
                await store.erase(wrong, uid="u-a")
        else:
            assert await store.erase(wrong, uid="u-a") == "u-a"
    assert await kept(store) == before
    assert (await store.check_consistency("a")).ok
    assert await store.scan("", Scan("staged", "", limit=9)) == []


async def test_an_erasure_of_one_half_made_is_of_that_agent_alone(memory: Store) -> None:
    store = memory
    await history(store)
    drop = store.drop

    async def broken(agent_id: str, uid: str) -> None:
        raise StoreUnavailableError("gone")

    store.drop = broken  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailableError):
        await store.erase("a")
    store.drop = drop  # type: ignore[method-assign]
    with pytest.raises(NotFoundError):
        await store.erase("b", uid="u-a")
    assert await store.remains("a", "u-a")
    assert await store.erase("a", uid="u-a") == "u-a"
    assert await store.remains("a", "u-a") == {}
    assert await store.scan("", Scan("staged", "", limit=9)) == []


async def test_whose_lease_is_renewed_meanwhile_does_not_expire(store: Store, clock: VirtualClock) -> None:
    await history(store)
    await store.set_expiry("a", AT)
    lease = await store.acquire("a", "driver", 1.0)
    await clock.advance(2)
    apply, again = store.apply, [True]

    async def late(agent_id: str, conditions: Any, puts: Any, deletes: Any) -> int | None:
        if again and any(key.kind == "header" for key in deletes):
            again.clear()
            await store.renew(lease, 30)
        return await apply(agent_id, conditions, puts, deletes)

    store.apply = late  # type: ignore[method-assign]
    assert (await store.expire()).held == ("a",)
    assert (await store.read_state("a")).next_seq == 10
