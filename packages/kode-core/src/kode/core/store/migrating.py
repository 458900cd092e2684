"""Stores whose tables are made and changed by statements that a person decides about.

A store that brings its migrations along is a `SchemaSupport` beside being a `Store`; ``kode store schema`` asks every
store for it, so a wheel offers the command by offering the methods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from kode.core.errors import UsageError

__all__ = ["SchemaAct", "SchemaStatus", "SchemaSupport", "tend_schema"]

SchemaAct = Literal["status", "upgrade", "sql"]


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """Which steps of a schema were applied, and which are still to be; their names, in their order."""

    applied: Sequence[str]
    pending: Sequence[str]


class SchemaSupport(ABC):
    """Looking after the schema. The store need not be open for any of this, nor its schema be there."""

    makes_schema: bool = True
    """Whether ``open`` may make a schema that is not there, if the store does such a thing. Who only looks sets it to
    False before: under a mistyped name there would be an empty store."""

    @abstractmethod
    def schema_sql(self) -> Mapping[str, str]:
        """Give the statements of every step by its name, those applied long ago too; nobody is asked."""

    @abstractmethod
    async def schema_status(self) -> SchemaStatus:
        """Tell which steps were applied and which were not."""

    @abstractmethod
    async def migrate(self, *, post: bool = False) -> list[str]:
        """Apply the steps that are missing; returns their names.

        Args:
            post: Also those that remove what only older code uses.
        """


async def tend_schema(store: object, act: SchemaAct, *, post: bool = False, whole: bool = False) -> list[str]:
    """Do what a command about a schema asks for; returns what to show, a line or a statement each.

    Args:
        store: Any store, open or not.
        act: ``status``: what was applied and what is missing. ``upgrade``: apply what is missing. ``sql``: show it.
        post: `upgrade` also removes what only older code uses.
        whole: `sql` shows all there is, and asks nobody.

    Raises:
        UsageError: ``no_schema``: the store makes what it needs by itself.
    """
    if not isinstance(store, SchemaSupport):
        raise UsageError(
            f"{type(store).__name__} has no schema to look after: it makes what it needs by itself.", code="no_schema"
        )
    if act == "upgrade":
        return [f"applied {name}" for name in await store.migrate(post=post)] or ["nothing to apply"]
    if act == "sql" and whole:
        return [*store.schema_sql().values()]
    status = await store.schema_status()
    if act == "sql":
        return [text for name, text in store.schema_sql().items() if name in status.pending]
    return [f"applied {name}" for name in status.applied] + [f"missing {name}" for name in status.pending]
