"""Wrong in `scan`, `agents` and `due`: bounds, order, limits, and whose records they are."""

from __future__ import annotations

import fnmatch
from dataclasses import replace
from typing import Any

from tests.stores.mutants.table import wrong

from kode.core.store import Due, MemoryStore, Record
from kode.core.store.contract import Scan

MANY = 10**9


class Scanning(MemoryStore):
    """It scans in its own way; what is not given is as it should be."""

    async def scan(self, agent_id: str, ask: Scan) -> list[Record]:
        return await super().scan(agent_id, self.asked(ask))

    def asked(self, ask: Scan) -> Scan:
        return ask


# ---- scan --------------------------------------------------------------------------------------------------


@wrong("paging", "prefix_with_bounds", also="listing", why="a listing is a scan of headers")
class OneBoundForTwo(MemoryStore):
    """`key >= max(prefix, after)`: right for a prefix, and one too many for `after`."""

    async def scan(self, agent_id: str, ask: Scan) -> list[Record]:
        found = await super().scan(agent_id, ask)
        first = self._row(ask.kind, ask.uid, ask.after) if ask.prefix and ask.after.startswith(ask.prefix) else None
        return [first, *found][: ask.limit] if first is not None and not ask.reverse else found


@wrong(
    "paging",
    "before_is_exclusive",
    also="round-trip isolation events fork retention corruption",
    why="the end of a history is the bound of a scan",
)
class BeforeInclusive(Scanning):
    """`<=` for `<`."""

    def asked(self, ask: Scan) -> Scan:
        return replace(ask, before=ask.before and ask.before + "\0")


@wrong(
    "paging", "limit_takes_the_first", also="listing health", why="pages of a listing are scans, also of one to count"
)
class OneTooMany(Scanning):
    """It reads one more to see whether there is more."""

    def asked(self, ask: Scan) -> Scan:
        return replace(ask, limit=ask.limit + 1)


@wrong("paging", "a_scan_gives_as_many_as_asked_for")
class AThousandAtMost(Scanning):
    """The engine's page is taken for all there is."""

    def asked(self, ask: Scan) -> Scan:
        return replace(ask, limit=min(1_000, ask.limit))


@wrong("paging", "a_scan_gives_as_many_as_asked_for")
class AMegabyteAtMost(MemoryStore):
    """The engine's page ends at a megabyte."""

    async def scan(self, agent_id: str, ask: Scan) -> list[Record]:
        found = await super().scan(agent_id, ask)
        while sum(len(row.body) for row in found) > 2**20 and len(found) > 1:
            found.pop()
        return found


@wrong("paging", "reverse_is_falling_order", also="isolation events", why="the newest first is a scan in reverse")
class NeverReverse(Scanning):
    """It knows one direction."""

    def asked(self, ask: Scan) -> Scan:
        return replace(ask, reverse=False)


@wrong("paging", "limit_in_reverse_takes_the_last")
class ReversesThePage(MemoryStore):
    """It takes the first, and turns them round."""

    async def scan(self, agent_id: str, ask: Scan) -> list[Record]:
        found = await super().scan(agent_id, replace(ask, reverse=False))
        return found[::-1] if ask.reverse else found


@wrong(
    "paging",
    "bounds_hold_in_reverse",
    also="events",
    why="the newest first, above what was pruned, is a scan in reverse",
)
class BoundsTurnRound(MemoryStore):
    """In reverse it takes `after` for the upper bound."""

    async def scan(self, agent_id: str, ask: Scan) -> list[Record]:
        if ask.reverse and ask.after and ask.before:
            ask = replace(ask, after="", before=ask.after)
        return await super().scan(agent_id, ask)


class Sorting(MemoryStore):
    """It has an order of its own."""

    def place(self, key: str) -> Any:
        raise NotImplementedError

    async def scan(self, agent_id: str, ask: Scan) -> list[Record]:
        found = await super().scan(agent_id, replace(ask, limit=MANY, reverse=False))
        return sorted(found, key=lambda row: self.place(row.key), reverse=ask.reverse)[: ask.limit]


@wrong("paging", "the_order_is_that_of_utf_8_bytes")
class Utf16Order(Sorting):
    """The order of UTF-16, as in Java and JavaScript."""

    def place(self, key: str) -> Any:
        return key.encode("utf-16-be")


@wrong("paging", "no_language_has_a_say_in_the_order", also="listing", why="a listing is a scan of headers")
class Collation(Sorting):
    """The order of a dictionary."""

    def place(self, key: str) -> Any:
        return key.casefold(), key


@wrong("paging", "a_prefix_is_text_and_no_pattern", also="isolation query", why="a listing is a scan of headers")
class PrefixIsAPattern(MemoryStore):
    """`LIKE prefix || '%'`."""

    async def scan(self, agent_id: str, ask: Scan) -> list[Record]:
        found = await super().scan(agent_id, replace(ask, prefix="", limit=MANY))
        pattern = ask.prefix.replace("[", "[[]").replace("*", "[*]").replace("?", "[?]")
        pattern = pattern.replace("%", "*").replace("_", "?") + "*"
        return [row for row in found if fnmatch.fnmatchcase(row.key, pattern)][: ask.limit]


@wrong("paging", "a_prefix_at_the_end_of_all_characters")
class PrefixEndsTooEarly(MemoryStore):
    """It takes U+FFFF for the end of all characters."""

    async def scan(self, agent_id: str, ask: Scan) -> list[Record]:
        found = await super().scan(agent_id, ask)
        return [row for row in found if not ask.prefix or row.key < ask.prefix + "\uffff"]


