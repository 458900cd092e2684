"""Records as rows: one table per kind, made from the closed list of columns. All of it runs in threads.

Each table has its rowid, a unique index on (owner, key) and nothing else, but for the two look-ups that need
one: an inbox item's id, and the headers that are due. `owner` is a record's uid (a header has a column of
that name).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, Final

from kode.core.store.contract import Appended, Condition, Due, Key, Kind, Record, Scan, Value
from kode.core.store.lookups import Ask, Get, Lookup, T, finish, integer
from kode.core.store.primitives import prefix_end
from kode.core.store.records import COLUMNS, int_key, key_int
from kode.core.store.records.codec import corrupt
from kode.core.store.rules import counted_kinds
from kode.core.store.sqlite.damage import check_empty

__all__ = [
    "SCHEMA",
    "agents",
    "append_inbox",
    "apply",
    "delete_all",
    "drop",
    "due",
    "get",
    "joined",
    "put",
    "put_all",
    "run_lookup",
    "scan",
]

DROPPED: Final = 5_000
"""Rows removed in one transaction."""
SIZES: Final = (256, 64, 16, 4, 1)
"""Rows put by one statement: few sizes, so that each is compiled once."""
FEW: Final = 3
"""Keys that are deleted one by one."""
MOST_BYTES: Final = 1_048_576
"""Bodies given to one statement with several rows; SQLite copies them all."""


@dataclass(frozen=True, slots=True)
class Table:
    """The statements for one kind. Their text is the same each time, so that SQLite compiles each once."""

    kind: Kind
    names: tuple[str, ...]
    """Columns."""
    create: str
    select: str
    """Everything but the owner, up to and with WHERE owner = ?."""
    put: str
    """With {rows} where `marks` belongs, once for each row."""
    marks: str
    delete: str
    delete_all: str
    drop: str


def joined(kind: Kind) -> str:
    """Name the records `t` of a kind whose (uid, key) is in the JSON list that is the parameter, each as `k`."""
    return (
        f"json_each(?) k CROSS JOIN \"{kind}\" t ON t.owner = json_extract(k.value, '$[0]') "
        "AND t.\"key\" = json_extract(k.value, '$[1]')"
    )


def _table(kind: Kind) -> Table:
    names = tuple(name for name, _ in COLUMNS[kind])
    typed = "".join(f'  "{name}" {sort.upper()},\n' for name, sort in COLUMNS[kind])
    quoted = "".join(f'"{name}", ' for name in names)
    updates = ", ".join(f'"{name}" = excluded."{name}"' for name in (*names, "body"))
    return Table(
        kind,
        names,
        create=f'CREATE TABLE "{kind}" (\n  owner TEXT NOT NULL,\n  "key" TEXT NOT NULL,\n{typed}'
        '  body BLOB NOT NULL,\n  UNIQUE (owner, "key")\n)',
        select=f'SELECT {quoted}"key", body FROM "{kind}" WHERE owner = ?',
        put=f'INSERT INTO "{kind}" (owner, "key", {quoted}body) VALUES {{rows}} '
        f'ON CONFLICT (owner, "key") DO UPDATE SET {updates}',
        marks=f"({'?, ' * (len(names) + 2)}?)",
        delete=f'DELETE FROM "{kind}" WHERE owner = ? AND "key" = ?',
        delete_all=f'DELETE FROM "{kind}" WHERE rowid IN (SELECT t.rowid FROM {joined(kind)})',
        drop=f'DELETE FROM "{kind}" WHERE rowid IN (SELECT rowid FROM "{kind}" WHERE owner = ? LIMIT {DROPPED})',
    )


TABLES: Final[dict[Kind, Table]] = {kind: _table(kind) for kind in COLUMNS}

SCHEMA: Final[tuple[str, ...]] = (
    *(table.create for table in TABLES.values()),
    "CREATE INDEX inbox_id ON inbox (owner, id)",
    'CREATE INDEX header_due ON header (wake_at, "key") WHERE wake_at IS NOT NULL',
)

_INBOX_ID = TABLES["inbox"].select + " AND id = ?"
_INBOX_LAST = 'SELECT max("key") FROM inbox WHERE owner = ?'
_INBOX_AFTER = 'SELECT 1 FROM inbox WHERE owner = ? AND "key" > ? LIMIT 1'
# Counts no further than it must.
_INBOX_FULL = "SELECT count(*) FROM (SELECT 1 FROM inbox WHERE owner = ? AND kind IN (?, ?) LIMIT ?)"
_WAKE = (
    "UPDATE header SET wake_at = min(ifnull(wake_at, :at), :at) "
    "WHERE owner = '' AND \"key\" = :agent AND parked IS NULL"
)
_DUE = (
    'SELECT h."key", h.wake_at FROM header h LEFT JOIN lease l ON l.owner = h.uid AND l."key" = \'\' '
    'WHERE h.wake_at <= :now AND (h.wake_at, h."key") > (:wake_at, :agent) AND (l.holder IS NULL OR l.until <= :now) '
    'ORDER BY h.wake_at, h."key" LIMIT :limit'
)


# ---- reading -----------------------------------------------------------------------------------------------


def record(table: Table, owner: str, row: tuple[Any, ...]) -> Record:
    """Make a record of a row of `Table.select`."""
    # The columns come first; what is behind them, key and body, is left over.
    columns: dict[str, Value] = dict(zip(table.names, row, strict=False))
    body = row[-1]
    if type(body) is not bytes:  # SQLite holds any type in any column, so somebody else's hand may leave another here
        raise corrupt(table.kind, repr(body)[:200].encode(), f"{row[-2]} of {owner or 'all'}", "its body is no bytes")
    return Record(table.kind, owner, row[-2], columns, body)


def get(db: sqlite3.Connection, keys: Sequence[Key]) -> list[Record | None]:
    """See `Records.get`."""
    found: list[Record | None] = []
    for key in keys:
        table = TABLES[key.kind]
        row = db.execute(f'{table.select} AND "key" = ?', (key.uid, key.key)).fetchone()
        found.append(None if row is None else record(table, key.uid, row))
    return found


def scan(db: sqlite3.Connection, ask: Scan, where: str = "", *more: Value) -> list[Record]:
    """See `Records.scan`. `where` narrows it further."""
    table = TABLES[ask.kind]
    sql, values = table.select + ' AND "key" > ?', [ask.uid, ask.after]
    if ask.prefix:
        sql += ' AND "key" >= ?'
        values.append(ask.prefix)
    ends = [end for end in (ask.before, prefix_end(ask.prefix)) if end is not None]
    if ends:
        sql += ' AND "key" < ?'
        values.append(min(ends))
    sql += f'{where} ORDER BY "key"{" DESC" if ask.reverse else ""} LIMIT ?'
    rows = db.execute(sql, (*values, *more, min(ask.limit, 2**62)))
    return [record(table, ask.uid, row) for row in rows]


def agents(db: sqlite3.Connection, prefix: str, after: str, limit: int, tenant: str | None) -> list[Record]:
    """See `Records.agents`."""
    ask = Scan("header", "", prefix=prefix, after=after, limit=limit)
    found = scan(db, ask) if tenant is None else scan(db, ask, " AND tenant = ?", tenant)
    if not found and limit > 0 and not prefix and not after and tenant is None:
        check_empty(db)
    return found


def due(db: sqlite3.Connection, now: int, limit: int, after: Due | None) -> list[Due]:
    """See `Records.due`."""
    wake_at, agent_id = (-(2**63), "") if after is None else (after.wake_at, after.agent_id)
    return [Due(*row) for row in db.execute(_DUE, {"now": now, "wake_at": wake_at, "agent": agent_id, "limit": limit})]


def run_lookup(db: sqlite3.Connection, lookup: Lookup[T], *, snapshot: bool = True) -> T:
    """Run a lookup to its end in one snapshot of the file: the caller's, if it has one."""
    own = snapshot and not db.in_transaction
    if own:
        db.execute("BEGIN")
    try:
        return finish(lookup, lambda ask: _answer(db, ask))
    finally:
        if own and db.in_transaction:  # some errors end it
            db.execute("COMMIT")


