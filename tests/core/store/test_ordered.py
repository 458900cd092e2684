"""`OrderedStore` over a map in memory: it keeps the contract, long keys or short, and shares transactions rightly."""

from __future__ import annotations

import gc
import threading
import weakref
from bisect import bisect_left, insort
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar

import anyio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kode.core.errors import RecordCorruptError, SchemaTooNewError, StoreError, StoreUnavailableError
from kode.core.store import Condition, Due, Key, OrderedMap, OrderedStore, Store
from kode.core.store.contract import Scan
from kode.core.store.ordered import Transaction, place
from kode.core.store.ordered.shortkeys import ShortKeys
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store import GROUPS, Author, StoreConformance
from kode.core.testing.conformance.store.author import head, keep, row

T = TypeVar("T")


class SortedMap(OrderedMap):
    """A dictionary with sorted keys; what a transaction did is undone when it raises."""

    def __init__(self, longest_key: int | None = None) -> None:
        self.longest_key = longest_key
        self.values: dict[bytes, bytes] = {}
        self.keys: list[bytes] = []
        self.lock = threading.Lock()
        self.is_open = False
        self.written = 0
        """Transactions that write."""

    def open(self) -> None:
        assert not self.is_open
        self.is_open = True

    def close(self) -> None:
        assert self.is_open
        self.is_open = False

    def transact(self, write: bool, work: Callable[[Transaction], T]) -> T:
        with self.lock:
            assert self.is_open
            self.written += write
            txn = Undoing(self, write)
            try:
                return work(txn)
            except BaseException:
                txn.undo()
                raise


class Undoing:
    def __init__(self, held: SortedMap, write: bool) -> None:
        self.held, self.write, self.before = held, write, dict[bytes, bytes | None]()

    def get(self, key: bytes, /) -> bytes | None:
        assert 0 < len(key) <= (self.held.longest_key or 900)
        return self.held.values.get(key)

    def put(self, key: bytes, value: bytes, /) -> None:
        assert self.write
        self.before.setdefault(key, self.get(key))
        self._set(key, value)

    def delete(self, key: bytes, /) -> None:
        assert self.write
        self.before.setdefault(key, self.get(key))
        self._set(key, None)

    def range(self, low: bytes, high: bytes, reverse: bool, /) -> Iterator[tuple[bytes, bytes]]:
        assert all(0 < len(key) <= (self.held.longest_key or 900) for key in (low, high))
        keys = self.held.keys
        some = keys[bisect_left(keys, low) : bisect_left(keys, high)]
        yield from [(key, self.held.values[key]) for key in (reversed(some) if reverse else some)]

    def undo(self) -> None:
        for key, value in self.before.items():
            self._set(key, value)

    def _set(self, key: bytes, value: bytes | None) -> None:
        values, keys = self.held.values, self.held.keys
        if key not in values and value is not None:
            insort(keys, key)
        elif key in values and value is None:
            del keys[bisect_left(keys, key)]
        values.pop(key, None)
        if value is not None:
            values[key] = value


@pytest.fixture
def held() -> SortedMap:
    return SortedMap()


@pytest.fixture
async def store(held: SortedMap) -> AsyncIterator[OrderedStore]:
    async with OrderedStore(held) as store:
        yield store


# ---- the contract ----------------------------------------------------------------------------------------------


class TestShortKeys(StoreConformance):
    """The whole kit, with keys so short that most are cut."""

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    async def store(self, clock: VirtualClock) -> AsyncIterator[Store]:
        async with OrderedStore(SortedMap(100), clock=clock) as store:
            yield store


WHOLE = ("round-trip", "paging", "listing", "inbox", "due", "corruption")
ON_TRIO = ("lifecycle", "cancellation", "races")


class TestLongKeys(*(GROUPS[name].contract for name in WHOLE)):  # type: ignore[misc]
    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    async def store(self, clock: VirtualClock) -> AsyncIterator[Store]:
        self.held = SortedMap()
        async with OrderedStore(self.held, clock=clock) as store:
            yield store

    async def spoil(self, store: Store, key: Key) -> bool:
        self.held.values[place(key.kind, key.uid, key.key)] = b"\xff"
        return True

    async def make_newer(self, store: Store) -> bool:
        self.held.values[place("format", "")] = b"2"
        return True


