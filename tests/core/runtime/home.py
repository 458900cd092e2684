"""A home for sub-agents: templates, models that answer by who asks them, and all they need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from kode.core.config import AgentConfig, Dependencies
from kode.core.kernel.message import TextBlock, ToolResultBlock, Usage
from kode.core.kernel.permission import PermissionPolicy
from kode.core.provider.base import ModelRequest
from kode.core.provider.script import Turn, calls, last_text, say
from kode.core.runtime.agent import Agent
from kode.core.template import AgentTemplate
from kode.core.tools.base import Tool, ToolContext
from kode.core.tools.builtin import task_run
from kode.core.tools.define import tool

Think = Callable[[ModelRequest], Turn]


def task(prompt: str = "work", agent: str = "helper") -> tuple[str, dict[str, Any]]:
    return ("task_run", {"agent": agent, "prompt": prompt})


def results(request: ModelRequest) -> list[str]:
    """Texts of the tool results that came last."""
    blocks = [b for b in request.messages[-1].blocks if isinstance(b, ToolResultBlock)]
    return ["".join(c.text for c in b.content if isinstance(c, TextBlock)) for b in blocks]


def by_role(usage: Usage | None = None, **thinkers: Think) -> Think:
    """One model for all: the first word of the system prompt says who is asked."""

    def think(request: ModelRequest) -> Turn:
        return replace(thinkers[(request.system or "").split()[0]](request), usage=usage)

    return think


def asks(*tasks: tuple[str, dict[str, Any]]) -> Think:
    """A parent that gives these tasks and repeats what came back."""

    def think(request: ModelRequest) -> Turn:
        return say(" | ".join(results(request))) if results(request) else calls(*tasks)

    return think


def template(id: str, role: str | None = None, **more: Any) -> AgentTemplate:
    return AgentTemplate(id, system_prompt=role or id, **more)


class Home:
    """A parent, what it may start, and the processes that drive them."""

    def __init__(self, lab: Any, think: Think, *children: AgentTemplate, tools: tuple[Tool, ...] = (), **deps: Any):
        self.lab = lab
        self.think = think
        self.children = children or (template("helper"),)
        self.tools = tools
        self.more = deps
        self.deps = self.process()

    def process(self, **more: Any) -> Dependencies:
        """Dependencies of one more process."""
        found = self.lab.deps(self.think, task_run, *self.tools, templates=list(self.children), **self.more, **more)
        assert isinstance(found, Dependencies)
        return found

    async def parent(self, id: str = "a", deps: Dependencies | None = None, **more: Any) -> Agent:
        fields: dict[str, Any] = {
            "model": "m",
            "tools": ("task_run",),
            "subagents": tuple(one.id for one in self.children),
            **more,
        }
        config = AgentConfig(template("boss", **fields), agent_id=id, tenant="acme")
        return await Agent.create(config, deps or self.deps)

    async def child(self, parent: Agent, call: str = "1.1.1") -> Any:
        """State of the sub-agent of a call."""
        return await self.lab.store.read_state(f"{parent.uid}/{call}")


def echo(request: ModelRequest) -> Turn:
    return say(f"did {last_text(request)}")


@tool
async def write(context: ToolContext, text: str = "") -> str:
    """Change something."""
    context.services["written"].append(text)
    return "written"


@tool(readonly=True)
async def look() -> str:
    """Change nothing."""
    return "looked"


def uses(*names: str) -> Think:
    def think(request: ModelRequest) -> Turn:
        return say(" | ".join(results(request))) if results(request) else calls(*((name, {}) for name in names))

    return think


async def everyone(lab: Any) -> list[Any]:
    return list(await lab.store.list_agents())


def asked(lab: Any) -> Home:
    helper = template("helper", tools=("write",), permission=PermissionPolicy("approval"))
    return Home(lab, by_role(boss=asks(task()), helper=uses("write")), helper, tools=(write,), services={"written": []})
