"""Questions across agents as SQL: columns from the closed list, every value bound. All of it runs in threads."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from kode.core.store.contract import Kind, Record, Value
from kode.core.store.primitives import prefix_end
from kode.core.store.records import COLUMNS
from kode.core.store.sqlite import rows
from kode.core.store.support.questions import Question, Test

__all__ = ["look", "select"]

_KNOWN: Final = {kind: frozenset(name for name, _ in columns) for kind, columns in COLUMNS.items()}


def select(db: sqlite3.Connection, question: Question) -> list[tuple[str, Record]]:
    """See `QuerySupport.select`: one pass over headers, and rows found by the index that begins with their owner.

    What is sorted are places; the bodies of those that are given are read afterwards.
    """
    kind = question.kind
    of_header = kind == "header"
    row = "h" if of_header else "r"
    tests = [_test("header", "h", test) for test in question.agents]
    tests += [_test(kind, "r", test) for test in ([] if of_header else question.rows)]
    tests.append(('h."key" >= ?', (question.prefix,)))
    end = prefix_end(question.prefix)
    if end is not None:
        tests.append(('h."key" < ?', (end,)))
    place = f'ifnull({row}.{_column(kind, question.sort)}, -1), h."key", {row}."key"'
    if question.after is not None:
        tests.append((f"({place}) {'<' if question.descending else '>'} (?, ?, ?)", question.after))
    join = "" if of_header else f'CROSS JOIN "{kind}" r ON r.owner = h.uid '
    way = " DESC" if question.descending else ""
    table = rows.TABLES[kind]
    columns = "".join(f't."{name}", ' for name in table.names)
    sql = (
        f'SELECT f.agent, t.owner, {columns}t."key", t.body FROM (SELECT {row}.rowid AS "row", h."key" AS agent, '
        f'ifnull({row}.{_column(kind, question.sort)}, -1) AS place, {row}."key" AS k FROM header h {join}'
        f"WHERE h.owner = '' AND {' AND '.join(sql for sql, _ in tests)} "
        f"ORDER BY place{way}, agent{way}, k{way} LIMIT ?) f "
        f'JOIN "{kind}" t ON t.rowid = f."row" ORDER BY f.place{way}, f.agent{way}, f.k{way}'
    )
    values = [value for _, bound in tests for value in bound]
    found = db.execute(sql, (*values, question.limit))
    return [(agent, rows.record(table, owner, tuple(values))) for agent, owner, *values in found]


def look(db: sqlite3.Connection) -> tuple[int, int, int]:
    """Give a value that is another one after every change of the file, by whomever; for the one writing connection.

    SQLite counts what others have committed; what this connection did is counted beside that.
    """
    return id(db), int(db.execute("PRAGMA data_version").fetchone()[0]), db.total_changes


def _column(kind: Kind, name: str) -> str:
    if name not in _KNOWN[kind]:
        raise ValueError(f"{name!r} is no column of {kind}")
    return '"key"' if (kind, name) == ("header", "agent_id") else f'"{name}"'


def _test(kind: Kind, row: str, test: Test) -> tuple[str, Sequence[Value]]:
    column = f"{row}.{_column(kind, test.column)}"
    if test.op != "in":
        # Where text stands for a number a record is damaged, and any text would be above all numbers.
        return f"({column} {'>=' if test.op == '>=' else '<'} ? AND typeof({column}) = 'integer')", test.values
    bound = [value for value in test.values if value is not None]
    listed = f"{column} IN ({', '.join('?' * len(bound))})"
    return (listed if len(bound) == len(test.values) else f"({listed} OR {column} IS NULL)"), bound
