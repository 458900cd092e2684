"""Whether a store works, and whether what it holds of an agent fits together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from kode.core.clock import Clock
from kode.core.errors import KodeError
from kode.core.store import records as rec
from kode.core.store.layers.orphans import Orphans
from kode.core.store.lookups import header_key, uid_of
from kode.core.store.primitives import Durability, check_agent_id
from kode.core.store.records import codec
from kode.core.store.support.metrics import MetricsSupport

if TYPE_CHECKING:
    from kode.core.store.support.consistency import Consistency

__all__ = ["Health", "HealthSupport"]

PROBE = "health-check"
"""Agent id and uid of the one record that is written and removed again."""
TRIES = 3


@dataclass(frozen=True, slots=True)
class Health:
    """How a store is."""

    store: str
    """Name of its class."""
    format: int
    """Version of the records that this process writes."""
    durability: Durability
    """What an acknowledged write survives."""
    reachable: bool
    """It answered a read."""
    writable: bool
    """It acknowledged a write."""
    read_s: float | None
    """Seconds that the read took; None: it failed."""
    write_s: float | None
    """Seconds that the write took."""
    agents: int | None
    """Counted to at most `count_to`; None: unknown."""
    due: int | None
    """Agents that wait for a driver, counted likewise."""
    problems: tuple[str, ...]
    """What went wrong, for a person."""

    @property
    def healthy(self) -> bool:
        """Whether nothing went wrong."""
        return not self.problems


class HealthSupport(MetricsSupport, Orphans):
    """Looking at the store itself."""

    async def find_damage(self, *, thorough: bool = False) -> list[str]:
        """Name what is wrong beneath the records, for a person; the default knows of nothing.

        A store over files should look: a page or a folder that cannot be read must not pass for one that is empty.

        Args:
            thorough: Look at all that is stored, however long that takes; else only at what finds agents.
        """
        return []

    async def check_health(
        self, *, timeout_s: float = 5.0, count_to: int = 1_000, thorough: bool = False, clock: Clock | None = None
    ) -> Health:
        """Read, write and count a little; it never raises for a store that is not well, but says what is wrong.

        What is written is one small record, removed again; `sweep` removes it if that does not succeed.

        Args:
            timeout_s: How long each of the parts may take, seconds.
            count_to: Where counting ends.
            thorough: Look for damage in all that is stored; that part takes as long as it needs.
            clock: What the time is measured by; None: the store's.
        """
        timer = self.clock if clock is None else clock
        problems: list[str] = []
        seconds: list[float | None] = []

        async def attempt(what: str, part: Callable[[], Awaitable[Any]], limit_s: float | None = timeout_s) -> Any:
            began = timer.monotonic()
            try:
                with timer.fail_after(limit_s):
                    found = await part()
            except TimeoutError:
                problems.append(f"{what} gave no answer within {limit_s} s.")
            except KodeError as error:
                problems.append(f"{what} failed: {error.message}")
            except Exception as error:  # noqa: BLE001 - what a store lets through is a thing to tell of, not to raise
                problems.append(f"{what} failed: {type(error).__name__}.")
            else:
                seconds.append(timer.monotonic() - began)
                return found
            seconds.append(None)
            return None

        await attempt("Reading", lambda: self.get(PROBE, [header_key(PROBE)]))
        await attempt("Writing", self._probe)
        agents = await attempt("Counting agents", lambda: self.agents("", "", count_to))
        due = await attempt("Counting those that are due", lambda: self._due_now(count_to))
        look = partial(self.find_damage, thorough=thorough)
        problems += await attempt("Looking for damage", look, None if thorough else timeout_s) or ()
        read_s, write_s, *_ = seconds
        return Health(
            store=type(self).__name__,
            format=codec.VERSION,
            durability=self.durability,
            reachable=read_s is not None,
            writable=write_s is not None,
            read_s=read_s,
            write_s=write_s,
            agents=None if agents is None else len(agents),
            due=due,
            problems=tuple(problems),
        )

    async def check_consistency(self, agent_id: str) -> Consistency:
        """Read all that is stored of an agent and name everything that is wrong with it; changes nothing.

        It reads every record of the agent once. Of an agent at work a store without snapshots reads what does not
        belong together, so it begins anew; after a few times it gives up, and all it tells then is ``unsettled``.
        What a prune has not removed yet is no fault.

        Raises:
            NotFoundError: No such agent.
        """
        from kode.core.store.support.consistency import (  # all of the kernel, which few who read need
            Problem,
            check_agent,
        )

        check_agent_id(agent_id)
        for _ in range(TRIES):
            found = await self.look_up(agent_id, check_agent(agent_id, await self.now()))
            if found.ok:
                return found
            (header,) = await self.get(agent_id, [header_key(agent_id)])
            same = header is not None and (uid_of(header), header.columns["version"]) == (found.uid, found.version)
            if same and found.problems[0].code != "unsettled":
                return found
        what = f"it changed during each of {TRIES} readings; look again when it rests, or after any read of it."
        return replace(found, problems=(Problem("unsettled", f"header /{agent_id}", what),))

    # ---- inside --------------------------------------------------------------------------------------------

    async def _probe(self) -> None:
        await self.apply(PROBE, (), [rec.orphan_record(PROBE, PROBE, "drop", await self.now())], ())
        await self._unmark(PROBE, PROBE)

    async def _due_now(self, most: int) -> int:
        return len(await self.due(await self.now(), most))
