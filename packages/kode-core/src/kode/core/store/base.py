"""`Store`: everything an agent needs of storage, built on the record primitives.

Where things are: in this folder what callers and authors of stores meet, `contract` and `primitives` above all, and
`lookups` and `rules`, the logic that every engine shares; in ``records`` what is stored, as bytes; in each other folder
one store, or one way to another.

A method stands in the file of its class. ``layers`` are written each on the one before (`Amending` has no method of its
own that others may call); what is in ``support`` stands beside each other on these, and ``isinstance`` tells whether an
object can do it. A store may override any method for speed; what it promises stays.

* `Records`, ``primitives``: durability, max_batch, max_batch_bytes, same_host, open, close, now, apply,
  apply_and_look, get, scan, append_inbox, due, agents, drop
* `Reading`, ``layers/reading``: look_up, load, exists, list_agents, read_state, read_messages, read_calls, read_call,
  read_events, read_runs, read_run, consumed_by, read_inbox, list_snapshots, read_documents, read_document, get_blob
* `WatchSupport`, ``layers/watch``: alone, watch, look
* `Leasing`, ``layers/leases``: acquire, acquire_on, renew, release, lease_of, leases_of
* `Staging`, ``layers/staging``: settle
* `Writing`, ``layers/commits``: commit, enqueue, put_blob
* `Orphans`, ``layers/orphans``: sweep
* `Forking`, ``layers/forks``: fork, batch_fork, copy_rows
* `Upkeep`, ``layers/upkeep``: delete, erase, remains
* `HistorySupport`, ``support/history``: load_messages, load_messages_paginated, append_message, save_messages,
  save_snapshot, load_snapshot, delete_snapshot, save_document, load_document, delete_document
* `RetentionSupport`, ``support/retention``: prune, set_expiry, expire
* `QuerySupport`, ``support/query``: query_agents, query_messages, query_tool_calls, select
* `StatsSupport`, ``support/stats``: aggregate_stats
* `MetricsSupport`, ``support/metrics``: measure, metrics
* `HealthSupport`, ``support/health``: find_damage, check_health, check_consistency
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self
from urllib.parse import SplitResult

from kode.core.clock import Clock
from kode.core.errors import UsageError
from kode.core.store.support.health import HealthSupport
from kode.core.store.support.history import HistorySupport
from kode.core.store.support.retention import RetentionSupport
from kode.core.store.support.stats import StatsSupport

__all__ = ["Store"]


class Store(HistorySupport, RetentionSupport, StatsSupport, HealthSupport):
    """The one write door. An async context manager that opens and closes.

    Subclass it, write the primitives of `Records`, and run the classes of `kode.core.testing.conformance`
    over it.

    Names of yours that begin with an underscore must not be those of the base's own methods; a class that takes one
    is refused where it is defined. Attributes and methods of the base without one may be overridden.

    Args:
        clock: What is measured by, and what your `now` may ask: `self.clock`. None: the machine's.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        layers = Store.__mro__
        own = {name: layer.__name__ for layer in layers for name in vars(layer) if _private(name)}
        taken = sorted({name for part in cls.__mro__ if part not in layers for name in vars(part)} & own.keys())
        if taken:
            raise UsageError(
                f"{cls.__name__} defines {', '.join(taken)}, which Store uses itself (in {own[taken[0]]}); "
                "give yours another name.",
                code="name_in_use",
                names=taken,
            )

    @classmethod
    def from_url(cls, url: SplitResult, *, clock: Clock | None = None) -> Self:
        """Make a store of what stands in a URL of its scheme; `open_store` calls it.

        Raises:
            UsageError: The URL says something that this store does not know.
        """
        raise UsageError(f"{cls.__name__} cannot be opened by a URL; make it in code.", code="bad_url")

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


def _private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_abc_impl"
