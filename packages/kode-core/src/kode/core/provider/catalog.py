"""Find a provider by name: ``"vendor:model"``, registered in this process or by an installed wheel.

A wheel registers in its metadata, under the entry-point group ``kode.provider``; the names are read once, and
what is behind one is imported when it is first asked for. A registration by hand hides a wheel's of its name.

A factory is called with keywords only: ``model`` (if the name says one) and the caller's options. It may
have an attribute ``required_env``: names of environment variables, of which one must be set unless the option
``api_key`` is given.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from kode.core.errors import NotBoundError, UsageError
from kode.core.provider.base import Provider

__all__ = ["GROUP", "Claim", "ProviderCatalog", "ProviderFactory", "default_providers"]

GROUP = "kode.provider"
"""Entry-point group."""

ProviderFactory: TypeAlias = Callable[..., Provider]


@dataclass(frozen=True, slots=True)
class Claim:
    """One wheel's claim of a name."""

    name: str
    value: str
    """``module:object``."""
    wheel: str
    load: Callable[[], Any]


class ProviderCatalog:
    """Providers by name.

    Args:
        claims: What wheels offer; default: the entry points of all that is installed, read when first needed.
        environ: Where keys are looked for; default: the process's environment.
    """

    def __init__(self, *, claims: Iterable[Claim] | None = None, environ: Mapping[str, str] | None = None) -> None:
        self._factories: dict[str, ProviderFactory] = {}
        self._claims = None if claims is None else _by_name(claims)
        self._environ = os.environ if environ is None else environ

    def register(self, name: str, factory: ProviderFactory, *, replace: bool = False) -> None:
        """Offer a factory under a name in this process.

        Raises:
            UsageError: The name is empty or holds a colon, or is another factory's (without ``replace``).
        """
        if not name or ":" in name:
            raise UsageError(
                f"A provider cannot be called {name!r}: give a name without colon.", code="bad_provider_name"
            )
        held = self._factories.get(name)
        if held is not None and held is not factory and not replace:
            raise UsageError(
                f"Two providers claim the name {name!r}: {_called(held)} and {_called(factory)}."
                " Register one under another name, or pass replace=True.",
                code="provider_name_taken",
                name=name,
            )
        self._factories[name] = factory

    def names(self) -> tuple[str, ...]:
        """List the names that can be resolved, sorted."""
        return tuple(sorted({*self._factories, *self._offered()}))

    def resolve(self, provider: str | Provider, **options: Any) -> Provider:
        """Make the provider that a name says; what is no string is a provider already and is returned.

        Args:
            provider: ``"vendor:model"`` (the model may hold colons), or ``"vendor"`` for its default model.
            **options: For the factory. They may hold keys and are never shown.

        Raises:
            NotBoundError: Nobody registered the name, its wheel cannot be imported, or its key is missing.
            UsageError: Two wheels claim the name, or the factory does not take the options.
        """
        if not isinstance(provider, str):
            return provider
        name, _, model = provider.partition(":")
        factory = self._factory(name)
        try:
            self._check_key(name, factory, options)
            if model:
                options["model"] = model
            return factory(**options)
        except TypeError as error:
            # Only that of this very call: one from inside the factory is a bug there and must show its place.
            if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
                raise
            raise UsageError(
                f"Provider {name!r} does not take these options ({', '.join(sorted(options)) or 'none'}): {error}.",
                code="bad_provider_options",
                name=name,
            ) from None
        finally:
            options.clear()  # a traceback may show what a frame holds

    def _factory(self, name: str) -> ProviderFactory:
        own = self._factories.get(name)
        if own is not None:
            return own
        claims = self._offered().get(name)
        if claims is None:
            known = ", ".join(self.names()) or "none"
            raise NotBoundError(
                f"There is no provider {name!r}; a model is named PROVIDER:NAME, and known are: {known}. Others come"
                f" with their wheels (entry point {GROUP!r}), or are given in code.",
                name=name,
            )
        first, *others = claims
        if others:
            both = " and ".join(f"{claim.wheel} ({claim.value})" for claim in claims)
            raise UsageError(
                f"Two wheels claim the provider {name!r}: {both}. Uninstall one, or register the one you mean.",
                code="provider_name_taken",
                name=name,
            )
        factory = _load(first)
        self._factories[name] = factory
        return factory

    def _check_key(self, name: str, factory: ProviderFactory, options: Mapping[str, Any]) -> None:
        needed: tuple[str, ...] = tuple(getattr(factory, "required_env", ()))
        if not needed or options.get("api_key") or any(self._environ.get(key) for key in needed):
            return
        raise NotBoundError(
            f"Provider {name!r} needs a key: set {' or '.join(needed)} in the environment, or pass api_key.",
            code="missing_key",
            name=name,
            env=needed[0],
        )

    def _offered(self) -> dict[str, tuple[Claim, ...]]:
        if self._claims is None:
            self._claims = _by_name(_installed())
        return self._claims


def _by_name(claims: Iterable[Claim]) -> dict[str, tuple[Claim, ...]]:
    """Group claims. The same object offered twice (a wheel found on two paths) is one claim."""
    found: dict[str, dict[str, Claim]] = {}
    for claim in claims:
        found.setdefault(claim.name, {}).setdefault(claim.value, claim)
    return {name: tuple(by_value.values()) for name, by_value in found.items()}


def _installed() -> Iterable[Claim]:
    # Imported here: it takes longer than the rest of this package, and not every process asks by name.
    from importlib.metadata import entry_points

    for entry in entry_points(group=GROUP):
        wheel = entry.dist.name if entry.dist is not None else "an unknown wheel"
        yield Claim(entry.name, entry.value, wheel, entry.load)


def _load(claim: Claim) -> ProviderFactory:
    try:
        factory = claim.load()
    except (ImportError, AttributeError) as error:
        raise NotBoundError(
            f"Provider {claim.name!r} of the wheel {claim.wheel} cannot be imported ({claim.value}): {error}."
            " Install what is missing, or the wheel again.",
            name=claim.name,
            wheel=claim.wheel,
        ) from error
    if not callable(factory):
        raise UsageError(
            f"Provider {claim.name!r} of the wheel {claim.wheel} ({claim.value}) is not callable.",
            code="bad_provider",
            name=claim.name,
        )
    return factory  # type: ignore[no-any-return]  # it came by name; what it makes is checked by its use


def _called(factory: ProviderFactory) -> str:
    return f"{factory.__module__}.{getattr(factory, '__qualname__', repr(factory))}"


default_providers = ProviderCatalog()
"""The process's own catalog, used where ``Dependencies`` names none."""
