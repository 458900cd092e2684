"""What several callers want at once is read by one statement."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from kode.core.store import Key
from kode.core.store.contract import Scan
from kode.core.store.lookups import Get
from kode.core.testing.conformance.store.author import Author, item, row
from kode.store.postgres import PostgresStore
from kode.store.postgres.reads import MOST, Merged, Together

pytestmark = [pytest.mark.anyio, pytest.mark.integration]


async def test_who_came_first_changes_neither_the_statement_nor_the_answers(server_url: str, schema: str) -> None:
    """Each text is prepared once on each connection, which keeps some 200 of them."""
    asks = (
        Get((Key("header", "", "agent"),), lease=True),
        Get((Key("call", "uid-1", "c"), Key("lease", "uid-1", ""))),
        Scan("inbox", "uid-1", "", "", None, MOST, reverse=False),
        Scan("message", "uid-1", "", "", "12", MOST, reverse=False),
        Scan("message", "uid-1", "", "10", None, MOST, reverse=False),
    )
    async with PostgresStore(server_url, schema=schema) as store:
        author = Author(store)
        await author.create()
        await author.drive()
        await author.say("a", "b", "c", "d")
        await store.enqueue("agent", item("i"))
        await store.apply("agent", (), [row("call", "c", "uid-1")], ())
        texts, answers = set[str](), list[list[Any]]()
        for some in permutations(range(5)):
            merged = Merged([Together((asks[n],)) for n in some])
            text, values = merged.statement(f'"{schema}"')
            texts.add(text)
            found = merged.answers(await store.server.fetch(text, *values, again=frozenset()))
            answers.append([found[some.index(n)][0] for n in range(5)])
    assert len(texts) == 1
    assert [len(one) for one in answers[0]] == [2, 2, 1, 2, 3]
    assert all(one == answers[0] for one in answers)


async def test_a_plan_is_made_once_and_not_at_each_call(server_url: str, schema: str) -> None:
    asks = (
        Get((Key("call", "uid-1", "c"), Key("lease", "uid-1", ""))),
        Scan("inbox", "uid-1", "", "", None, MOST, reverse=False),
        Scan("message", "uid-1", "", "10", None, 500, reverse=False),
    )
    async with PostgresStore(server_url, schema=schema) as store:
        author = Author(store)
        await author.create()
        await author.say("a", "b")

        async def plans(db: Any) -> list[tuple[int, int]]:
            made = []
            for some in (asks[:1], asks[1:2], asks):
                text, values = Merged([Together(some)]).statement(f'"{schema}"')
                made.append(await db.prepare(text))
                for _ in range(9):
                    await made[-1].fetch(*values)
            sql = "SELECT custom_plans, generic_plans FROM pg_prepared_statements WHERE name = ANY ($1)"
            return [tuple(row) for row in await db.fetch(sql, [one.get_name() for one in made])]

        # PostgreSQL tries five times whether a plan for the values is cheaper.
        assert await store.server.use(plans) == [(5, 4)] * 3
