"""The contract of damage: it is named, contained, and never made worse."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kode.core.errors import RecordCorruptError, SchemaTooNewError, StoreError
from kode.core.store.base import Store
from kode.core.store.contract import Key, Record
from kode.core.store.records import int_key, orphan_key
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store.author import AT, Author, StoreCase, item, keep, loaded, row

__all__ = ["CorruptionContract"]

MESSAGE = Key("message", "uid-1", int_key(1))
HEADER = Key("header", "", "agent")
BROKEN = (b"", b"1", b"{}", b"1{", b"1[]", b"1null", b"x{}", b"\xff\xfe", b"01{}", b"1{}\0")


class CorruptionContract(StoreCase):
    """Nothing is deleted or overwritten because of an error."""

    group = "corruption"

    async def _said(self, store: Store) -> Author:
        author = Author(store)
        await author.create()
        await author.say("one", "two", "three", events=2)
        return author

    async def _change(self, store: Store, key: Key, body: bytes | None = None, **columns: int | str | None) -> Record:
        """Replace a record's body or columns by others."""
        (found,) = await store.get("agent", [key])
        assert found is not None
        bad = replace(found, body=found.body if body is None else body, columns={**found.columns, **columns})
        await keep(store, [bad], "agent")
        return bad

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

    async def test_a_body_that_is_broken_in_any_way(self, store: Store) -> None:
        """A body that is empty, cut off, no JSON or of another shape is `RecordCorruptError` with the raw bytes."""
        await self._said(store)
        for body in BROKEN:
            bad = await self._change(store, MESSAGE, body)
            with pytest.raises(RecordCorruptError) as corrupt:
                await store.read_messages("agent")
            assert corrupt.value.fields["raw"] == body
            assert await store.get("agent", [MESSAGE]) == [bad]

    async def test_columns_that_are_broken(self, store: Store) -> None:
        """A column that is null where it must not be is `RecordCorruptError` that names the record."""
        await self._said(store)
        await self._change(store, MESSAGE, role=None, at=None)
        with pytest.raises(RecordCorruptError) as corrupt:
            await store.read_messages("agent")
        assert MESSAGE.key in str(corrupt.value)

    async def test_a_header_that_is_broken(self, store: Store) -> None:
        """A damaged header is `RecordCorruptError` for its agent, and no other agent is concerned."""
        await self._said(store)
        other = Author(store, "other", "uid-2")
        await other.create()
        await self._change(store, HEADER, b"1{")
        for call in (store.load("agent"), store.read_messages("agent"), store.read_state("agent")):
            with pytest.raises(RecordCorruptError):
                await call
        assert (await other.say("hi")).version == 2
        assert [info.agent_id for info in await store.list_agents()] == ["agent", "other"]

    async def test_a_later_version_is_said_to_be_one(self, store: Store) -> None:
        """A record of a later version is `SchemaTooNewError`, not damage, and is left as it is."""
        await self._said(store)
        bad = await self._change(store, MESSAGE, b'2{"words":[]}')
        with pytest.raises(SchemaTooNewError):
            await store.read_messages("agent")
        assert await store.get("agent", [MESSAGE]) == [bad]

    async def test_a_header_of_a_later_version(self, store: Store) -> None:
        """An agent whose header is of a later version is not loaded, not damaged, and still listed."""
        await self._said(store)
        bad = await self._change(store, HEADER, b'2{"state":{}}')
        with pytest.raises(SchemaTooNewError):
            await store.load("agent")
        assert await store.get("agent", [HEADER]) == [bad]
        assert len(await store.list_agents()) == 1

    async def test_one_bad_message_hides_no_other(self, store: Store) -> None:
        """Messages on both sides of a damaged one can be read, and the agent can go on."""
        author = await self._said(store)
        await self._change(store, MESSAGE, b"1{")
        assert len((await store.read_messages("agent", before=1)).items) == 1
        assert len((await store.read_messages("agent", after=1)).items) == 1
        assert (await author.say("four")).version == 3
        assert len((await loaded(store)).window) == 4

    async def test_a_bad_item_is_named_and_kept(self, store: Store) -> None:
        """A damaged item of the inbox is `RecordCorruptError`, stays, and the inbox still takes items."""
        await self._said(store)
        await store.enqueue("agent", item("a"))
        key = Key("inbox", "uid-1", int_key(1))
        bad = await self._change(store, key, b"1{")
        with pytest.raises(RecordCorruptError):
            await store.load("agent")
        assert (await store.enqueue("agent", item("b"))).position == 2
        assert await store.get("agent", [key]) == [bad]

    async def test_bad_events_hide_no_messages(self, store: Store) -> None:
        """Damaged events are said when they are read, and hinder nothing else."""
        author = await self._said(store)
        await self._change(store, Key("events", "uid-1", int_key(1)), b'1{"x":1}')
        with pytest.raises(RecordCorruptError):
            await store.read_events("agent")
        assert len((await store.read_messages("agent")).items) == 3
        assert (await author.say("four", events=1)).cursor == 3
        assert [event.cursor for event in (await store.read_events("agent", after=2)).items] == [3]

    async def test_a_mark_that_cannot_be_read_removes_nothing(self, store: Store, clock: VirtualClock) -> None:
        """`sweep` leaves alone what it cannot read, however old."""
        rows = [row("staged", "uid-1", "", b"1{", at=AT), row("staged", "uid-2", "", b'2["drop","x"]', at=AT)]
        rows.append(row("message", "10", "uid-1"))
        await keep(store, rows, "agent")
        await self.elapse(clock, 3_700)
        assert await store.sweep() == 0
        assert await store.get("agent", [orphan_key("uid-1"), orphan_key("uid-2"), rows[2].address]) == rows

    async def test_damage_can_be_deleted_with_its_agent(self, store: Store) -> None:
        """An agent whose records are damaged can still be erased when someone asks for it."""
        await self._said(store)
        await self._change(store, MESSAGE, b"1{")
        await self._change(store, HEADER, b"1{")
        assert await store.erase("agent") == "uid-1"

    async def test_errors_show_nothing_of_what_is_stored(self, store: Store) -> None:
        """The message of an error about damage names the record and shows nothing of its content."""
        await self._said(store)
        for body in (b'1{"blocks":[{"type":"text","text":["secret"]}]}', b"1secret", b'1{"secret":1}', b'1"secret"'):
            await self._change(store, MESSAGE, body)
            with pytest.raises(RecordCorruptError) as corrupt:
                await store.read_messages("agent")
            assert "secret" not in str(corrupt.value) + repr(corrupt.value)

    # ---- beneath the store ---------------------------------------------------------------------------------

    async def test_bytes_that_rotted_are_found_out(self, store: Store) -> None:
        """Stored bytes that changed on the medium are a `StoreError`, or what was written; never something else."""
        await self._said(store)
        before = (await store.read_messages("agent")).items
        if not await self.spoil(store, MESSAGE):
            pytest.skip("its bytes cannot be reached")
        try:
            assert (await store.read_messages("agent")).items == before
        except StoreError:
            pass  # it was found out

    async def test_rotten_bytes_hide_no_other_agent(self, store: Store) -> None:
        """Where one agent's bytes changed on the medium, another is read and goes on."""
        await self._said(store)
        other = Author(store, "other", "uid-2")
        await other.create()
        if not await self.spoil(store, MESSAGE):
            pytest.skip("its bytes cannot be reached")
        assert (await other.say("hi")).version == 2
        assert len((await loaded(store, "other")).window) == 1

    async def test_data_of_a_later_store_is_not_touched(self, store: Store, clock: VirtualClock) -> None:
        """Data that a later version of the store wrote is `SchemaTooNewError` when it is opened, each time."""
        place = self.shared(store)
        await self._said(store)
        await store.close()
        if not await self.make_newer(store):
            pytest.skip("its data cannot be marked as newer")
        for _ in range(2):
            with pytest.raises(SchemaTooNewError):
                async with place(clock=clock) as later:
                    await later.load("agent")