def _answer(db: sqlite3.Connection, ask: Ask) -> list[Record | None]:
    return get(db, ask.keys) if isinstance(ask, Get) else [*scan(db, ask)]


# ---- writing: each call is judged first and writes after that, inside a transaction of the caller ----------


def apply(
    db: sqlite3.Connection, conditions: Sequence[Condition], puts: Sequence[Record], deletes: Sequence[Key]
) -> int | None:
    """See `Records.apply`."""
    for i, condition in enumerate(conditions):
        if not _holds(db, condition):
            return i
    delete_all(db, deletes)
    put_all(db, puts)
    return None


def put(db: sqlite3.Connection, row: Record) -> None:
    """Insert a record or replace it."""
    db.execute(_put(row.kind, 1), _values(row))


def put_all(db: sqlite3.Connection, records: Sequence[Record]) -> None:
    """Insert records or replace them, with few statements; of two with one key the last one stays."""
    if len(records) < 2 * SIZES[-2]:  # those of one commit: hardly two are of one kind
        for row in records:
            put(db, row)
        return
    kinds: dict[Kind, list[Record]] = {}
    for row in records:
        kinds.setdefault(row.kind, []).append(row)
    most = db.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)
    for kind, found in kinds.items():
        table, left = TABLES[kind], found
        while left:
            size = _portion(left, most // (len(table.names) + 3))
            db.execute(_put(kind, size), [*chain.from_iterable(map(_values, left[:size]))])
            left = left[size:]


@lru_cache(maxsize=len(TABLES) * len(SIZES))
def _put(kind: Kind, size: int) -> str:
    table = TABLES[kind]
    return table.put.format(rows=", ".join([table.marks] * size))


def _portion(left: Sequence[Record], most: int) -> int:
    """Choose how many of these rows, of one kind, the next statement puts."""
    size = next((size for size in SIZES if size <= min(len(left), most)), 1)
    return size if size == 1 or sum(len(row.body) for row in left[:size]) <= MOST_BYTES else 1


def _values(row: Record) -> tuple[Value | bytes, ...]:
    columns = row.columns
    return (row.uid, row.key, *[columns[name] for name in TABLES[row.kind].names], row.body)


def delete_all(db: sqlite3.Connection, keys: Sequence[Key]) -> None:
    """Delete records, with one statement per kind if they are many; what is not there is fine."""
    kinds: dict[Kind, list[tuple[str, str]]] = {}
    for key in keys:
        # SQLite cuts texts in JSON at a NUL.
        if len(keys) <= FEW or "\0" in key.key or "\0" in key.uid:
            db.execute(TABLES[key.kind].delete, (key.uid, key.key))
        else:
            kinds.setdefault(key.kind, []).append((key.uid, key.key))
    for kind, places in kinds.items():
        db.execute(TABLES[kind].delete_all, (json.dumps(places, ensure_ascii=False),))


def _holds(db: sqlite3.Connection, condition: Condition) -> bool:
    key = condition.key
    if condition.op == "no_inbox_after":
        return db.execute(_INBOX_AFTER, (key.uid, condition.value)).fetchone() is None
    at = f'SELECT 1 FROM "{key.kind}" WHERE owner = ? AND "key" = ?'
    if condition.op == "absent":
        return db.execute(at, (key.uid, key.key)).fetchone() is None
    if condition.op == "free":
        held = f"{at} AND holder IS NOT NULL AND until > ?"
        return db.execute(held, (key.uid, key.key, condition.value)).fetchone() is None
    # A column without `+` would turn a number into the text that it looks like, or a text into a number.
    same = f'{at} AND +"{condition.column}" IS ?'
    return db.execute(same, (key.uid, key.key, condition.value)).fetchone() is not None


def append_inbox(db: sqlite3.Connection, agent_id: str, item: Record, now: int, bounded: bool) -> Appended:
    """See `Records.append_inbox`."""
    (header,) = get(db, [Key("header", "", agent_id)])
    if header is None or item.uid not in ("", header.columns["uid"]):
        return Appended("gone")
    uid, item_id = str(header.columns["uid"]), str(item.columns["id"])
    inbox = TABLES["inbox"]
    row = db.execute(_INBOX_ID, (uid, item_id)).fetchone()
    if row is not None:
        return Appended("waiting", key_int(row[-2]), known=record(inbox, uid, row))
    (consumed,) = get(db, [Key("consumed", uid, item_id)])
    if consumed is not None and integer(consumed.columns["expires_at"]) > now:
        return Appended("consumed", integer(consumed.columns["position"]), known=consumed)
    if bounded:
        largest, most = integer(header.columns["max_message_bytes"]), integer(header.columns["max_inbox"])
        if integer(item.columns["size"]) > largest:
            return Appended("too_big", limit=largest)
        if db.execute(_INBOX_FULL, (uid, *counted_kinds(item.columns["kind"]), most)).fetchone()[0] >= most:
            return Appended("full", limit=most)
    last = db.execute(_INBOX_LAST, (uid,)).fetchone()[0]
    position = max(0 if last is None else key_int(last), integer(header.columns["seen"])) + 1
    put(db, Record("inbox", uid, int_key(position), item.columns, item.body))
    wake_at = max(now, integer(item.columns["not_before"]))
    db.execute(_WAKE, {"at": wake_at, "agent": agent_id})
    return Appended("new", position)


def drop(db: sqlite3.Connection, uid: str) -> bool:
    """Remove rows of a uid, so many that other writers need not wait long; says whether all are gone."""
    for table in TABLES.values():
        if db.execute(table.drop, (uid,)).rowcount >= DROPPED:
            return False
    return True
