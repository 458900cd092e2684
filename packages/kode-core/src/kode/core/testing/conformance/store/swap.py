"""The contract of compare-and-swap: conditions, and commits that expect a version."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio
import pytest

from kode.core.errors import AgentExistsError, ConflictError, FencedError, UsageError
from kode.core.kernel.message import Json, Message, TextBlock
from kode.core.kernel.state import Document
from kode.core.kernel.window import Compaction, Snapshot, Window
from kode.core.store.base import Store
from kode.core.store.contract import Committed, Condition, DocumentBody, Item, Key, Scan
from kode.core.store.records import int_key
from kode.core.testing.conformance.store.author import AT, A, Author, StoreCase, head, item, keep, loaded, row, text_of

__all__ = ["SwapContract"]


class SwapContract(StoreCase):
    """All or nothing, judged and done in one act."""

    group = "compare-and-swap"

    async def _holds(self, store: Store, *conditions: Condition) -> bool:
        """Whether conditions hold."""
        return await store.apply(A, conditions, (), ()) is None

    # ---- conditions ----------------------------------------------------------------------------------------

    async def test_absent(self, store: Store) -> None:
        """`absent` holds while there is no record at that kind, uid and key."""
        here = row("message", "10")
        await keep(store, [here])
        assert not await self._holds(store, Condition("absent", here.address))
        for other in (Key("message", "u", "1"), Key("message", "v", "10"), Key("run", "u", "10")):
            assert await self._holds(store, Condition("absent", other))

    async def test_equals(self, store: Store) -> None:
        """`equals` holds if the column is that value, and not one that only looks like it: a text is no number."""
        here = row("call", "10", tool="1", run=1)
        await keep(store, [here])
        for column, value in (("tool", "1"), ("run", 1)):
            assert await self._holds(store, Condition("equals", here.address, column, value))
        others: list[tuple[str, str | int]] = [("tool", "1 "), ("tool", "01"), ("tool", ""), ("run", 0), ("run", -1)]
        others += [("tool", 1), ("run", "1"), ("run", "")]
        for column, value in others:
            assert not await self._holds(store, Condition("equals", here.address, column, value))

    async def test_equals_tells_texts_apart(self, store: Store) -> None:
        """`equals` compares text by code points: capitals, accents and normal forms are different."""
        here = row("call", "10", tool="\u00e9a")
        await keep(store, [here])
        for value in ("\u00e9a", "\u00c9A", "e\u0301a", "ea", "\u00e9A"):
            holds = await self._holds(store, Condition("equals", here.address, "tool", value))
            assert holds is (value == "\u00e9a")

    async def test_equals_of_null(self, store: Store) -> None:
        """`equals` with None holds for a column that is null, and for no other: neither "" nor 0."""
        here = row("call", "10", tool="", run=0)
        await keep(store, [here])
        for column, holds in (("tool", False), ("run", False), ("seq", True), ("status", True)):
            assert await self._holds(store, Condition("equals", here.address, column, None)) is holds
        assert not await self._holds(store, Condition("equals", here.address, "seq", 0))

    async def test_equals_needs_a_record(self, store: Store) -> None:
        """`equals` fails where there is no record, with None too."""
        for value in (None, 0, ""):
            assert not await self._holds(store, Condition("equals", Key("call", "u", "10"), "tool", value))

    async def test_equals_of_large_numbers(self, store: Store) -> None:
        """`equals` compares all 64 bits of a number."""
        here = row("message", "10", at=2**53 + 1)
        await keep(store, [here])
        assert await self._holds(store, Condition("equals", here.address, "at", 2**53 + 1))
        assert not await self._holds(store, Condition("equals", here.address, "at", 2**53))

    async def test_free(self, store: Store) -> None:
        """`free` holds without a lease, without a holder, and from the moment it ends."""
        lease = Key("lease", "u", "")
        assert await store.apply(A, [Condition("free", lease, value=5)], (), ()) is None
        for holder, until, now, free in [("h", 10, 9, False), ("h", 10, 10, True), (None, 99, 5, True)]:
            await store.apply(A, (), [row("lease", "", holder=holder, until=until, fence=1)], ())
            failed = await store.apply(A, [Condition("free", lease, value=now)], (), ())
            assert (failed is None) is free

    async def test_no_inbox_after(self, store: Store) -> None:
        """`no_inbox_after` holds while no item has a higher position."""

        def condition(position: int) -> list[Condition]:
            return [Condition("no_inbox_after", Key("inbox", "u", ""), value=int_key(position))]

        assert await store.apply(A, condition(0), (), ()) is None
        await store.apply(A, (), [row("inbox", int_key(17), id="i", kind="message")], ())
        assert await store.apply(A, condition(16), (), ()) == 0
        assert await store.apply(A, condition(17), (), ()) is None

    async def test_no_inbox_after_looks_at_one_inbox(self, store: Store) -> None:
        """`no_inbox_after` looks at the items of its uid only, and at the highest of them."""
        await keep(store, [row("inbox", int_key(n), id=f"{n}", kind="message") for n in (3, 17)])
        await keep(store, [row("inbox", int_key(400), "v", id="x", kind="message")])
        for position, holds in ((3, False), (16, False), (17, True), (256, True)):
            condition = Condition("no_inbox_after", Key("inbox", "u", ""), value=int_key(position))
            assert await self._holds(store, condition) is holds

    async def test_the_first_failed_condition_is_named(self, store: Store) -> None:
        """`apply` gives the index of the first condition that fails, counted from 0, whatever fails after it."""
        here = row("message", "10", role="user")
        await keep(store, [here])
        holds = Condition("equals", here.address, "role", "user")
        for n in range(4):
            for failing in (Condition("absent", here.address), Condition("equals", here.address, "role", "x")):
                conditions = [*[holds] * n, failing, holds, Condition("absent", here.address)]
                assert await store.apply(A, conditions, (), ()) == n

    async def test_nothing_is_written_when_a_condition_fails(self, store: Store) -> None:
        """Where a condition fails nothing is put and nothing deleted, wherever in the list it stands."""
        here, new = row("message", "10", role="user"), row("message", "11")
        await keep(store, [here])
        for conditions in (
            [Condition("absent", here.address)],
            [Condition("absent", new.address), Condition("equals", here.address, "role", None)],
        ):
            await store.apply(A, conditions, [new, row("message", "10", role="changed")], [here.address])
            assert await store.get(A, [here.address, new.address]) == [here, None]

    async def test_a_large_body_is_not_written_when_a_condition_fails(self, store: Store) -> None:
        """Where a condition fails a body of a megabyte stays as it was, wherever the store keeps large ones."""
        old, new = (row("message", "10", "u", letter * 1_000_000) for letter in (b"o", b"n"))
        await keep(store, [old])
        assert await store.apply(A, [Condition("absent", old.address)], [new], ()) == 0
        (found,) = await store.get(A, [old.address])
        assert found is not None
        assert found.body == old.body, "the body of a refused act"

    async def test_a_refused_commit_changes_no_large_body(self, store: Store) -> None:
        """A commit that is fenced off, or late, leaves a megabyte that was said under the same number as it was."""
        author = Author(store)
        await author.create()
        late = author.make()
        await author.drive()
        await author.say("o" * 1_000_000)
        said = [Message(0, "user", (TextBlock("n" * 1_000_000),), AT)]
        for fence, refusal in ((99, FencedError), (author.fence, ConflictError)):
            with pytest.raises(refusal):
                await store.commit(replace(late, fence=fence, messages=said, state=author.state))
            assert text_of((await store.read_messages("agent")).items[0])[:9] == "o" * 9

    async def test_conditions_are_judged_before_anything_is_written(self, store: Store) -> None:
        """Conditions see what was there before the act, not what it puts or deletes."""
        old, new = row("message", "10", role="user"), row("message", "10", role="assistant")
        await keep(store, [old])
        role, gone = Condition("equals", old.address, "role", "user"), Condition("absent", Key("run", "u", "1"))
        assert await store.apply(A, [role, gone], [new, row("run", "1")], ()) is None
        assert await store.apply(A, [Condition("absent", new.address)], (), [new.address]) == 0

    async def test_conditions_may_be_of_any_records(self, store: Store) -> None:
        """The conditions of one act may be of several kinds and uids, and of records it does not write."""
        await keep(store, [head(), row("lease", "", holder="h", until=9, fence=4), row("staged", "u9", "", at=7)])
        conditions = [
            Condition("equals", Key("header", "", A), "uid", "u"),
            Condition("equals", Key("lease", "u", ""), "fence", 4),
            Condition("free", Key("lease", "u", ""), value=9),
            Condition("equals", Key("staged", "", "u9"), "at", 7),
            Condition("absent", Key("snapshot", "u", "s")),
            Condition("no_inbox_after", Key("inbox", "u", ""), value=int_key(0)),
        ]
        assert await store.apply(A, conditions, [row("run", "1")], ()) is None
        assert await store.apply(A, [*conditions, Condition("absent", Key("run", "u", "1"))], (), ()) == 6

    async def test_only_one_of_many_concurrent_applies_meets_its_condition(self, store: Store) -> None:
        """Conditions are judged and acted on in one atomic act."""
        await store.apply(A, (), [head()], ())
        outcomes: list[int | None] = []

        async def contend(n: int) -> None:
            condition = Condition("equals", Key("header", "", A), "version", 1)
            outcomes.append(await store.apply(A, [condition], [head(version=2), row("run", int_key(n))], ()))

        async with anyio.create_task_group() as tasks:
            for n in range(20):
                tasks.start_soon(contend, n)
        assert sorted(outcomes, key=str) == [0] * 19 + [None]
        assert len(await store.scan(A, Scan("run", "u", limit=99))) == 1

    async def test_concurrent_counters_lose_no_step(self, store: Store) -> None:
        """Many who read, add one, and write back under the condition that it is as read, count every step."""
        await keep(store, [head(version=0)])
        key = Key("header", "", A)

        async def add() -> None:
            for _ in range(5):
                for _ in range(100):
                    (found,) = await store.get(A, [key])
                    assert found is not None
                    version = found.columns["version"]
                    assert isinstance(version, int)
                    same = Condition("equals", key, "version", version)
                    if await store.apply(A, [same], [head(version=version + 1)], ()) is None:
                        break

        async with anyio.create_task_group() as tasks:
            for _ in range(6):
                tasks.start_soon(add)
        (found,) = await store.get(A, [key])
        assert found is not None
        assert found.columns["version"] == 30

    # ---- commits -------------------------------------------------------------------------------------------

    async def test_of_concurrent_creates_one_wins(self, store: Store) -> None:
        """Of many creates of one id one succeeds, the others raise `AgentExistsError`."""
        authors = [Author(store, uid=f"uid-{n}") for n in range(8)]
        outcomes: list[Any] = []

        async def create(author: Author) -> None:
            try:
                outcomes.append(await author.create())
            except AgentExistsError as error:
                outcomes.append(error.code)

        async with anyio.create_task_group() as tasks:
            for author in authors:
                tasks.start_soon(create, author)
        assert sorted(map(str, outcomes)) == [str(Committed(1, 0))] + ["agent_exists"] * 7

    async def test_of_concurrent_commits_on_one_version_one_wins(self, store: Store) -> None:
        """Of many commits that expect one version one lands, the others raise `ConflictError`."""
        author = Author(store)
        await author.create()
        won: list[int] = []

        async def commit(n: int) -> None:
            try:
                won.append((await store.commit(author.make(commit_id=f"c{n}"))).version)
            except ConflictError:
                pass

        async with anyio.create_task_group() as tasks:
            for n in range(8):
                tasks.start_soon(commit, n)
        assert won == [2]

    async def test_each_commit_raises_the_version_by_one(self, store: Store) -> None:
        """The first version is 1, and each commit makes it one more, whatever is in it."""
        author = Author(store)
        assert await author.create() == Committed(1, 0)
        for n in range(2, 12):
            done = await author.say(*["x"] * (n % 3), events=n % 2)
            assert (done.version, done.cursor, done.repeated) == (n, author.state.next_cursor - 1, False)
        assert (await loaded(store)).version == 11

    async def test_uid_is_checked_first(self, store: Store) -> None:
        """A commit of another uid, or of an agent that is gone, is a conflict, whatever fence it brings."""
        author, stranger = Author(store), Author(store, uid="uid-2")
        stranger.version, stranger.fence = 1, 99
        with pytest.raises(ConflictError) as gone:
            await stranger.commit()
        assert not isinstance(gone.value, AgentExistsError)
        await author.create()
        with pytest.raises(ConflictError):
            await stranger.commit()
        assert await store.exists("agent")

    async def test_a_commit_never_creates_an_agent_again(self, store: Store) -> None:
        """A commit that expects a version never brings a deleted agent back."""
        author = Author(store)
        await author.create()
        await store.delete("agent")
        with pytest.raises(ConflictError):
            await author.say("hi")
        assert not await store.exists("agent")

    async def test_the_version_is_checked_last(self, store: Store) -> None:
        """Another version than the stored one is a conflict that names the stored one."""
        author = Author(store)
        await author.create()
        await author.drive()
        for version in (0, 2):
            with pytest.raises(ConflictError) as conflict:
                await author.commit(version=version)
            assert conflict.value.fields["version"] == 1

    async def test_a_refused_commit_uses_nothing_up(self, store: Store) -> None:
        """A refused commit consumes no item, remembers no id and gives no lease back."""
        author, late = Author(store), Author(store)
        await author.create()
        await store.enqueue("agent", item("a"))
        await author.drive()
        late.version, late.fence = 7, author.fence
        with pytest.raises(ConflictError):
            await late.commit(
                consumed={1: (await loaded(store)).inbox[0]}, taken={"a": 1}, release=True, commit_id="late"
            )
        found = await loaded(store)
        assert ([i.id for i in found.inbox], found.seen) == (["a"], 0)
        assert found.lease is not None
        assert await store.consumed_by("agent", "a") is None

    async def test_a_commit_may_be_larger_than_one_write_of_the_engine(self, store: Store) -> None:
        """A commit of any size lands whole, and so do what it consumes and its release."""
        author = Author(store)
        await author.create()
        for n in range(3):
            await store.enqueue("agent", item(f"i{n}"))
        await author.drive()
        loaded = await store.load("agent")
        assert loaded is not None
        taken = {found.position: found for found in loaded.inbox}
        texts = [f"text {n}" for n in range(40)]
        await author.say(*texts, events=20, consumed=taken, taken={"i0": 1, "i1": 1}, release=True)
        loaded = await store.load("agent")
        assert loaded is not None
        assert (loaded.version, len(loaded.window), loaded.inbox, loaded.lease) == (2, 40, (), None)
        await author.say("one more", fence=None)
        page = await store.read_messages("agent")
        assert [getattr(m.blocks[0], "text", "") for m in page.items] == [*texts, "one more"]
        assert (await store.enqueue("agent", item("i1"))).run == 1

    async def test_a_large_commit_is_refused_whole(self, store: Store) -> None:
        """Of a large commit that is refused no reader sees anything, then or after the next commit."""
        author, late = Author(store), Author(store)
        await author.create()
        late.version = 1
        await author.say("first", events=2)
        with pytest.raises(ConflictError):
            await late.say(*["second"] * 50, events=30)
        await author.say("third", events=1)
        said = (await store.read_messages("agent")).items
        assert [text_of(m) for m in said] == ["first", "third"]
        assert len((await store.read_events("agent")).items) == 3

    async def test_a_snapshot_is_never_replaced(self, store: Store) -> None:
        """A second snapshot of one id is refused with ``snapshot_exists``; the same commit again is only repeated."""
        author = Author(store)
        await author.create()
        first = Snapshot("s", 0, AT, Window(), tags=("first",))
        await author.commit(snapshots=[first])
        assert author.last is not None
        assert (await store.commit(author.last)).repeated
        for again in ([Snapshot("s", 0, AT, Window())], [Snapshot("t", 0, AT, Window())] * 2):
            with pytest.raises(UsageError) as exists:
                await author.commit(snapshots=again)
            assert exists.value.code == "snapshot_exists"
        assert await store.list_snapshots("agent") == (first,)

    async def test_what_is_wrong_with_the_commit_itself_is_said(self, store: Store) -> None:
        """A create with a fence, and ids that are none, are `UsageError`; good ids are taken up to their last byte."""
        author = Author(store)
        with pytest.raises(UsageError):
            await author.create(fence=1)
        for bad in ("", "a//b", "../x", "a/.", "/a", "a/", "a b", "a" * 201, "ä", "a\n"):
            with pytest.raises(UsageError) as error:
                await Author(store, bad).create()
            assert error.value.code == "bad_agent_id"
            with pytest.raises(UsageError):
                await store.load(bad)
        for good in ("a" * 200, "A.b_c:d@e/f-9", "..a/b..", "..."):
            assert (await Author(store, good).create()).version == 1

    async def test_names_that_cannot_be_keys_everywhere_are_refused(self, store: Store) -> None:
        """Every text that becomes a key or column is printable, bounded in bytes, and named when it is not."""
        author = Author(store)
        await author.create(state={"tenant": "t" * 200, "template": "é" * 100})
        doc = [DocumentBody("todo", "x", Json("1"))]
        bad: list[dict[str, Any]] = []
        for text in ("a\0", "\ud800", "a\n", "x" * 201, "é" * 101):
            bad += [{"state": {"tenant": text}}, {"state": {"template": text}}, {"commit_id": text}]
            bad += [{"snapshots": [Snapshot(text, 0, AT, Window())]}]
            bad += [{"snapshots": [Snapshot("s", 0, AT, Window(), parent=text)]}]
            bad += [{"compactions": [Compaction(text, 0, 0, AT, (), "digest", Window())]}]
            for named in (("todo", text, "d"), (text, "x", "d"), ("todo", "x", text)):
                body = [DocumentBody(named[0], named[1], Json("1"))]
                bad += [{"state": {"documents": (Document(*named),)}, "documents": body}]
        bad += [{"state": {"documents": (Document("todo", "x", "a/b"),)}, "documents": doc}, {"commit_id": "a/b"}]
        for fields in bad:
            with pytest.raises(UsageError) as error:
                await author.commit(**fields)
            assert error.value.code == "bad_name", fields
        assert (await author.say("goes on")).version == 2

    async def test_errors_and_reprs_show_nothing_of_what_was_said(self, store: Store) -> None:
        """What an agent was told is in no message of an error and in no `repr` of what passes the store's door."""
        author = Author(store)
        await author.create()
        await store.enqueue("agent", item("a", "secret"))
        loaded = await store.load("agent")
        assert loaded is not None
        await author.say("secret", consumed={1: loaded.inbox[0]}, wake_at=None)
        again = await store.load("agent")
        shown = [repr(author.last), repr(loaded), repr(again), repr(item("a", "secret"))]
        with pytest.raises(UsageError) as refused:
            await author.commit(messages=[Message(1, "user", (TextBlock(["secret"]),), AT)])  # type: ignore[arg-type]
        with pytest.raises(UsageError) as illegal:
            await store.enqueue("agent", Item("b", "message", Json('{"blocks":[{"type":"secret"}]}')))
        shown += [str(refused.value), repr(illegal.value), str(illegal.value.fields)]
        assert [text for text in shown if "secret" in text] == []
