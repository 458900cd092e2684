"""The contract of events: by cursor, from any point, on every channel."""

from __future__ import annotations

from typing import Any

from kode.core.kernel.events import Event, Ref
from kode.core.kernel.window import Range, Window
from kode.core.store.base import Store
from kode.core.store.contract import Scan
from kode.core.store.records import int_key
from kode.core.testing.conformance.store.author import AT, Author, StoreCase
from kode.core.testing.conformance.store.paging import walk

__all__ = ["EventsContract"]


class EventsContract(StoreCase):
    """Whoever watches from a cursor on misses nothing and sees nothing twice."""

    group = "events"

    async def test_events_in_pages_both_ways(self, store: Store) -> None:
        """Events are paged by cursor both ways, from any cursor, though they are stored by commit."""
        author = Author(store)
        await author.create()
        for n in range(12):
            await author.say(events=n % 4)
        every = list(range(1, 19))
        assert await walk(store.read_events, limit=5) == every
        assert await walk(store.read_events, limit=1) == every
        assert await walk(store.read_events, limit=5, backwards=True) == every[::-1]
        for after in range(19):
            assert await walk(store.read_events, after=after) == every[after:]
            assert await walk(store.read_events, after=after, before=17) == every[after:16]
            assert await walk(store.read_events, before=after, backwards=True) == every[: max(after - 1, 0)][::-1]
        page = await store.read_events("agent", after=2, limit=1)
        assert page.items[0].data == {"n": 3}

    async def test_an_event_is_read_back_whole(self, store: Store) -> None:
        """All fields of an event are kept: type, times, step, call, reference, preview, and data of any scalar."""
        data: dict[str, Any] = {"t": "\u00e9\0", "i": 10**30, "f": 1e-7, "b": True, "n": None}
        told = [
            Event("tool_start", AT + 5, 1, 3, 2, "3.2.0", Ref(7, 1), "pre\u00e9", data),
            Event("done", AT, 2, 0),
            Event("text_chunk_end", AT + 9, 3, 4, 1, ref=Ref(8)),
        ]
        author = Author(store)
        await author.create(events=told, state={"next_cursor": 4})
        assert (await store.read_events("agent")).items == tuple(told)

    async def test_types_of_a_later_version_are_kept(self, store: Store) -> None:
        """An event of a type that is not known is stored and read back."""
        author = Author(store)
        await author.create(events=[Event("of_tomorrow", AT, 1, data={"x": 1})], state={"next_cursor": 2})
        (event,) = (await store.read_events("agent")).items
        assert (event.type, event.cursor, event.channel) == ("of_tomorrow", 1, "monitor")

    async def test_live_events_are_not_stored(self, store: Store) -> None:
        """Events that are only shown are not stored and take no cursor."""
        author = Author(store)
        told = [Event("text_chunk", AT), Event("done", AT, 1), Event("tool_progress", AT)]
        await author.create(events=told, state={"next_cursor": 2})
        assert [event.type for event in (await store.read_events("agent")).items] == ["done"]

    async def test_the_record_names_the_channels(self, store: Store) -> None:
        """The events of a commit are one record, whose column names their channels and its last cursor."""
        author = Author(store)
        names = ("done", "permission_required", "error")
        told = [Event(name, AT, n) for n, name in enumerate(names, 1)]
        await author.create(events=told, state={"next_cursor": 4})
        await author.say(events=1)
        rows = await store.scan("agent", Scan("events", "uid-1", limit=9))
        assert [(r.columns["channels"], r.columns["last"]) for r in rows] == [
            ("control,monitor,progress", 3),
            ("progress", 4),
        ]

    async def test_a_watcher_goes_on_where_it_stopped(self, store: Store) -> None:
        """Reading on from the last cursor after each commit gives each event once, in order."""
        author = Author(store)
        await author.create()
        seen: list[int] = []
        for n in range(9):
            await author.say(events=n % 4)
            page = await store.read_events("agent", after=seen[-1] if seen else 0)
            assert page.next is None
            seen += [event.cursor for event in page.items]
        assert seen == list(range(1, author.state.next_cursor))

    async def test_a_page_may_end_within_a_commit(self, store: Store) -> None:
        """A page may end and begin between two events of one commit."""
        author = Author(store)
        await author.create()
        await author.say(events=7)
        for limit in range(1, 9):
            assert await walk(store.read_events, limit=limit) == list(range(1, 8))
            assert await walk(store.read_events, limit=limit, backwards=True) == list(range(7, 0, -1))

    async def test_pages_of_events_are_bounded_by_bytes(self, store: Store) -> None:
        """A page of events ends at its bytes, holds one commit's at least, and the next goes on behind it."""
        author = Author(store)
        await author.create()
        for _ in range(8):
            await author.say(events=3)
        page = await store.read_events("agent", max_bytes=1)
        assert 1 <= len(page.items) <= 3
        assert page.next is not None
        assert await walk(store.read_events, max_bytes=1) == list(range(1, 25))
        assert await walk(store.read_events, max_bytes=1, backwards=True) == list(range(24, 0, -1))

    async def test_there_is_nothing_beyond_the_end(self, store: Store) -> None:
        """Beyond the last cursor there is nothing, and that is no error."""
        author = Author(store)
        await author.create()
        await author.say(events=2)
        for after in (2, 3, 10**9):
            page = await store.read_events("agent", after=after)
            assert (page.items, page.next, page.pruned) == ((), None, False)

    async def test_many_commits_between_two_cursors(self, store: Store) -> None:
        """Commits without events leave no gap between cursors."""
        author = Author(store)
        await author.create()
        for n in range(30):
            await author.say(events=1 if n % 10 == 0 else 0)
        assert await walk(store.read_events, after=1) == [2, 3]

    async def test_a_window_whose_ranges_touch_is_loaded_whole(self, store: Store) -> None:
        """A pinned message and the range behind it are two ranges, of which one begins where the other ends."""
        author = Author(store)
        await author.create()
        for n in range(12):
            await author.say(f"{n}")
        for window, seqs in (
            (Window(None, (4,), (Range(5),)), range(4, 12)),
            (Window(None, (), (Range(2, 5), Range(5, 6), Range(6))), range(2, 12)),
            (Window(None, (1, 3, 4), (Range(7, 9), Range(9))), (1, 3, 4, *range(7, 12))),
        ):
            await author.commit(state={"window": window})
            loaded = await store.load("agent")
            assert loaded is not None
            assert [row.key for row in loaded.window] == [int_key(n) for n in seqs]

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