@wrong("paging", "a_record_without_a_key_is_in_no_scan")
class ScansWithoutAKey(MemoryStore):
    """The record without a key is the first of all."""

    async def scan(self, agent_id: str, ask: Scan) -> list[Record]:
        found = await super().scan(agent_id, ask)
        first = self._row(ask.kind, ask.uid, "")
        return found if first is None or ask.after else [first, *found]


@wrong(
    "isolation", "marks_of_all_agents_are_scanned_together", also="removal", why="what broke off is found by its mark"
)
class MarksByAgent(MemoryStore):
    """Marks are looked for where no agent lies."""

    async def scan(self, agent_id: str, ask: Scan) -> list[Record]:
        return [] if (agent_id, ask.kind, ask.uid) == ("", "staged", "") else await super().scan(agent_id, ask)


# ---- agents ------------------------------------------------------------------------------------------------


@wrong("listing", "the_listing_goes_on_after_any_id")
class ListsAfterInclusive(MemoryStore):
    """`>=` for `>`."""

    async def agents(self, prefix, after, limit, tenant=None):  # type: ignore[no-untyped-def]
        found = await super().agents(prefix, after, limit, tenant)
        first = self._row("header", "", after)
        return [first, *found][:limit] if first and after.startswith(prefix) and tenant is None else found


@wrong("listing", "by_tenant")
class LimitsBeforeTheTenant(MemoryStore):
    """The limit counts agents of all tenants."""

    async def agents(self, prefix, after, limit, tenant=None):  # type: ignore[no-untyped-def]
        found = await super().agents(prefix, after, limit)
        return [row for row in found if tenant in (None, row.columns["tenant"])]


@wrong("isolation", "tenants_are_apart", also="listing", why='a listing for "" is of everybody')
class TenantLeak(MemoryStore):
    """A tenant sees those whose name begins as its own."""

    async def agents(self, prefix, after, limit, tenant=None):  # type: ignore[no-untyped-def]
        found = await super().agents(prefix, after, MANY)
        return [row for row in found if str(row.columns["tenant"] or "").startswith(tenant or "")][:limit]


@wrong("isolation", "a_prefix_is_no_pattern", also="query", why="who is asked about is listed")
class AgentsByPattern(MemoryStore):
    """`LIKE 'prefix%'`: an underscore is any character."""

    async def agents(self, prefix, after, limit, tenant=None):  # type: ignore[no-untyped-def]
        found = await super().agents("", after, MANY, tenant)
        return [row for row in found if fnmatch.fnmatchcase(row.key, prefix.replace("_", "?") + "*")][:limit]


@wrong("listing", "odd_ids_in_the_order_of_their_bytes")
class ListsByFolder(MemoryStore):
    """Folders first: a slash sorts below everything."""

    async def agents(self, prefix, after, limit, tenant=None):  # type: ignore[no-untyped-def]
        found = await super().agents(prefix, after, limit, tenant)
        return sorted(found, key=lambda row: row.key.split("/"))


@wrong(
    "listing",
    "the_listing_is_of_today",
    also="removal retention",
    why="a test reads the version from the listing, and who expires is listed",
)
class ListsOfYesterday(MemoryStore):
    """A listing from a copy that is filled when an agent is first seen."""

    async def agents(self, prefix, after, limit, tenant=None):  # type: ignore[no-untyped-def]
        seen = self.__dict__.setdefault("seen", {})
        found = await super().agents(prefix, after, limit, tenant)
        return [seen.setdefault((row.key, row.columns["uid"]), row) for row in found]

    async def apply(self, agent_id, conditions, puts, deletes):  # type: ignore[no-untyped-def]
        failed = await super().apply(agent_id, conditions, puts, deletes)
        await self.agents("", "", MANY)
        return failed


# ---- due ---------------------------------------------------------------------------------------------------


@wrong("due", "a_live_lease_hides_its_agent", also="fork", why="a fork is looked for among the due")
class DueThoughDriven(MemoryStore):
    """It does not look at leases."""

    async def due(self, now, limit, after=None):  # type: ignore[no-untyped-def]
        start = (after.wake_at, after.agent_id) if after else (-1, "")
        return [Due(id, at) for at, id in self._wakes if at <= now and (at, id) > start][:limit]


@wrong("due", "a_live_lease_hides_its_agent")
class DueCountsTheDriven(MemoryStore):
    """The limit counts agents that are driven."""

    async def due(self, now, limit, after=None):  # type: ignore[no-untyped-def]
        start = (after.wake_at, after.agent_id) if after else (-1, "")
        some = [id for at, id in self._wakes if (at, id) > start][:limit]
        return [due for due in await super().due(now, limit, after) if due.agent_id in some]


@wrong("due", "from_its_moment_on")
class DueTooLate(MemoryStore):
    """`<` for `<=`."""

    async def due(self, now, limit, after=None):  # type: ignore[no-untyped-def]
        return await super().due(now - 1, limit, after)


@wrong("due", "in_order_of_time_and_id")
class DueById(MemoryStore):
    """In the order of ids."""

    async def due(self, now, limit, after=None):  # type: ignore[no-untyped-def]
        return sorted(await super().due(now, limit, after), key=lambda due: due.agent_id)


@wrong("due", "it_follows_the_header", also="lease", why="a release sets no `wake_at`")
class DueOfTheGone(MemoryStore):
    """An index that is not told when `wake_at` goes."""

    def _note_wake(self, old: Record | None, new: Record | None) -> None:
        if new is None or new.columns["wake_at"] is not None:
            super()._note_wake(old, new)


@wrong("paging", "due_goes_on_behind_what_was_listed", also="due", why="the primitive is asked there as well")
class DueSkipsAMoment(MemoryStore):
    """The next page begins behind the moment of the last entry."""

    async def due(self, now, limit, after=None):  # type: ignore[no-untyped-def]
        return await super().due(now, limit, after and Due("\U0010ffff", after.wake_at))
