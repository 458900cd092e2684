"""The whole kit: its groups in their order, and its clauses in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from kode.core.testing.conformance.store.author import StoreCase
from kode.core.testing.conformance.store.cancel import CancellationContract
from kode.core.testing.conformance.store.consistency import ConsistencyContract
from kode.core.testing.conformance.store.corruption import CorruptionContract
from kode.core.testing.conformance.store.documents import BlobsContract, DocumentsContract
from kode.core.testing.conformance.store.due import DueContract
from kode.core.testing.conformance.store.events import EventsContract
from kode.core.testing.conformance.store.faults import FaultsContract
from kode.core.testing.conformance.store.fork import ForkContract
from kode.core.testing.conformance.store.given import GivenCase
from kode.core.testing.conformance.store.health import HealthContract, MetricsContract
from kode.core.testing.conformance.store.inbox import InboxContract
from kode.core.testing.conformance.store.isolation import IsolationContract
from kode.core.testing.conformance.store.kill import KillContract
from kode.core.testing.conformance.store.lease import LeaseContract
from kode.core.testing.conformance.store.lifecycle import LifecycleContract
from kode.core.testing.conformance.store.listing import ListingContract
from kode.core.testing.conformance.store.paging import PagingContract
from kode.core.testing.conformance.store.processes import ProcessesContract
from kode.core.testing.conformance.store.query import QueryContract
from kode.core.testing.conformance.store.races import RacesContract
from kode.core.testing.conformance.store.records import RoundTripContract
from kode.core.testing.conformance.store.removal import RemovalContract
from kode.core.testing.conformance.store.repeat import RepeatContract
from kode.core.testing.conformance.store.requests import RequestsContract
from kode.core.testing.conformance.store.retention import RetentionContract
from kode.core.testing.conformance.store.stats import StatsContract
from kode.core.testing.conformance.store.swap import SwapContract
from kode.core.testing.conformance.store.watch import WatchContract

__all__ = ["GROUPS", "Clause", "Group", "StoreConformance", "clauses"]

Level = Literal["core", "full"]


@dataclass(frozen=True, slots=True)
class Clause:
    """One line of the contract."""

    group: str
    name: str
    """Of the method, without ``test_``."""
    words: str


@dataclass(frozen=True, slots=True)
class Group:
    """What belongs together."""

    contract: type[StoreCase]
    level: Level
    """``core``: no agent can do without it. ``full``: what holds when processes share it, are killed or cut off."""

    @property
    def name(self) -> str:
        """What it is called."""
        return self.contract.group

    @property
    def clauses(self) -> list[Clause]:
        """Its clauses, in their order."""
        methods = ((name, method) for name, method in vars(self.contract).items() if name.startswith("test_"))
        return [Clause(self.name, name.removeprefix("test_"), _first(method.__doc__)) for name, method in methods]


_LEVELS: Final[dict[Level, tuple[type[StoreCase], ...]]] = {
    "core": (
        *(LifecycleContract, RoundTripContract, PagingContract, SwapContract, RepeatContract, InboxContract),
        *(DueContract, LeaseContract, IsolationContract, ListingContract, EventsContract, DocumentsContract),
        *(BlobsContract, ForkContract, RemovalContract, RetentionContract, QueryContract, StatsContract),
        *(WatchContract, MetricsContract, HealthContract, ConsistencyContract, CorruptionContract, RacesContract),
    ),
    "full": (FaultsContract, CancellationContract, ProcessesContract, KillContract, RequestsContract),
}
GROUPS: Final[dict[str, Group]] = {
    contract.group: Group(contract, level) for level, contracts in _LEVELS.items() for contract in contracts
}
"""All groups by name, in the order in which a report shows them."""


def clauses() -> list[Clause]:
    """List the whole contract."""
    return [clause for group in GROUPS.values() for clause in group.clauses]


def _first(text: str | None) -> str:
    return " ".join((text or "").split("\n\n")[0].split())


class StoreConformance(
    LifecycleContract,
    RoundTripContract,
    PagingContract,
    SwapContract,
    RepeatContract,
    InboxContract,
    DueContract,
    LeaseContract,
    IsolationContract,
    ListingContract,
    EventsContract,
    DocumentsContract,
    BlobsContract,
    ForkContract,
    RemovalContract,
    RetentionContract,
    QueryContract,
    StatsContract,
    WatchContract,
    MetricsContract,
    HealthContract,
    ConsistencyContract,
    CorruptionContract,
    RacesContract,
    FaultsContract,
    CancellationContract,
    ProcessesContract,
    KillContract,
    RequestsContract,
    GivenCase,
):
    """All of it."""
