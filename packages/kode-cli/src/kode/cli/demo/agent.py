"""The agent: what it is made of. Every process that has to do with it makes the same from this."""

from __future__ import annotations

from kode.cli.demo.planner import Planner
from kode.cli.demo.settings import AGENT_ID, Settings
from kode.cli.demo.tools import demo_tools
from kode.core import (
    AgentConfig,
    AgentTemplate,
    ContextPolicy,
    Dependencies,
    Limits,
    PermissionPolicy,
    Rule,
    ScriptedProvider,
)
from kode.core.jsontext import dump
from kode.core.provider.base import Provider
from kode.core.provider.catalog import default_providers
from kode.core.store.base import Store

__all__ = ["TASK", "config", "dependencies", "provider"]

TASK = "Survey the files below files/ and write REPORT.md: how many, how large, what is in them."
_PROMPT = """\
You survey files with your tools; the working folder holds them below files/. List them with fs_glob, search for TODO \
with fs_grep, read two or three that look important with fs_read, and count files, lines and bytes with one bash_run \
command. Then write REPORT.md with fs_write, once: short Markdown, only what your tools found. \
Processes may be killed: when the outcome of a call is unknown, look before you run anything twice."""
_WHOLE = ContextPolicy(max_tokens=1_000_000_000)
"""The planner reads each result as JSON, so it is shown all of its history: no summary, nothing cut."""


def config(settings: Settings) -> AgentConfig:
    """Say what the agent is: its template, stored with it when it is made."""
    template = AgentTemplate(
        "surveyor",
        system_prompt=_PROMPT,
        model=settings.model or "planner",
        tools=tuple(one.name for one in demo_tools(settings)),
        permission=PermissionPolicy(ask=tuple(Rule(name) for name in settings.asks)),
        limits=Limits(max_tool_result_bytes=1_000_000),
        context=ContextPolicy() if settings.model else _WHOLE,
        sandbox_options=dump({"root": str(settings.work)}),
    )
    return AgentConfig(template, AGENT_ID)


def dependencies(settings: Settings, store: Store) -> Dependencies:
    """Say what the names in the template mean here.

    Raises:
        NotBoundError: There is no such provider, or its key is missing.
    """
    providers = {settings.model or "planner": provider(settings)}
    return Dependencies(store, tools=demo_tools(settings), providers=providers)


def provider(settings: Settings) -> Provider:
    """Make the model's provider, or the planner that stands in for one.

    Raises:
        NotBoundError: There is no such provider, or its key is missing.
    """
    if not settings.model:
        return ScriptedProvider(Planner(settings), keep_requests=False)
    options = {} if settings.base_url is None else {"base_url": settings.base_url}
    return default_providers.resolve(settings.model, **options)
