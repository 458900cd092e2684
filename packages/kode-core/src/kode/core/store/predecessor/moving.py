"""`import_predecessor`: agents of the predecessor's file store as agents of ours.

Each is built in memory, record by record, and then copied into the target like any agent (`copy_store`): whole or not
at all, digest-verified, and passed over where it is there already. What is built depends on the files alone, so doing
it again makes the same agent, identity and all.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio

from kode.core.errors import KodeError, NotFoundError, UsageError
from kode.core.store.base import Store
from kode.core.store.copying import Outcome, copy_store
from kode.core.store.memory import MemoryStore
from kode.core.store.predecessor.agent import Recipe, build
from kode.core.store.predecessor.folder import Origin, find_origins, read_origin
from kode.core.store.primitives import MAX_AGENT_ID, check_agent_id

__all__ = ["Imported", "ImportedAgent", "import_predecessor"]


@dataclass(frozen=True, slots=True)
class ImportedAgent:
    """What became of one agent."""

    agent_id: str
    found_as: str
    """Its id at the predecessor, if that is another."""
    outcome: Outcome
    taken: dict[str, int]
    """What came over, by kind."""
    mended: dict[str, int]
    """What was damaged, and how it was dealt with."""
    left: dict[str, int]
    """What was left out, by kind."""


@dataclass(slots=True)
class Imported:
    """What became of all."""

    agents: list[ImportedAgent] = field(default_factory=list)
    dry_run: bool = False

    @property
    def ok(self) -> bool:
        """Whether every agent is in the target now (or, of a dry run, could be)."""
        return all(one.outcome.ok for one in self.agents)


async def import_predecessor(
    path: str | Path,
    store: Store,
    recipe: Callable[[Origin], Recipe],
    *,
    agents: Iterable[str] | None = None,
    replace: bool = False,
    dry_run: bool = False,
    on_agent: Callable[[ImportedAgent], None] | None = None,
) -> Imported:
    """Import the agents of a folder that the predecessor's `JSONStore` wrote. The folder is never changed.

    Histories come through the kernel's rules, so every provider accepts them: calls without a result are sealed with
    one that says so, and all is numbered anew. Calls, durable events, todos and whatever snapshots still name a part of
    the history come too. Each agent starts READY, with nothing in its inbox: a message that lived only in the memory of
    the predecessor's process is not there. Keys and other secrets in its settings are left behind.

    Args:
        path: The folder, which holds one folder per agent; forks are found inside their parents' folders.
        store: Where to; open.
        recipe: Says what an agent goes on with: the predecessor stores neither prompts nor tools.
        agents: Only these, by their ids there.
        replace: Put the imported agent in place of what differs in the target, also where that has gone on since.
        dry_run: Read and report only.
        on_agent: Told of each agent.

    Raises:
        NotFoundError: ``no_folder``: there is no such folder, or no agent in it.
        StoreUnavailableError: The target does not answer any more; call it again.
    """
    base = Path(path)
    found = await anyio.to_thread.run_sync(lambda: list(find_origins(base)))
    if not found:
        raise NotFoundError(
            f"{str(base)!r} holds no agent of the predecessor; give the folder its JSONStore was made with.",
            code="no_folder",
        )
    wanted = None if agents is None else set(agents)
    report = Imported(dry_run=dry_run)
    for (found_as, folder), agent_id in zip(found, _fitting([name for name, _ in found]), strict=True):
        if wanted is not None and found_as not in wanted:
            continue
        one = await _import(agent_id, found_as, folder, store, recipe, replace, dry_run)
        report.agents.append(one)
        if on_agent is not None:
            on_agent(one)
    return report


async def _import(
    agent_id: str,
    found_as: str,
    folder: Path,
    store: Store,
    recipe: Callable[[Origin], Recipe],
    replace: bool,
    dry_run: bool,
) -> ImportedAgent:
    try:
        origin = await anyio.to_thread.run_sync(read_origin, found_as, folder)
        made = build(agent_id, origin, recipe(origin))
    except (OSError, KodeError, RecursionError) as error:
        why = error.message if isinstance(error, KodeError) else f"Its folder cannot be read: {_reason(error)}."
        return ImportedAgent(agent_id, found_as, Outcome(agent_id, "failed", why), {}, {}, {})
    async with MemoryStore() as scratch:
        await scratch.apply(agent_id, (), made.records, ())
        copied: list[Outcome] = []
        await copy_store(
            scratch,
            store,
            agents=[agent_id],
            replace=replace,
            dry_run=dry_run,
            on_progress=lambda progress: copied.append(progress.outcome) if progress.outcome else None,
        )
    return ImportedAgent(
        agent_id, found_as, copied[0], _positive(made.taken), _positive(origin.mended), _positive(origin.left)
    )


def _reason(error: OSError | RecursionError) -> str | None:
    return error.strerror if isinstance(error, OSError) else "a file nests too deep"


def _positive(counts: Counter[str]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


_BAD: Final = re.compile(r"[^A-Za-z0-9._:@/-]")


def _fitting(found: list[str]) -> list[str]:
    """Give each an id that is one here: its own where possible, which nobody else gets then."""
    used = {found_as for found_as in found if _is_id(found_as)}
    return [found_as if found_as in used else _another(found_as, used) for found_as in found]


def _another(found_as: str, used: set[str]) -> str:
    base = _BAD.sub("_", found_as)[: MAX_AGENT_ID - 6].rstrip("/.") or "_"
    tries = (base if count == 1 else f"{base}_{count}" for count in itertools.count(1))
    agent_id = next(one for one in tries if one not in used)
    used.add(agent_id)
    return agent_id


def _is_id(text: str) -> bool:
    try:
        check_agent_id(text)
    except UsageError:
        return False
    return True
