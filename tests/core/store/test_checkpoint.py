"""Checkpoints are snapshots by another door."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kode.core import Checkpointer, FileCheckpointer, MemoryCheckpointer
from kode.core.checkpoint import StoreCheckpointer
from kode.core.errors import NotFoundError, RecordCorruptError, UsageError
from kode.core.kernel.message import Message, TextBlock
from kode.core.kernel.window import Range, Window
from kode.core.store import Store
from kode.core.store import records as rec
from kode.core.store.contract import Key
from kode.core.testing.conformance.store.author import AT, Author, compaction


async def test_save_list_load_delete_fork(store: Store) -> None:
    author = Author(store, "a", "u-a")
    await author.create()
    await store.save_messages("a", [Message(n, "user", (TextBlock(str(n)),), AT) for n in range(3)])
    points: Checkpointer = StoreCheckpointer(store)
    first = await points.save("a", "one", tags=["good", "early"])
    assert (first.agent_id, first.id, first.seq, first.at, first.tags, first.parent) == (
        "a",
        "one",
        3,
        AT,
        ("good", "early"),
        None,
    )
    await store.append_message("a", "user", "more")
    second = await points.save("a", "two", tags=["good"], parent="one")
    assert await points.list("a") == (first, second)
    assert await points.list("a", tags=["early"]) == (first,)
    assert await points.list("a", tags=["good", "early"]) == (first,)
    assert await points.list("a", parent="one") == (second,)
    loaded = await points.load("a", "one")
    assert loaded is not None
    assert [m.seq for m in loaded.messages] == [0, 1, 2]
    assert await points.load("a", "none") is None
    fork = await points.fork("a", "one", "b", new_uid="u-b")
    assert (fork.next_seq, len(await store.load_messages("b"))) == (3, 3)
    # They are what the agent's own snapshots are.
    assert [s.id for s in await store.list_snapshots("a")] == ["one", "two"]
    assert await points.delete("a", "one") is True
    assert await points.delete("a", "one") is False
    assert await points.list("a") == (second,)
    assert [p.id for p in await points.list("b")] == ["one"]
    for wrong, error in ((("a", "two"), UsageError), (("nobody", "x"), NotFoundError)):
        with pytest.raises(error):
            await points.save(*wrong)
    with pytest.raises(NotFoundError):
        await points.save("a", "three", parent="one")


async def test_a_checkpoint_shows_what_the_model_was_shown(store: Store) -> None:
    author = Author(store, "a", "u-a")
    await author.create()
    await author.say(*map(str, range(6)))
    window = Window("c", (1,), (Range(2, 3), Range(4)))
    await author.commit(state={"window": window}, compactions=[compaction("c", 0, 4)])
    points = StoreCheckpointer(store)
    await points.save("a", "p")
    await store.append_message("a", "user", "behind it")
    loaded = await points.load("a", "p")
    assert loaded is not None
    assert ([m.seq for m in loaded.messages], loaded.compaction) == ([1, 2, 4, 5], "c")
    await store.apply("a", [], [], [Key("message", "u-a", rec.int_key(2))])
    (row,) = await store.get("a", [Key("message", "u-a", rec.int_key(4))])
    assert row is not None
    await store.apply("a", [], [replace(row, body=b"1")], [])
    with pytest.raises(RecordCorruptError, match=f"u-a/{rec.int_key(4)}"):
        await points.load("a", "p")


@pytest.mark.parametrize("kind", ["memory", "file"])
async def test_the_names_bring_their_store(kind: str, tmp_path: Path) -> None:
    async with MemoryCheckpointer() if kind == "memory" else FileCheckpointer(tmp_path / "points") as points:
        assert isinstance(points, Checkpointer)
        await Author(points.store, "a").create()
        await points.store.append_message("a", "user", "hi")
        assert (await points.save("a", "p")).seq == 1
        assert len(await points.list("a")) == 1
    if kind == "file":
        async with FileCheckpointer(tmp_path / "points") as points:
            assert [p.id for p in await points.list("a")] == ["p"]
