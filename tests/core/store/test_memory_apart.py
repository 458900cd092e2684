"""`MemoryStore`: what was put in and what is read out shares nothing that could be changed."""

from __future__ import annotations

from typing import Any

from kode.core.store.contract import Key, Record, Scan
from kode.core.store.memory import MemoryStore

DOCUMENT = Key("document", "u", "note/x")


def spoil(*records: Record | None) -> None:
    """Change what was not meant to be changed."""
    for record in records:
        if record is not None:
            record.columns["at"] = -1  # type: ignore[index]


async def test_records_are_apart_from_those_who_put_and_read_them() -> None:
    store = MemoryStore()
    columns: dict[str, Any] = {"digest": "d", "at": 1}
    await store.apply("a", (), [Record("document", "u", "note/x", columns, b"1")], ())
    columns["at"] = -1
    for _ in range(2):
        (got,) = await store.get("a", [DOCUMENT])
        (found,) = await store.scan("a", Scan("document", "u", limit=9))
        assert got is not None
        assert (got.columns["at"], found.columns["at"]) == (1, 1)
        spoil(got, found)


async def test_items_are_apart_too() -> None:
    store = MemoryStore()
    header: dict[str, Any] = {"uid": "u", "seen": 0, "wake_at": None, "parked": None, "tenant": None}
    await store.apply("a", (), [Record("header", "", "a", header, b"")], ())
    item = Record("inbox", "u", "", {"id": "i", "kind": "message", "at": 1, "not_before": 0, "size": 1}, b"1")
    await store.append_inbox("a", item, now=1, bounded=False)
    for _ in range(2):
        known = (await store.append_inbox("a", item, now=1, bounded=False)).known
        _, (seen,) = await store.apply_and_look("a", (), (), (), uid="u", after="")
        assert known is not None
        assert (known.columns["at"], seen.columns["at"]) == (1, 1)
        spoil(known, seen, *await store.agents("", "", 9))
    assert "at" not in (await store.agents("", "", 9))[0].columns
