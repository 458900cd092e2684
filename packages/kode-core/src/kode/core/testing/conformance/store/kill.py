"""The contract of kill -9: what was acknowledged is there, and nothing is half there."""

from __future__ import annotations

import hashlib

import anyio
import pytest

from kode.core.errors import LeaseLostError
from kode.core.store.base import Store
from kode.core.store.contract import Scan
from kode.core.store.liveness import holder_name
from kode.core.store.records import COLUMNS
from kode.core.testing.conformance.store.author import Author, StoreCase, item, loaded, one_loop, text_of
from kode.core.testing.conformance.store.worker import ENDLESS, adopt, workers

__all__ = ["KillContract"]


class KillContract(StoreCase):
    """A process may end at any moment."""

    group = "kill"

    @one_loop
    async def test_acknowledged_items_outlive_their_sender(self, store: Store) -> None:
        """Items acknowledged to a process that was killed are there, in their order; at most one more has landed."""
        await Author(store).create()
        with workers(self.shared(store), ("enqueue", "p", ENDLESS)) as (other,):
            other.go()
            said = await other.hear(25) + await other.kill()
        # Written before it is read: an engine may learn only from the next writer what the killed one had finished.
        sent = await store.enqueue("agent", item("next"))
        found = (await loaded(store)).inbox
        assert [[i.position, i.id] for i in found[: len(said)]] == said
        assert len(found) in (len(said) + 1, len(said) + 2)
        assert (found[-1].id, found[-1].position, sent.position) == ("next", len(found), len(found))

    @one_loop
    async def test_acknowledged_commits_outlive_their_driver(self, store: Store) -> None:
        """Commits acknowledged to a process that was killed are there and whole; at most one more has landed."""
        await Author(store).create()
        with workers(self.shared(store), ("commit", "p", ENDLESS)) as (other,):
            other.go()
            said = await other.hear(20) + await other.kill()
        found = await loaded(store)
        texts = [text_of(m) for m in (await store.read_messages("agent", limit=100_000)).items]
        assert texts[: len(said)] == [line[1] for line in said]
        assert len(texts) in (len(said), len(said) + 1)
        assert (found.version, found.state.next_seq) == (len(texts) + 1, len(texts))
        assert len((await store.read_events("agent", limit=100_000)).items) == len(texts)

    @one_loop
    async def test_a_large_commit_is_whole_or_not_there(self, store: Store) -> None:
        """Of a process killed among large commits each commit is whole or not there."""
        await Author(store).create()
        with workers(self.shared(store), ("large", "p", ENDLESS)) as (other,):
            other.go()
            said = await other.hear(4) + await other.kill()
        seen = len((await store.read_messages("agent", limit=100_000, max_bytes=10**9)).items)
        assert seen in (said[-1], said[-1] + 100)
        assert seen == (await store.read_state("agent")).next_seq
        assert len((await store.read_events("agent", limit=100_000)).items) == seen * 3 // 100

    @one_loop
    async def test_blobs_outlive_their_sender(self, store: Store) -> None:
        """Blobs acknowledged to a process that was killed are there, byte for byte."""
        await Author(store).create()
        with workers(self.shared(store), ("blobs", "p", ENDLESS)) as (other,):
            other.go()
            said = await other.hear(5) + await other.kill()
        for name in said:
            assert hashlib.sha256(await store.get_blob("agent", name)).hexdigest() == name

    @one_loop
    async def test_the_next_goes_on_at_once(self, store: Store) -> None:
        """What a killed process held open or locked stops nobody: the next write of another succeeds."""
        await Author(store).create()
        with workers(self.shared(store), ("commit", "p", ENDLESS), ("enqueue", "q", ENDLESS)) as others:
            for n, other in enumerate(others):
                other.go()
                await other.hear(5 * (n + 1))
            for other in others:
                await other.kill()
        author = await adopt(store)
        before = author.version
        assert before is not None
        assert (await author.say("mine")).version == before + 1
        assert not (await store.enqueue("agent", item("mine"))).duplicate

    @one_loop
    async def test_a_killed_holder_s_lease_keeps_its_fence(self, store: Store) -> None:
        """A lease of a process that was killed ends with its term at the latest, and the next fence is higher."""
        await Author(store).create()
        with workers(self.shared(store), ("hold", holder_name("p"), 0.6)) as (other,):
            other.go()
            assert await other.hear(1) == [1]
            await other.kill()
        async with self.shared(store)() as here:
            while True:
                try:
                    assert (await here.acquire("agent", "next", 30)).fence == 2
                    break
                except LeaseLostError:
                    # Named after this process, which lives: it lasts its term.
                    await anyio.sleep(0.05)

    @one_loop
    @pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
    async def test_killed_at_the_writes_of_a_fork(self, store: Store, after: bool) -> None:
        """A process killed before or after any write of a fork leaves it whole or not there, and it can be repeated."""
        source = Author(store)
        await source.create()
        await source.say(*[f"{n}" for n in range(30)])
        jobs = [("strike", "fork", nth, after) for nth in (1, 2, 3)]
        for job in jobs:
            with workers(self.shared(store), job) as (other,):
                other.go()
                await other.ended()
            if await store.exists("fork"):
                assert len((await loaded(store, "fork")).window) == 30
        await store.fork("agent", "fork", new_uid="uid-fork")
        assert len((await loaded(store, "fork")).window) == 30
        assert await store.scan("", Scan("staged", "", limit=9)) == []

    @one_loop
    async def test_killed_at_the_writes_of_an_erasure(self, store: Store) -> None:
        """A process killed in the middle of an erasure leaves an agent that is whole, or one that can be erased on."""
        for nth, after in ((1, False), (1, True), (2, True)):
            author = Author(store)
            await author.create()
            await author.say(*[f"{n}" for n in range(30)])
            with workers(self.shared(store), ("strike", "erase", nth, after)) as (other,):
                other.go()
                await other.ended()
            if await store.exists("agent"):
                assert len((await loaded(store)).window) == 30
            await store.erase("agent", uid="uid-1")
            for kind in COLUMNS:
                assert await store.scan("agent", Scan(kind, "uid-1", limit=9)) == []

    @one_loop
    async def test_what_was_acknowledged_a_moment_before(self, store: Store) -> None:
        """What was acknowledged to a process is there though it was killed in the very next moment."""
        await Author(store).create()
        with workers(self.shared(store), *[("strike", act, 0, False) for act in ("commit", "enqueue")]) as others:
            for other in others:
                other.go()
                assert await other.ended() == ["over"]
        found = await loaded(store)
        assert (found.version, len(found.window), len(found.inbox)) == (2, 40, 1)

    @one_loop
    async def test_killed_at_the_write_of_a_commit(self, store: Store) -> None:
        """A process killed before its write has written nothing; killed after it, the whole commit is there."""
        await Author(store).create()
        seen: list[int] = []
        for after in (False, True):
            with workers(self.shared(store), ("strike", "commit", 1, after)) as (other,):
                other.go()
                assert await other.ended() == []
            found = await loaded(store)
            assert len(found.window) == len((await store.read_messages("agent")).items)
            seen.append(len(found.window))
        # An engine that needs more than one write has not come to the last of them.
        assert seen in ([0, 40], [0, 0])