class TestOnTrio(*(GROUPS[name].contract for name in ON_TRIO)):  # type: ignore[misc]
    store = TestShortKeys.store

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "trio"


# ---- where things lie ------------------------------------------------------------------------------------------


async def test_the_layout_is_that_of_version_1(store: OrderedStore, held: SortedMap) -> None:
    # What lies in people's maps must be found for ever.
    header = head("a", wake_at=5)
    inbox, lease = row("inbox", "11", id="i", kind="message", size=1), row("lease", "", fence=3, body=b"")
    await keep(store, [header, inbox, lease], "a")
    columns = b'{"holder":null,"fence":3,"until":null,"takes":null}\n'
    assert held.keys == [
        b"\0format\0",
        b"\0header\0a",
        b"\0wake\0" + b"0" * 19 + b"5\0a",
        b"u\0inbox\x0011",
        b"u\0lease\0",
        b"u\0waiting\0i",
    ]
    assert [held.values[held.keys[n]] for n in (0, 2, 4, 5)] == [b"1", b"u", columns, b"11"]


async def test_an_index_entry_goes_with_its_record(store: OrderedStore, held: SortedMap) -> None:
    await keep(store, [head("a", wake_at=5), row("inbox", "11", id="i", kind="message", size=1)], "a")
    await keep(store, [head("a", wake_at=7), row("inbox", "11", id="j", kind="message", size=1)], "a")
    assert [key for key in held.keys if b"wake" in key or b"waiting" in key] == [
        b"\0wake\0" + b"0" * 19 + b"7\0a",
        b"u\0waiting\0j",
    ]
    await keep(store, [head("a", "v", wake_at=7)], "a")
    assert await store.due(7, 9) == [Due("a", 7)]
    assert held.values[place("wake", "", "0" * 19 + "7\0a")] == b"v"
    await store.drop("a", "u")
    await store.apply("a", (), (), [Key("header", "", "a")])
    assert held.keys == [b"\0format\0"]


async def test_neighbours_in_name_are_no_neighbours_in_the_map(store: OrderedStore) -> None:
    uids = ["u", "u/v", "u:v", "u%", "u\x01", "u\x7f", "uu", "ué", "v"]
    mine = {uid: row("message", "11", uid, body=uid.encode()) for uid in uids}
    await keep(store, mine.values())
    for gone in ("u", "u%", "ué"):
        await store.drop("a", gone)
        del mine[gone]
        for uid in uids:
            assert await store.scan("a", Scan("message", uid, limit=9)) == [
                one for one in mine.values() if one.uid == uid
            ]


async def test_a_header_is_not_overwritten_that_cannot_be_read(store: OrderedStore, held: SortedMap) -> None:
    await keep(store, [head("a")])
    held.values[place("header", "", "a")] = b"oh"
    for act in (([head("a")], ()), ((), [Key("header", "", "a")])):
        with pytest.raises(RecordCorruptError) as raised:
            await store.apply("a", (), *act)
        assert raised.value.fields["raw"] == b"oh"
    assert held.values[place("header", "", "a")] == b"oh"


async def test_a_format_that_is_not_ours_is_refused(held: SortedMap) -> None:
    held.values[place("format", "")] = b"LSM"
    held.keys.append(place("format", ""))
    with pytest.raises(StoreError, match="LSM"):
        await OrderedStore(held).open()
    held.values[place("format", "")] = b"2"
    with pytest.raises(SchemaTooNewError):
        await OrderedStore(held).open()
    assert not held.is_open
    held.values[place("format", "")] = b"1"
    async with OrderedStore(held):
        assert held.is_open


# ---- short keys ------------------------------------------------------------------------------------------------

KEYS = st.lists(st.sampled_from([b"a", b"\0"]), min_size=1, max_size=6).map(b"".join)
ACTS = st.lists(st.tuples(KEYS, st.none() | st.binary(max_size=3)), max_size=20)


