"""The contract of order and pages: everything once, in its place, both ways."""

from __future__ import annotations

from typing import Any

from kode.core.kernel.message import TextBlock
from kode.core.kernel.toolcall import CallStatus
from kode.core.kernel.window import Range, Snapshot, Window
from kode.core.store.base import Store
from kode.core.store.contract import Scan
from kode.core.store.records import int_key, read_message
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
    run_record,
)

__all__ = ["PagingContract", "walk"]

KEYS = ["10", "11", "1f", "210", "Z", "a/1", "a/2", "a0", "\u00e9", "\U0001f600"]


async def found(store: Store, **given: Any) -> list[str]:
    """Scan for messages of "u"; their keys."""
    return [r.key for r in await store.scan(A, Scan("message", "u", **{"limit": 99, **given}))]


class PagingContract(StoreCase):
    """Bytewise order, exclusive bounds, pages that fit together."""

    group = "paging"

    async def _keys(self, store: Store, keys: list[str] = KEYS) -> None:
        await keep(store, [row("message", key) for key in reversed(keys)])

    async def test_a_scan_reads_all_in_rising_order(self, store: Store) -> None:
        """A scan reads all records of a kind and uid, in rising order of keys, however they were put."""
        await self._keys(store)
        assert await found(store) == KEYS

    async def test_the_order_is_that_of_utf_8_bytes(self, store: Store) -> None:
        """Keys sort by the bytes of their UTF-8: a private-use character is below one beyond the BMP."""
        await self._keys(store, keys := ["\ud7ff", "\ue000", "\uffff", "\U00010000", "\U0010ffff"])
        assert await found(store) == keys

    async def test_no_language_has_a_say_in_the_order(self, store: Store) -> None:
        """Capitals are below small letters, both below accents, marks where their bytes are: no collation."""
        await self._keys(store, keys := ["-", ".", "/", "A", "Z", "_", "a", "a b", "a-b", "aB", "ab", "z", "\u00e9"])
        assert await found(store) == keys

    async def test_digits_are_text(self, store: Store) -> None:
        """A key of digits is text and not a number: "10" is below "9", "010" is another key than "10"."""
        await self._keys(store, keys := ["010", "10", "9", "90"])
        assert await found(store) == keys
        assert await found(store, after="10") == ["9", "90"]

    async def test_numbers_in_keys_rise(self, store: Store) -> None:
        """Keys that `int_key` made rise with their numbers, over every change in the count of digits."""
        numbers = [0, 1, 9, 10, 15, 16, 17, 255, 256, 4_095, 4_096, 2**32, 2**59]
        await self._keys(store, [int_key(n) for n in numbers])
        assert await found(store) == [int_key(n) for n in numbers]

    async def test_reverse_is_falling_order(self, store: Store) -> None:
        """With `reverse` a scan reads the same in falling order."""
        await self._keys(store)
        assert await found(store, reverse=True) == KEYS[::-1]

    async def test_limit_takes_the_first(self, store: Store) -> None:
        """`limit` takes the first so many, exactly, and all when there are fewer."""
        await self._keys(store)
        for limit in (1, 3, len(KEYS) - 1, len(KEYS), len(KEYS) + 1):
            assert await found(store, limit=limit) == KEYS[:limit]

    async def test_limit_in_reverse_takes_the_last(self, store: Store) -> None:
        """With `reverse`, `limit` takes the so many highest."""
        await self._keys(store)
        assert await found(store, limit=3, reverse=True) == KEYS[:-4:-1]

    async def test_after_is_exclusive(self, store: Store) -> None:
        """`after` leaves out its key and what is below."""
        await self._keys(store)
        for n, key in enumerate(KEYS):
            assert await found(store, after=key) == KEYS[n + 1 :]

    async def test_after_need_not_be_there(self, store: Store) -> None:
        """`after` may be a key that no record has."""
        await self._keys(store)
        assert await found(store, after="110", before="a/2") == KEYS[2:6]
        assert await found(store, after="\U0010ffff") == []

    async def test_before_is_exclusive(self, store: Store) -> None:
        """`before` leaves out its key and what is above."""
        await self._keys(store)
        for n, key in enumerate(KEYS):
            assert await found(store, before=key) == KEYS[:n]

    async def test_bounds_that_meet_hold_nothing(self, store: Store) -> None:
        """Nothing lies between a key and itself, nor where `after` is above `before`."""
        await self._keys(store)
        assert await found(store, after="11", before="11") == []
        assert await found(store, after="a0", before="11") == []

    async def test_bounds_hold_in_reverse(self, store: Store) -> None:
        """`after` stays the lower and `before` the upper bound when reading in reverse."""
        await self._keys(store)
        assert await found(store, after="11", before="a/2", reverse=True) == KEYS[5:1:-1]
        assert await found(store, before="a/2", reverse=True, limit=2) == ["a/1", "Z"]

    async def test_prefix(self, store: Store) -> None:
        """`prefix` reads keys that begin with it, itself included, and no others."""
        await self._keys(store, [*KEYS, "a", "a/"])
        assert await found(store, prefix="a/") == ["a/", "a/1", "a/2"]
        assert await found(store, prefix="\U0001f600") == ["\U0001f600"]
        assert await found(store, prefix="nothing") == []

    async def test_prefix_with_bounds(self, store: Store) -> None:
        """`prefix`, `after`, `before`, `limit` and `reverse` hold together."""
        await self._keys(store)
        assert await found(store, prefix="a/", after="a/1") == ["a/2"]
        assert await found(store, prefix="a/", before="a/2", reverse=True) == ["a/1"]
        assert await found(store, prefix="1", after="10", limit=1) == ["11"]
        assert await found(store, prefix="a/", after="1") == ["a/1", "a/2"]
        assert await found(store, prefix="a/", before="z", limit=1, reverse=True) == ["a/2"]

    async def test_a_prefix_is_text_and_no_pattern(self, store: Store) -> None:
        """Nothing in a prefix stands for anything else: `%`, `_`, `*`, `?`, `[` and a backslash are themselves."""
        await self._keys(store, keys := ["%1", "*1", "?1", "[a]1", "\\1", "_1", "a1", "ab1"])
        for key in keys[:6]:
            assert await found(store, prefix=key[:-1]) == [key]

    async def test_a_prefix_at_the_end_of_all_characters(self, store: Store) -> None:
        """A prefix whose last character is the highest there is, or stands before the surrogates, still has an end."""
        await self._keys(store, ["a", "a\U0001f600", "\ud7ff1", "\ue000", "\U0010ffff", "\U0010ffff1"])
        assert await found(store, prefix="\U0010ffff") == ["\U0010ffff", "\U0010ffff1"]
        assert await found(store, prefix="\ud7ff") == ["\ud7ff1"]
        assert await found(store, prefix="a") == ["a", "a\U0001f600"]

    async def test_pages_of_any_size_meet_each_record_once(self, store: Store) -> None:
        """Going on from the last key of a page meets every record once, both ways, whatever the page's size."""
        await self._keys(store)
        for limit in range(1, len(KEYS) + 2):
            up: list[str] = []
            down: list[str] = []
            for _ in KEYS:  # more pages there cannot be
                up += await found(store, after=up[-1] if up else "", limit=limit)
                down += await found(store, before=down[-1] if down else None, limit=limit, reverse=True)
            assert (up, down) == (KEYS, KEYS[::-1])

    async def test_a_record_without_a_key_is_in_no_scan(self, store: Store) -> None:
        """A record whose key is "" is read by `get` alone."""
        await keep(store, [row("lease", "", holder="h"), row("message", "1")])
        assert await store.scan(A, Scan("lease", "u", limit=9)) == []

    async def test_a_scan_keeps_to_its_kind_and_uid(self, store: Store) -> None:
        """A scan never reads records of another kind or uid; of a uid that has none it reads nothing."""
        await self._keys(store, ["10", "12"])
        await keep(store, [row("message", "11", "other"), row("run", "11"), row("message", "11", "u1")])
        assert await found(store) == ["10", "12"]
        assert await store.scan(A, Scan("message", "nobody", limit=9)) == []

    async def test_a_scan_gives_as_many_as_asked_for(self, store: Store) -> None:
        """A scan is cut by its limit and by nothing of the engine: neither a thousand rows nor some megabytes."""
        await keep(store, [row("message", int_key(n)) for n in range(1_300)])
        await keep(store, [row("run", int_key(n), body=b"x" * 150_000) for n in range(12)])
        assert len(await store.scan(A, Scan("message", "u", limit=1_250))) == 1_250
        assert len(await store.scan(A, Scan("run", "u", limit=99))) == 12

    async def test_a_replaced_record_stays_where_it_was(self, store: Store) -> None:
        """A record that was replaced, or deleted and put again, is met once and in its place."""
        await self._keys(store, ["1", "2", "3"])
        await keep(store, [row("message", "2", role="user")])
        await store.apply(A, (), (), [row("message", "1").address])
        assert await found(store) == ["2", "3"]
        await keep(store, [row("message", "1")])
        assert await found(store) == ["1", "2", "3"]

    async def test_due_goes_on_behind_what_was_listed(self, store: Store) -> None:
        """`due` goes on behind the entry given, among those of one moment too."""
        await keep(store, [head(f"a{n}", f"u{n}", wake_at=n // 3) for n in range(7)])
        everyone = await store.due(9, 99)
        assert [due.agent_id for due in everyone] == [f"a{n}" for n in range(7)]
        for n, due in enumerate(everyone):
            assert await store.due(9, 2, due) == everyone[n + 1 : n + 3]

    # ---- pages of values -----------------------------------------------------------------------------------

    async def test_messages_in_pages_both_ways(self, store: Store) -> None:
        """Messages are paged forwards and backwards, within bounds on both sides."""
        author = Author(store)
        await author.create()
        await author.say(*[f"{n}" for n in range(300)])
        assert await walk(store.read_messages, limit=7) == list(range(300))
        assert await walk(store.read_messages, limit=7, backwards=True) == list(range(299, -1, -1))
        assert await walk(store.read_messages, after=290, limit=4) == list(range(291, 300))
        assert await walk(store.read_messages, before=3) == [0, 1, 2]
        assert await walk(store.read_messages, after=5, before=9, backwards=True) == [8, 7, 6]
        assert await walk(store.read_messages, after=299) == []

    async def test_a_page_is_bounded_by_bytes_but_never_empty(self, store: Store) -> None:
        """A page ends before it exceeds `max_bytes`, but holds at least one record."""
        author = Author(store)
        await author.create()
        await author.say(*["x" * 10_000 for _ in range(20)])
        page = await store.read_messages("agent", max_bytes=35_000)
        assert [m.seq for m in page.items] == [0, 1, 2]
        assert page.next == 2
        assert len((await store.read_messages("agent", max_bytes=1)).items) == 1
        assert await walk(store.read_messages, max_bytes=35_000) == list(range(20))

    async def test_pages_by_bytes_fit_together_backwards(self, store: Store) -> None:
        """Pages bounded by bytes meet every message once, also backwards and with messages of all sizes."""
        author = Author(store)
        await author.create()
        await author.say(*["x" * (n * 37 % 9 * 400) for n in range(60)])
        assert await walk(store.read_messages, max_bytes=5_000, backwards=True) == list(range(59, -1, -1))
        assert await walk(store.read_messages, max_bytes=5_000, limit=7) == list(range(60))

    async def test_a_window_of_thousands(self, store: Store) -> None:
        """A window may have any number of messages."""
        author = Author(store)
        await author.create()
        await author.say(*["x"] * 2_500)
        loaded = await store.load("agent")
        assert loaded is not None
        assert [row.key for row in loaded.window] == [int_key(n) for n in range(2_500)]

    async def test_the_window_is_loaded_in_order(self, store: Store) -> None:
        """The window holds pinned messages and ranges in rising order, each message once."""
        author = Author(store)
        await author.create()
        await author.say(*[f"text {n}" for n in range(20)])
        await author.commit(state={"window": Window(pinned=(3,), ranges=(Range(5, 7), Range(18)))})
        assert [read_message(r).seq for r in (await loaded(store)).window] == [3, 5, 6, 18, 19]

    async def test_the_inbox_is_loaded_in_order(self, store: Store) -> None:
        """The inbox is read in the order of its positions, over every change in the count of their digits."""
        await Author(store).create()
        for n in range(1, 19):
            await store.enqueue("agent", item(f"i{n}"))
        assert [i.position for i in (await loaded(store)).inbox] == list(range(1, 19))
        assert [i.id for i in await store.read_inbox("agent", "uid-1", after=15)] == ["i16", "i17", "i18"]

    async def test_calls_runs_snapshots(self, store: Store) -> None:
        """Calls, runs and snapshots are listed in their order and read back equal; a call is replaced."""
        author = Author(store)
        await author.create()
        changes = {"next_run": 13, "step": 3, "next_n": 2, "next_seq": 1}
        calls = [open_call(n, run, 3) for run in (2, 11, 12) for n in range(2)]
        runs = [run_record(n) for n in range(1, 13)]
        snapshots = [Snapshot("b", 0, AT, Window()), Snapshot("a", 1, AT, Window(), tags=("x",))]
        await author.commit(state=changes, calls=calls, runs=runs, snapshots=snapshots)
        order = ["2.3.0", "2.3.1", "11.3.0", "11.3.1", "12.3.0", "12.3.1"]
        assert await walk(store.read_calls, limit=4) == order
        assert await walk(store.read_calls, limit=1, backwards=True) == order[::-1]
        assert await walk(store.read_calls, run=11) == order[2:4]
        done = open_call(0, 2, 3, status=CallStatus.COMPLETED, result=(TextBlock("ok"),))
        await author.commit(calls=[done])
        assert (await store.read_calls("agent")).items[0] == done
        for uid in (None, "uid-1"):
            found = [await store.read_call("agent", id, uid=uid) for id in ("2.3.0", "2.3.2", "-1.3.0", "2", "")]
            assert found == [done, None, None, None, None]
        assert await walk(store.read_runs, limit=5) == list(range(1, 13))
        assert await walk(store.read_runs, backwards=True, before=12, after=9) == [11, 10]
        assert await store.read_run("agent", 3) == runs[2]
        assert await store.read_run("agent", 13) is None
        assert await store.list_snapshots("agent") == tuple(snapshots)


async def walk(read: Any, agent_id: str = "agent", **given: Any) -> list[Any]:
    """Read page after page; returns what tells the items apart."""
    names: list[Any] = []
    where = "before" if given.get("backwards") else "after"
    for _ in range(1_000):
        page = await read(agent_id, **given)
        names += [_name(one) for one in page.items]
        if page.next is None:
            return names
        given[where] = page.next
    raise AssertionError("the pages have no end")


def _name(one: Any) -> Any:
    kind = type(one).__name__
    return getattr(one, {"Message": "seq", "Event": "cursor", "RunRecord": "number"}.get(kind, "id"))
