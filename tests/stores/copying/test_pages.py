"""What a copy reads and holds at once: pages that have everything once, and few of them in memory."""

from __future__ import annotations

import pytest
from tests.stores.copying.agents import everything, fill, header, outcome

from kode.core.store import MemoryStore, Store
from kode.core.store.contract import Record, Scan
from kode.core.store.copying import copy_store
from kode.core.store.copying.contents import FIRST, PAGE_BYTES, Pages
from kode.core.testing.clock import VirtualClock


@pytest.mark.parametrize("messages", [FIRST - 1, FIRST, FIRST + 1, 5 * FIRST, 5 * FIRST + 1, 400])
@pytest.mark.parametrize("size", [1, PAGE_BYTES // 20, PAGE_BYTES])
async def test_pages_have_everything_once(source: Store, messages: int, size: int) -> None:
    messages = min(messages, 60) if size > 1 else messages
    if size == PAGE_BYTES:
        messages = messages % 5
    author = await fill(source, messages=0)
    for n in range(messages):
        await author.say(f"{n}" + "x" * (size - 1))
    for n in range(3):
        await source.put_blob("team/one", bytes([n]) * 10, "x/y")
    pages = Pages(source, "team/one", author.state.uid)
    found: list[Record] = []
    while not pages.over:
        page = await pages.next()
        assert sum(len(row.body) for row in page) < 2.1 * PAGE_BYTES or len(page) <= FIRST
        assert sum(row.kind == "blob" for row in page) <= 1
        found += page
    ours = await everything(source)
    assert len(found) == len(ours) - 1
    assert {row.address: (dict(row.columns), row.body) for row in found} == {
        key: value for key, value in ours.items() if key.kind != "header"
    }
    assert pages.header == await header(source, "team/one")


async def test_few_blobs_and_few_large_messages_are_in_memory_at_once(clock: VirtualClock) -> None:
    class Watched(MemoryStore):
        most: dict[str, int]
        reading = 0

        async def scan(self, agent_id: str, ask: Scan) -> list[Record]:
            rows = await super().scan(agent_id, ask)
            size = sum(len(row.body) for row in rows)
            self.most[ask.kind] = max(self.most.get(ask.kind, 0), size)
            return rows

    async with Watched(clock) as source, MemoryStore(clock) as target:
        source.most = {}
        for n in range(3):
            author = await fill(source, f"a{n}", messages=1)
            for k in range(3):
                await source.put_blob(author.id, bytes([n, k]) * 500_000, "x/y")
            for _ in range(40):
                await author.say("x" * (PAGE_BYTES // 40))
        source.most = {}
        assert outcome(await copy_store(source, target)) == {"copied": 3}
        assert source.most["blob"] == 1_000_000
        assert source.most["message"] < PAGE_BYTES
