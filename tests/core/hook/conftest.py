"""Agents with hooks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kode.core.hook import Hooks
from kode.core.kernel.limits import Limits
from kode.core.kernel.permission import PermissionPolicy
from kode.core.plugin import Plugin
from kode.core.runtime.agent import Agent
from kode.core.template import AgentTemplate
from kode.core.tools.base import Tool

Born = Callable[..., Awaitable[Agent]]


@pytest.fixture
def born(lab: Any) -> Born:
    """Make an agent with these hooks and plugins, in their order."""

    async def make(
        script: Any,
        *brought: Hooks | Plugin,
        tools: tuple[Tool, ...] = (),
        policy: PermissionPolicy | None = None,
        limits: Limits | None = None,
        deps: Any = None,
    ) -> Agent:
        hooks = [one for one in brought if isinstance(one, Hooks)]
        plugins = [one for one in brought if isinstance(one, Plugin)]
        template = AgentTemplate(
            "t",
            model="m",
            tools=tuple(one.name for one in tools),
            hooks=tuple(one.name for one in hooks),
            plugins=tuple(one.name for one in plugins),
            permission=policy or PermissionPolicy(),
            limits=limits or Limits(),
        )
        return await Agent.create(
            template=template,
            agent_id="a",
            dependencies=deps or lab.deps(script, *tools, hooks=hooks, plugins=plugins),
        )

    return make
