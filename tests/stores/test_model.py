"""Memory and SQLite give the same answers to the same primitives, whatever is asked in whatever order."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kode.core.store import Condition, Due, Key, MemoryStore, Record, SqliteStore, Store
from kode.core.store.contract import Scan
from kode.core.store.records import COLUMNS, int_key
from kode.core.testing.conformance.store.records import row

AGENTS = st.sampled_from(["a", "a/1", "b"])
UIDS = st.sampled_from(["u", "v"])
TIMES = st.integers(0, 5)
# Close to each other and to the bounds of what a prefix or a range may take in.
KEYS = st.sampled_from(["1", "10", "11", "2", "é", "\U0010ffff", "\ud7ff", "\ue000", "a/", "a/1", "a0"])
PREFIXES = st.sampled_from(["", "1", "a/", "é", "\U0010ffff", "\ud7ff"])
KINDS = st.sampled_from(["message", "run", "document", "staged"])


def headers() -> st.SearchStrategy[Record]:
    wake_at = st.none() | TIMES
    return st.builds(
        lambda id, uid, wake_at, seen, tenant, parked: row(
            "header",
            id,
            "",
            agent_id=id,
            uid=uid,
            wake_at=wake_at,
            seen=seen,
            tenant=tenant,
            parked=parked,
            max_inbox=2,
            max_message_bytes=5,
        ),
        AGENTS,
        UIDS,
        wake_at,
        st.integers(0, 3),
        st.sampled_from([None, "t"]),
        st.sampled_from([None, None, "crash_loop"]),
    )


def plain(kind: Any) -> st.SearchStrategy[Record]:
    columns = {
        name: st.none() | (st.integers(-(2**63), 2**63 - 1) if sort == "int" else st.sampled_from(["", "x", "é"]))
        for name, sort in COLUMNS[kind]
    }
    return st.builds(
        lambda key, uid, body, c: row(kind, key, uid, body, **c),
        KEYS,
        UIDS,
        st.binary(max_size=3),
        st.fixed_dictionaries(columns),
    )


LEASES = st.builds(
    lambda uid, holder, until: row("lease", "", uid, holder=holder, until=until, fence=1),
    UIDS,
    st.sampled_from([None, "h"]),
    TIMES,
)
CONSUMED = st.builds(
    lambda key, uid, at: row("consumed", key, uid, position=1, run=1, expires_at=at),
    st.sampled_from("xyz"),
    UIDS,
    TIMES,
)
PUTS = headers() | LEASES | CONSUMED | KINDS.flatmap(plain)
ADDRESSES = st.one_of(
    st.builds(Key, KINDS, UIDS, KEYS),
    st.builds(lambda id: Key("header", "", id), AGENTS),
    st.builds(lambda uid: Key("lease", uid, ""), UIDS),
    st.builds(lambda uid, n: Key("inbox", uid, int_key(n)), UIDS, st.integers(1, 4)),
)
CONDITIONS = st.one_of(
    st.builds(lambda key: Condition("absent", key), ADDRESSES),
    st.builds(lambda id, uid: Condition("equals", Key("header", "", id), "uid", uid), AGENTS, UIDS),
    st.builds(lambda id, at: Condition("equals", Key("header", "", id), "wake_at", at), AGENTS, st.none() | TIMES),
    st.builds(lambda uid, now: Condition("free", Key("lease", uid, ""), value=now), UIDS, TIMES),
    st.builds(
        lambda uid, n: Condition("no_inbox_after", Key("inbox", uid, ""), value=int_key(n)),
        UIDS,
        st.integers(0, 3),
    ),
)
Step = Callable[[Store], Any]


def applies() -> st.SearchStrategy[Step]:
    return st.builds(
        lambda conditions, puts, deletes, look: (
            (lambda s: s.apply_and_look("a", conditions, puts, deletes, uid="u", after=int_key(1)))
            if look
            else (lambda s: s.apply("a", conditions, puts, deletes))
        ),
        st.lists(CONDITIONS, max_size=2),
        st.lists(PUTS, max_size=4, unique_by=lambda r: r.address),
        st.lists(ADDRESSES, max_size=3),
        st.booleans(),
    )


def appends() -> st.SearchStrategy[Step]:
    return st.builds(
        lambda agent, id, kind, not_before, size, now, bounded: (
            lambda s: s.append_inbox(
                agent,
                row("inbox", "", "", id=id, kind=kind, not_before=not_before, size=size),
                now=now,
                bounded=bounded,
            )
        ),
        AGENTS,
        st.sampled_from("xyz"),
        st.sampled_from(["message", "reminder", "decision"]),
        st.none() | TIMES,
        st.integers(4, 6),
        TIMES,
        st.booleans(),
    )


def scans() -> st.SearchStrategy[Step]:
    return st.builds(
        lambda kind, uid, prefix, after, before, limit, reverse: (
            lambda s: s.scan(
                "a", Scan(kind, uid, prefix=prefix, after=after, before=before, limit=limit, reverse=reverse)
            )
        ),
        KINDS | st.sampled_from(["inbox", "consumed"]),
        UIDS,
        PREFIXES,
        st.just("") | KEYS,
        st.none() | KEYS,
        st.integers(1, 9),
        st.booleans(),
    )


STEPS = st.one_of(
    applies(),
    applies(),
    appends(),
    scans(),
    st.builds(lambda keys: lambda s: s.get("a", keys), st.lists(ADDRESSES, max_size=5)),
    st.builds(
        lambda now, limit, after: lambda s: s.due(now, limit, after),
        TIMES,
        st.integers(1, 4),
        st.none() | st.builds(Due, AGENTS, TIMES),
    ),
    st.builds(
        lambda prefix, after, limit, tenant: lambda s: s.agents(prefix, after, limit, tenant),
        st.sampled_from(["", "a", "a/"]),
        st.just("") | AGENTS,
        st.integers(1, 4),
        st.sampled_from([None, "t"]),
    ),
    st.builds(lambda uid: lambda s: s.drop("a", uid), UIDS),
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(STEPS, min_size=3, max_size=25))
def test_memory_and_sqlite_agree(steps: list[Step]) -> None:
    async def compare() -> None:
        with tempfile.TemporaryDirectory() as folder:
            memory = MemoryStore()
            async with SqliteStore(Path(folder) / "x.db", durability="process") as sqlite:
                for n, step in enumerate(steps):
                    assert await step(memory) == await step(sqlite), n

    anyio.run(compare)
