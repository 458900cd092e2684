"""What is read, as SQL: every statement is one round trip.

Records of several kinds come by one statement too: as rows of one shape, that of the widest of these kinds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, Literal

from kode.core.store import Commit, Due, Item, Key, Kind, Record
from kode.core.store.contract import Scan, Value
from kode.core.store.lookups import Get, lease_key, uid_of
from kode.core.store.primitives import prefix_end
from kode.store.postgres.tables import LAYOUTS, sealed

__all__ = ["MOST", "Merged", "Statement", "Together", "agents", "arrived", "due", "landed", "look", "scan", "sizes"]

MOST: Final = 2**62
"""A limit that is none."""

Statement = tuple[str, list[Any]]


def scan(schema: str, ask: Scan, tenant: str | None = None) -> Statement:
    """See `Records.scan`; of headers also those of a tenant."""
    end = min((end for end in (ask.before, prefix_end(ask.prefix)) if end is not None), default=None)
    values: list[Any] = [ask.uid, ask.after, ask.prefix, min(ask.limit, MOST)]
    values += [value for value in (end, tenant) if value is not None]
    return _scan(schema, ask.kind, end is not None, tenant is not None, ask.reverse), values


@lru_cache(maxsize=1_000)
def _scan(schema: str, kind: Kind, ends: bool, tenant: bool, reverse: bool) -> str:
    more = ' AND r."key" < $5' if ends else ""
    if tenant:
        more += f" AND r.tenant = ${5 + ends}"
    return sealed(
        f"SELECT {LAYOUTS[kind].listed} FROM {schema}.{kind} AS r "
        f'WHERE r.owner = $1 AND r."key" > $2 AND r."key" >= $3{more} '
        f'ORDER BY r."key"{" DESC" if reverse else ""} LIMIT $4'
    )


def agents(schema: str, prefix: str, after: str, limit: int, tenant: str | None) -> Statement:
    """See `Records.agents`."""
    return scan(schema, Scan("header", "", prefix=prefix, after=after, limit=limit), tenant)


def due(schema: str, now: int, limit: int, after: Due | None) -> Statement:
    """See `Records.due`."""
    wake_at, agent_id = (-(2**63), "") if after is None else (after.wake_at, after.agent_id)
    sql = (
        f'SELECT h."key", h.wake_at FROM {schema}.header AS h '
        f"LEFT JOIN {schema}.lease AS l ON l.owner = h.uid AND l.\"key\" = '' "
        'WHERE h.wake_at <= $1 AND (h.wake_at, h."key") > ($2, $3) AND (l.holder IS NULL OR l.until <= $1) '
        'ORDER BY h.wake_at, h."key" LIMIT $4'
    )
    return sealed(sql), [now, wake_at, agent_id, min(limit, MOST)]


def look(schema: str, agent_id: str) -> Statement:
    """Ask for what is another value after every change of an agent."""
    sql = (
        f'SELECT h.uid, h.version, (SELECT pg_catalog.max(i."key") FROM {schema}.inbox AS i WHERE i.owner = h.uid) '
        f"FROM {schema}.header AS h WHERE h.owner = '' AND h.\"key\" = $1"
    )
    return sealed(sql), [agent_id]


_WRITE: Final = "pg_catalog.pg_logical_emit_message(true, 'kode'::text, ''::text)"
"""Writes to the log alone, so it is answered when the log up to there is as safe as the server is set to make it."""


def landed(schema: str, commit: Commit) -> Statement:
    """Find a commit that is an agent's last, and wait until it is safe."""
    sql = f"SELECT {_WRITE} FROM {schema}.header WHERE owner = '' AND \"key\" = $1 AND uid = $2 AND commit_id = $3"
    return sealed(sql), [commit.state.agent_id, commit.state.uid, commit.commit_id]


def arrived(schema: str, agent_id: str, item: Item) -> Statement:
    """Find an item that waits or was consumed, and wait until it is safe."""
    sql = (
        f"SELECT {_WRITE} FROM {schema}.header AS h WHERE h.owner = '' AND h.\"key\" = $1 AND ("
        f"EXISTS (SELECT FROM {schema}.inbox AS i WHERE i.owner = h.uid AND i.id = $2) OR "
        f'EXISTS (SELECT FROM {schema}.consumed AS c WHERE c.owner = h.uid AND c."key" = $2))'
    )
    return sealed(sql), [agent_id, item.id]


def sizes(schema: str) -> Statement:
    """Ask for the bytes of each table; `schema` is not quoted here."""
    sql = (
        "SELECT c.relname::text, pg_catalog.pg_total_relation_size(c.oid) FROM pg_catalog.pg_class AS c "
        "JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace "
        "WHERE n.nspname = $1 AND (c.relkind = 'r' OR c.relkind = 'p') ORDER BY c.relname"
    )
    return sealed(sql), [schema]


# ---- of several kinds at once ------------------------------------------------------------------------------

_KINDS: Final = list(LAYOUTS)
_ABOVE: Final = "\U0010ffff" * 151
"""Above every key."""
_Part = tuple[Kind, Literal["keys", "range", "of headers"]]
"""A kind, and how its rows are asked for."""


@dataclass(frozen=True, slots=True)
class Together:
    """Several things that are wanted at once; a lookup may ask it here. Ranges go forwards, without prefixes."""

    asks: Sequence[Get | Scan]


