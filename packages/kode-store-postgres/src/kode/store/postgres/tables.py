"""Records as rows: one table per kind, and how rows travel.

A table has the record's uid (`owner`: a header has a column of that name), its key, the closed list of columns and
the body. On the wire the rows of one kind are three arrays: texts and numbers, each with one row per column, and
bodies. So one statement takes any number of rows, and its text is always the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kode.core.store import Kind, Record
from kode.core.store.contract import Value
from kode.core.store.records import COLUMNS

__all__ = ["LAYOUTS", "Layout", "quoted", "sealed"]


@dataclass(frozen=True, slots=True)
class Layout:
    """What a kind's rows are made of."""

    kind: Kind
    names: tuple[str, ...]
    """All columns, in the order of the closed list."""
    texts: tuple[str, ...]
    numbers: tuple[str, ...]

    @property
    def listed(self) -> str:
        """What a read selects: the columns, then key and body."""
        return "".join(f'r."{name}", ' for name in self.names) + 'r."key", r.body'

    def record(self, owner: str, row: Sequence[Any]) -> Record:
        """Make a record of a row of `listed`."""
        columns: dict[str, Value] = dict(zip(self.names, row, strict=False))
        return Record(self.kind, owner, row[-2], columns, row[-1])

    def arrays(self, rows: Sequence[tuple[int, Record]]) -> tuple[list[Any], list[Any], list[bytes]]:
        """Write rows, each with the number of the act it belongs to, as the three arrays."""
        records = [record for _, record in rows]
        columns = [record.columns for record in records]
        texts = [[record.uid for record in records], [record.key for record in records]]
        numbers: list[list[Any]] = [[act for act, _ in rows]]
        texts += [[held[name] for held in columns] for name in self.texts]  # type: ignore[misc]
        numbers += [[held[name] for held in columns] for name in self.numbers]
        return texts, numbers, [record.body for record in records]


def _layout(kind: Kind) -> Layout:
    columns = COLUMNS[kind]
    texts = tuple(name for name, sort in columns if sort == "text")
    return Layout(kind, tuple(name for name, _ in columns), texts, tuple(n for n, sort in columns if sort != "text"))


LAYOUTS: Final[Mapping[Kind, Layout]] = {kind: _layout(kind) for kind in COLUMNS}


_OPERATOR: Final = re.compile(r" (=|<|>|<=|>=) ")


def sealed(sql: str) -> str:
    """Take operators and types of a statement from PostgreSQL, whatever schemas the path of who runs it names first.

    Functions of a schema are written with it. To set the path would be a statement of its own, or a session's state.
    """
    return _OPERATOR.sub(r" OPERATOR(pg_catalog.\1) ", sql).replace("::text", "::pg_catalog.text")


def quoted(name: str) -> str:
    """Write a name as SQL."""
    return '"' + name.replace('"', '""') + '"'
