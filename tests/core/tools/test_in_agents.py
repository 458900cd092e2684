"""Tools in a running agent: what they are given, what bounds them, and what of them a crash cannot take."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from kode.core import jsontext
from kode.core.config import AgentConfig, Dependencies
from kode.core.kernel.limits import Limits
from kode.core.kernel.toolcall import CallStatus
from kode.core.provider.script import call, calls, say
from kode.core.provider.scripted import ScriptedProvider
from kode.core.runtime.agent import Agent
from kode.core.template import AgentTemplate
from kode.core.testing.crash import crash_at, until_crash
from kode.core.tools.base import Tool, ToolContext, ToolError
from kode.core.tools.builtin import bash_logs, bash_run, fs_edit, fs_multi_edit, fs_read, fs_write
from kode.core.tools.define import tool

FILES = (fs_read, fs_write, fs_edit, fs_multi_edit, bash_run, bash_logs)


def process(lab: Any, script: Any, *tools: Tool, plan: Any = None, **more: Any) -> Dependencies:
    """One more process on the lab's store; its model goes on where the history is."""
    deps: Dependencies = lab.deps((), store=plan.store(lab.store) if plan else None, **more)
    deps.providers = {"m": ScriptedProvider(script, clock=lab.clock, by="replies")}
    deps.tools = [plan.tool(one) if plan else one for one in tools]
    return deps


async def born(deps: Dependencies, root: Path, *tools: Tool, limits: Limits | None = None) -> Agent:
    """An agent whose files lie there."""
    template = AgentTemplate(
        "t",
        model="m",
        tools=tuple(one.name for one in tools),
        sandbox_options=jsontext.dump({"root": str(root)}),
        limits=limits or Limits(),
    )
    return await Agent.create(AgentConfig(template, agent_id="a"), deps)


async def results(lab: Any, agent_id: str = "a") -> list[Any]:
    """What the model was shown, call by call."""
    page = await lab.store.read_messages(agent_id, limit=1_000)
    blocks = [block for message in page.items for block in message.blocks if block.type == "tool_result"]
    return [jsontext.parse("".join(part.text for part in block.content)) for block in blocks]


def read_now(file: Path) -> str:
    return file.read_text() if file.exists() else ""


async def pid_in(file: Path) -> int:
    """What a command writes there; bounded, and no longer than that takes."""
    with anyio.fail_after(20):
        while True:
            if (text := read_now(file)).endswith("\n"):
                return int(text)
            await anyio.sleep(0.005)


# ---- files -------------------------------------------------------------------------------------------------


async def test_edits_of_one_file_in_one_reply(lab: Any, tmp_path: Path) -> None:
    """Writers run one at a time, in the order of the reply, and none is in the other's way."""
    (tmp_path / "f").write_text("a b c\n")
    edits = [("fs_edit", {"path": "f", "old_string": x, "new_string": x + x}) for x in "abc"]
    script = [calls(("fs_read", {"path": "f"}), *edits), say("end")]
    async with await born(process(lab, script, *FILES), tmp_path, *FILES) as agent:
        assert (await agent.run("go")).text == "end"
    assert (tmp_path / "f").read_text() == "aa bb cc\n"
    assert all(result.get("ok", True) for result in await results(lab))