class Merged:
    """What several callers want, as one statement."""

    def __init__(self, wanted: Sequence[Together]) -> None:
        self._wanted = wanted
        self._keys: dict[Kind, dict[Key, None]] = {}
        self._ranges: dict[Kind, list[Scan]] = {}
        self._leases: dict[str, None] = {}
        """Agents whose leases are asked for."""
        for ask in (ask for one in wanted for ask in one.asks):
            if isinstance(ask, Get):
                for key in ask.keys:
                    self._keys.setdefault(key.kind, {})[key] = None
                if ask.lease:
                    self._leases[ask.keys[0].key] = None
            else:
                self._ranges.setdefault(ask.kind, []).append(ask)
        # One text for one set of kinds: who came first must not matter to what the server has prepared.
        self._keys = dict(sorted(self._keys.items()))
        self._ranges = dict(sorted(self._ranges.items()))

    def statement(self, schema: str) -> Statement:
        """Write it as SQL."""
        values: list[Any] = []
        for keys in self._keys.values():
            values += [[key.uid for key in keys], [key.key for key in keys]]
        for ranges in self._ranges.values():
            values += [[ask.uid for ask in ranges], [ask.after for ask in ranges]]
            values += [[ask.before or _ABOVE for ask in ranges], [min(ask.limit, MOST) for ask in ranges]]
        if self._leases:
            values.append([*self._leases])
        return _union(schema, self._parts), values

    def answers(self, rows: Sequence[Any]) -> list[list[list[Record | None]]]:
        """Read its rows: for each caller, for each thing asked for, what `get` or `scan` would give."""
        texts = _widest(self._parts)[0]
        known: dict[Key, Record] = {}
        listed: dict[tuple[Kind, int], list[Record]] = {}
        for kind_number, n, owner, key, body, *values in rows:
            kind = _KINDS[kind_number]
            layout = LAYOUTS[kind]
            columns: dict[str, Value] = dict(zip(layout.texts, values, strict=False))
            columns.update(zip(layout.numbers, values[texts:], strict=False))
            record = Record(kind, owner, key, columns, body)
            if n:
                listed.setdefault((kind, n), []).append(record)
            else:
                known[record.address] = record
        for found in listed.values():
            found.sort(key=lambda record: record.key)
        numbers = dict.fromkeys(self._ranges, 0)
        return [[self._answer(ask, known, listed, numbers) for ask in one.asks] for one in self._wanted]

    def _answer(
        self,
        ask: Get | Scan,
        known: dict[Key, Record],
        listed: dict[tuple[Kind, int], list[Record]],
        numbers: dict[Kind, int],
    ) -> list[Record | None]:
        if isinstance(ask, Get):
            # Columns are a caller's own, also where several ask for one record.
            found = [_copy(known.get(key)) for key in ask.keys]
            if ask.lease:
                (header,) = found
                found.append(None if header is None else _copy(known.get(lease_key(uid_of(header)))))
            return found
        numbers[ask.kind] += 1
        return [*listed.get((ask.kind, numbers[ask.kind]), ())]

    @property
    def _parts(self) -> tuple[_Part, ...]:
        keys: list[_Part] = [(kind, "keys") for kind in self._keys]
        ranges: list[_Part] = [(kind, "range") for kind in self._ranges]
        leases: list[_Part] = [("lease", "of headers")] if self._leases else []
        return (*keys, *ranges, *leases)


def _copy(record: Record | None) -> Record | None:
    return None if record is None else replace(record, columns={**record.columns})


def _widest(parts: tuple[_Part, ...]) -> tuple[int, int]:
    layouts = [LAYOUTS[kind] for kind, _ in parts]
    return max(len(layout.texts) for layout in layouts), max(len(layout.numbers) for layout in layouts)


@lru_cache(maxsize=1_000)
def _union(schema: str, parts: tuple[_Part, ...]) -> str:
    texts, numbers = _widest(parts)
    selects = []
    at = 1
    for kind, how in parts:
        layout = LAYOUTS[kind]
        columns = [f'r."{name}"' for name in layout.texts] + ["NULL::text"] * (texts - len(layout.texts))
        columns += [f'r."{name}"' for name in layout.numbers] + ["NULL::bigint"] * (numbers - len(layout.numbers))
        n, rows = "0::bigint", f'JOIN {schema}.{kind} AS r ON r.owner = k.owner AND r."key" = k."key"'
        if how == "keys":
            source, took = f'{_rows(at, "text", "text")} AS k(owner, "key")', 2
        elif how == "of headers":
            source, took = f"pg_catalog.unnest(${at}::text[]) AS a(id) JOIN {schema}.header AS h ON h.owner = '' ", 1
            source += 'AND h."key" = a.id CROSS JOIN LATERAL (SELECT h.uid AS owner, \'\' AS "key") AS k'
        else:
            n, took = "k.n", 4
            source = f"{_rows(at, 'text', 'text', 'text', 'bigint')} WITH ORDINALITY AS k(owner, low, high, most, n)"
            rows = (
                f"CROSS JOIN LATERAL (SELECT * FROM {schema}.{kind} AS r WHERE r.owner = k.owner "
                'AND r."key" > k.low AND r."key" < k.high ORDER BY r."key" LIMIT k.most) AS r'
            )
        at += took
        selects.append(
            f'SELECT {_KINDS.index(kind)}, {n}, r.owner, r."key", r.body, {", ".join(columns)} FROM {source} {rows}'
        )
    return sealed(" UNION ALL ".join(selects))


def _rows(at: int, *sorts: str) -> str:
    """Make rows of arrays.

    Behind OFFSET 0 nobody sees how long they are: else a plan for short ones looked cheaper, and was made at each call.
    """
    given = ", ".join(f"${at + n}::{sort}[] AS a{n}" for n, sort in enumerate(sorts))
    taken = ", ".join(f"p.a{n}" for n in range(len(sorts)))
    # `unnest` of several arrays is syntax, and always PostgreSQL's.
    return f"(SELECT {given} OFFSET 0) AS p CROSS JOIN LATERAL unnest({taken})"
