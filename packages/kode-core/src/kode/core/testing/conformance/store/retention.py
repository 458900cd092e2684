"""The contract of retention: what goes by age and by number, what stays, and agents whose time is over."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kode.core.errors import ConflictError, LeaseLostError, NotFoundError, UsageError
from kode.core.kernel.events import Event
from kode.core.kernel.message import Message, TextBlock
from kode.core.kernel.toolcall import CallStatus
from kode.core.kernel.window import Range, Snapshot, Window
from kode.core.store.base import Store
from kode.core.store.contract import Record, Scan
from kode.core.store.records import COLUMNS, read_message
from kode.core.testing.conformance.store.author import (
    AT,
    Author,
    StoreCase,
    compaction,
    item,
    loaded,
    open_call,
    run_record,
)

__all__ = ["RetentionContract"]

S = 1_000_000


def shot(id: str, seq: int, start: int = 0, at: int = AT) -> Snapshot:
    """Take a snapshot that shows messages from `start` on."""
    return Snapshot(id, seq, at, Window(ranges=(Range(start),)))


async def ten(store: Store, *snapshots: Snapshot, start: int = 6, pinned: tuple[int, ...] = ()) -> Author:
    """Write ten messages, one a second, each with a call; the window shows those from `start` on."""
    author = Author(store)
    await author.create(
        messages=[Message(n, "user", (TextBlock(f"{n}"),), AT + n * S) for n in range(10)],
        calls=[open_call(n, status=CallStatus.COMPLETED, seq=n) for n in range(10)],
        compactions=[compaction("c", 0, start)],
        snapshots=list(snapshots),
        state={
            "next_seq": 10,
            "next_run": 6,
            "step": 1,
            "next_n": 10,
            "window": Window("c", pinned, (Range(start),)),
        },
    )
    return author


async def noted(author: Author) -> None:
    """Write six events, one a second, each in a commit of its own."""
    for n in range(1, 7):
        await author.commit(events=[Event("done", AT + n * S, n)], state={"next_cursor": n + 1})


async def seqs(store: Store, agent_id: str = "agent") -> list[int]:
    """Numbers of the messages that are there."""
    return [message.seq for message in (await store.read_messages(agent_id)).items]


async def cursors(store: Store) -> list[int]:
    """Cursors of the events that are there."""
    return [event.cursor for event in (await store.read_events("agent")).items]


async def records(store: Store, agent_id: str, uid: str) -> list[Record]:
    """All that is stored under a uid."""
    return [row for kind in COLUMNS for row in await store.scan(agent_id, Scan(kind, uid, limit=999))]


class RetentionContract(StoreCase):
    """What is to go goes, and what is reached stays."""

    group = "retention"

    # ---- messages ------------------------------------------------------------------------------------------

    async def test_messages_stay_unless_their_number_is_said(self, store: Store) -> None:
        """Without `keep_messages` and `keep_snapshots` `prune` takes neither, however old."""
        await noted(await ten(store, shot("s", 5, 3)))
        pruned = await store.prune("agent", before=None)
        assert (pruned.messages, pruned.calls, pruned.snapshots, pruned.events) == (0, 0, 0, 6)
        assert (await seqs(store), len(await store.list_snapshots("agent"))) == (list(range(10)), 1)

    async def test_messages_go_by_number(self, store: Store) -> None:
        """`keep_messages` keeps exactly that many of the last where nothing older is shown, and says how many went."""
        await ten(store, start=10)
        for keep, left in ((99, 10), (9, 9), (4, 4), (4, 4), (0, 0)):
            before = len(await seqs(store))
            assert (await store.prune("agent", before=None, keep_messages=keep)).messages == before - left
            assert await seqs(store) == list(range(10 - left, 10))

    async def test_messages_go_by_age(self, store: Store) -> None:
        """`before` takes what is older than that moment, and not what is of that very moment."""
        await ten(store, start=10)
        for moment, first in ((AT, 0), (AT + 2 * S, 2), (AT + 2 * S + 1, 3)):
            await store.prune("agent", before=moment, keep_messages=0)
            assert await seqs(store) == list(range(first, 10))

    async def test_by_age_and_by_number_both_must_hold(self, store: Store) -> None:
        """What is older and not among the last ones goes; either alone keeps it."""
        await noted(await ten(store, start=10))
        pruned = await store.prune("agent", before=AT + 4 * S, keep_messages=9, keep_events=5)
        assert (pruned.messages, pruned.events) == (1, 1)
        pruned = await store.prune("agent", before=AT + 4 * S, keep_messages=2, keep_events=2)
        assert (pruned.messages, pruned.events) == (3, 2)
        assert (await seqs(store), await cursors(store)) == (list(range(4, 10)), [4, 5, 6])

    async def test_what_the_window_shows_stays(self, store: Store) -> None:
        """No message that the window shows goes, nor one behind it; the window is loaded as before."""
        await ten(store, start=6)
        await store.prune("agent", before=None, keep_messages=0)
        assert await seqs(store) == [6, 7, 8, 9]
        assert [read_message(row).seq for row in (await loaded(store)).window] == [6, 7, 8, 9]

    async def test_what_is_pinned_stays(self, store: Store) -> None:
        """A message that is pinned stays, with all behind it."""
        await ten(store, start=8, pinned=(4,))
        await store.prune("agent", before=None, keep_messages=0)
        assert await seqs(store) == [4, 5, 6, 7, 8, 9]
        assert [read_message(row).seq for row in (await loaded(store)).window] == [4, 8, 9]

    async def test_what_a_snapshot_shows_stays_while_it_does(self, store: Store) -> None:
        """A snapshot keeps the messages it shows, so that it can be forked at; they go when it is gone."""
        await ten(store, shot("s", 5, 3))
        assert (await store.prune("agent", before=None, keep_messages=0)).messages == 3
        assert await seqs(store) == [3, 4, 5, 6, 7, 8, 9]
        await store.fork("agent", "fork", new_uid="uid-9", at="s")
        assert await seqs(store, "fork") == [3, 4]
        assert (await store.prune("agent", before=None, keep_messages=0, keep_snapshots=0)).messages == 3
        assert await seqs(store) == [6, 7, 8, 9]

    async def test_calls_go_with_the_messages_that_asked(self, store: Store) -> None:
        """The calls a pruned message asked for go with it, and no others; what is left fits together."""
        await ten(store, start=7)
        assert (await store.prune("agent", before=None, keep_messages=0)).calls == 7
        assert [call.seq for call in (await store.read_calls("agent")).items] == [7, 8, 9]
        assert (await store.check_consistency("agent")).problems == ()

    async def test_a_reader_is_told_that_there_was_more(self, store: Store) -> None:
        """After a prune pages from the beginning say `pruned`, the state says from where on, and `prune` is done."""
        await noted(await ten(store))
        for page in (await store.read_messages("agent"), await store.read_events("agent")):
            assert not page.pruned
        done = await store.prune("agent", before=None, keep_events=2, keep_messages=3)
        assert (done.messages, done.events) == (6, 4)
        for page in (await store.read_messages("agent"), await store.read_events("agent")):
            assert page.pruned
        state = await store.read_state("agent")
        assert (state.first_seq, state.first_cursor) == (6, 5)
        assert await store.prune("agent", before=None, keep_events=2, keep_messages=3) == type(done)()

    async def test_a_pruned_agent_goes_on(self, store: Store) -> None:
        """After a prune numbers and cursors go on, and an inbox, documents and blobs are as they were."""
        await ten(store)
        await store.enqueue("agent", item("a"))
        await store.save_document("agent", "todo", "list", [1])
        name = await store.put_blob("agent", b"blob")
        cursor = (await store.read_state("agent")).next_cursor
        await store.prune("agent", before=None, keep_messages=0, keep_snapshots=0)
        assert [i.id for i in (await loaded(store)).inbox] == ["a"]
        assert (await store.read_state("agent")).next_cursor == cursor
        assert (await store.append_message("agent", "user", "next")).seq == 10
        assert [body.data for body in await store.read_documents("agent")] == ["[1]"]
        assert await store.get_blob("agent", name) == b"blob"

    async def test_nothing_is_pruned_under_a_driver(self, store: Store) -> None:
        """While somebody drives it messages and snapshots' messages stay, and the refusal says who."""
        await ten(store)
        lease = await store.acquire("agent", "driver", 300)
        with pytest.raises(LeaseLostError) as held:
            await store.prune("agent", before=None, keep_messages=0, keep_events=99)
        assert held.value.code == "held"
        assert await seqs(store) == list(range(10))
        await store.release(lease)
        with pytest.raises(NotFoundError):
            await store.prune("nobody", before=None)

    # ---- events, runs, snapshots ---------------------------------------------------------------------------

    async def test_events_runs_and_snapshots_each_by_their_number(self, store: Store) -> None:
        """Each kind keeps exactly as many of its last as was said for it, and takes nothing of the others."""
        author = await ten(store, *(shot(f"s{n}", n, at=AT + n * S) for n in range(4)))
        await noted(author)
        await author.commit(runs=[run_record(n) for n in range(1, 6)])
        pruned = await store.prune("agent", before=None, keep_events=4, keep_runs=3, keep_snapshots=3)
        assert (pruned.events, pruned.runs, pruned.snapshots, pruned.messages) == (2, 2, 1, 0)
        assert await cursors(store) == [3, 4, 5, 6]
        assert [run.number for run in (await store.read_runs("agent")).items] == [3, 4, 5]
        assert [snapshot.id for snapshot in await store.list_snapshots("agent")] == ["s1", "s2", "s3"]
        assert (await store.prune("agent", before=AT + S, keep_events=9, keep_runs=9, keep_snapshots=0)).snapshots == 0
        later = AT + S + 1
        assert (await store.prune("agent", before=later, keep_events=9, keep_runs=9, keep_snapshots=0)).snapshots == 1

    # ---- forks ---------------------------------------------------------------------------------------------

    async def test_forks_are_as_they_were(self, store: Store) -> None:
        """What a fork has copied is the same byte for byte after its source was pruned, and after it was erased."""
        await ten(store, shot("s", 5, 3))
        await store.put_blob("agent", b"blob")
        await store.fork("agent", "fork", new_uid="uid-9")
        before = await records(store, "fork", "uid-9")
        await store.prune("agent", before=None, keep_messages=0, keep_snapshots=0)
        assert await records(store, "fork", "uid-9") == before
        await store.erase("agent")
        assert await records(store, "fork", "uid-9") == before
        assert (await store.check_consistency("fork")).problems == ()

    async def test_a_pruned_fork_takes_nothing_from_its_source(self, store: Store) -> None:
        """Pruning a fork leaves every record of its source as it was."""
        await ten(store, shot("s", 5, 3))
        await store.fork("agent", "fork", new_uid="uid-9")
        before = await records(store, "agent", "uid-1")
        assert (await store.prune("fork", before=None, keep_messages=0, keep_snapshots=0)).messages == 6
        assert await records(store, "agent", "uid-1") == before

    # ---- erasing, and agents whose time is over ------------------------------------------------------------

    async def test_what_remains_is_counted(self, store: Store) -> None:
        """`remains` counts every record of an identity by kind; after an erasure there is none."""
        await ten(store, shot("s", 5))
        await store.enqueue("agent", item("i"))
        await store.put_blob("agent", b"x")
        await store.acquire("agent", "driver", 30)
        assert await store.remains("agent", "uid-1") == {
            **dict.fromkeys(("message", "call"), 10),
            **dict.fromkeys(("header", "lease", "inbox", "compaction", "snapshot", "blob"), 1),
        }
        assert await store.remains("agent", "uid-2") == {}
        await store.erase("agent", force=True)
        assert await store.remains("agent", "uid-1") == {}

    async def test_an_agent_is_kept_until_its_moment(self, store: Store) -> None:
        """`expire` erases who has reached its `expires_at`, to the microsecond, the first first, and nobody else."""
        for n, id in enumerate("cabd"):
            await Author(store, id, f"uid-{id}").create()
            await store.set_expiry(id, AT + n if id != "d" else None)
        (info,) = (await store.query_agents(agent_id="a")).items
        assert (await store.read_state("a")).expires_at == info.expires_at == AT + 1
        assert (await store.expire(now=AT - 1)).erased == ()
        assert (await store.expire(now=AT + 1)).erased == ("c", "a")
        assert await store.remains("a", "uid-a") == {}
        assert (await store.expire(now=AT + 1)).erased == ()
        assert [info.agent_id for info in await store.list_agents()] == ["b", "d"]

    async def test_no_more_expire_than_asked_for(self, store: Store) -> None:
        """`limit` erases so many at most; the next call goes on."""
        for id in "abc":
            await Author(store, id, f"uid-{id}").create(state={"expires_at": AT})
        assert [(await store.expire(now=AT, limit=2)).erased for _ in range(3)] == [("a", "b"), ("c",), ()]

    async def test_who_is_driven_does_not_expire(self, store: Store) -> None:
        """An agent that is driven is told of in `held` and stays, untouched, until it rests."""
        await Author(store).create(state={"expires_at": AT})
        lease = await store.acquire("agent", "driver", 300)
        found = await store.expire(now=AT + S)
        assert (found.erased, found.held, found.failed) == ((), ("agent",), ())
        assert (await loaded(store)).lease is not None
        await store.release(lease)
        assert (await store.expire(now=AT + S)).erased == ("agent",)

    async def test_who_was_given_more_time_stays(self, store: Store) -> None:
        """More time given between the look and the act is respected, and so is `expired_by` of an erasure."""
        await Author(store).create(state={"expires_at": AT})
        apply, again = store.apply, [True]

        async def late(agent_id: str, conditions: Any, puts: Any, deletes: Any) -> int | None:
            if again and any(key.kind == "header" for key in deletes):
                again.clear()
                await store.set_expiry("agent", AT + 9)
            return await apply(agent_id, conditions, puts, deletes)

        store.apply = late  # type: ignore[method-assign]
        assert (await store.expire(now=AT)).erased == ()
        store.apply = apply  # type: ignore[method-assign]
        assert not again
        with pytest.raises(ConflictError) as error:
            await store.erase("agent", expired_by=AT + 8)
        assert error.value.code == "not_expired"
        assert await store.exists("agent")
        await store.erase("agent", expired_by=AT + 9)

    async def test_an_expiry_is_one_change_of_its_agent(self, store: Store) -> None:
        """`set_expiry` commits once, and not when nothing changes; a driven agent and a bad moment are refused."""
        author = Author(store)
        await author.create()
        await author.say("hi")
        await store.set_expiry("agent", AT)
        before = await loaded(store)
        assert (before.version, before.state) == (
            3,
            replace(author.state, expires_at=AT, updated_at=before.state.updated_at),
        )
        await store.set_expiry("agent", AT)
        assert (await loaded(store)).version == 3
        for moment in (-1, 2**62):
            with pytest.raises(UsageError):
                await store.set_expiry("agent", moment)
        with pytest.raises(NotFoundError):
            await store.set_expiry("nobody", None)
        await store.acquire("agent", "driver", 300)
        with pytest.raises(LeaseLostError):
            await store.set_expiry("agent", None)
