"""Asked in one process and answered in another: at once, twice at once, or a month and a version later."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from tests.e2e.approval.world import dependencies, ledger, new_agent, open_store, version

from kode.core.errors import SchemaTooNewError
from kode.core.kernel.toolcall import CallStatus
from kode.core.runtime.agent import Agent
from kode.core.runtime.pool import AgentPool
from kode.core.runtime.sending import decide

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

CHILD = Path(__file__).with_name("child.py")
ROUNDS = 40


@pytest.fixture
def anyio_backend() -> str:
    """What is between processes does not depend on the event loop of one of them."""
    return "asyncio"


@pytest.fixture(params=["sqlite", "json"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[str]]]:
    """Whatever a test starts is gone when it ends."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for child in started:
        child.kill()
        child.communicate()


def start(children: list[subprocess.Popen[str]], *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(CHILD), *map(str, arguments)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    children.append(child)
    return child


def ran(children: list[subprocess.Popen[str]], *arguments: object) -> list[str]:
    child = start(children, *arguments)
    printed, _ = child.communicate()
    assert child.returncode == 0
    return printed.splitlines()


# ---- two at once ------------------------------------------------------------------------------------------------


async def test_of_two_deciders_in_two_processes_one_wins_each_time(
    kind: str, tmp_path: Path, children: list[subprocess.Popen[str]]
) -> None:
    """The other is told so; what ran is what the winner said, and its name is the one that is kept."""
    async with open_store(kind, tmp_path) as store:
        deps = dependencies(store, tmp_path)
        agents = [await new_agent(deps, f"a{n}") for n in range(ROUNDS)]
        for agent in agents:
            await agent.run("Ann")
        two = {who: start(children, "decide", kind, tmp_path, who, how, ROUNDS) for who, how in DECIDERS.items()}
        for child in two.values():
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        for child in two.values():
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        said = {who: child.communicate()[0].split() for who, child in two.items()}
        assert [child.returncode for child in two.values()] == [0, 0]
        winners: list[str] = []
        for n, agent in enumerate(agents):
            won = [who for who in DECIDERS if said[who][n] == "won"]
            assert len(won) == 1
            winners += won
            assert (await agent.complete()).status == "ok"
            (made,) = (await store.read_calls(agent.agent_id)).items
            (asked,) = made.approvals
            assert (asked.by, asked.note) == (won[0], "mine")
            assert made.status is (CallStatus.COMPLETED if DECIDERS[won[0]] == "allow" else CallStatus.DENIED)
    allowed = [f"a{n} Ann 1" for n, who in enumerate(winners) if DECIDERS[who] == "allow"]
    assert ledger(tmp_path) == allowed


DECIDERS = {"yes": "allow", "no": "deny"}


# ---- a month, and a version -------------------------------------------------------------------------------------


async def test_a_month_and_an_upgrade_lie_between_question_and_answer(
    kind: str, tmp_path: Path, children: list[subprocess.Popen[str]]
) -> None:
    """The new version reads every record and every waiting item of the old one, and the run goes on and ends right."""
    assert ran(children, "ask", kind, tmp_path, 1, 0) == ["paused"]
    stored = written(tmp_path)
    assert (b'why"' in stored, b'parts"' in stored, b"remark" in stored) == (True, True, True), "it is of old"
    told = ran(children, "finish", kind, tmp_path, 2, 30)
    heard = "done: paid Ann\nApproved by Late: Well.\nDenied by Late: No."
    assert [json.loads(line) for line in told] == [["a", "ok", heard], ["b", "paused", ""]], "b has more to do"
    assert sorted(ledger(tmp_path)) == ["a Ann 1", "b Ann 1"]
    with version(2):
        async with open_store(kind, tmp_path, 30) as store:
            calls = (await store.read_calls("a")).items
            assert [c.status for c in calls] == [CallStatus.COMPLETED, CallStatus.DENIED]
            asked = calls[0].approvals[0]
            assert asked.at is not None
            assert asked.at - calls[0].asked_at > 29 * 86_400_000_000
            assert (asked.reason, asked.by, asked.note) == ("pay always asks.", "Late", "Well")
            events = (await store.read_events("a", limit=1_000)).items
            assert [e.cursor for e in events] == list(range(1, len(events) + 1))
            assert [e.type for e in events].count("permission_required") == 2
            messages = (await store.read_messages("a")).items
            assert [m.seq for m in messages] == [0, 1, 2, 3]
            deps = dependencies(store, tmp_path, 30)
            agent = await Agent.open("b", deps)
            first = (await store.read_calls("b")).items[0].approvals[0]
            assert (first.state, first.by, first.note) == ("approved", "Early", "Go"), "an item of old was taken"
            (pending,) = (await agent.status()).pending
            await agent.decide(pending, "allow")
            assert (await agent.complete()).text == "done: paid Zoe"
            assert (await agent.run("Eve")).status == "paused", "it is an agent like any other"


def written(folder: Path) -> bytes:
    """All that lies in a store's files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "ledger")
    return b"".join(path.read_bytes() for path in files)


async def test_going_back_to_the_old_version_loses_nothing(kind: str, tmp_path: Path) -> None:
    """It says which record is too new and leaves all as it is: the agent, and a decision that waits for it."""
    with version(1):
        async with open_store(kind, tmp_path) as store:
            for name in ("a", "b"):
                await (await new_agent(dependencies(store, tmp_path), name)).run("Ann")
    with version(2):
        async with open_store(kind, tmp_path) as store:
            await decide(store, "a", "1.1.1", "allow", by="New", note="Go")
            agent = await Agent.open("b", dependencies(store, tmp_path))
            await agent.decide("1.1.1", "deny")
            assert (await agent.complete()).status == "ok"
    with version(1):
        async with open_store(kind, tmp_path) as store:
            deps = dependencies(store, tmp_path)
            waits = await Agent.open("a", deps)
            with pytest.raises(SchemaTooNewError, match="has version 2; this process knows up to 1"):
                await waits.complete()
            with pytest.raises(SchemaTooNewError):
                await Agent.open("b", deps)
            with pytest.raises(SchemaTooNewError):
                await decide(store, "b", "1.1.1", "allow")
            async with AgentPool(deps) as pool:
                await pool.wait_idle()
    assert ledger(tmp_path) == []
    with version(2):
        async with open_store(kind, tmp_path) as store:
            agent = await Agent.open("a", dependencies(store, tmp_path))
            assert (await agent.complete()).text == "done: paid Ann\nApproved by New: Go."
            assert (await (await Agent.open("b", dependencies(store, tmp_path))).run("Bob")).status == "paused"
    assert ledger(tmp_path) == ["a Ann 1"]


# ---- a person at a terminal, a pool elsewhere, and somebody who watches -------------------------------------------


async def test_a_pool_elsewhere_goes_on_when_a_person_decides_and_a_third_process_sees_it(
    kind: str, tmp_path: Path, children: list[subprocess.Popen[str]]
) -> None:
    """Asked by a pool, answered by the command, followed by cursor from here; and read again from where it was left."""
    async with open_store(kind, tmp_path) as store:
        agent = await new_agent(dependencies(store, tmp_path), "a")
        pool = start(children, "pool", kind, tmp_path)
        assert pool.stdout is not None
        assert pool.stdout.readline() == "ready\n"
        events = await agent.subscribe(["control"], since=0)
        await agent.send("Ann Bob")
        with anyio.fail_after(25):
            asked = [await anext(events) for _ in range(2)]
            assert [(e.event.type, e.event.call) for e in asked] == [
                ("permission_required", "1.1.1"), ("permission_required", "1.1.2"),
            ]  # fmt: skip
            where = "json:" + str(tmp_path / "kode") if kind == "json" else f"sqlite:///{tmp_path / 'agents.db'}"
            for call, decision in (("1.1.2", "deny"), ("1.1.1", "allow")):
                said = await kode("decide", "a", call, decision, "--note", "So be it", "--by", "Ann", "--store", where)
                assert json.loads(said)["duplicate"] is False
            decided = [await anext(events) for _ in range(2)]
            ends = await agent.subscribe(kinds=["done"], since=0)
            while (await anext(ends)).event.data["reason"] == "approval":
                pass
        shown = {(e.event.call, e.event.data["decision"], e.event.data["by"], e.event.preview) for e in decided}
        assert shown == {("1.1.2", "refused", "Ann", "So be it"), ("1.1.1", "approved", "Ann", "So be it")}
        again = await agent.subscribe(["control"], since=asked[-1].position)
        assert [(await anext(again)).event for _ in range(2)] == [e.event for e in decided]
        assert (await store.read_messages("a")).items[-1].role == "assistant"
    assert ledger(tmp_path) == ["a Ann 1"]


async def kode(*arguments: str) -> str:
    done = await anyio.run_process([sys.executable, "-m", "kode.cli", *arguments, "--json"])
    return done.stdout.decode()
