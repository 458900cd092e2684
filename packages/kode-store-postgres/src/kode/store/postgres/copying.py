"""Copying records to forks inside the server, as SQL: one statement for any number of forks.

The marks of the forks are locked while it runs. Whoever wants to take one over waits for its end, and of one that was
taken over before nothing is written: so no lock of the agents themselves is needed, and nobody else waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from kode.core.store import Kind, Record
from kode.core.store.contract import Copy
from kode.store.postgres.tables import LAYOUTS, sealed

__all__ = ["copy"]


def copy(schema: str, records: Sequence[Record], copies: Sequence[Copy]) -> tuple[str, list[Any]]:
    """Write `Forking.copy_rows` as a statement; it gives the uids whose condition held. Doing it again is harmless."""
    first, held = records[0], copies[0].held
    sql = _copy(schema, first.kind, held.key.kind, held.column)
    marks = [one.held for one in copies]
    places = [[mark.key.uid for mark in marks], [mark.key.key for mark in marks], [mark.value for mark in marks]]
    return sql, [first.uid, [record.key for record in records], [one.uid for one in copies], *places]


@lru_cache(maxsize=100)
def _copy(schema: str, kind: Kind, mark: Kind, column: str) -> str:
    names = "".join(f'"{name}", ' for name in LAYOUTS[kind].names)
    columns = "".join(f'r."{name}", ' for name in LAYOUTS[kind].names)
    return sealed(
        "WITH held AS MATERIALIZED (SELECT c.uid "
        'FROM unnest($3::text[], $4::text[], $5::text[], $6::bigint[]) AS c(uid, owner, "key", value) '
        f'JOIN {schema}.{mark} AS m ON m.owner = c.owner AND m."key" = c."key" AND m."{column}" = c.value '
        "FOR SHARE OF m), "
        f'copied AS (INSERT INTO {schema}.{kind} (owner, "key", {names}body) '
        f'SELECT held.uid, r."key", {columns}r.body FROM held CROSS JOIN {schema}.{kind} AS r '
        'WHERE r.owner = $1 AND r."key" = ANY ($2::text[]) ON CONFLICT (owner, "key") DO NOTHING) '
        "SELECT uid FROM held"
    )
