"""Opens what a command works on: the store, the agent, and the model behind it.

What `kode run` was told and is no secret lies in the agent's own template, so that `kode resume` needs an id only.
Keys come from the environment each time and are stored nowhere.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote, unquote, urlsplit

import anyio
import typer

from kode.cli.recipe import METADATA
from kode.cli.visible import inline
from kode.core import Agent, AgentTemplate, Dependencies, ScriptedProvider, open_store
from kode.core.errors import NotFoundError, UsageError
from kode.core.jsontext import parse
from kode.core.kernel.permission import PermissionPolicy
from kode.core.provider.base import Provider
from kode.core.provider.catalog import default_providers
from kode.core.runtime.binding import bind
from kode.core.runtime.birth import read_template
from kode.core.sandbox.base import Sandbox
from kode.core.store.base import Store
from kode.core.store.migrating import SchemaSupport

__all__ = [
    "AgentId",
    "AsJson",
    "BaseUrl",
    "Bound",
    "StoreUrl",
    "Yes",
    "bound",
    "command",
    "default_store",
    "letterbox",
    "store_at",
    "store_option",
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

Yes = Annotated[
    bool,
    typer.Option("--yes", "-y", help="Allow what is asked about, this time; no re-run of what may have run."),
]
BaseUrl = Annotated[
    str | None, typer.Option("--base-url", metavar="URL", help="Where the provider's API is, such as a local server.")
]
_FILES: Final = {"sqlite": ("",), "json": ("kode.json", "agents")}
"""Schemes of stores that are a path on this machine, and what is below it where one is."""
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


def default_store(folder: Path) -> str:
    """The store of a folder that names none."""
    return f"sqlite:///{quote(str(folder / '.kode' / 'agents.db'))}"


def store_at(url: str | None, folder: Path | None = None, *, make: bool = False) -> Store:
    """Make the store a command works on, not opened yet.

    Args:
        url: As given; None: that of the folder.
        folder: Default: the working folder.
        make: Whether it may be new. Else a path without a store is an error: it would be an empty one.

    Raises:
        NotFoundError: ``no_store``.
        UsageError: ``foreign_store``: nobody named it, and it is another user's.
    """
    own = url is None
    url = default_store((folder or Path.cwd()).absolute()) if url is None else url
    store = open_store(url)
    parts = urlsplit(url)
    if parts.scheme not in _FILES:
        if isinstance(store, SchemaSupport):
            store.makes_schema = make
        return store
    path = Path(unquote(parts.path[1:] if url.startswith(f"{parts.scheme}://") else parts.path))
    if not make and not any((path / name).exists() for name in _FILES[parts.scheme]):
        raise NotFoundError(
            f"There is no store at {str(path)!r}; `kode run` makes one, or name another with --store or KODE_STORE.",
            code="no_store",
        )
    if own:
        _check_owner(path, url)
    if make and own:
        _keep_out_of_git(path.parent)
    return store


def store_option(url: str | None, folder: Path | None = None) -> str:
    """Give the option that names the same store again, for people to type; nothing where it is found without.

    Args:
        url: As given; None: that of the folder.
        folder: Default: the working folder.
    """
    here = default_store(Path.cwd())
    url = default_store(folder.absolute()) if url is None and folder is not None else url or here
    if url == (os.environ.get("KODE_STORE") or here):
        return ""
    if urlsplit(url).scheme not in _FILES and ("@" in url or "?" in url):
        return " --store URL"  # it may hold a password
    return f" --store {shlex.quote(url)}"


def command(verb: str, *words: str, store: str = "") -> str:
    """A command for people to copy."""
    # A word that begins with a dash would be taken for an option.
    end = " --" if any(word.startswith("-") for word in words) else ""
    return " ".join([f"kode {verb}{store}{end}", *map(shlex.quote, words)])


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


def bound(store: Store, template: AgentTemplate, given_url: str | None = None) -> Bound:
    """Bind the model that a template names, with the options kept in it.

    Args:
        store: Where the agent lives.
        template: Its recipe, which may have come from somebody else.
        given_url: The provider's URL as the command line has it.

    Raises:
        NotBoundError: No such provider, or its key is not in the environment.
        UsageError: Another URL was given than the agent has.
    """
    kept: Any = {} if template.metadata is None else parse(template.metadata)
    own = kept.get(METADATA) if isinstance(kept, dict) else None
    base_url = own.get("base_url") if isinstance(own, dict) else None
    options: dict[str, Any] = {} if base_url is None else {"base_url": str(base_url)}
    if given_url is not None and given_url != base_url:
        own_url = "none" if base_url is None else base_url
        text = f"The agent keeps the URL it was made with ({own_url}); leave out --base-url, or run another agent."
        raise UsageError(text, code="other_url")
    if base_url is not None and not _trusted(str(base_url), given_url, template.model):
        options["api_key"] = ""
        typer.echo(
            f"kode: {inline(str(base_url))} was stored with the agent and gets no key from here; if you trust it, "
            "give it again with --base-url.",
            err=True,
        )
    provider = default_providers.resolve(template.model, **options)
    deps = Dependencies(store, providers={template.model: provider})
    sandbox = deps.sandbox_factory().create(template.sandbox, **parse(template.sandbox_options))
    return Bound(deps, provider, sandbox)


def _trusted(url: str, given: str | None, model: str) -> bool:
    """Whether the environment's key may go to a stored URL: who made the store may want to have it."""
    named = os.environ.get(f"{model.partition(':')[0].upper()}_BASE_URL")
    return url in (given, named) or urlsplit(url).hostname in _LOOPBACK


async def stored_template(store: Store, agent_id: str) -> AgentTemplate:
    """The recipe that an agent was made from.

    Raises:
        NotFoundError: No such agent, or the folder it works in is gone.
    """
    _, template, _ = await read_template(agent_id, Dependencies(store))
    root = parse(template.sandbox_options).get("root")
    if template.sandbox == "local" and isinstance(root, str) and not await anyio.Path(root).is_dir():
        raise NotFoundError(
            f"The folder of agent {agent_id!r} is not there: {root!r}. Put it back; the agent would find an empty one.",
            code="no_folder",
        )
    return template


async def letterbox(store: Store, agent_id: str) -> Agent:
    """A handle to look at an agent and put things into its inbox. It binds no code, needs no key, and never drives.

    Raises:
        NotFoundError: No such agent.
    """
    deps = Dependencies(store, providers={"none": ScriptedProvider()}, tools=[])
    uid, template, digest = await read_template(agent_id, deps)
    bare = template.changed(model="none", tools=(), hooks=(), plugins=(), subagents=(), permission=PermissionPolicy())
    return Agent(agent_id, uid, bind(bare, deps, digest), deps)


def _check_owner(path: Path, url: str) -> None:
    """A store says what its agents run, so one that merely lies in the folder must be this user's."""
    for each in (path.parent, path):
        if each.exists() and each.stat().st_uid != os.getuid():
            raise UsageError(
                f"{str(each)!r} belongs to another user, and a store says what its agents run. To use it all the same, "
                f"name it: --store {shlex.quote(url)}",
                code="foreign_store",
            )


def _keep_out_of_git(folder: Path) -> None:
    """A store in a work folder is nobody's source."""
    ignore = folder / ".gitignore"
    if not ignore.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        ignore.write_text("*\n")
