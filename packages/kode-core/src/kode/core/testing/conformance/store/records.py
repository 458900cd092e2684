"""The contract of the record primitives."""

from __future__ import annotations

from typing import Any

import anyio

from kode.core.store.base import Store
from kode.core.store.contract import Condition, Due, Key, Record
from kode.core.store.records import COLUMNS, int_key
from kode.core.testing.conformance.store.author import StoreCase

__all__ = ["RecordsContract", "row"]

A = "a/b:c@d.e-f_1"


def row(kind: Any, key: str, owner: str = "u", /, body: bytes = b"1{}", **columns: Any) -> Record:
    """Build a record; columns that are not given are null."""
    return Record(kind, owner, key, {**{name: None for name, _ in COLUMNS[kind]}, **columns}, body)


def head(agent_id: str = A, uid: str = "u", **columns: Any) -> Record:
    """Build a header."""
    given = {"max_inbox": 3, "max_message_bytes": 100, "seen": 0, "version": 1, **columns}
    return row("header", agent_id, "", agent_id=agent_id, uid=uid, **given)


class RecordsContract(StoreCase):
    """What `Records` says of each primitive."""

    async def test_what_was_put_is_read_back_whole(self, store: Store) -> None:
        """Columns of 64-bit integers, any text or null, and bodies of any bytes are read back equal."""
        put = [
            row("message", "10", role="user", run=1, step=2**62, at=-5, body=bytes(range(256))),
            row("blob", "ab", size=None, media_type="ü \U0001f600", body=b""),
            row("staged", "a uid", "", at=1),
            row("call", "10.10.10", status="PENDING", tool="t"),
        ]
        assert await store.apply(A, (), put, ()) is None
        assert await store.get(A, [r.address for r in put]) == put

    async def test_get_answers_in_the_order_asked_with_none_for_what_is_not_there(self, store: Store) -> None:
        """`get` answers in the order asked, with None for what is not there."""
        a, b = row("message", "10"), row("message", "11")
        await store.apply(A, (), [a, b], ())
        keys = [b.address, Key("message", "u", "12"), a.address, Key("message", "other", "10"), b.address]
        assert await store.get(A, keys) == [b, None, a, None, b]
        assert await store.get(A, []) == []

    async def test_a_put_replaces_the_whole_record(self, store: Store) -> None:
        """A put replaces columns and body; nothing of the old record stays."""
        await store.apply(A, (), [row("call", "1", status="PENDING", tool="t", body=b"1long body")], ())
        new = row("call", "1", status="COMPLETED", body=b"1")
        await store.apply(A, (), [new], ())
        assert await store.get(A, [new.address]) == [new]

    async def test_a_delete_of_nothing_is_fine_and_a_put_wins_over_a_delete(self, store: Store) -> None:
        """A delete of nothing is fine; what is both put and deleted is put."""
        a = row("message", "10")
        assert await store.apply(A, (), [a], [a.address, Key("run", "u", "10")]) is None
        assert await store.get(A, [a.address]) == [a]
        await store.apply(A, (), (), [a.address])
        assert await store.get(A, [a.address]) == [None]

    async def test_nothing_is_shared_with_who_put_it(self, store: Store) -> None:
        """A change of what was handed in changes nothing stored."""
        columns: dict[str, Any] = {name: None for name, _ in COLUMNS["message"]}
        await store.apply(A, (), [Record("message", "u", "10", columns, b"1")], ())
        columns["role"] = "changed"
        (found,) = await store.get(A, [Key("message", "u", "10")])
        assert found is not None
        assert found.columns["role"] is None

    async def test_the_first_failed_condition_is_named_and_nothing_written(self, store: Store) -> None:
        """`apply` names the first condition that fails and then writes nothing."""
        here, new = row("message", "10", role="user"), row("message", "11")
        await store.apply(A, (), [here], ())
        holds = Condition("equals", here.address, "role", "user")
        for i, failing in enumerate(
            [
                Condition("absent", here.address),
                Condition("equals", here.address, "role", "assistant"),
                Condition("equals", here.address, "role", None),
                Condition("equals", Key("message", "u", "99"), "role", None),
            ]
        ):
            conditions = [*[holds] * i, failing, Condition("absent", here.address)]
            assert await store.apply(A, conditions, [new], [here.address]) == i
        assert await store.get(A, [here.address, new.address]) == [here, None]
        ok = [holds, Condition("absent", new.address), Condition("equals", here.address, "run", None)]
        assert await store.apply(A, ok, [new], ()) is None

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
        assert len(await store.scan(A, "run", "u", limit=99)) == 1

    async def test_scan(self, store: Store) -> None:
        """`scan` honours prefix, `after`, `before`, limit and direction, in the order of UTF-8 bytes."""
        keys = ["10", "11", "1f", "210", "Z", "a/1", "a/2", "a0", "é", "\U0001f600"]
        await store.apply(A, (), [row("message", key) for key in reversed(keys)], ())
        await store.apply(A, (), [row("message", "12", "other"), row("run", "12")], ())

        async def found(**given: Any) -> list[str]:
            return [r.key for r in await store.scan(A, "message", "u", **{"limit": 99, **given})]

        assert await found() == keys
        assert await found(reverse=True) == keys[::-1]
        assert await found(limit=3) == keys[:3]
        assert await found(limit=3, reverse=True) == keys[:-4:-1]
        assert await found(after="11") == keys[2:]
        assert await found(after="110", before="a/2") == keys[2:6]
        assert await found(before="11") == keys[:1]
        assert await found(after="11", before="11") == []
        assert await found(prefix="a/") == ["a/1", "a/2"]
        assert await found(prefix="a/", after="a/1") == ["a/2"]
        assert await found(prefix="a/", before="a/2", reverse=True) == ["a/1"]
        assert await found(prefix="1", after="10", limit=1) == ["11"]
        assert await found(prefix="\U0001f600") == ["\U0001f600"]
        assert await found(prefix="nothing") == []
        assert await store.scan(A, "message", "nobody", limit=9) == []

    async def test_agents_are_listed_by_prefix_and_tenant(self, store: Store) -> None:
        """`agents` lists headers in order of id, by prefix, tenant and from an id on."""
        ids = ["a", "a/1", "a/2", "b"]
        await store.apply(A, (), [head(id, f"u{id}", tenant="t" if id != "a/1" else None) for id in ids], ())

        async def found(*given: Any) -> list[str]:
            return [r.key for r in await store.agents(*given)]

        assert await found("", "", 99) == ids
        assert await found("", "a", 2) == ["a/1", "a/2"]
        assert await found("a/", "", 99) == ["a/1", "a/2"]
        assert await found("", "", 99, "t") == ["a", "a/2", "b"]
        assert await found("", "a", 1, "t") == ["a/2"]

    async def test_a_body_may_be_large(self, store: Store) -> None:
        """A body of many megabytes is a record like others."""
        large = row("blob", "ab" * 32, size=1, body=bytes(range(256)) * 40_000)
        await store.apply(A, (), [large], ())
        assert await store.get(A, [large.address]) == [large]
        assert await store.scan(A, "blob", "u", limit=9) == [large]

    async def test_marks_of_all_agents_are_scanned_together(self, store: Store) -> None:
        """Records of kind ``staged`` under uid "" are routed by agent, and read together with agent id ""."""
        await store.apply("a", (), [row("staged", "u1", "", at=1)], ())
        await store.apply("b/c", (), [row("staged", "u2", "", at=2), row("staged", "u3")], ())
        assert [mark.key for mark in await store.scan("", "staged", "", limit=9)] == ["u1", "u2"]
        assert [mark.key for mark in await store.scan("", "staged", "", after="u1", limit=9)] == ["u2"]

    async def test_drop_takes_everything_of_a_uid_and_nothing_else(self, store: Store) -> None:
        """`drop` removes every record of a uid, blobs too, and nothing else; again it does nothing."""
        mine = [row(kind, "10") for kind in COLUMNS if kind != "header"] + [row("lease", "")]
        others = [row(kind, "10", "u2") for kind in COLUMNS] + [head(), row("staged", "u", "")]
        await store.apply(A, (), [*mine, *others], ())
        for _ in range(2):
            await store.drop(A, "u")
        assert await store.get(A, [r.address for r in mine]) == [None] * len(mine)
        assert await store.get(A, [r.address for r in others]) == others

    # ---- the inbox -----------------------------------------------------------------------------------------

    async def _append(self, store: Store, id: str, now: int = 50, bounded: bool = True, **columns: Any) -> Any:
        given = {"id": id, "kind": "message", "size": 10, "at": 1, "priority": 0, **columns}
        return await store.append_inbox(A, row("inbox", "", "", **given), now=now, bounded=bounded)

    async def test_append_gives_rising_positions_and_keeps_the_record(self, store: Store) -> None:
        """An item gets a position above all others and above `seen`, and keeps its columns."""
        assert (await self._append(store, "x")).outcome == "gone"
        await store.apply(A, (), [head(seen=16)], ())
        first, second = await self._append(store, "x", tenant="t"), await self._append(store, "y")
        assert [first.outcome, first.position, second.position] == ["new", 17, 18]
        (kept, _) = await store.scan(A, "inbox", "u", limit=9)
        assert (kept.key, kept.uid, kept.columns["id"], kept.columns["tenant"]) == (
            int_key(17),
            "u",
            "x",
            "t",
        )

    async def test_append_refuses_another_identity(self, store: Store) -> None:
        """An item for another uid than the header's finds the agent gone."""
        await store.apply(A, (), [head()], ())
        for uid, outcome in (("v", "gone"), ("u", "new")):
            sent = row("inbox", "", uid, id="x", kind="message", size=1)
            assert (await store.append_inbox(A, sent, now=5, bounded=True)).outcome == outcome

    async def test_a_position_is_not_used_again_after_its_item_is_gone(self, store: Store) -> None:
        """Positions rise for ever: `seen` remembers what was given out."""
        await store.apply(A, (), [head()], ())
        await self._append(store, "x")
        await store.apply(A, (), [head(seen=1)], [Key("inbox", "u", int_key(1))])
        assert (await self._append(store, "y")).position == 2

    async def test_append_knows_ids_that_wait_or_were_consumed(self, store: Store) -> None:
        """A known id is told before any bound; a consumed one until it expires."""
        await store.apply(A, (), [head(), row("consumed", "old", position=7, run=3, expires_at=100)], ())
        await self._append(store, "x")
        again = await self._append(store, "x", size=10**9)
        assert (again.outcome, again.position, again.known.columns["id"]) == ("waiting", 1, "x")
        old = await self._append(store, "old", now=99, size=10**9)
        assert (old.outcome, old.position, old.known.columns["run"]) == ("consumed", 7, 3)
        assert (await self._append(store, "old", now=100)).outcome == "new"

    async def test_append_is_bounded_where_asked(self, store: Store) -> None:
        """Size and count bind where asked; only messages and reminders count."""
        await store.apply(A, (), [head()], ())
        big = await self._append(store, "big", size=101)
        assert (big.outcome, big.limit) == ("too_big", 100)
        assert (await self._append(store, "d", kind="decision", bounded=False, size=101)).outcome == "new"
        for n, kind in enumerate(("message", "reminder", "message")):
            assert (await self._append(store, f"{n}", kind=kind)).outcome == "new"
        full = await self._append(store, "more")
        assert (full.outcome, full.limit) == ("full", 3)
        assert (await self._append(store, "i", kind="interrupt", bounded=False)).outcome == "new"

    async def test_append_moves_the_wake_up_forward_only_and_nothing_else(self, store: Store) -> None:
        """An item makes `wake_at` earlier, never later, and changes nothing else of the header."""

        async def header() -> Record:
            (found,) = await store.get(A, [Key("header", "", A)])
            assert found is not None
            return found

        await store.apply(A, (), [head(max_inbox=9)], ())
        for id, now, not_before, wake_at in [
            ("a", 50, 80, 80),
            ("b", 60, None, 60),
            ("c", 70, None, 60),
            ("d", 55, 10, 55),
        ]:
            await self._append(store, id, now=now, not_before=not_before)
            assert (await header()).columns["wake_at"] == wake_at
        assert await header() == head(max_inbox=9, wake_at=55)
        parked = head(parked="crash_loop", max_inbox=9)
        await store.apply(A, (), [parked], ())
        await self._append(store, "e", now=1)
        assert await header() == parked

    async def test_concurrent_appends_get_a_position_each(self, store: Store) -> None:
        """Concurrent appends get a position each, and one id one position."""
        await store.apply(A, (), [head(max_inbox=100)], ())
        got: list[int] = []

        async def append(n: int) -> None:
            got.append((await self._append(store, f"{n % 15}")).position)

        async with anyio.create_task_group() as tasks:
            for n in range(30):
                tasks.start_soon(append, n)
        assert sorted(got) == sorted([*range(1, 16)] * 2)

    # ---- due -----------------------------------------------------------------------------------------------

    async def test_due_lists_who_must_wake_and_is_not_driven(self, store: Store) -> None:
        """`due` lists in order of time and id whom no live lease holds."""
        leases = {"c": ("h", 100), "d": ("h", 20), "e": (None, 100)}
        wakes = {"b": 10, "a": 10, "c": 5, "d": 4, "e": 3, "later": 21, "never": None}
        puts = [head(id, f"u{id}", wake_at=at) for id, at in wakes.items()]
        puts += [row("lease", "", f"u{id}", holder=h, until=t, fence=1) for id, (h, t) in leases.items()]
        await store.apply(A, (), puts, ())
        everyone = [Due("e", 3), Due("d", 4), Due("a", 10), Due("b", 10)]
        assert await store.due(20, 99) == everyone
        assert await store.due(20, 2) == everyone[:2]
        assert await store.due(20, 99, everyone[1]) == everyone[2:]
        assert await store.due(20, 99, everyone[2]) == everyone[3:]
        assert await store.due(2, 99) == []
        await store.apply(A, (), [head("a", "ua", wake_at=None)], [Key("header", "", "b")])
        assert await store.due(20, 99) == everyone[:2]
