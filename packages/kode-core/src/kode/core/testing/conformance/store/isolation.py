"""The contract of isolation: nothing of one agent, identity or tenant shows in another's."""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest

from kode.core.errors import ConflictError, NotFoundError
from kode.core.kernel.message import Json, Message, TextBlock
from kode.core.kernel.state import Document
from kode.core.kernel.window import Snapshot, Window
from kode.core.store.base import Store
from kode.core.store.contract import DocumentBody, Enqueued, Key, Scan
from kode.core.store.records import COLUMNS, message_record, read_message
from kode.core.testing.conformance.store.author import (
    AT,
    A,
    Author,
    StoreCase,
    head,
    item,
    keep,
    loaded,
    open_call,
    row,
    text_of,
)
from kode.core.testing.conformance.store.paging import walk

__all__ = ["IsolationContract"]


class IsolationContract(StoreCase):
    """Each to its own."""

    group = "isolation"

    async def _two(self, store: Store) -> tuple[Author, Author]:
        """Create two agents, one's id the beginning of the other's."""
        one, two = Author(store, "t1/a", "uid-1"), Author(store, "t1/a/b", "uid-11")
        for author in (one, two):
            await author.create()
        return one, two

    async def test_histories_are_apart(self, store: Store) -> None:
        """Messages and events of two agents do not mix, though they bear the same numbers."""
        for author in (authors := await self._two(store)):
            for n in range(3):
                await author.say(f"{author.id} {n}", events=2)
        for author in authors:
            said, told = await store.read_messages(author.id), await store.read_events(author.id)
            assert [text_of(m) for m in said.items] == [f"{author.id} {n}" for n in range(3)]
            assert [event.cursor for event in told.items] == [1, 2, 3, 4, 5, 6]

    async def test_commits_do_not_disturb_each_other(self, store: Store) -> None:
        """Commits of many agents at once all land: a version is that of one agent."""
        authors = [Author(store, f"agent-{n}", f"uid-{n}") for n in range(12)]

        async def live(author: Author) -> None:
            await author.create()
            for n in range(6):
                await author.say(f"{n}")

        async with anyio.create_task_group() as tasks:
            for author in authors:
                tasks.start_soon(live, author)
        for author in authors:
            found = await loaded(store, author.id)
            assert (found.version, [text_of(read_message(r)) for r in found.window]) == (7, [f"{n}" for n in range(6)])

    async def test_inboxes_are_apart(self, store: Store) -> None:
        """One id may wait in two inboxes, and each counts its own positions."""
        await self._two(store)
        for id in ("t1/a", "t1/a/b"):
            assert await store.enqueue(id, item("a", id)) == Enqueued(1)
        await store.enqueue("t1/a", item("b"))
        assert [i.id for i in (await loaded(store, "t1/a/b")).inbox] == ["a"]

    async def test_consumed_ids_are_apart(self, store: Store) -> None:
        """An id that one agent consumed is new to another."""
        one, _ = await self._two(store)
        await store.enqueue("t1/a", item("a"))
        await one.commit(consumed={1: (await loaded(store, "t1/a")).inbox[0]}, taken={"a": 1})
        assert not (await store.enqueue("t1/a/b", item("a"))).duplicate
        assert await store.consumed_by("t1/a/b", "a") is None

    async def test_bounds_are_apart(self, store: Store) -> None:
        """A full inbox refuses nothing that is meant for another agent."""
        for id in "ab":
            await keep(store, [head(id, f"u{id}", max_inbox=1)], id)
            sent = row("inbox", "", "", id="x", kind="message", size=1)
            assert (await store.append_inbox(id, sent, now=1, bounded=True)).outcome == "new"

    async def test_calls_documents_and_snapshots_are_apart(self, store: Store) -> None:
        """Calls, documents and snapshots of one name are each their own agent's."""
        for author in (authors := await self._two(store)):
            body = DocumentBody("todo", "x", Json(f'"{author.id}"'))
            await author.commit(
                state={"documents": (Document("todo", "x", "d"),), "next_run": 2, "step": 1, "next_n": 1},
                documents=[body],
                calls=[replace(open_call(), tool=author.id)],
                snapshots=[Snapshot("s", 0, AT, Window(), tags=(author.id,))],
            )
        for author in authors:
            (document,) = await store.read_documents(author.id)
            (call,) = (await store.read_calls(author.id)).items
            (snapshot,) = await store.list_snapshots(author.id)
            assert (document.data, call.tool, snapshot.tags) == (
                f'"{author.id}"',
                author.id,
                (author.id,),
            )

    async def test_a_deletion_leaves_the_others(self, store: Store) -> None:
        """Deleting an agent leaves the one whose id begins with its id, and the other way round."""
        for first, second in (("t1/a", "t1/a/b"), ("t1/a/b", "t1/a")):
            for author in await self._two(store):
                await author.say("hi")
                await store.put_blob(author.id, b"x")
            await store.delete(first)
            assert [await store.exists(id) for id in (first, second)] == [False, True]
            found = await loaded(store, second)
            assert (len(found.window), len(await store.scan(second, Scan("blob", found.state.uid, limit=9)))) == (1, 1)
            await store.delete(second)

    async def test_drop_takes_everything_of_a_uid_and_nothing_else(self, store: Store) -> None:
        """`drop` removes every record of a uid, blobs too, and nothing else; again it does nothing."""
        mine = [row(kind, "10") for kind in COLUMNS if kind != "header"] + [row("lease", "")]
        others = [row(kind, "10", "u2") for kind in COLUMNS if kind != "header"] + [head(), row("staged", "u", "")]
        await keep(store, [*mine, *others])
        for _ in range(2):
            await store.drop(A, "u")
        assert await store.get(A, [r.address for r in mine]) == [None] * len(mine)
        assert await store.get(A, [r.address for r in others]) == others

    async def test_drop_keeps_to_its_uid(self, store: Store) -> None:
        """`drop` takes no record of a uid that begins with, ends with, or looks like a pattern of its own."""
        others = [
            row(kind, "10", uid) for uid in ("u1", "U", "a_", "ab", "%", "xu") for kind in ("message", "blob", "inbox")
        ]
        await keep(store, [*others, row("message", "10", "u"), row("message", "10", "a%")])
        for uid in ("u", "a%", "_"):
            await store.drop(A, uid)
        assert await store.get(A, [r.address for r in others]) == others

    async def test_a_uid_may_hold_what_joins_names_elsewhere(self, store: Store) -> None:
        """A uid is text: one that goes on with a mark such as `:`, `/`, `%` or a blank is another, for `drop` too."""
        uids = ["u", *(f"u{mark}{rest}" for mark in ":/%_*.-# |" for rest in ("", "v"))]
        rows = {uid: row("message", "10", uid, at=n) for n, uid in enumerate(uids)}
        # One that joins the names of a record would take it for that of a longer uid.
        joined = [row("message", f"{uid[1:]}{mark}10", "u") for uid in uids[1:] for mark in ":/"]
        await keep(store, [*rows.values(), *joined])
        for uid in uids[1:]:
            assert await store.scan(A, Scan("message", uid, limit=9)) == [rows[uid]]
        for uid in uids:
            await store.drop(A, uid)
            assert await store.scan(A, Scan("message", uid, limit=9)) == []
            del rows[uid]
            assert await store.get(A, [r.address for r in rows.values()]) == [*rows.values()]

    async def test_an_identity_knows_nothing_of_the_one_before(self, store: Store) -> None:
        """An agent made anew under an id has no history, inbox, ids, documents or snapshots of the one before."""
        old = Author(store)
        await old.create(
            state={"documents": (Document("todo", "x", "d"),)},
            documents=[DocumentBody("todo", "x", Json("1"))],
            snapshots=[Snapshot("s", 0, AT, Window())],
        )
        await old.say("old")
        await store.enqueue("agent", item("a"))
        await store.delete("agent")
        await Author(store, uid="uid-2").create()
        found = await loaded(store)
        assert (list(found.window), found.inbox, found.seen, found.version) == ([], (), 0, 1)
        assert await store.list_snapshots("agent") == ()
        assert await store.read_documents("agent") == ()
        assert await store.enqueue("agent", item("a")) == Enqueued(1)

    async def test_records_of_no_header_are_nobody_s(self, store: Store) -> None:
        """Records of a uid that no header names are in no agent's history, and hinder no agent of that uid's id."""
        author = Author(store)
        await author.create()
        await author.say("hi")
        stray = replace(read_message((await loaded(store)).window[0]), seq=1)
        await keep(store, [message_record("uid-9", stray)], "agent")
        assert len((await store.read_messages("agent")).items) == 1
        assert [info.uid for info in await store.list_agents()] == ["uid-1"]

    async def test_what_the_header_does_not_name_does_not_exist(self, store: Store) -> None:
        """A record beyond what the header counts is not seen."""
        author = Author(store)
        await author.create()
        await author.say("one", "two", events=2)
        stray = Message(2, "user", (TextBlock("stray"),), AT)
        await store.apply("agent", (), [message_record("uid-1", stray)], ())
        loaded = await store.load("agent")
        assert loaded is not None
        assert len(loaded.window) == 2
        assert await walk(store.read_messages) == [0, 1]
        assert await walk(store.read_messages, backwards=True) == [1, 0]

    async def test_a_stranger_cannot_write(self, store: Store) -> None:
        """Who knows an agent's id and version but not its uid can neither commit nor enqueue as for that identity."""
        await Author(store).create()
        stranger = Author(store, uid="uid-2")
        stranger.version = 1
        with pytest.raises(ConflictError):
            await stranger.say("hi")
        with pytest.raises(NotFoundError):
            await store.enqueue("agent", item("a"), uid="uid-2")
        assert len((await loaded(store)).window) == 0

    async def test_tenants_are_apart(self, store: Store) -> None:
        """A listing for a tenant holds its agents only: not those of none, nor of one whose name begins the same."""
        for id, tenant in (("a", "t"), ("b", "t1"), ("c", None), ("d", "T"), ("e", "t")):
            await Author(store, id, f"uid-{id}").create(state={"tenant": tenant})
        assert [info.agent_id for info in await store.list_agents(tenant="t")] == ["a", "e"]
        for nobody in ("", "%", "t%", "_", "x"):
            assert await store.list_agents(tenant=nobody) == []

    async def test_a_prefix_is_no_pattern(self, store: Store) -> None:
        """A listing by prefix holds agents whose id begins with it: `_` and `.` in ids stand for themselves."""
        for id in ("t_1/a", "tx1/a", "t.1/a", "T_1/a", "t_1", "t_10/a"):
            await Author(store, id, f"uid-{id}").create()
        for prefix, ids in (
            ("t_1/", ["t_1/a"]),
            ("t.1/", ["t.1/a"]),
            ("t_1", ["t_1", "t_1/a", "t_10/a"]),
            ("T", ["T_1/a"]),
        ):
            assert [info.agent_id for info in await store.list_agents(prefix)] == ids

    async def test_blobs_are_apart(self, store: Store) -> None:
        """Who knows a blob's digest cannot read it through another agent, nor is it gone with another's copy."""
        one, two = await self._two(store)
        digest = await store.put_blob(one.id, b"secret")
        with pytest.raises(NotFoundError):
            await store.get_blob(two.id, digest)
        await store.put_blob(two.id, b"secret")
        await store.delete(one.id)
        assert await store.get_blob(two.id, digest) == b"secret"

    async def test_marks_of_all_agents_are_scanned_together(self, store: Store) -> None:
        """Records of kind ``staged`` under uid "" are routed by agent, and read together with agent id ""."""
        await store.apply("a", (), [row("staged", "u1", "", at=1)], ())
        await store.apply("b/c", (), [row("staged", "u2", "", at=2), row("staged", "u3")], ())
        assert [mark.key for mark in await store.scan("", Scan("staged", "", limit=9))] == ["u1", "u2"]
        assert [mark.key for mark in await store.scan("", Scan("staged", "", after="u1", limit=9))] == ["u2"]

    async def test_marks_are_apart_from_agents(self, store: Store) -> None:
        """Marks under uid "" are no agent's: dropping the uid they name leaves them, and they are in no listing."""
        await keep(store, [row("staged", "u", "", at=1), row("message", "1")])
        await store.drop(A, "u")
        assert [mark.key for mark in await store.scan("", Scan("staged", "", limit=9))] == ["u"]
        assert await store.agents("", "", 9) == []
        await store.drop(A, "")
        assert await store.get(A, [Key("staged", "", "u")]) == [row("staged", "u", "", at=1)]

    async def test_every_kind_is_dropped(self, store: Store) -> None:
        """Each kind of record is dropped with its uid, the record without a key among them."""
        for kind in COLUMNS:
            if kind != "header":
                mine = row(kind, "" if kind == "lease" else "10")
                await keep(store, [mine])
                await store.drop(A, "u")
                assert (kind, await store.get(A, [mine.address])) == (kind, [None])
