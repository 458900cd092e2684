"""A handle that is kept: its next drive begins on what the last one left, and on nothing that is not so any more."""

from __future__ import annotations

from typing import Any

import pytest

from kode.core.provider.script import last_text
from kode.core.runtime.agent import Agent
from kode.core.runtime.context.showing import Showing
from kode.core.testing.wrapped import WrappedStore


def echo(request: Any) -> str:
    return f"re {last_text(request)}"


class Noting(WrappedStore):
    """Notes what is asked about the right to drive, and may take long to be asked the time and to tell it."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.asked: list[str] = []
        self.slow: tuple[float, float] = (0.0, 0.0)
        self.passing: Any = None
        self.ahead_us = 0
        """How far its clock shows more than ours."""
        self.began = 0
        self.ends = 0

    async def load(self, agent_id: str, **options: Any) -> Any:
        self.asked.append("load")
        return await super().load(agent_id, **options)

    async def read_inbox(self, agent_id: str, *args: Any, **options: Any) -> Any:
        self.asked.append("inbox")
        return await super().read_inbox(agent_id, *args, **options)

    async def now(self) -> int:
        await self.passing(self.slow[0])
        now = await super().now() + self.ahead_us
        await self.passing(self.slow[1])
        return now

    async def acquire(self, agent_id: str, holder: str, ttl_s: float) -> Any:
        self.asked.append("acquire")
        return await super().acquire(agent_id, holder, ttl_s)

    async def acquire_on(self, footing: Any, holder: str, ttl_s: float) -> Any:
        self.asked.append("acquire on")
        self.began = self.clock.now()
        found = await super().acquire_on(footing, holder, ttl_s)
        if found is not None:
            self.ends = found[0].until
        return found

    def told(self) -> list[str]:
        asked, self.asked = self.asked, []
        return asked


@pytest.fixture
def noting(lab: Any) -> Noting:
    made = Noting(lab.store)
    made.passing = lab.clock.advance
    return made


async def test_neither_its_making_nor_its_last_drive_is_read_again(lab: Any, noting: Noting) -> None:
    agent = await lab.agent(echo, deps=lab.deps(echo, store=noting))
    assert (await agent.run("one")).text == "re one"
    assert noting.told() == ["acquire on"]
    for said in ("two", "three"):
        assert (await agent.run(said)).text == f"re {said}"
        assert noting.told() == ["acquire on"], "the inbox comes along"
    assert (await lab.store.load("a")).state.run is None
    assert (await lab.store.load("a")).footing.lease.columns["fence"] == 3


async def test_what_others_did_meanwhile_is_read(lab: Any, noting: Noting) -> None:
    agent = await lab.agent(echo, deps=lab.deps(echo, store=noting))
    await agent.run("one")
    other = await Agent.open("a", lab.deps(echo))
    await other.run("theirs")
    noting.told()
    assert (await agent.run("two")).text == "re two"
    assert noting.told() == ["acquire on", "acquire", "load"]
    await lab.store.append_message("a", "user", "by hand")
    assert (await agent.run("three")).text == "re three"
    assert noting.told() == ["acquire on", "acquire", "load"]
    heard = [text for text in await lab.texts() if text.startswith("user")]
    assert heard == [f"user: {said}" for said in ("one", "theirs", "two", "by hand", "three")]


async def test_an_agent_made_again_under_its_id_is_not_driven(lab: Any, noting: Noting) -> None:
    agent = await lab.agent(echo, deps=lab.deps(echo, store=noting))
    await agent.run("one")
    await lab.store.delete("a")
    await lab.agent(echo)
    with pytest.raises(Exception, match=r"made again|not of|deleted") as error:
        await agent.complete()
    assert type(error.value).__name__ == "NotFoundError"


async def test_an_old_clock_reading_is_not_relied_upon(lab: Any, noting: Noting) -> None:
    """A clock that was set, or runs at another pace, is asked again."""
    agent = await lab.agent(echo, deps=lab.deps(echo, store=noting))
    lease_us = agent.limits.lease_s * 1e6
    await agent.run("one")
    noting.ahead_us = 60_000_000
    for passed, ahead in (0, 0), (agent.limits.lease_s / 4 + 1, 60_000_000):
        await lab.clock.advance(passed)
        await agent.run("more")
        assert noting.ends - noting.began == pytest.approx(lease_us + ahead, abs=1e3)
    assert noting.told() == ["acquire on"] * 3


async def test_the_lease_never_ends_before_we_think_it_does(lab: Any, noting: Noting) -> None:
    """Nobody knows how much of the time between question and answer lies before the store read its clock."""
    noting.slow = (1.0, 0.5)
    agent = await lab.agent(echo, deps=lab.deps(echo, store=noting))
    lease_us = agent.limits.lease_s * 1e6
    await agent.run("one")
    assert noting.ends - noting.began == pytest.approx(lease_us - 0.5e6, abs=1e3), "we count from the question on"
    await agent.run("two")
    assert noting.told() == ["acquire on", "acquire on"]
    assert noting.ends - noting.began == pytest.approx(lease_us + 1e6, abs=1e3)
    opened = await Agent.open("a", lab.deps(echo, store=noting))
    for said in ("three", "four"):
        await opened.run(said)
    assert noting.told() == ["acquire", "load", "acquire on"]
    assert noting.ends - noting.began == pytest.approx(lease_us + 1e6, abs=1e3)


async def test_what_was_looked_at_is_known_while_it_is_in_memory(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    is_special = Showing._is_special

    def noted(self: Showing, message: Any) -> bool:
        taken.append(message.seq)
        return is_special(self, message)

    monkeypatch.setattr(Showing, "_is_special", noted)
    agent = await lab.agent(echo)
    for said in ("one", "two", "three"):
        await agent.run(said)
    assert len(taken) == len(set(taken)), "each message once"
    assert len(taken) >= 5
    agent.release_window()
    taken.clear()
    await agent.run("four")
    assert set(range(6)) <= set(taken), "what was let go is looked at again"
