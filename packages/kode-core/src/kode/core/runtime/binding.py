"""Binding: the names in an agent's template turned into this process's code, once, when the agent is opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from kode.core.clock import Clock
from kode.core.config import Dependencies
from kode.core.errors import NotBoundError, SandboxError
from kode.core.jsontext import parse
from kode.core.kernel.limits import Limits
from kode.core.kernel.message import Json
from kode.core.kernel.permission import MODES, PermissionPolicy
from kode.core.provider.base import OutputSchema, Provider, Reasoning, ToolSpec
from kode.core.runtime.watched import Watched
from kode.core.template import AgentTemplate

if TYPE_CHECKING:
    from kode.core.hook.base import Hooks
    from kode.core.plugin import Plugin
    from kode.core.sandbox.base import Sandbox
    from kode.core.tools.base import Tool

__all__ = ["Binding", "bind"]

CLOSE_S = 6.0
"""Seconds that a sandbox has to close that could not be opened."""
KEPT = 256
"""Kinds of templates whose names are kept as they were found."""


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
    make_sandbox: Callable[[str | None], Sandbox]
    """Makes it under the ref it had, or a new one; not opened yet."""
    hooks: tuple[Hooks, ...] = ()
    """Those that the template names, then those of its plugins; a tool's own come after them."""
    plugins: tuple[Plugin, ...] = ()
    output: OutputSchema | None = None
    reasoning: Reasoning | None = None
    recipe: str = ""
    """Digest of the stored template: another one in the header says that it was changed since."""
    sandbox: Sandbox | None = field(default=None, init=False)
    watched: Watched = field(default_factory=Watched, init=False)
    """What the observers have seen."""

    @property
    def ready(self) -> bool:
        """Whether tools may run: there are none, or the sandbox is open."""
        return not self.tools or self.sandbox is not None

    async def open_sandbox(self, ref: str | None, clock: Clock) -> None:
        """Open the agent's sandbox if it is not open: the one of that ref, or a new one where that is gone.

        Cancelled or failed, it leaves nothing open.
        """
        if self.sandbox is not None:
            return
        try:
            self.sandbox = await _opened(self.make_sandbox(ref), clock)
        except SandboxError as error:
            if ref is None or error.code != "sandbox_gone":
                raise
            self.sandbox = await _opened(self.make_sandbox(None), clock)

    async def close(self) -> None:
        """End what the sandbox runs."""
        sandbox, self.sandbox = self.sandbox, None
        if sandbox is not None:
            await sandbox.close()


def bind(template: AgentTemplate, deps: Dependencies, recipe: str = "") -> Binding:
    """Find everything a template names. Agents of one template share what was found; each has its own sandbox.

    Raises:
        NotBoundError: Something is not registered here; the agent is untouched.
    """
    # What names nothing differs from one agent to the next.
    kind = replace(template, **_NAMES_NOTHING)
    known = deps.bound.pop(kind, None) or _bind(template, deps)
    deps.bound[kind] = known
    if len(deps.bound) > KEPT:
        del deps.bound[next(iter(deps.bound))]  # whoever was longest unused
    return replace(known, template=template, recipe=recipe, make_sandbox=_sandbox_maker(template, deps))


_NAMES_NOTHING: dict[str, Any] = {"limits": Limits(), "metadata": None, "sandbox": "", "sandbox_options": Json("{}")}


def _bind(template: AgentTemplate, deps: Dependencies) -> Binding:
    provider = deps.provider_named(template.model)
    if template.context.model is not None:
        deps.provider_named(template.context.model)
    registry = deps.tool_registry()
    names = registry.names() if template.tools == ("*",) else template.tools
    tools = {name: registry.get(name) for name in names}
    plugins = tuple(map(deps.plugin_registry().get, template.plugins)) if template.plugins else ()
    hooks = tuple(map(deps.hook_registry().get, template.hooks)) if template.hooks else ()
    unknown = [link.mode for link in template.permission.links if link.mode not in {*MODES, *deps.modes}]
    if unknown:
        mode = unknown[0]
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
        system=_system(template, tools, deps),
        policy=template.permission,
        modes=deps.modes,
        make_sandbox=_sandbox_maker(template, deps),
        hooks=(*hooks, *(one.hooks for one in plugins if one.hooks is not None)),
        plugins=plugins,
        output=None if template.output_schema is None else OutputSchema(template.output_schema),
        reasoning=Reasoning(show=template.expose_thinking, retain=template.retain_thinking),
    )


def _system(template: AgentTemplate, tools: Mapping[str, Tool], deps: Dependencies) -> str:
    """The prompt, and below it what the tools say of themselves. Composed per agent; the template stays as it is."""
    manual = [f"**{tool.name}**\n{tool.prompt}" for tool in tools.values() if tool.prompt]
    if any(tool.spawns for tool in tools.values()):
        lines = [_describe(deps.template_registry().get(name)) for name in template.subagents]
        manual.append("**Sub-agents**\n" + ("\n".join(lines) or "There are none."))
    if not manual:
        return template.system_prompt
    return "\n\n".join([template.system_prompt, "### Tools", *manual]).strip()


def _describe(template: AgentTemplate) -> str:
    """A line about a sub-agent: its name and, if its metadata has one, its description."""
    metadata = parse(template.metadata or "{}")
    about = metadata.get("description") if isinstance(metadata, dict) else None
    return f"- {template.id}: {about}" if about else f"- {template.id}"


def _sandbox_maker(template: AgentTemplate, deps: Dependencies) -> Callable[[str | None], Sandbox]:
    def make(ref: str | None) -> Sandbox:
        known = {} if ref is None else {"ref": ref}
        return deps.sandbox_factory().create(template.sandbox, **{**parse(template.sandbox_options), **known})

    return make


async def _opened(sandbox: Sandbox, clock: Clock) -> Sandbox:
    try:
        await sandbox.open()
    except BaseException:
        with clock.move_on_after(CLOSE_S, shield=True):
            await sandbox.close()
        raise
    return sandbox
