"""Retention of an agent with many rows, beside others that commit. ``KODE_TORTURE_ROWS=670000`` makes it a million.

Rows are copied in the server from real ones; only what `prune` looks at differs between them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import anyio
import asyncpg

from kode.core.kernel.window import Range, Window
from kode.core.store.records import int_key
from kode.core.testing.conformance.store import Author
from kode.store.postgres import PostgresStore

__all__ = ["Told", "fill", "prune_beside_others"]


@dataclass(frozen=True)
class Told:
    """What was seen."""

    removed: int
    took_s: float
    longest_s: float
    """Of one statement of the removal."""
    alone_s: float
    """p99 of a commit of another agent before it."""
    beside_s: float
    """The same during it."""


async def fill(store: PostgresStore, rows: int) -> Author:
    """Make an agent with so many events and half as many messages that nothing shows any more."""
    author = Author(store, "old", "uid-old")
    await author.create()
    await author.say("first", events=1)
    messages = rows // 2
    window = Window(ranges=(Range(messages, None),))
    await author.commit(state={"next_cursor": rows + 1, "next_seq": messages, "window": window})
    db = await asyncpg.connect(store.dsn)
    try:
        there = f'"{store.schema}"'
        await _multiply(db, f"{there}.events", int_key(1), 2, rows, '"last"')
        await _multiply(db, f"{there}.message", int_key(0), 1, messages - 1, None)
        await db.execute(f"ANALYZE {there}.events; ANALYZE {there}.message")
    finally:
        await db.close()
    return author


async def _multiply(db: Any, table: str, key: str, start: int, stop: int, number: str | None) -> None:
    """Copy one row under many keys, in small transactions."""
    (columns,) = await db.fetchrow(
        "SELECT string_agg(quote_ident(attname), ', ') FROM pg_attribute "
        "WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped AND attname <> 'key'"
        + (f" AND attname <> '{number.strip(chr(34))}'" if number else ""),
        table,
    )
    into, value = (f", {number}", ", n") if number else ("", "")
    for first in range(start, stop + 1, 100_000):
        numbers = range(first, min(first + 100_000, stop + 1))
        await db.execute(
            f'INSERT INTO {table} ("key", {columns}{into}) SELECT k, {columns}{value} FROM {table} '
            "CROSS JOIN unnest($2::text[], $3::bigint[]) AS new(k, n) WHERE owner = 'uid-old' AND \"key\" = $1",
            key,
            [int_key(n) for n in numbers],
            list(numbers),
        )


async def prune_beside_others(store: PostgresStore, author: Author, *, others: int = 4) -> Told:
    """Remove all that nothing shows, while other agents commit all the time through a store of their own."""
    times: list[tuple[float, float]] = []
    spent: list[float] = []
    stop = anyio.Event()
    fetch = store.server.fetch

    async def timed(query: str, *values: Any, again: frozenset[str]) -> list[Any]:
        begun = time.monotonic()
        try:
            return await fetch(query, *values, again=again)
        finally:
            spent.append(time.monotonic() - begun)

    async def work(other: PostgresStore, n: int) -> None:
        busy = Author(other, f"busy-{n}", f"uid-busy-{n}")
        await busy.create()
        while not stop.is_set():
            begun = time.monotonic()
            await busy.say("hi", events=1)
            times.append((begun, time.monotonic() - begun))
            await anyio.sleep(0.005)

    async with PostgresStore(store.dsn, schema=store.schema) as other, anyio.create_task_group() as tasks:
        for n in range(others):
            tasks.start_soon(work, other, n)
        await anyio.sleep(1.0)
        store.server.fetch = timed  # type: ignore[method-assign]
        begun = time.monotonic()
        gone = await store.prune("old", before=None, keep_messages=0)
        took = time.monotonic() - begun
        store.server.fetch = fetch  # type: ignore[method-assign]
        stop.set()
    assert author.id == "old"
    alone = [one for at, one in times if at < begun]
    beside = [one for at, one in times if at >= begun]
    return Told(gone.events + gone.messages, took, max(spent), _p99(alone), _p99(beside))


def _p99(times: list[float]) -> float:
    return sorted(times)[int(len(times) * 0.99)] if times else 0.0
