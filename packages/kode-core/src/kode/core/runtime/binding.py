"""Binding: the names in an agent's template turned into this process's code, once, when the agent is opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from kode.core.config import Dependencies
from kode.core.errors import NotBoundError
from kode.core.jsontext import parse
from kode.core.kernel.permission import MODES, PermissionPolicy
from kode.core.provider.base import OutputSchema, Provider, Reasoning, ToolSpec
from kode.core.template import AgentTemplate

if TYPE_CHECKING:
    from kode.core.sandbox.base import Sandbox
    from kode.core.tools.base import Tool

__all__ = ["Binding", "bind"]


@dataclass(slots=True)
class Binding:
    """What an agent runs with. Shared by nobody; holds the agent's sandbox once it was needed."""

    template: AgentTemplate
    provider: Provider
    tools: Mapping[str, Tool]
    specs: tuple[ToolSpec, ...]
    system: str
    policy: PermissionPolicy
    modes: Mapping[str, Callable[..., Any]]
    make_sandbox: Callable[[], Sandbox]
    output: OutputSchema | None = None
    reasoning: Reasoning | None = None
    sandbox: Sandbox | None = field(default=None, init=False)

    async def open_sandbox(self) -> Sandbox:
        """The agent's sandbox, made and opened at first use: it has its ref, and keeps what it promises."""
        if self.sandbox is None:
            sandbox = self.make_sandbox()
            await sandbox.open()
            self.sandbox = sandbox
        return self.sandbox

    async def close(self) -> None:
        """End what the sandbox runs."""
        sandbox, self.sandbox = self.sandbox, None
        if sandbox is not None:
            await sandbox.close()


def bind(template: AgentTemplate, deps: Dependencies) -> Binding:
    """Find everything a template names. Agents of one template share what was found; each has its own sandbox.

    Raises:
        NotBoundError: Something is not registered here; the agent is untouched.
    """
    known = deps.bound.get(template)
    if known is None:
        known = deps.bound[template] = _bind(template, deps)
    return replace(known)


def _bind(template: AgentTemplate, deps: Dependencies) -> Binding:
    provider = deps.provider_named(template.model)
    registry = deps.tool_registry()
    names = registry.names() if template.tools == ("*",) else template.tools
    tools = {name: registry.get(name) for name in names}
    mode = template.permission.mode
    if mode not in MODES and mode not in deps.modes:
        known = ", ".join(sorted({*MODES, *deps.modes}))
        raise NotBoundError(
            f"No permission mode {mode!r} (known: {known}); register it in Dependencies.modes. Nothing is allowed "
            "by a mode that does not exist.",
            code="unknown_mode",
            mode=mode,
        )
    return Binding(
        template=template,
        provider=provider,
        tools=tools,
        specs=tuple(ToolSpec(t.name, t.description, t.input_schema) for t in tools.values()),
        system=_system(template, tools),
        policy=template.permission,
        modes=deps.modes,
        make_sandbox=_sandbox_maker(template, deps),
        output=None if template.output_schema is None else OutputSchema(template.output_schema),
        reasoning=Reasoning(show=template.expose_thinking, retain=template.retain_thinking),
    )


def _system(template: AgentTemplate, tools: Mapping[str, Tool]) -> str:
    """The prompt, and below it what the tools say of themselves. Composed per agent; the template stays as it is."""
    manual = [f"**{tool.name}**\n{tool.prompt}" for tool in tools.values() if tool.prompt]
    if not manual:
        return template.system_prompt
    return "\n\n".join([template.system_prompt, "### Tools", *manual]).strip()


def _sandbox_maker(template: AgentTemplate, deps: Dependencies) -> Callable[[], Sandbox]:
    def make() -> Sandbox:
        return deps.sandbox_factory().create(template.sandbox, **parse(template.sandbox_options))

    return make
