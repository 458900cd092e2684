"""Opens what a command works on: the store, the agent, and the model behind it.

What `kode run` was told and is no secret lies in the agent's own template, so that `kode resume` needs an id only.
Keys come from the environment each time and are stored nowhere.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, unquote, urlsplit

import anyio
import typer

from kode.cli.recipe import METADATA
from kode.core import Agent, AgentTemplate, Dependencies, ScriptedProvider, open_store
from kode.core.errors import NotFoundError
from kode.core.jsontext import parse
from kode.core.kernel.permission import PermissionPolicy
from kode.core.provider.base import Provider
from kode.core.provider.catalog import default_providers
from kode.core.runtime.binding import bind
from kode.core.runtime.birth import read_template
from kode.core.sandbox.base import Sandbox
from kode.core.store.base import Store

__all__ = [
    "AgentId",
    "AsJson",
    "Bound",
    "StoreUrl",
    "bound",
    "default_store",
    "letterbox",
    "shown_store",
    "store_at",
    "stored_template",
]

StoreUrl = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        envvar="KODE_STORE",
        show_default=False,
        help="Where agents live, such as sqlite:///agents.db. Default: .kode/agents.db below the folder.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON for programs.")]
AgentId = Annotated[str, typer.Argument(metavar="ID", help="The agent's id.")]

_FILES = ("sqlite", "json")
"""Schemes of stores that are a path on this machine."""


def default_store(folder: Path) -> str:
    """The store of a folder that names none."""
    return f"sqlite:///{quote(str(folder / '.kode' / 'agents.db'))}"


def store_at(url: str | None, folder: Path | None = None, *, make: bool = False) -> Store:
    """Make the store a command works on, not opened yet.

    Args:
        url: As given; None: that of the folder.
        folder: Default: the working folder.
        make: Whether it may be new. Else a path that is not there is an error: it would be an empty store.

    Raises:
        NotFoundError: ``no_store``.
    """
    own = url is None
    url = default_store((folder or Path.cwd()).absolute()) if url is None else url
    store = open_store(url)
    parts = urlsplit(url)
    if parts.scheme not in _FILES:
        return store
    path = Path(unquote(parts.path[1:] if url.startswith(f"{parts.scheme}://") else parts.path))
    if not make and not path.exists():
        raise NotFoundError(
            f"There is no store at {str(path)!r}; `kode run` makes one, or name another with --store or KODE_STORE.",
            code="no_store",
        )
    if make and own:
        _keep_out_of_git(path.parent)
    return store


def shown_store(url: str | None) -> str:
    """Give the option that names the same store again, for people to type; nothing if it holds a password."""
    if url is None or os.environ.get("KODE_STORE") == url or "@" in url or "?" in url:
        return ""
    return f" --store {shlex.quote(url)}"


@dataclass(slots=True)
class Bound:
    """An agent's code in this process, while its ``async with`` lasts."""

    deps: Dependencies
    provider: Provider
    sandbox: Sandbox
    """Of the agent's kind and folder, to look with; what the agent runs has one of its own."""

    async def __aenter__(self) -> Bound:
        await self.sandbox.open()  # says now what is missing, not in the middle of the run
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            await self.sandbox.close()
            await self.provider.close()


def bound(store: Store, template: AgentTemplate) -> Bound:
    """Bind the model that a template names, with the options kept in it.

    Raises:
        NotBoundError: No such provider, or its key is not in the environment.
    """
    kept: Any = {} if template.metadata is None else parse(template.metadata)
    own = kept.get(METADATA) if isinstance(kept, dict) else None
    base_url = own.get("base_url") if isinstance(own, dict) else None
    provider = default_providers.resolve(template.model, **({} if base_url is None else {"base_url": base_url}))
    deps = Dependencies(store, providers={template.model: provider})
    sandbox = deps.sandbox_factory().create(template.sandbox, **parse(template.sandbox_options))
    return Bound(deps, provider, sandbox)


async def stored_template(store: Store, agent_id: str) -> AgentTemplate:
    """The recipe that an agent was made from.

    Raises:
        NotFoundError: No such agent.
    """
    _, template = await read_template(agent_id, Dependencies(store))
    return template


async def letterbox(store: Store, agent_id: str) -> Agent:
    """A handle to look at an agent and put things into its inbox. It binds no code, needs no key, and never drives.

    Raises:
        NotFoundError: No such agent.
    """
    deps = Dependencies(store, providers={"none": ScriptedProvider()}, tools=[])
    uid, template = await read_template(agent_id, deps)
    bare = template.changed(model="none", tools=(), hooks=(), plugins=(), subagents=(), permission=PermissionPolicy())
    return Agent(agent_id, uid, bare, bind(bare, deps), deps)


def _keep_out_of_git(folder: Path) -> None:
    """A store in a work folder is nobody's source."""
    ignore = folder / ".gitignore"
    if not ignore.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        ignore.write_text("*\n")
