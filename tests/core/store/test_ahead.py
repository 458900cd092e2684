"""Loading over a network: what others commit between two journeys, at the edge where each journey can be stopped."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from kode.core.store import Loaded, MemoryStore, Store, ahead, lookups
from kode.core.store.contract import MOST, Scan
from kode.core.store.lookups import Get
from kode.core.testing.clock import VirtualClock
from kode.core.testing.conformance.store.author import AT, Author, item

Between = Callable[[int], Awaitable[None]]
"""Is told the number of the journey that comes next."""


class Journeys:
    """Loads from a store in memory, journey by journey."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.made: list[Any] = []

    async def load(self, between: Between) -> Loaded | None:
        lookup = ahead.load("agent", lambda lease, header: None, AT, recipe=True)
        self.made.clear()
        try:
            ask = next(lookup)
            while True:
                await between(len(self.made))
                self.made.append(ask)
                ask = lookup.send(await self._answer(ask))
        except StopIteration as end:
            loaded: Loaded | None = end.value
            return loaded

    async def _answer(self, ask: Any) -> Any:
        match ask:
            case ahead.Together(get, scans):
                return await self._answer(get), [await self._answer(scan) for scan in scans]
            case Get(keys):
                return await self.store.get("agent", keys)
            case Scan():
                return await self.store.scan("agent", ask)
        raise AssertionError(ask)

    async def now(self) -> Loaded | None:
        """What is there at this moment."""
        lookup = lookups.load("agent", lambda lease, header: None, AT, recipe=True)
        return await self.store.look_up("agent", lookup)


@pytest.fixture
async def author() -> Author:
    author = Author(MemoryStore(clock=VirtualClock(AT)))
    await author.create()
    await author.say("first", events=1)
    return author


async def take(author: Author) -> None:
    """Let a message come, and take it out of the inbox into the window."""
    await author.store.enqueue("agent", item(f"m{author.state.next_seq}"))
    (waiting,) = await author.store.read_inbox("agent", author.state.uid)
    await author.say("taken", consumed={waiting.position: waiting})


@pytest.mark.parametrize("overtaken", [0, 1, 2, 5])
async def test_what_is_loaded_is_of_one_moment(author: Author, overtaken: int) -> None:
    """However often others commit on the way; a journey is added for each time, and none when nobody does."""
    way = Journeys(author.store)
    seen: list[Loaded | None] = [await way.now()]
    await author.store.enqueue("agent", item("waiting"))

    async def between(journey: int) -> None:
        if 1 <= journey <= overtaken:
            waiting = await author.store.read_inbox("agent", author.state.uid)
            await author.say("taken", consumed={one.position: one for one in waiting})
        seen.append(await way.now())

    loaded = await way.load(between)
    assert loaded in seen
    assert loaded == await way.now()
    assert len([one for one in way.made if isinstance(one, ahead.Together)]) == 1 + overtaken
    assert len(way.made) == 2 + overtaken


async def test_a_window_of_many_pages_is_two_journeys(author: Author) -> None:
    way = Journeys(author.store)
    await author.say(*["more"] * (2 * MOST + 1))

    async def alone(_journey: int) -> None:
        pass

    loaded = await way.load(alone)
    assert loaded == await way.now()
    assert loaded is not None
    assert len(loaded.window) == 2 * MOST + 2
    assert len(way.made) == 2


async def test_an_agent_that_is_deleted_or_made_anew_on_the_way(author: Author) -> None:
    way = Journeys(author.store)

    async def anew(journey: int) -> None:
        if journey == 1:
            await author.store.delete("agent", force=True)
            other = Author(author.store, uid="uid-2")
            await other.create()
            await take(other)

    loaded = await way.load(anew)
    assert loaded == await way.now()
    assert loaded is not None
    assert (loaded.state.uid, len(loaded.window)) == ("uid-2", 1)

    async def gone(journey: int) -> None:
        if journey == 1:
            await author.store.delete("agent", force=True)

    assert await way.load(gone) is None


async def test_a_commit_that_is_staged_on_the_way_is_to_be_ended_first(author: Author) -> None:
    way = Journeys(author.store)

    async def staged(journey: int) -> None:
        if journey == 1:
            (header,) = await author.store.agents("", "", 1)
            await author.store.apply("agent", [], [replace(header, columns={**header.columns, "staged": "c-9"})], [])

    with pytest.raises(lookups.StagedFound):
        await way.load(staged)


async def test_it_ends_though_a_commit_overtakes_every_journey(author: Author) -> None:
    way = Journeys(author.store)

    async def always(journey: int) -> None:
        if journey:
            await take(author)

    loaded = await way.load(always)
    assert loaded is not None
    assert len([one for one in way.made if isinstance(one, ahead.Together)]) == ahead.JOURNEYS
    # What was not foreseen is asked for: all that its own header names is there.
    assert len(loaded.window) == loaded.state.next_seq
