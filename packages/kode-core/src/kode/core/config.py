"""What a caller hands in: an agent's configuration, and what this process binds names to."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Final, Protocol
from weakref import WeakSet

import anyio

from kode.core.clock import Clock, RealClock
from kode.core.errors import NotBoundError, UsageError
from kode.core.kernel.context import ContextPolicy
from kode.core.kernel.limits import Limits, narrower
from kode.core.kernel.message import Json
from kode.core.kernel.permission import MODES, PermissionPolicy
from kode.core.kernel.state import Parent
from kode.core.template import AgentTemplate, TemplateRegistry
from kode.core.template import templates as default_templates

if TYPE_CHECKING:
    from kode.core.discovery import Registry
    from kode.core.hook.base import Hooks
    from kode.core.plugin import Lifespans, Plugin
    from kode.core.provider.base import MediaFile, Provider
    from kode.core.provider.catalog import ProviderCatalog
    from kode.core.provider.retry import RetryPolicy
    from kode.core.sandbox.catalog import SandboxFactory
    from kode.core.store.base import Store
    from kode.core.tools.base import Tool
    from kode.core.tools.catalog import ToolRegistry

__all__ = ["AgentConfig", "Dependencies", "Ids", "RandomIds"]

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


class Ids(Protocol):
    """Where new names come from; tests bring their own so that a run can be repeated."""

    def agent_id(self) -> str:
        """Name an agent whose caller gave none."""
        ...

    def uid(self) -> str:
        """Name an agent's identity: unguessable, never given twice."""
        ...

    def item_id(self) -> str:
        """Name an inbox item whose sender gave no id."""
        ...

    def commit_id(self) -> str:
        """Name a commit."""
        ...


class RandomIds(Ids):
    """Names from the system's secure random numbers: 100 bits each."""

    def agent_id(self) -> str:
        """``agt-`` and 20 characters."""
        return f"agt-{_random()}"

    def uid(self) -> str:
        """20 characters."""
        return _random()

    def item_id(self) -> str:
        """``msg-`` and 20 characters."""
        return f"msg-{_random()}"

    def commit_id(self) -> str:
        """16 characters: it only has to differ from the agent's last one."""
        return secrets.token_hex(8)


def random_unit() -> float:
    """A number from 0 to 1."""
    return secrets.randbits(53) / 2**53


def _random() -> str:
    number = secrets.randbits(100)
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(0, 100, 5))


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """What one agent is to be: a template, and what differs from it. It is never written to.

    Only the template is required; ``agent_id`` None takes a random one.
    """

    template: str | AgentTemplate = "default"
    """A registered template's id, or the template itself."""
    agent_id: str | None = None
    limits: Limits | None = None
    """Narrower than the template's wins, field by field."""
    model: str | None = None
    tools: tuple[str, ...] | None = None
    hooks: tuple[str, ...] | None = None
    plugins: tuple[str, ...] | None = None
    permission: PermissionPolicy | None = None
    sandbox: str | None = None
    sandbox_options: Json | None = None
    tenant: str | None = None
    metadata: Json | None = None
    context: ContextPolicy | None = None
    """How much of its history the model is shown."""
    parent: Parent | None = None
    expires_in_s: float | None = None
    """Seconds after its creation from which on `store.expire` erases it; None: it is kept. `store.set_expiry` changes
    that later."""

    def __post_init__(self) -> None:
        for name, (kind, wanted) in _WANTED.items():
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                raise _wrong(f"AgentConfig.{name}", value, f"{wanted}, or None")

    def recipe(self, registry: TemplateRegistry) -> AgentTemplate:
        """The template with this configuration laid over it: what is stored with the agent.

        Raises:
            NotBoundError: No template of that name is registered.
            UsageError: ``template`` is neither one nor its name.
        """
        if not isinstance(self.template, AgentTemplate | str):
            raise _wrong("AgentConfig.template", self.template, "an AgentTemplate, or the id of a registered one")
        template = self.template if isinstance(self.template, AgentTemplate) else registry.get(self.template)
        changed = template.changed(
            model=self.model,
            tools=self.tools,
            hooks=self.hooks,
            plugins=self.plugins,
            permission=self.permission,
            sandbox=self.sandbox,
            sandbox_options=self.sandbox_options,
            metadata=self.metadata,
            context=self.context,
        )
        if self.limits is not None:
            changed = changed.changed(limits=narrower(changed.limits, self.limits))
        return changed


