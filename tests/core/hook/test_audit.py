"""docs/examples/audit_plugin.py keeps what it says it keeps."""

from __future__ import annotations

import json
import stat
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import anyio

from kode.core.provider.script import call, calls, say
from kode.core.provider.scripted import ScriptedProvider
from kode.core.runtime.agent import Agent
from kode.core.testing.crash import crash_at, until_crash
from kode.core.tools.base import Tool
from kode.core.tools.define import tool

sys.path.insert(0, str(Path(__file__).parents[3] / "docs/examples"))
example: Any = import_module("audit_plugin")


@tool(needs_approval=True)
async def pay(to: str) -> str:
    """Pay."""
    return f"paid {to}"


@tool(recovery="retry")
async def look() -> str:
    """Look."""
    return "seen"


TOOLS: tuple[Tool, ...] = (pay, look)


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def brief(file: Path) -> list[tuple[str, ...]]:
    return [(one.get("tool", "-"), one.get("status") or one["decision"]) for one in lines(file)]


async def test_calls_and_decisions_of_all_agents(born: Any, tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    audit = example.AuditPlugin(file, fsync=True)
    agent = await born([calls(("pay", {"to": "Ann"}), ("look", {}), ("nobody", {})), say("end")], audit, tools=TOOLS)
    paused = await agent.run("go")
    await agent.decide(paused.pending[0], "deny", by="Bob", note="Too dear: 5 €.")
    await agent.complete()
    assert sorted(brief(file)) == [("-", "refused"), ("look", "COMPLETED"), ("nobody", "FAILED"), ("pay", "DENIED")]
    (decided,) = [one for one in lines(file) if "by" in one]
    assert (decided["by"], decided["text"], decided["agent"]) == ("Bob", "Too dear: 5 €.", "a")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    cursors = [one["cursor"] for one in lines(file)]
    assert cursors == sorted(set(cursors))


async def test_a_gap_is_closed(lab: Any, born: Any, tmp_path: Path) -> None:
    """A process that died had stored more than it had written; the store knows it all."""
    file = tmp_path / "audit.jsonl"
    script = [call("look", {}), call("look", {}), say("end")]
    plan = crash_at("before model", 3)

    def process(store: Any, model: Any) -> Any:
        deps = lab.deps((), *TOOLS, store=store, plugins=[example.AuditPlugin(file)])
        deps.providers = {"m": model(ScriptedProvider(script, clock=lab.clock, by="replies"))}
        return deps

    (dying, healthy) = process(plan.store(lab.store), plan.provider), process(lab.store, lambda model: model)
    await born((), example.AuditPlugin(file), tools=TOOLS, deps=healthy)
    agent = await Agent.open("a", dying)
    await until_crash(plan, lambda: agent.run("go"))
    assert plan.crashed
    await dying.close()
    file.write_text("".join(file.read_text().splitlines(True)[:1]))  # the second line never got there
    written = brief(file)
    await lab.clock.advance(60)
    async with healthy, anyio.create_task_group() as tasks:
        audit = healthy.plugin_registry().get("audit")
        await audit.catch_up(lab.store, "a")
        await audit.catch_up(lab.store, "a")
        survivor = await Agent.open("a", healthy)
        await lab.pass_until(lab.later(tasks, survivor.complete))
    assert len(written) < len(brief(file)) == 2
    assert [one["cursor"] for one in lines(file)] == [e.cursor for e in await lab.events() if e.type == "tool_end"]


async def test_one_log_for_several_dependencies(lab: Any, born: Any, tmp_path: Path) -> None:
    """Closing one takes the file from nobody else."""
    file = tmp_path / "audit.jsonl"
    audit = example.AuditPlugin(file)
    one = lab.deps((), *TOOLS, plugins=[audit])
    two = lab.deps([call("look", {}), say("end")] * 2, *TOOLS, plugins=[audit])
    agent = await born((), audit, tools=TOOLS, deps=two)
    await one.start([audit])
    async with two:
        await agent.run("go")
        await one.close()
        async with audit.lifespan():  # another event loop's, perhaps
            pass
        await agent.run("go")
        await agent.close()
    assert brief(file) == [("look", "COMPLETED")] * 2
    assert audit.files == []
