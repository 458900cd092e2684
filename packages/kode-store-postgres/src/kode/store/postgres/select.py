"""Questions across agents as SQL: columns from the closed list, every value bound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from kode.core.store import Kind, Question, Record, Test
from kode.core.store.primitives import prefix_end
from kode.store.postgres.tables import LAYOUTS, sealed

__all__ = ["found", "select"]

MAX: Final = 2**63 - 1


class _Bound:
    """Values of a statement, and their marks."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def mark(self, value: Any, sort: str) -> str:
        self.values.append(value)
        return f"${len(self.values)}::{sort}"


def select(schema: str, question: Question) -> tuple[str, list[Any]]:
    """See `QuerySupport.select`: what is sorted are places; the bodies of those that are given are read afterwards."""
    kind, bound = question.kind, _Bound()
    row = "h" if kind == "header" else "r"
    tests = [_test("header", "h", test, bound) for test in question.agents]
    tests += [_test(kind, "r", test, bound) for test in (() if kind == "header" else question.rows)]
    tests.append(f'h."key" >= {bound.mark(question.prefix, "text")}')
    end = prefix_end(question.prefix)
    if end is not None:
        tests.append(f'h."key" < {bound.mark(end, "text")}')
    sort = _column(kind, question.sort)
    number = question.sort in LAYOUTS[kind].numbers
    # As everywhere, what is missing comes before all numbers; texts are never missing where they are sorted by.
    value = f"coalesce({row}.{sort}, -1)" if number else f"{row}.{sort}"
    if question.after is not None:
        last = [bound.mark(question.after[0], "bigint" if number else "text")]
        last += [bound.mark(part, "text") for part in question.after[1:]]
        way = "<" if question.descending else ">"
        tests.append(f'({value}, h."key", {row}."key") {way} ({", ".join(last)})')
    join = "" if kind == "header" else f"JOIN {schema}.{kind} AS r ON r.owner = h.uid "
    way = " DESC" if question.descending else ""
    sql = (
        f'SELECT {LAYOUTS[kind].listed}, r.owner, f.agent FROM (SELECT {row}.owner AS owner, {row}."key" AS k, '
        f'h."key" AS agent, {value} AS place FROM {schema}.header AS h {join}'
        f"WHERE h.owner = '' AND {' AND '.join(tests)} "
        f"ORDER BY place{way}, agent{way}, k{way} LIMIT {bound.mark(min(question.limit, MAX), 'bigint')}) AS f "
        f'JOIN {schema}.{kind} AS r ON r.owner = f.owner AND r."key" = f.k '
        f"ORDER BY f.place{way}, f.agent{way}, f.k{way}"
    )
    return sealed(sql), bound.values


def found(kind: Kind, rows: Sequence[Any]) -> list[tuple[str, Record]]:
    """Read the rows of the statement."""
    layout = LAYOUTS[kind]
    return [(row[-1], layout.record(row[-2], row[:-2])) for row in map(tuple, rows)]


def _column(kind: Kind, name: str) -> str:
    if name not in LAYOUTS[kind].names:
        raise ValueError(f"{name!r} is no column of {kind}")
    return '"key"' if (kind, name) == ("header", "agent_id") else f'"{name}"'


def _test(kind: Kind, row: str, test: Test, bound: _Bound) -> str:
    column = f"{row}.{_column(kind, test.column)}"
    number = test.column in LAYOUTS[kind].numbers
    sort = "bigint" if number else "text"
    if test.op != "in":
        (limit,) = test.values
        assert isinstance(limit, int)
        return f"{column} {'>=' if test.op == '>=' else '<'} {bound.mark(limit, 'numeric')}"
    values = [value for value in test.values if value is not None and isinstance(value, int) == number]
    listed = f"{column} = ANY ({bound.mark(values, sort + '[]')})"
    return f"({listed} OR {column} IS NULL)" if None in test.values else listed
