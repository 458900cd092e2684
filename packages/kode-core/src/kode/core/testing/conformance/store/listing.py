"""The contract of listings: all agents, in the order of their ids, by prefix and tenant."""

from __future__ import annotations

from typing import Any

import pytest

from kode.core.errors import NotFoundError, UsageError
from kode.core.kernel.words import StopReason
from kode.core.store.base import Store
from kode.core.testing.conformance.store.author import AT, Author, StoreCase, head, keep

__all__ = ["ListingContract"]

IDS = [
    "-",
    "...",
    "..a/b..",
    "0",
    "9/x",
    ":",
    "@",
    "A",
    "A.b",
    "Z",
    "_",
    "a",
    "a-b",
    "a.b",
    "a/b",
    "a/b/c",
    "a:b",
    "ab",
]
"""Odd but allowed, in the order of their bytes."""


async def listed(
    store: Store, prefix: str = "", after: str = "", limit: int = 99, tenant: str | None = None
) -> list[str]:
    """List headers; their ids."""
    return [header.key for header in await store.agents(prefix, after, limit, tenant)]


class ListingContract(StoreCase):
    """Every agent once, in its place."""

    group = "listing"

    async def _odd(self, store: Store) -> None:
        await keep(store, [head(id, f"u{n}") for n, id in enumerate(reversed(IDS))])

    async def test_odd_ids_in_the_order_of_their_bytes(self, store: Store) -> None:
        """Ids of any allowed characters are listed in the order of their bytes."""
        await self._odd(store)
        assert await listed(store) == IDS

    async def test_the_listing_goes_on_after_any_id(self, store: Store) -> None:
        """`after` leaves out its id and those below; it need not be there."""
        await self._odd(store)
        for n, id in enumerate(IDS):
            assert await listed(store, after=id) == IDS[n + 1 :]
        assert await listed(store, after="A0") == IDS[IDS.index("Z") :]

    async def test_the_limit_is_exact(self, store: Store) -> None:
        """`limit` takes the first so many, and pages of any size meet each agent once."""
        await self._odd(store)
        for limit in (1, 4, len(IDS), len(IDS) + 1):
            found: list[str] = []
            for _ in IDS:
                page = await listed(store, after=found[-1] if found else "", limit=limit)
                assert len(page) <= limit
                found += page
            assert found == IDS

    async def test_by_prefix(self, store: Store) -> None:
        """`prefix` takes ids that begin with it, the id itself included; a slash is a character like others."""
        await self._odd(store)
        assert await listed(store, "a/") == ["a/b", "a/b/c"]
        assert await listed(store, "a") == IDS[IDS.index("a") :]
        assert await listed(store, "a/b") == ["a/b", "a/b/c"]
        assert await listed(store, "nothing") == []

    async def test_by_prefix_from_an_id_on(self, store: Store) -> None:
        """`prefix` holds with `after` below, within and above it."""
        await self._odd(store)
        assert await listed(store, "a/", "0") == ["a/b", "a/b/c"]
        assert await listed(store, "a/", "a/b") == ["a/b/c"]
        assert await listed(store, "a/", "ab") == []

    async def test_by_tenant(self, store: Store) -> None:
        """`tenant` takes agents of that tenant, "" those of nobody, and `limit` and `after` count among those."""
        ids = ["a", "a/1", "a/2", "b", "c"]
        await keep(store, [head(id, f"u{id}", tenant="t" if id in ("a", "a/2", "c") else None) for id in ids])
        assert await listed(store, tenant="t") == ["a", "a/2", "c"]
        assert await listed(store, tenant="t", limit=2) == ["a", "a/2"]
        assert await listed(store, tenant="t", after="a", limit=1) == ["a/2"]
        assert await listed(store, "a", tenant="t") == ["a", "a/2"]
        assert await listed(store, tenant="") == []

    async def test_few_of_a_tenant_among_many(self, store: Store) -> None:
        """The agents of a tenant are found, as many as asked for, however many others lie between."""
        rows = [head(f"x{n:03}", f"u{n}", tenant="t" if n % 50 == 49 else "other") for n in range(200)]
        await keep(store, rows)
        assert await listed(store, tenant="t", limit=3) == ["x049", "x099", "x149"]

    async def test_the_longest_ids(self, store: Store) -> None:
        """Ids of 200 characters are listed, and told apart by the last of them."""
        ids = ["x" * 199 + end for end in "ab"]
        for id in ids:
            await Author(store, id, f"uid-{id[-1]}").create()
        assert [info.agent_id for info in await store.list_agents()] == ids
        assert [info.agent_id for info in await store.list_agents(after=ids[0])] == ids[1:]

    async def test_who_is_gone_is_not_listed(self, store: Store) -> None:
        """A deleted agent is not listed; made anew it is listed once, with its new identity."""
        for id in ("a", "b"):
            await Author(store, id, f"uid-{id}").create()
        await store.delete("a")
        assert [info.agent_id for info in await store.list_agents()] == ["b"]
        await Author(store, "a", "uid-9").create()
        assert [(info.agent_id, info.uid) for info in await store.list_agents()] == [("a", "uid-9"), ("b", "uid-b")]

    async def test_the_listing_is_of_today(self, store: Store) -> None:
        """A listing shows version, times and whether an agent is parked, as of its last commit."""
        author = Author(store)
        await author.create()
        await author.commit(state={"updated_at": AT + 5, "parked": StopReason.CRASH_LOOP})
        (info,) = await store.list_agents()
        assert (info.version, info.created_at, info.updated_at, info.parked) == (2, AT, AT + 5, "crash_loop")

    async def test_agents_are_listed(self, store: Store) -> None:
        """Agents are listed by id with their columns, by prefix and tenant."""
        for id in ("a", "a/b", "c"):
            state = {"tenant": None if id == "c" else "t", "expires_at": AT + 7}
            await Author(store, id, f"uid-{id}").create(state=state, wake_at=AT)
        listed = await store.list_agents()
        assert [info.agent_id for info in listed] == ["a", "a/b", "c"]
        info = listed[1]
        assert (info.uid, info.version, info.status, info.tenant, info.wake_at) == (
            "uid-a/b",
            1,
            "READY",
            "t",
            AT,
        )
        assert (info.expires_at, info.parked) == (AT + 7, None)
        assert [info.agent_id for info in await store.list_agents("a", "a", 5, "t")] == ["a/b"]

    async def test_what_is_no_id_is_refused_everywhere(self, store: Store) -> None:
        """What is no agent id is refused by name, whatever is asked of it."""
        for bad in ("", "a//b", "../x", "a/..", "/a", "a/", "a b", "x" * 201, "\u00e4", "a\n", "a\0"):
            for call in (store.load(bad), store.exists(bad), store.read_messages(bad), store.delete(bad)):
                with pytest.raises(UsageError) as error:
                    await call
                assert error.value.code == "bad_agent_id"

    async def test_who_is_not_there_cannot_be_read(self, store: Store) -> None:
        """Reads of an agent that is not there raise `NotFoundError`."""
        calls: list[Any] = [
            store.read_messages("nobody"),
            store.read_events("nobody"),
            store.read_run("nobody", 1),
            store.read_call("nobody", "1.1.0"),
            store.read_call("nobody", "1.1.0", uid="u"),
            store.consumed_by("nobody", "x"),
            store.consumed_by("nobody", "x", uid="u"),
        ]
        for call in calls:
            with pytest.raises(NotFoundError):
                await call

    async def test_an_empty_store_lists_nobody(self, store: Store) -> None:
        """In an empty store nobody is listed and nobody is due."""
        assert (await store.list_agents(), await store.due(AT * 2, 9), await store.exists("a")) == ([], [], False)
