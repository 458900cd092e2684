"""`StatelessAgent`: how often one request asks the store, and what that leaves out for others to change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.core.runtime.requests import PLAIN, T, echo, in_time

from kode.core.provider.script import say
from kode.core.runtime.agent import Agent
from kode.core.runtime.stateless import StatelessAgent
from kode.core.store.base import Store
from kode.core.store.layers.reading import Reading
from kode.core.testing.wrapped import WrappedStore


class Counting(WrappedStore):
    """Counts what goes to the store and back. ``whole``: a lookup is one journey, as where the engine reads in one."""

    def __init__(self, inner: Store, *, whole: bool) -> None:
        super().__init__(inner)
        self.whole = whole
        self.asked: Counter[str] = Counter()

    async def around(self, method: str, call: Callable[[], Awaitable[T]]) -> T:
        self.asked[method] += 1
        return await call()

    async def look_up(self, agent_id: str, lookup: Any) -> Any:
        if self.whole:
            return await super().look_up(agent_id, lookup)
        return await Reading.look_up(self, agent_id, lookup)


COMMITS = 2
"""Of a run of one step: what asks the model, and what it answered."""


@pytest.mark.parametrize("cold", [True, False], ids=["cold", "warm"])
async def test_a_request_costs_three_journeys_beside_its_commits(lab: Any, cold: bool) -> None:
    """Load, enqueue, and the lease; ``now`` is no journey where the store goes by this machine's clock."""
    await StatelessAgent.run("a", "one", template_id=PLAIN, dependencies=lab.deps(echo))
    store = Counting(lab.store, whole=True)
    deps = lab.deps(echo, store=store)
    if not cold:
        await StatelessAgent.run("a", "two", dependencies=deps)
    store.asked.clear()
    assert (await StatelessAgent.run("a", "three", dependencies=deps)).text == "re three"
    assert store.asked == {"now": 2, "look_up": 1, "append_inbox": 1, "apply_and_look": 1 + COMMITS}


async def test_where_a_plan_is_read_piece_by_piece(lab: Any) -> None:
    """Header; lease and template; inbox; window: each depends on the one before."""
    await StatelessAgent.run("a", "one", template_id=PLAIN, dependencies=lab.deps(echo))
    store = Counting(lab.store, whole=False)
    assert (await StatelessAgent.run("a", "two", dependencies=lab.deps(echo, store=store))).ok
    assert store.asked == {"now": 2, "get": 2, "scan": 2, "append_inbox": 1, "apply_and_look": 1 + COMMITS}


async def test_an_item_that_comes_between_load_and_lease_is_taken(lab: Any) -> None:
    """The lease is taken on what was loaded; what came since is read with it, or behind it."""
    await StatelessAgent.run("a", "one", template_id=PLAIN, dependencies=lab.deps(echo))

    class Between(WrappedStore):
        looks = True

        async def enqueue(self, agent_id: str, item: Any, *, uid: str | None = None) -> Any:
            other = await Agent.open("a", lab.deps(echo))
            await other.send("from elsewhere")
            return await super().enqueue(agent_id, item, uid=uid)

        async def apply_and_look(self, *args: Any, **look: Any) -> Any:
            failed, waiting = await super().apply_and_look(*args, **look)
            return failed, waiting if self.looks else []

    for looks in (True, False):
        store = Between(lab.store)
        store.looks = looks
        assert (await StatelessAgent.run("a", f"mine {looks}", dependencies=lab.deps(echo, store=store))).ok
    heard = [text for text in await lab.texts() if text.startswith("user")]
    assert heard == [
        "user: one",
        *["user: from elsewhere", "user: mine True"],
        "user: from elsewhere",
        "user: mine False",
    ]


@pytest.mark.parametrize("by", ["a request", "a commit without a lease"])
async def test_a_lease_is_not_taken_on_what_is_not_so_any_more(lab: Any, by: str) -> None:
    """Somebody wrote between load and lease: the agent is loaded again."""
    await StatelessAgent.run("a", "one", template_id=PLAIN, dependencies=lab.deps(echo))

    class Overtaken(WrappedStore):
        async def acquire_on(self, footing: Any, holder: str, ttl_s: float) -> Any:
            if by == "a request":
                await StatelessAgent.run("a", "overtakes", dependencies=lab.deps(echo))
            else:
                await lab.store.append_message("a", "user", "overtakes")
            found = await super().acquire_on(footing, holder, ttl_s)
            assert found is None
            return found

    assert (await StatelessAgent.run("a", "two", dependencies=lab.deps(echo, store=Overtaken(lab.store)))).ok
    said = [text for text in await lab.texts() if text.startswith("user")]
    assert sorted(said) == ["user: one", "user: overtakes", "user: two"]


async def test_what_waits_is_known_before_anything_is_started_again(lab: Any) -> None:
    """Also where the store does not look at the inbox while it gives the lease."""
    deps = lab.deps([say("late", delay_s=1_000.0), say("never")])
    await in_time(lab, lambda: StatelessAgent.run("a", "go", template_id=PLAIN, timeout_s=5, dependencies=deps))

    class Blind(WrappedStore):
        async def acquire_on(self, footing: Any, holder: str, ttl_s: float) -> Any:
            await (await Agent.open("a", lab.deps(()))).interrupt("enough")
            return await super().acquire_on(footing, holder, ttl_s)

        async def apply_and_look(self, *args: Any, **look: Any) -> Any:
            return (await super().apply_and_look(*args, **look))[0], []

    deps = lab.deps([say("never")], store=Blind(lab.store))
    result, _ = await in_time(lab, lambda: StatelessAgent.continue_("a", dependencies=deps))
    assert (result.status, result.text) == ("interrupted", "")


async def test_of_two_that_make_an_agent_one_does(lab: Any) -> None:
    class Raced(WrappedStore):
        async def load(self, agent_id: str, **options: Any) -> Any:
            found = await super().load(agent_id, **options)
            if found is None:
                await StatelessAgent.run("a", "first", template_id=PLAIN, dependencies=lab.deps(echo))
            return found

    deps = lab.deps(echo, store=Raced(lab.store))
    result = await StatelessAgent.run("a", "second", template_id=PLAIN, dependencies=deps)
    assert (result.text, result.run) == ("re second", 2)
