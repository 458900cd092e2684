"""What a policy makes of an agent's calls: modes, also of one's own, with lists before them."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from kode.core.config import AgentConfig
from kode.core.errors import NotBoundError, UsageError
from kode.core.kernel.permission import PermissionPolicy, PolicyRules, Rule
from kode.core.kernel.toolcall import CallStatus
from kode.core.provider.script import call, calls, say
from kode.core.runtime.agent import Agent
from kode.core.runtime.sending import decide
from kode.core.template import AgentTemplate
from kode.core.tools.base import Tool
from kode.core.tools.define import tool

# ---- modes ------------------------------------------------------------------------------------------------------


def doers(done: list[str]) -> tuple[Tool, Tool]:
    @tool(readonly=True)
    async def look(at: str) -> str:
        """Look."""
        done.append(f"look {at}")
        return "seen"

    @tool
    async def move(to: str) -> str:
        """Move."""
        done.append(f"move {to}")
        return "moved"

    return look, move


ALL = [calls(("look", {"at": "x"}), ("move", {"to": "x"}), ("move", {"to": "y"})), say("end")]


async def outcome(lab: Any, policy: PermissionPolicy, **more: Any) -> tuple[list[str], list[str]]:
    """Say what was done, and how the three calls stand: done, asked, denied."""
    done: list[str] = []
    deps = lab.deps(ALL, *doers(done), **more)
    agent = await lab.agent((), *doers(done), deps=deps, permission=policy)
    await agent.run("go")
    short = {CallStatus.COMPLETED: "done", CallStatus.APPROVAL_REQUIRED: "asked", CallStatus.DENIED: "denied"}
    return done, [short[made.status] for made in (await lab.store.read_calls("a")).items]


@pytest.mark.parametrize(
    ("policy", "calls"),
    [
        (PermissionPolicy(), ["done", "done", "done"]),
        (PermissionPolicy("approval"), ["asked", "asked", "asked"]),
        (PermissionPolicy("readonly"), ["done", "denied", "denied"]),
        (PermissionPolicy("approval", allow=(Rule("look"),)), ["done", "asked", "asked"]),
        (PermissionPolicy("readonly", allow=(Rule("move", (("to", "y"),)),)), ["done", "denied", "done"]),
        (PermissionPolicy(deny=(Rule("mo*", (("to", "^x$"),)),), ask=(Rule("move"),)), ["done", "denied", "asked"]),
        (PermissionPolicy(allow=(Rule("look"),), exclusive=True), ["done", "denied", "denied"]),
    ],
)
async def test_modes_and_lists_bind_an_agent(lab: Any, policy: PermissionPolicy, calls: list[str]) -> None:
    done, stand = await outcome(lab, policy)
    assert stand == calls
    assert len(done) == calls.count("done")


async def test_a_tool_that_always_asks_is_not_let_off_and_not_let_in(lab: Any) -> None:
    @tool(needs_approval=True)
    async def a() -> str:
        """Ask."""
        return "done"

    for n, (policy, status) in enumerate(
        [
            (PermissionPolicy(allow=(Rule("a"),)), CallStatus.APPROVAL_REQUIRED),
            (PermissionPolicy("readonly"), CallStatus.DENIED),
            (PermissionPolicy(deny=(Rule("a"),)), CallStatus.DENIED),
        ]
    ):
        agent = await lab.agent([call("a", {}), say("end")], a, id=f"a{n}", permission=policy)
        await agent.run("go")
        (made,) = (await lab.store.read_calls(agent.agent_id)).items
        assert made.status is status


async def test_a_mode_of_ones_own_sees_the_call(lab: Any) -> None:
    """The tool, its arguments and the policy that names it."""
    seen: list[Any] = []

    def office_hours(tool: Tool, arguments: dict[str, Any], policy: PolicyRules) -> str:
        seen.append((tool.name, arguments, policy.mode))
        return "allow" if tool.readonly else "ask" if arguments["to"] == "x" else "deny"

    done, stand = await outcome(lab, PermissionPolicy("office_hours"), modes={"office_hours": office_hours})
    assert (done, stand) == (["look x"], ["done", "asked", "denied"])
    assert seen == [
        ("look", {"at": "x"}, "office_hours"), ("move", {"to": "x"}, "office_hours"),
        ("move", {"to": "y"}, "office_hours"),
    ]  # fmt: skip
    (asked,) = (e for e in await lab.events() if e.type == "permission_required")
    assert asked.preview == "Mode office_hours says ask."


def _raises(*_: Any) -> str:
    raise RuntimeError("secret")


@pytest.mark.parametrize("mode", [_raises, lambda *_: None, lambda *_: "yes", lambda *_: ["allow"], lambda: "allow"])
async def test_a_broken_mode_allows_nothing(lab: Any, mode: Any) -> None:
    done, stand = await outcome(lab, PermissionPolicy("own"), modes={"own": mode})
    assert (done, stand) == ([], ["denied"] * 3)
    assert "secret" not in str(await lab.texts())


async def _sleepy(*_: Any) -> str:
    return "allow"


@pytest.mark.parametrize(
    "modes",
    [
        {"auto": lambda *_: "deny"}, {"approval": lambda *_: "allow"}, {"readonly": lambda *_: "allow"},
        {"own": "allow"}, {"own": _sleepy},
    ],
)  # fmt: skip
def test_what_is_no_mode_is_refused_when_dependencies_are_made(lab: Any, modes: Any) -> None:
    with pytest.raises(UsageError) as caught:
        lab.deps((), modes=modes)
    assert caught.value.code == "bad_mode"
    assert lab.deps((), modes={"own": functools.partial(_raises, 1)}).modes, "whatever can be called"


async def test_an_unknown_mode_is_refused_and_nothing_is_touched(lab: Any) -> None:
    """When it is made, and when a process opens it that does not have the mode; a decision needs no mode."""
    done: list[str] = []
    own = lab.deps(ALL, *doers(done), modes={"own": lambda *_: "ask"})
    template = AgentTemplate("t", model="m", tools=("look", "move"), permission=PermissionPolicy("own"))
    without = lab.deps(ALL, *doers(done))
    with pytest.raises(NotBoundError, match="No permission mode 'own'"):
        await Agent.create(AgentConfig(template, agent_id="a"), without)
    assert await lab.store.load("a") is None
    agent = await Agent.create(AgentConfig(template, agent_id="a"), own)
    await agent.run("go")
    before = await agent.status()
    with pytest.raises(NotBoundError) as caught:
        await Agent.open("a", without)
    assert caught.value.code == "unknown_mode"
    assert await agent.status() == before
    assert not (await decide(lab.store, "a", "1.1.1", "allow")).duplicate
