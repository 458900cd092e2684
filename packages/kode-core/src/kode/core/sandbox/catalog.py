"""Finds sandboxes by kind.

Those registered in this process, and those that installed wheels bring (``kode.sandbox``).
"""

from __future__ import annotations

from collections.abc import Iterable
from inspect import Parameter, signature
from typing import Any

from kode.core.discovery import brought, installed
from kode.core.errors import NotBoundError, UsageError
from kode.core.sandbox.base import Sandbox

__all__ = ["SandboxFactory", "default_sandboxes"]

GROUP = "kode.sandbox"


class SandboxFactory:
    """Kinds and the classes that make them.

    Args:
        installed: Look for unknown kinds among the entry points of installed wheels; they are loaded when
            asked for.
    """

    def __init__(self, *, installed: bool = True) -> None:
        self._kinds: dict[str, type[Sandbox]] = {}
        self._group = GROUP if installed else None

    def register(self, kind: str, sandbox: type[Sandbox]) -> None:
        """Add a kind. The same class again is harmless.

        Raises:
            UsageError: The kind stands for another class.
        """
        if self._kinds.setdefault(kind, sandbox) is not sandbox:
            raise UsageError(f"The sandbox kind {kind!r} is registered with another class.", code="sandbox_exists")

    def get(self, kind: str) -> type[Sandbox]:
        """Return the class of a kind; the first time, one that a wheel brings is loaded.

        Raises:
            NotBoundError: There is none; the message names those that are known.
            UsageError: Two wheels claim the kind, or it cannot be loaded.
        """
        if kind in self._kinds:
            return self._kinds[kind]
        loaded = brought(self._group, kind, "sandbox")
        if loaded is None:
            known = ", ".join(self.kinds()) or "none"
            raise NotBoundError(
                f"There is no sandbox of kind {kind!r} in this process; known are: {known}. Others come with "
                "their wheels, or are registered.",
                kind=kind,
            )
        self.register(kind, loaded[0])
        return self._kinds[kind]

    def create(self, kind: str, **options: Any) -> Sandbox:
        """Make a sandbox; ``open`` it before use.

        Raises:
            UsageError: The kind does not take these options.
        """
        made = self.get(kind)
        if options:
            _check(kind, made, options)
        try:
            return made(**options)
        except TypeError as error:
            raise UsageError(
                f"The sandbox {kind!r} cannot be made of the options {', '.join(options) or '(none)'}: {error}.",
                code="bad_option",
            ) from error

    async def kill_ref(self, ref: str) -> int:
        """End what a dead owner left under ``ref``, whatever its kind.

        Returns how many processes were found.
        """
        return await self.get(ref.partition(":")[0]).kill_ref(ref)

    def kinds(self) -> tuple[str, ...]:
        """Return all known kinds, sorted; nothing is loaded."""
        return tuple(sorted(installed(self._group) | set(self._kinds)))


def _check(kind: str, made: type[Sandbox], options: Iterable[str]) -> None:
    """Refuse options that a kind does not know."""
    known = signature(made).parameters
    strange = [name for name in options if name not in known]
    if strange and all(one.kind is not Parameter.VAR_KEYWORD for one in known.values()):
        raise UsageError(
            f"The sandbox {kind!r} has no option {strange[0]!r}; it knows {', '.join(known) or 'none'}.",
            code="bad_option",
            option=strange[0],
        )


default_sandboxes = SandboxFactory()
"""The process's own."""
