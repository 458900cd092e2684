"""Hooks: code of the host that is asked, or told, at fixed places of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kode.core.lazy import exports

if TYPE_CHECKING:
    from kode.core.hook.base import Allow, Answer, Ask, Decision, Deny, Hooks, NextModel, NextTool, Replace, ToolUse

__getattr__, __dir__ = exports(
    __name__,
    {
        "Allow": "base",
        "Answer": "base",
        "Ask": "base",
        "Decision": "base",
        "Deny": "base",
        "Hooks": "base",
        "NextModel": "base",
        "NextTool": "base",
        "Replace": "base",
        "ToolUse": "base",
    },
)

__all__ = [
    "Allow",
    "Answer",
    "Ask",
    "Decision",
    "Deny",
    "Hooks",
    "NextModel",
    "NextTool",
    "Replace",
    "ToolUse",
]