@given(ACTS, KEYS, KEYS, st.booleans())
@example([(b"aaa", b"1"), (b"aaab", b"2"), (b"aaac", b"3"), (b"ab", b"4")], b"aaab", b"aaac", True)
@example([(b"aaa", b"1"), (b"aab", b"2"), (b"aabc", b"3"), (b"ab", b"4")], b"a", b"aabb", False)
def test_short_keys_are_a_map_like_any_other(
    acts: list[tuple[bytes, bytes | None]], low: bytes, high: bytes, reverse: bool
) -> None:
    held, right = SortedMap(longest_key=3), dict[bytes, bytes]()
    inner = Undoing(held, True)
    short = ShortKeys(inner, 3)
    for key, value in acts:
        if value is None:
            short.delete(key)
            right.pop(key, None)
        else:
            short.put(key, value)
            right[key] = value
        assert short.get(key) == value
    found = [(key, right[key]) for key in sorted(right, reverse=reverse) if low <= key < high]
    assert list(short.range(low, high, reverse)) == (found if low < high else [])
    for key in right:
        short.delete(key)
    assert held.values == {}


# ---- threads and transactions ----------------------------------------------------------------------------------


async def test_those_who_write_at_once_share_a_transaction(store: OrderedStore, held: SortedMap) -> None:
    before = held.written
    async with anyio.create_task_group() as tasks:
        for n in range(50):
            tasks.start_soon(keep, store, [row("message", f"{n}")])
    assert held.written <= before + 2
    assert len(await store.scan("a", Scan("message", "u", limit=99))) == 50


async def test_one_that_fails_hinders_nobody(store: OrderedStore, held: SortedMap) -> None:
    await keep(store, [head("b")])
    held.values[place("header", "", "b")] = b"oh"
    errors: list[BaseException] = []

    async def write(record: Any) -> None:
        try:
            await store.apply(record.key, (), [record], ())
        except RecordCorruptError as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        for name in "abc":
            tasks.start_soon(write, head(name, wake_at=1))
    assert len(errors) == 1
    assert await store.get("", [Key("header", "", name) for name in "ac"]) == [head(name, wake_at=1) for name in "ac"]


async def test_what_may_have_landed_is_not_done_again() -> None:
    class CutOff(SortedMap):
        """The next write lands, and nobody is told."""

        cut = False

        def transact(self, write: bool, work: Callable[[Transaction], T]) -> T:
            value = super().transact(write, work)
            if write and self.cut:
                self.cut = False
                raise StoreUnavailableError("The line is cut; try again.")
            return value

    told: list[object] = []
    held = CutOff()

    async def create(n: int) -> None:
        record = row("message", f"{n}")
        try:
            told.append(await store.apply("a", [Condition("absent", record.address)], [record], ()))
        except StoreUnavailableError:
            told.append("unknown")

    async with OrderedStore(held) as store:
        held.cut = True
        async with anyio.create_task_group() as tasks:
            for n in range(5):
                tasks.start_soon(create, n)
        assert told == ["unknown"] * 5
        assert len(await store.scan("a", Scan("message", "u", limit=9))) == 5


async def test_a_transaction_that_the_engine_rolled_back_is_run_again() -> None:
    class Optimistic(SortedMap):
        """Each transaction that writes is rolled back once."""

        def transact(self, write: bool, work: Callable[[Transaction], T]) -> T:
            for _ in range(write):
                with pytest.raises(InterruptedError):
                    super().transact(write, lambda txn: self.broken_off(work(txn)))
            return super().transact(write, work)

        def broken_off(self, value: object) -> Any:
            raise InterruptedError

    async with OrderedStore(Optimistic()) as store:
        author = Author(store)
        await author.create()
        await author.say("one")
        await author.say("two")
        assert (await store.read_messages("agent")).items[1].seq == 1
        await store.drop("agent", "uid-1")


async def test_an_open_that_is_cancelled_leaves_another_alone(held: SortedMap) -> None:
    held.lock.acquire()
    store = OrderedStore(held)
    scope = anyio.CancelScope()

    async def cancelled() -> None:
        with scope:
            await store.open()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cancelled)
        tasks.start_soon(store.open)
        await anyio.wait_all_tasks_blocked()
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        held.lock.release()
    assert await store.get("a", [Key("header", "", "a")]) == [None]
    await store.close()
    assert not held.is_open


async def test_a_store_that_nobody_keeps_lets_its_threads_end(held: SortedMap) -> None:
    before = set(threading.enumerate())
    store = OrderedStore(held)
    await store.open()
    gone = weakref.ref(store)
    began = set(threading.enumerate()) - before
    threads = [thread for thread in began if thread.name.startswith(("kode-writer", "kode-reader"))]
    assert len(threads) == 3
    del store
    gc.collect()
    assert gone() is None
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join, 20)
    assert not any(thread.is_alive() for thread in threads)
    assert not held.is_open
