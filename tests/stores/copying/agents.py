"""Agents with records of every kind, and a look at all of them."""

from __future__ import annotations

from typing import Any

from kode.core.kernel.toolcall import CallStatus
from kode.core.kernel.window import Snapshot, Window
from kode.core.store import Store
from kode.core.store.contract import Key, Record, Scan
from kode.core.store.copying import Verified, What
from kode.core.store.lookups import header_key
from kode.core.testing.conformance.store.author import AT, Author, compaction, item, open_call, run_record


async def fill(store: Store, agent_id: str = "team/one", messages: int = 40, waits: bool = True) -> Author:
    """An agent with records of every kind."""
    author = Author(store, agent_id, f"uid-{agent_id}")
    await author.create()
    await store.enqueue(agent_id, item("taken", "first"))
    (taken,) = await store.read_inbox(agent_id, author.state.uid)
    await author.say(
        *(f"words {n}: ä 漢 🎉" for n in range(messages)),
        events=3,
        consumed={taken.position: taken},
        runs=[run_record(1)],
        calls=[open_call(n=1, status=CallStatus.DENIED, finished_at=AT)],
        compactions=[compaction("c1", 0, 2)],
        snapshots=[Snapshot("s1", 1, AT, Window())],
        state={"next_run": 2, "step": 2, "next_n": 9},
    )
    if waits:
        await store.enqueue(agent_id, item("waits", "second"))
    await store.put_blob(agent_id, b"\0bytes" * 100, "image/png")
    await store.save_document(agent_id, "notes", "", {"likes": ["tea"]})
    author.state = await store.read_state(agent_id)
    author.version = int(str((await header(store, agent_id)).columns["version"]))
    return author


async def header(store: Store, agent_id: str) -> Record:
    (found,) = await store.get(agent_id, [header_key(agent_id)])
    assert found is not None
    return found


async def everything(store: Store, agent_id: str = "team/one") -> dict[Key, tuple[dict[str, Any], bytes]]:
    """All records of an agent but its lease."""
    first = await header(store, agent_id)
    found = [first]
    for kind in ("message", "call", "events", "inbox", "consumed", "run", "compaction", "snapshot", "document", "blob",
                 "staged"):  # fmt: skip
        found += await store.scan(agent_id, Scan(kind, str(first.columns["uid"]), limit=10_000))
    return {row.address: (dict(row.columns), row.body) for row in found}


def outcome(report: Verified) -> dict[What, int]:
    return report.counts
