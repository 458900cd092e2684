"""Requests in processes: delivered to two at once, and killed in the middle of a tool."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.stateless.world import dependencies, open_store

from kode.core.kernel.toolcall import CallStatus
from kode.core.runtime.stateless import StatelessAgent

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

CHILD = Path(__file__).with_name("child.py")
MANY = int(os.environ.get("KODE_TORTURE", "40"))
AGENTS = 8


@pytest.fixture
def anyio_backend() -> str:
    """What is between processes does not depend on the event loop of one of them."""
    return "asyncio"


@pytest.fixture(params=["sqlite", "json", "postgres"])
def kind(request: pytest.FixtureRequest) -> str:
    """A kind of store, or the URL of one."""
    return str(request.getfixturevalue("postgres_store") if request.param == "postgres" else request.param)


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[str]]]:
    """Whatever a test starts is gone when it ends."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for child in started:
        child.kill()
        child.communicate()


def start(children: list[subprocess.Popen[str]], *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(CHILD), *arguments]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    children.append(child)
    return child


async def test_what_is_delivered_to_two_processes_runs_once(
    kind: str, tmp_path: Path, children: list[subprocess.Popen[str]]
) -> None:
    two = [start(children, "deliver", kind, str(tmp_path), name, str(AGENTS), str(MANY)) for name in ("p", "q")]
    for child in two:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in two:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    told = [dict(line.split(" ", 2)[1:] for line in child.communicate()[0].splitlines()) for child in two]
    assert [child.returncode for child in two] == [0, 0]
    assert told[0] == told[1], "both get the same result"
    results = {n: json.loads(text) for n, text in told[0].items()}
    assert {int(n): result["text"] for n, result in results.items()} == {n: f"end once {n}" for n in range(MANY)}
    assert {result["status"] for result in results.values()} == {"ok"}
    async with open_store(kind, tmp_path) as store:
        ran = Counter[str]()
        for one in range(AGENTS):
            messages = (await store.read_messages(f"a{one}", limit=100_000)).items
            ran.update(m.origin for m in messages if m.origin and m.origin.startswith("inbox:"))
    assert ran == Counter(f"inbox:r{n}" for n in range(MANY))
    ledger = Counter((tmp_path / "ledger").read_text().split())
    assert (len(ledger), set(ledger.values())) == (MANY, {1}), "each tool call had its effect once"


@pytest.mark.parametrize("how", ["the same request again", "continue"])
async def test_a_request_killed_in_mid_tool_is_recovered_by_the_next(
    how: str, kind: str, tmp_path: Path, children: list[subprocess.Popen[str]]
) -> None:
    child = start(children, "hang", kind, str(tmp_path), "r")
    assert child.stdout is not None
    assert child.stdout.readline() == "in tool\n"
    child.kill()
    child.wait()
    async with open_store(kind, tmp_path) as store:
        deps = dependencies(store, tmp_path)
        if how == "continue":
            result = await StatelessAgent.continue_("a", timeout_s=30.0, dependencies=deps)
        else:
            result = await StatelessAgent.run("a", "hang", request_id="r", timeout_s=30.0, dependencies=deps)
        assert (result.status, result.text, result.run) == ("ok", "end hang", 1)
        (made,) = (await store.read_calls("a")).items
        assert made.status is CallStatus.SEALED, "it may have had its effect, so it is not done again"
        assert await StatelessAgent.run("a", "hang", request_id="r", dependencies=deps) == result
    assert len((tmp_path / "ledger").read_text().split()) == 1