_WANTED: Final = {
    "agent_id": (str, "a text"),
    "limits": (Limits, "Limits(…)"),
    "permission": (PermissionPolicy, "PermissionPolicy(…)"),
    "context": (ContextPolicy, "ContextPolicy(…)"),
    "expires_in_s": (int | float, "seconds"),
}
"""Fields of `AgentConfig`, and what they are; the others are looked at with those of the template."""
_BROUGHT: Final = {
    "tools": ("a list of tools, or a registry", ()),
    "templates": ("a list of templates, or a registry", ()),
    "hooks": ("a list of Hooks, or Hooks by name", (Mapping,)),
    "plugins": ("a list of plugins, or plugins by name", (Mapping,)),
}
"""Fields of `Dependencies` that may be given as a list, how to say it, and as what else."""


def _wrong(what: str, given: object, wanted: str) -> UsageError:
    # Not the value itself: it may be long, or hold what nobody should print.
    return UsageError(f"{what} is of type {type(given).__name__}; give {wanted}.", code="bad_argument")


@dataclass(slots=True, repr=False)
class Dependencies:
    """What names mean in this process. Everything but ``store`` has a default: the process's registries.

    ``async with Dependencies(…) as deps:`` closes the connections of the providers that were found by name.

    Args:
        store: Where agents live; already open.
        tools: A registry, or the tools themselves.
        providers: A catalog, or providers by name (``{"scripted": ScriptedProvider(…)}``).
        templates: A registry, or the templates themselves.
        services: Objects for tools, by name (``ToolContext.services``).

    Raises:
        UsageError: ``store`` is no `Store`, one of ``modes`` cannot be one, or something is of another type.
    """

    store: Store
    tools: ToolRegistry | list[Tool] | None = None
    providers: ProviderCatalog | Mapping[str, Provider] | None = None
    templates: TemplateRegistry | list[AgentTemplate] | None = None
    sandboxes: SandboxFactory | None = None
    """Kinds of sandboxes; None: the process's."""
    modes: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    """Permission modes of your own: ``(tool, arguments, policy) -> "allow" | "ask" | "deny"``."""
    hooks: Registry[Hooks] | Mapping[str, Hooks] | list[Hooks] | None = None
    """What templates may name in ``hooks``; None: the process's."""
    plugins: Registry[Plugin] | Mapping[str, Plugin] | list[Plugin] | None = None
    """What templates may name in ``plugins``; None: the process's, and those of installed wheels."""
    services: Mapping[str, Any] = field(default_factory=dict)
    transcriber: Callable[[MediaFile], Awaitable[str]] | None = None
    """Makes text of a recording that a model cannot hear; None: it is left out, and both are told."""
    frame_extractor: Callable[[MediaFile], Awaitable[Sequence[MediaFile]]] | None = None
    """Makes pictures of a video that a model cannot see."""
    media_fetcher: Callable[[str], Awaitable[MediaFile]] | None = None
    """Gets what lies at a URL, for a model's API that fetches none. Nothing is fetched without it."""
    upload_over: int | None = 4_194_304
    """Bytes above which media are uploaded to the vendor once, and named in each request; None: never."""
    clock: Clock = field(default_factory=RealClock)
    ids: Ids = field(default_factory=RandomIds)
    retry: RetryPolicy | None = None
    """How a failed model call is tried again; None: `RetryPolicy()`."""
    random: Callable[[], float] = random_unit
    """Numbers from 0 to 1, for jitter."""
    holder: str = ""
    """Name of this process in leases; with the process's own identity behind it."""
    bound: dict[AgentTemplate, Any] = field(default_factory=dict, init=False, repr=False)
    """What templates turned out to mean here, kept by ``runtime.binding.bind``."""
    owners: WeakSet[object] = field(default_factory=WeakSet, init=False, repr=False)
    """Handles that were made from keywords, and their forks: when the last of them closes, this does."""
    _providers: dict[str, Provider] = field(default_factory=dict, init=False, repr=False)
    """Resolved once per name: agents share connections."""
    _lifespans: Lifespans | None = field(default=None, init=False, repr=False)
    """Of plugins that were started."""

    def __post_init__(self) -> None:
        from kode.core.store.base import Store

        if not isinstance(self.store, Store):
            raise UsageError(
                f"Dependencies.store is {type(self.store).__name__}; give an open Store, such as "
                "SqliteStore('agents.db') or open_store('sqlite:///agents.db').",
                code="bad_store",
            )
        for name, (wanted, others) in _BROUGHT.items():
            given = getattr(self, name)
            if isinstance(given, tuple | set | frozenset):
                setattr(self, name, list(given))
            elif not (given is None or isinstance(given, (list, *others)) or hasattr(given, "register")):
                raise _wrong(f"Dependencies.{name}", given, wanted)
        if not (self.providers is None or isinstance(self.providers, Mapping) or hasattr(self.providers, "resolve")):
            raise _wrong("Dependencies.providers", self.providers, "them by name, such as {'model': provider}")
        for name, mode in self.modes.items():
            if name in MODES or not callable(mode) or iscoroutinefunction(mode):
                raise UsageError(
                    f"Dependencies.modes[{name!r}] is {mode!r}; give a plain function, under another name than "
                    f"{', '.join(sorted(MODES))}.",
                    code="bad_mode",
                    mode=name,
                )

    def __repr__(self) -> str:
        # Providers and services may hold keys.
        return f"Dependencies(store={type(self.store).__name__})"

    async def __aenter__(self) -> Dependencies:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self, plugins: Iterable[Plugin]) -> None:
        """Enter the lifespans of plugins that are not running yet."""
        from kode.core.plugin import Lifespans

        self._lifespans = self._lifespans or Lifespans(self.clock)
        await self._lifespans.start(plugins)

    def runs(self, plugin: Plugin) -> bool:
        """Whether a plugin was started here."""
        return self._lifespans is not None and self._lifespans.run(plugin)

    async def close(self) -> None:
        """Stop plugins, and close the connections of providers that were found here by name.

        What was given is its giver's to close. It can be used again afterwards: plugins then start anew, and the same
        providers open new connections.
        """
        self.bound.clear()
        if self._lifespans is not None:
            await self._lifespans.stop()
        given = () if not isinstance(self.providers, Mapping) else tuple(self.providers.values())
        with anyio.CancelScope(shield=True):
            for provider in tuple(self._providers.values()):
                if not any(provider is one for one in given):
                    await provider.close()

    def template_registry(self) -> TemplateRegistry:
        """The templates in force."""
        if self.templates is None:
            return default_templates
        if isinstance(self.templates, list):
            registry = TemplateRegistry()
            for template in self.templates:
                registry.register(template)
            self.templates = registry
        return self.templates

    def tool_registry(self) -> ToolRegistry:
        """The tools in force."""
        from kode.core.tools.catalog import ToolRegistry, default_tools

        if self.tools is None:
            return default_tools
        if isinstance(self.tools, list):
            self.tools = ToolRegistry(self.tools)
        return self.tools

    def hook_registry(self) -> Registry[Hooks]:
        """The hooks in force."""
        from kode.core.plugin import default_hooks

        self.hooks = default_hooks.given(self.hooks)
        return self.hooks

    def plugin_registry(self) -> Registry[Plugin]:
        """The plugins in force."""
        from kode.core.plugin import default_plugins

        self.plugins = default_plugins.given(self.plugins)
        return self.plugins

    def sandbox_factory(self) -> SandboxFactory:
        """The kinds of sandboxes in force."""
        from kode.core.sandbox.catalog import default_sandboxes

        return self.sandboxes or default_sandboxes

    def provider_named(self, name: str) -> Provider:
        """Find ``vendor:model`` or a provider's own name.

        Raises:
            NotBoundError: Nobody answers to it.
        """
        found = self._providers.get(name)
        if found is None:
            found = self._providers[name] = self._resolve(name)
        return found

    def _resolve(self, name: str) -> Provider:
        from kode.core.provider.catalog import default_providers

        if not name:
            raise NotBoundError(
                "The agent's template names no model; set AgentTemplate.model to 'provider:model'.", code="no_model"
            )
        if not isinstance(self.providers, Mapping):
            return (self.providers or default_providers).resolve(name)
        own = self.providers.get(name) or self.providers.get(name.partition(":")[0])
        if own is None:
            known = ", ".join(sorted(self.providers)) or "none"
            raise NotBoundError(
                f"Dependencies.providers has no {name!r} (known: {known}); add it under that name.",
                code="unknown_provider",
                provider=name,
            )
        return own