async def test_what_an_agent_has_seen_survives_its_process(lab: Any, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("a\n")
    script = [call("fs_read", {"path": "f"}), say("seen")]
    async with await born(process(lab, script, *FILES), tmp_path, *FILES) as agent:
        await agent.run("look")
    (tmp_path / "f").write_text("b\n")
    write = {"path": "f", "content": "c\n"}
    edit = {"path": "f", "old_string": "b", "new_string": "c"}
    script += [calls(("fs_write", write), ("fs_edit", edit)), call("fs_read", {"path": "f"}),
               call("fs_write", write), say("end")]  # fmt: skip
    async with await Agent.open("a", process(lab, script, *FILES)) as agent:
        assert (await agent.run("write")).text == "end"
    _, refused, refused_too, read, written = await results(lab)
    assert (refused["code"], refused_too["code"]) == ("file_changed", "file_changed")
    assert (read["content"], written["ok"]) == ("b", True)
    assert (tmp_path / "f").read_text() == "c\n"


async def test_a_second_attempt_overwrites_no_stranger(lab: Any, tmp_path: Path) -> None:
    """Somebody wrote the file between the crash and the second attempt: it is his work, not this call's."""
    script = [call("fs_write", {"path": "f", "content": "b\n"}), say("end")]
    plan = crash_at("after fs_write")
    await born(process(lab, script, *FILES), tmp_path, *FILES)
    agent = await Agent.open("a", process(lab, script, *FILES, plan=plan))
    await until_crash(plan, lambda: agent.run("go"))
    assert plan.crashed
    (tmp_path / "f").write_text("by hand\n")
    await lab.clock.advance(60)
    async with await Agent.resume("a", process(lab, script, *FILES)) as again, anyio.create_task_group() as tasks:
        assert (await lab.pass_until(lab.later(tasks, again.complete))).text == "end"
    assert [result.get("code") for result in await results(lab)] == ["not_read"]
    assert (tmp_path / "f").read_text() == "by hand\n"


@pytest.mark.parametrize("point", ["before fs_write", "after fs_write", "before commit", "after commit"])
@pytest.mark.parametrize("nth", [1, 2])
async def test_no_crash_makes_an_agent_doubt_its_own_writes(lab: Any, tmp_path: Path, point: str, nth: int) -> None:
    """Whether the write, its note or its result was lost: the second attempt finds a file that it may write."""
    (tmp_path / "f").write_text("a\n")
    script = [call("fs_read", {"path": "f"}), call("fs_write", {"path": "f", "content": "b\n"}),
              call("fs_write", {"path": "f", "content": "c\n"}), say("end")]  # fmt: skip
    plan = crash_at(point, nth + 4 if "commit" in point else nth)  # the commits around the two writes
    await born(process(lab, script, *FILES), tmp_path, *FILES)
    agent = await Agent.open("a", process(lab, script, *FILES, plan=plan))
    await until_crash(plan, lambda: agent.run("go"))
    assert plan.crashed
    await lab.clock.advance(60)
    async with await Agent.resume("a", process(lab, script, *FILES)) as again, anyio.create_task_group() as tasks:
        assert (await lab.pass_until(lab.later(tasks, again.complete))).text == "end"
    assert [result.get("code") for result in await results(lab)] == [None, None, None]
    assert (tmp_path / "f").read_text() == "c\n"


async def test_an_edit_whose_outcome_is_unknown_is_not_made_twice(lab: Any, tmp_path: Path) -> None:
    """It is sealed; whoever edits on without a look is told that the file is not what he saw."""
    (tmp_path / "f").write_text("a\n")
    edit = {"path": "f", "old_string": "a", "new_string": "aa"}
    script = [call("fs_read", {"path": "f"}), call("fs_edit", edit), call("fs_edit", edit),
              call("fs_read", {"path": "f"}), say("end")]  # fmt: skip
    plan = crash_at("after fs_edit")
    await born(process(lab, script, *FILES), tmp_path, *FILES)
    agent = await Agent.open("a", process(lab, script, *FILES, plan=plan))
    await until_crash(plan, lambda: agent.run("go"))
    assert plan.crashed
    await lab.clock.advance(60)
    async with await Agent.resume("a", process(lab, script, *FILES)) as again, anyio.create_task_group() as tasks:
        assert (await lab.pass_until(lab.later(tasks, again.complete))).text == "end"
    _, sealed, refused, read = [text[len("user: [") : -1] for text in await lab.texts() if text.startswith("user: [")]
    assert "ended before it answered" in sealed
    assert jsontext.parse(refused)["code"] == "file_changed"
    assert jsontext.parse(read)["content"] == "aa"


async def test_a_shell_lives_between_runs_and_ends_with_the_agent(lab: Any, tmp_path: Path) -> None:
    script = [call("bash_run", {"cmd": "echo $$ > pid; sleep 300", "background": True}), say("started")]
    agent = await born(process(lab, script, *FILES), tmp_path, *FILES)
    await agent.run("start")
    (started,) = await results(lab)
    pid = await pid_in(tmp_path / "pid")
    script += [call("bash_logs", {"shell_id": started["shell_id"]}), say("it runs")]
    await agent.run("look")
    assert (await results(lab))[-1]["running"]
    await agent.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    script += [call("bash_logs", {"shell_id": started["shell_id"]}), say("gone")]
    async with await Agent.open("a", process(lab, script, *FILES)) as agent:
        await agent.run("look")
    assert (await results(lab))[-1]["code"] == "no_shell"


# ---- the context and the bounds ----------------------------------------------------------------------------


async def test_what_a_tool_is_given(lab: Any) -> None:
    seen: list[ToolContext] = []

    @tool(recovery="retry")
    async def look(context: ToolContext) -> str:
        """Look."""
        seen.append(context)
        context.emit("looked", {"n": len(seen)})
        if len(seen) == 1:
            await context.clock.sleep(10**6)
        return context.idempotency_key

    agent = await lab.agent((), look, deps=lab.deps([call("look", {})], look, services={"x": 1}))
    async with anyio.create_task_group() as tasks:
        run = lab.later(tasks, lambda: agent.run("go"))
        await lab.clock.advance(1)
        await run.cancel()
    await (await Agent.resume("a", lab.deps([say("end")], look, services={"x": 1}))).complete()
    first, second = seen
    assert (first.agent_id, first.call_id, first.services["x"]) == ("a", "1.1.1", 1)
    assert first.idempotency_key == second.idempotency_key == f"{first.uid}:1.1.1"
    assert second.fence > first.fence
    assert (first.attempt, second.attempt) == (f"{first.fence}.1", f"{second.fence}.1")
    assert first.cancel_scope is not None
    assert first.need_sandbox() is not None
    told = [event for event in await lab.events() if event.type == "tool_custom_event"]
    assert [(event.call, event.data["json"]) for event in told][-1] == ("1.1.1", '{"n":2}')


async def test_a_tool_may_stop_itself_by_its_scope(lab: Any) -> None:
    @tool
    async def hurried(context: ToolContext) -> str:
        """Give up."""
        assert context.cancel_scope is not None
        context.cancel_scope.cancel()
        await context.clock.sleep(10)
        return "no"

    agent = await lab.agent([call("hurried", {}), say("end")], hurried)
    assert (await agent.run("go")).text == "end"
    assert "did not end within" in (await lab.texts())[2]


@pytest.mark.parametrize(("own", "limit", "ends"), [(5.0, 100.0, 5), (None, 7.0, 7), (9.0, 7.0, 9)])
async def test_a_time_out_ends_a_call(lab: Any, own: float | None, limit: float, ends: int) -> None:
    """The tool's own, else the agent's. The call has failed, whatever it does afterwards."""

    @tool(timeout_s=own)
    async def stubborn(context: ToolContext) -> str:
        """Go on for ever."""
        try:
            await context.clock.sleep(10**6)
        except anyio.get_cancelled_exc_class():
            ended.append(lab.clock.monotonic())
            raise
        return "no"

    ended: list[float] = []
    agent = await lab.agent([call("stubborn", {}), say("end")], stubborn, limits=Limits(tool_timeout_s=limit))
    async with anyio.create_task_group() as tasks:
        began = lab.clock.monotonic()
        assert (await lab.pass_until(lab.later(tasks, lambda: agent.run("go")), 0.5)).text == "end"
    assert ends <= ended[0] - began < ends + 1
    (made,) = (await lab.store.read_calls("a")).items
    assert (made.status, made.is_error) == (CallStatus.FAILED, True)
    assert f"did not end within {float(ends)} s" in (await lab.texts())[2]


async def test_a_command_may_take_as_long_as_its_tool(lab: Any, tmp_path: Path) -> None:
    """What bounds a call is its tool's own time; the agent's bound is for tools that have none."""
    short = replace(bash_run, timeout_s=0.4)
    for n, (one, said) in enumerate([(bash_run, None), (short, "Stopped after 0.38 s. That is the most here")]):
        script = [call("bash_run", {"cmd": "sleep 0.5"}), say("end")]
        template = AgentTemplate("t", model="m", tools=("bash_run",), limits=Limits(tool_timeout_s=0.2),
                                 sandbox_options=jsontext.dump({"root": str(tmp_path)}))  # fmt: skip
        deps = process(lab, script, one)
        async with await Agent.create(AgentConfig(template, agent_id=f"a{n}"), deps) as agent:
            assert (await agent.run("go")).text == "end"
        (shown,) = await results(lab, f"a{n}")
        assert (said or "") in shown.get("error", "")
        assert shown["timed_out"] == (said is not None)


async def test_no_tool_ends_the_process(lab: Any) -> None:
    @tool
    async def leave(context: ToolContext) -> str:
        """Leave."""
        raise SystemExit(3)

    @tool
    def leave_thread() -> str:
        """Leave."""
        sys.exit(4)

    agent = await lab.agent([calls(("leave", {}), ("leave_thread", {})), say("end")], leave, leave_thread)
    assert (await agent.run("go")).text == "end"
    assert [result["error"] for result in await results(lab)] == ["SystemExit: 3", "SystemExit: 4"]


async def test_readers_run_beside_one_writer(lab: Any) -> None:
    running: set[str] = set()
    most: list[set[str]] = []

    def make(name: str, *, readonly: bool) -> Tool:
        async def work(context: ToolContext) -> str:
            running.add(name)
            most.append(set(running))
            await context.clock.sleep(1)
            running.remove(name)
            return name

        return tool(name=name, description="Work.", readonly=readonly)(work)

    tools = [make(name, readonly=name.startswith("read")) for name in ("write1", "read1", "write2", "read2", "read3")]
    script = [calls(*((one.name, {}) for one in tools)), say("end")]
    agent = await lab.agent(script, *tools, limits=Limits(max_tool_concurrency=3))
    async with anyio.create_task_group() as tasks:
        await lab.pass_until(lab.later(tasks, lambda: agent.run("go")), 0.5)
    assert {"write1", "read1", "read2"} in most
    assert max(map(len, most)) == 3
    assert not any({"write1", "write2"} <= together for together in most)
    assert (await lab.texts())[2] == "user: [write1] [read1] [write2] [read2] [read3]"


async def test_a_result_is_capped_and_the_cut_is_said(lab: Any) -> None:
    @tool
    async def flood(context: ToolContext) -> str:
        """Say much."""
        return "head" + "ü" * 50_000 + "tail"

    agent = await lab.agent([call("flood", {}), say("end")], flood, limits=Limits(max_tool_result_bytes=1_000))
    await agent.run("go")
    text = (await lab.texts())[2]
    assert text.startswith("user: [head")
    assert text.endswith("tail]")
    assert "99008 bytes cut" in text
    assert len(text.encode()) < 1_100
    (made,) = (await lab.store.read_calls("a")).items
    assert made.cut_bytes == 99_008


async def test_a_persons_words_reach_the_model(lab: Any) -> None:
    """The predecessor's told it its own canned sentence."""

    @tool(needs_approval=True)
    async def risky(context: ToolContext) -> str:
        """Needs a person."""
        return "done"

    agent = await lab.agent([call("risky", {}), say("end")], risky)
    paused = await agent.run("go")
    await agent.decide(paused.pending[0], "deny", by="Ann", note="Not on a Friday.")
    await agent.complete()
    assert "Not on a Friday." in (await lab.texts())[2]


async def test_a_failure_is_told_and_seen(lab: Any) -> None:
    @tool
    async def fails(context: ToolContext) -> str:
        """Fail."""
        raise ToolError("No such city: 'Ulm'.", code="no_city", hints=("Try 'Bonn'.",))

    agent = await lab.agent([call("fails", {}), say("end")], fails)
    await agent.run("go")
    told = jsontext.parse((await lab.texts())[2][len("user: [") : -1])
    assert told == {"error": "No such city: 'Ulm'.", "code": "no_city", "retryable": False, "hints": ["Try 'Bonn'."]}
    (made,) = (await lab.store.read_calls("a")).items
    assert made.status is CallStatus.FAILED
    assert "tool_error" in await lab.kinds()


# ---- a flood -----------------------------------------------------------------------------------------------

FLOOD = """
import resource, sys
import anyio
from kode.core import Agent, AgentTemplate, Dependencies, MemoryStore, ScriptedProvider
from kode.core.config import AgentConfig
from kode.core.provider.script import call, say
from kode.core.tools.builtin import bash_run

MB = 100
SCRIPT = [call("bash_run", {"cmd": "true"}), say("warm"),
          call("bash_run", {"cmd": f"head -c {MB << 20} /dev/zero | tr '\\\\0' x"}), say("end")]

async def main():
    template = AgentTemplate("t", model="m", tools=("bash_run",))
    deps = Dependencies(MemoryStore(), tools=[bash_run], providers={"m": ScriptedProvider(SCRIPT)})
    async with await Agent.create(AgentConfig(template, agent_id="a"), deps) as agent:
        slow = await agent.subscribe(since=0)  # attached, and reads nothing until the flood is over
        quick = [0]
        agent.on("tool_progress", lambda event: quick.__setitem__(0, quick[0] + len(event.delta)))
        await agent.run("warm up")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        result = await agent.run("go")
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert result.text == "end"
        held = sum(len(e.delta) for e in agent.hub.log)
        kinds = []
        slow.done = lambda: True
        async for envelope in slow:
            kinds.append(envelope.event.type)
        assert kinds.count("tool_end") == 2, kinds  # nothing durable is missed
    print(quick[0], grown, held)

anyio.run(main, backend=sys.argv[1])
"""


@pytest.mark.integration
async def test_a_hundred_megabytes_of_output_in_bounded_memory(anyio_backend_name: str, tmp_path: Path) -> None:
    """Everything is shown live to who keeps up; what is kept is the result, and a bounded tail of the live pieces."""
    ran = await anyio.to_thread.run_sync(
        lambda: subprocess.run(
            [sys.executable, "-c", FLOOD, anyio_backend_name],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    )
    assert ran.returncode == 0, ran.stderr
    shown, grown_kb, held = map(int, ran.stdout.split())
    assert shown == 100 << 20
    assert held <= 2 * Limits().live_buffer_bytes
    assert grown_kb < 20 * 1024, f"{grown_kb} KiB"
