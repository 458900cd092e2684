"""The contract of `load` and the pages."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from kode.core.errors import NotFoundError, RecordCorruptError, UsageError
from kode.core.kernel.message import Json, Message, TextBlock, Usage
from kode.core.kernel.state import Document, RunRecord
from kode.core.kernel.toolcall import CallStatus
from kode.core.kernel.window import Compaction, Range, Snapshot, Window
from kode.core.kernel.words import StopReason
from kode.core.store.base import Store
from kode.core.store.contract import DocumentBody, Key, Record
from kode.core.store.records import int_key, message_record, read_message
from kode.core.testing.conformance.store.author import AT, Author, StoreCase, item, open_call

__all__ = ["ReadingContract"]


class ReadingContract(StoreCase):
    """What was committed is read back, and only that."""

    async def test_load(self, store: Store) -> None:
        """`load` gives state, version, window, open calls, inbox and lease as committed; None if there is none."""
        author = Author(store)
        await author.create(state={"tenant": "t", "template": "x@1"})
        await author.say(*[f"text {n}" for n in range(20)])
        calls = (open_call(0), open_call(1, status=CallStatus.PENDING))
        window = Window(pinned=(3,), ranges=(Range(5, 7), Range(18)))
        await author.commit(state={"calls": calls, "window": window}, calls=calls, seen=0, wake_at=AT + 9)
        await store.enqueue("agent", item("a"))
        loaded = await store.load("agent")
        assert loaded is not None
        assert (loaded.state, loaded.version, loaded.seen, loaded.lease) == (author.state, 3, 0, None)
        assert [read_message(row).seq for row in loaded.window] == [3, 5, 6, 18, 19]
        assert [found.id for found in loaded.inbox] == ["a"]
        assert loaded.wake_at is not None
        assert await store.load("nobody") is None
        assert [await store.exists(id) for id in ("agent", "nobody")] == [True, False]

    async def test_a_window_of_thousands(self, store: Store) -> None:
        """A window may have any number of messages."""
        author = Author(store)
        await author.create()
        await author.say(*["x"] * 2_500)
        loaded = await store.load("agent")
        assert loaded is not None
        assert [row.key for row in loaded.window] == [int_key(n) for n in range(2_500)]

    async def test_messages_in_pages_both_ways(self, store: Store) -> None:
        """Messages are paged forwards and backwards, within bounds on both sides."""
        author = Author(store)
        await author.create()
        await author.say(*[f"{n}" for n in range(300)])
        assert await self._walk(store.read_messages, limit=7) == list(range(300))
        assert await self._walk(store.read_messages, limit=7, backwards=True) == list(range(299, -1, -1))
        assert await self._walk(store.read_messages, after=290, limit=4) == list(range(291, 300))
        assert await self._walk(store.read_messages, before=3) == [0, 1, 2]
        assert await self._walk(store.read_messages, after=5, before=9, backwards=True) == [8, 7, 6]
        assert await self._walk(store.read_messages, after=299) == []

    async def test_a_page_is_bounded_by_bytes_but_never_empty(self, store: Store) -> None:
        """A page ends before it exceeds `max_bytes`, but holds at least one record."""
        author = Author(store)
        await author.create()
        await author.say(*["x" * 10_000 for _ in range(20)])
        page = await store.read_messages("agent", max_bytes=35_000)
        assert [m.seq for m in page.items] == [0, 1, 2]
        assert page.next == 2
        assert len((await store.read_messages("agent", max_bytes=1)).items) == 1
        assert await self._walk(store.read_messages, max_bytes=35_000) == list(range(20))

    async def test_events_in_pages_both_ways(self, store: Store) -> None:
        """Events are paged by cursor both ways, from any cursor, though they are stored by commit."""
        author = Author(store)
        await author.create()
        for n in range(12):
            await author.say(events=n % 4)
        every = list(range(1, 19))
        walk = self._walk
        assert await walk(store.read_events, limit=5) == every
        assert await walk(store.read_events, limit=1) == every
        assert await walk(store.read_events, limit=5, backwards=True) == every[::-1]
        for after in range(19):
            assert await walk(store.read_events, after=after) == every[after:]
            assert await walk(store.read_events, after=after, before=17) == every[after:16]
            assert await walk(store.read_events, before=after, backwards=True) == every[: max(after - 1, 0)][::-1]
        page = await store.read_events("agent", after=2, limit=1)
        assert page.items[0].data == {"n": 3}

    async def test_calls_runs_snapshots(self, store: Store) -> None:
        """Calls, runs and snapshots are listed in their order and read back equal; a call is replaced."""
        author = Author(store)
        await author.create()
        changes = {"next_run": 13, "step": 3, "next_n": 2, "next_seq": 1}
        calls = [open_call(n, run, 3) for run in (2, 11, 12) for n in range(2)]
        runs = [_run(n) for n in range(1, 13)]
        snapshots = [Snapshot("b", 0, AT, Window()), Snapshot("a", 1, AT, Window(), tags=("x",))]
        await author.commit(state=changes, calls=calls, runs=runs, snapshots=snapshots)
        order = ["2.3.0", "2.3.1", "11.3.0", "11.3.1", "12.3.0", "12.3.1"]
        assert await self._walk(store.read_calls, limit=4) == order
        assert await self._walk(store.read_calls, limit=1, backwards=True) == order[::-1]
        assert await self._walk(store.read_calls, run=11) == order[2:4]
        done = open_call(0, 2, 3, status=CallStatus.COMPLETED, result=(TextBlock("ok"),))
        await author.commit(calls=[done])
        assert (await store.read_calls("agent")).items[0] == done
        assert await self._walk(store.read_runs, limit=5) == list(range(1, 13))
        assert await self._walk(store.read_runs, backwards=True, before=12, after=9) == [11, 10]
        assert await store.read_run("agent", 3) == runs[2]
        assert await store.read_run("agent", 13) is None
        assert await store.list_snapshots("agent") == tuple(snapshots)

    async def test_documents_are_those_the_header_names(self, store: Store) -> None:
        """Only the documents the state names are read, also when a commit names old ones again."""
        author = Author(store)
        named = (Document("todo", "list/ä", "d1"), Document("file", "x", "d2"))
        bodies = [DocumentBody("todo", "list/ä", Json("[1]")), DocumentBody("file", "x", Json('"x"'))]
        await author.create(state={"documents": named}, documents=bodies)
        assert await store.read_documents("agent") == tuple(bodies)
        assert await store.read_documents("agent", "file") == (bodies[1],)
        assert await store.read_document("agent", "todo", "list/ä") == bodies[0]
        new = DocumentBody("file", "x", Json('"y"'))
        await author.commit(state={"documents": (Document("file", "x", "d3"),)}, documents=[new])
        assert await store.read_documents("agent") == (new,)
        assert await store.read_document("agent", "todo", "list/ä") is None
        # As a revert does: the old ones are named again.
        await author.commit(state={"documents": named})
        assert await store.read_documents("agent") == tuple(bodies)

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
        assert await self._walk(store.read_messages) == [0, 1]
        assert await self._walk(store.read_messages, backwards=True) == [1, 0]

    async def test_agents_are_listed(self, store: Store) -> None:
        """Agents are listed by id with their columns, by prefix and tenant."""
        for id in ("a", "a/b", "c"):
            state = {"tenant": None if id == "c" else "t", "expires_at": AT + 7}
            await Author(store, id, f"uid-{id}").create(state=state, wake_at=AT)
        listed = await store.list_agents()
        assert [info.agent_id for info in listed] == ["a", "a/b", "c"]
        info = listed[1]
        assert (info.uid, info.version, info.status, info.tenant, info.wake_at) == (
            "uid-a/b",
            1,
            "READY",
            "t",
            AT,
        )
        assert (info.expires_at, info.parked) == (AT + 7, None)
        assert [info.agent_id for info in await store.list_agents("a", "a", 5, "t")] == ["a/b"]

    async def test_blobs_belong_to_an_agent(self, store: Store) -> None:
        """A blob is found by its SHA-256 by the agent it was kept for and by no other; large ones too."""
        await Author(store).create()
        await Author(store, "other", "uid-2").create()
        for data in (b"", b"\x00\xff", b"x" * 3_000_000):
            for _ in range(2):
                digest = await store.put_blob("agent", data, "image/png")
            assert digest == hashlib.sha256(data).hexdigest()
            assert await store.get_blob("agent", digest) == data
            with pytest.raises(NotFoundError):
                await store.get_blob("other", digest)
        (row,) = await store.get("agent", [Key("blob", "uid-1", hashlib.sha256(b"").hexdigest())])
        assert row is not None
        assert (row.columns["size"], row.columns["media_type"]) == (0, "image/png")
        for missing in (store.get_blob("agent", "0" * 64), store.get_blob("nobody", digest)):
            with pytest.raises(NotFoundError):
                await missing
        with pytest.raises(NotFoundError):
            await store.put_blob("nobody", b"x")
        with pytest.raises(UsageError):
            await store.put_blob("agent", b"x", "text/\0")

    async def test_readers_honour_what_was_pruned(self, store: Store) -> None:
        """Below `first_seq` and `first_cursor` nothing is read, whether or not it is gone, and pages say `pruned`."""
        author = Author(store)
        await author.create()
        for n in range(6):
            await author.say(f"{n}")
        await author.commit(state={"first_seq": 2, "first_cursor": 4})
        loaded = await store.load("agent")
        assert loaded is not None
        assert [row.key for row in loaded.window] == [int_key(n) for n in range(2, 6)]
        for backwards in (False, True):
            page = await store.read_messages("agent", backwards=backwards)
            assert (sorted(m.seq for m in page.items), page.pruned) == ([2, 3, 4, 5], True)
            noted = await store.read_events("agent", backwards=backwards)
            assert (sorted(event.cursor for event in noted.items), noted.pruned) == ([4, 5, 6], True)
            assert not (await store.read_messages("agent", after=1, backwards=backwards)).pruned
            assert not (await store.read_events("agent", after=3, backwards=backwards)).pruned
        assert (await store.read_messages("agent", before=2)).pruned
        assert (await store.read_events("agent", after=1, before=3)).pruned

    async def test_who_is_not_there_cannot_be_read(self, store: Store) -> None:
        """Reads of an agent that is not there raise `NotFoundError`."""
        calls: list[Any] = [
            store.read_messages("nobody"),
            store.read_events("nobody"),
            store.read_run("nobody", 1),
            store.consumed_by("nobody", "x"),
        ]
        for call in calls:
            with pytest.raises(NotFoundError):
                await call

    async def test_a_corrupt_record_is_named_and_left_as_it_is(self, store: Store) -> None:
        """A damaged record raises `RecordCorruptError` that names it, is kept, and hides no others."""
        author = Author(store)
        await author.create()
        await author.say("one", "two")
        key = Key("message", "uid-1", int_key(1))
        (good,) = await store.get("agent", [key])
        assert good is not None
        bad = Record(key.kind, key.uid, key.key, good.columns, b'1{"blocks":[{"type":"text","text":["secret"]}]}')
        await store.apply("agent", (), [bad], ())
        with pytest.raises(RecordCorruptError) as corrupt:
            await store.read_messages("agent")
        assert corrupt.value.fields["kind"] == "message"
        assert key.key in str(corrupt.value)
        assert "secret" not in str(corrupt.value) + repr(corrupt.value) + repr(bad)
        assert corrupt.value.fields["raw"] == bad.body
        assert await store.get("agent", [key]) == [bad]
        assert len((await store.read_messages("agent", before=1)).items) == 1

    async def _walk(self, read: Any, **given: Any) -> list[Any]:
        """Read page after page; returns what tells the items apart."""
        found: list[Any] = []
        where = "before" if given.get("backwards") else "after"
        for _ in range(1_000):
            page = await read("agent", **given)
            found += [_name(one) for one in page.items]
            if page.next is None:
                return found
            given[where] = page.next
        raise AssertionError("the pages have no end")


def _name(one: Any) -> Any:
    for name in ("seq", "cursor", "number", "id"):
        if type(one).__name__ == "Call" and name == "seq":
            continue
        if hasattr(one, name):
            return getattr(one, name)
    raise AssertionError(one)


def _run(number: int) -> RunRecord:
    return RunRecord(
        number,
        "ok",
        StopReason.END_TURN,
        AT,
        AT + number,
        "i",
        1,
        0,
        1,
        1,
        2,
        steps=1,
        calls=0,
        usage=Usage(),
        used_us=5,
    )


def compaction(id: str, start: int, stop: int) -> Compaction:
    """Build a compaction."""
    return Compaction(id, start, stop, AT, (TextBlock("sum"),), "digest", Window())
