"""Sandboxes: where an agent's commands run and its files lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kode.core.lazy import exports

if TYPE_CHECKING:
    from kode.core.sandbox.base import ExecResult, Sandbox
    from kode.core.sandbox.catalog import SandboxFactory, default_sandboxes
    from kode.core.sandbox.local import LocalSandbox

__getattr__, __dir__ = exports(
    __name__,
    {
        "ExecResult": "base",
        "LocalSandbox": "local",
        "Sandbox": "base",
        "SandboxFactory": "catalog",
        "default_sandboxes": "catalog",
    },
)

__all__ = [
    "ExecResult",
    "LocalSandbox",
    "Sandbox",
    "SandboxFactory",
    "default_sandboxes",
]
