"""What the requests of these tests are about: tools, templates, and a clock that is moved until one is done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
from tests.sandboxes.near import Near

from kode.core.provider.base import ModelRequest
from kode.core.provider.script import last_text
from kode.core.sandbox.catalog import SandboxFactory
from kode.core.sandbox.local import LocalSandbox
from kode.core.template import AgentTemplate
from kode.core.tools.base import ToolContext
from kode.core.tools.define import tool

T = TypeVar("T")
PLAIN = AgentTemplate("plain", model="m")


@tool
async def ping(context: ToolContext) -> str:
    """Ping."""
    return "pong"


@tool(needs_approval=True)
async def risky(context: ToolContext) -> str:
    """Needs a person."""
    return "done"


@tool(recovery="retry", readonly=True)
async def slow(context: ToolContext) -> str:
    """Take ten seconds."""
    await context.clock.sleep(10)
    return "slept"


def echo(request: ModelRequest) -> str:
    """Answer the last message."""
    return f"re {last_text(request)}"


def using(*tools: Any, **more: Any) -> AgentTemplate:
    """A template with these tools."""
    return AgentTemplate("t", model="m", tools=tuple(t.name for t in tools), **{"sandbox": "near", **more})


NEAR = SandboxFactory()
NEAR.register("near", Near)
NEAR.register("local", LocalSandbox)


async def in_time(lab: Any, work: Callable[[], Awaitable[T]], step_s: float = 0.25) -> tuple[T, float]:
    """What comes of it, and after how long."""
    began = lab.clock.monotonic()
    async with anyio.create_task_group() as tasks:
        result = await lab.pass_until(lab.later(tasks, work), step_s)
    return result, lab.clock.monotonic() - began
