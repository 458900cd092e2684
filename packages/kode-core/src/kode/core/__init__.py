"""KODE: a runtime kernel for long-running LLM agents.

What most programs need is here, imported when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kode.core.lazy import exports

if TYPE_CHECKING:
    from kode.core.checkpoint import Checkpointer, FileCheckpointer, MemoryCheckpointer
    from kode.core.config import AgentConfig, Dependencies
    from kode.core.errors import KodeError
    from kode.core.event.base import Envelope
    from kode.core.hook.base import Hooks
    from kode.core.kernel.context import ContextPolicy
    from kode.core.kernel.limits import Limits
    from kode.core.kernel.message import MediaBlock, TextBlock, Usage
    from kode.core.kernel.permission import PermissionPolicy, Rule
    from kode.core.plugin import Plugin
    from kode.core.provider.anthropic.messages import AnthropicProvider
    from kode.core.provider.fallback import FallbackProvider
    from kode.core.provider.gemini.content import GeminiProvider
    from kode.core.provider.openai.provider import OpenAIProvider
    from kode.core.provider.recording import RecordingProvider, ReplayProvider
    from kode.core.provider.scripted import ScriptedProvider
    from kode.core.runtime.agent import Agent
    from kode.core.runtime.pool import AgentPool
    from kode.core.runtime.result import Question, RunResult
    from kode.core.runtime.schedule import Scheduler
    from kode.core.runtime.sending import decide
    from kode.core.runtime.stateless import StatelessAgent
    from kode.core.sandbox.local import LocalSandbox
    from kode.core.store.json import JSONStore
    from kode.core.store.memory import MemoryStore
    from kode.core.store.open import open_store
    from kode.core.store.sqlite import SqliteStore
    from kode.core.template import AgentTemplate, schema_of, templates
    from kode.core.tools.base import Tool, ToolContext, ToolError
    from kode.core.tools.define import tool
    from kode.core.tools.todos import Todo

__version__ = "0.1.0"

__getattr__, __dir__ = exports(
    __name__,
    {
        "Agent": "runtime.agent",
        "AgentConfig": "config",
        "AgentPool": "runtime.pool",
        "AgentTemplate": "template",
        "AnthropicProvider": "provider.anthropic",
        "Checkpointer": "checkpoint",
        "ContextPolicy": "kernel.context",
        "Dependencies": "config",
        "Envelope": "event.base",
        "FallbackProvider": "provider.fallback",
        "FileCheckpointer": "checkpoint",
        "GeminiProvider": "provider.gemini",
        "Hooks": "hook.base",
        "JSONStore": "store.json",
        "KodeError": "errors",
        "Limits": "kernel.limits",
        "LocalSandbox": "sandbox.local",
        "MediaBlock": "kernel.message",
        "MemoryCheckpointer": "checkpoint",
        "MemoryStore": "store.memory",
        "OpenAIProvider": "provider.openai",
        "PermissionPolicy": "kernel.permission",
        "Plugin": "plugin",
        "Question": "runtime.result",
        "RecordingProvider": "provider.recording",
        "ReplayProvider": "provider.recording",
        "Rule": "kernel.permission",
        "RunResult": "runtime.result",
        "Scheduler": "runtime.schedule",
        "ScriptedProvider": "provider.scripted",
        "SqliteStore": "store.sqlite",
        "StatelessAgent": "runtime.stateless",
        "TextBlock": "kernel.message",
        "Todo": "tools.todos",
        "Tool": "tools.base",
        "ToolContext": "tools.base",
        "ToolError": "tools.base",
        "Usage": "kernel.message",
        "decide": "runtime.sending",
        "open_store": "store.open",
        "schema_of": "template",
        "templates": "template",
        "tool": "tools.define",
    },
)

__all__ = [
    "Agent",
    "AgentConfig",
    "AgentPool",
    "AgentTemplate",
    "AnthropicProvider",
    "Checkpointer",
    "ContextPolicy",
    "Dependencies",
    "Envelope",
    "FallbackProvider",
    "FileCheckpointer",
    "GeminiProvider",
    "Hooks",
    "JSONStore",
    "KodeError",
    "Limits",
    "LocalSandbox",
    "MediaBlock",
    "MemoryCheckpointer",
    "MemoryStore",
    "OpenAIProvider",
    "PermissionPolicy",
    "Plugin",
    "Question",
    "RecordingProvider",
    "ReplayProvider",
    "Rule",
    "RunResult",
    "Scheduler",
    "ScriptedProvider",
    "SqliteStore",
    "StatelessAgent",
    "TextBlock",
    "Todo",
    "Tool",
    "ToolContext",
    "ToolError",
    "Usage",
    "decide",
    "open_store",
    "schema_of",
    "templates",
    "tool",
]
