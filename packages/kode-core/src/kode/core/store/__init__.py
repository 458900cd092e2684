"""Stores: where agents live. `Store` is the contract; `MemoryStore`, `SqliteStore` and `JSONStore` come with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kode.core.lazy import exports

if TYPE_CHECKING:
    from kode.core.store.base import Store
    from kode.core.store.contract import (
        AgentInfo,
        Appended,
        Bounds,
        Commit,
        Committed,
        Condition,
        DocumentBody,
        Due,
        Enqueued,
        Footing,
        Item,
        ItemKind,
        Key,
        Kind,
        Lease,
        Loaded,
        Record,
        Scan,
        Value,
    )
    from kode.core.store.json import JSONStore
    from kode.core.store.layers.watch import Changes, WatchSupport
    from kode.core.store.liveness import holder_name, is_dead
    from kode.core.store.lookups import Get, Page
    from kode.core.store.memory import MemoryStore
    from kode.core.store.migrating import SchemaStatus, SchemaSupport
    from kode.core.store.open import local_path, open_store, redact, url_options
    from kode.core.store.ordered import OrderedMap, OrderedStore
    from kode.core.store.primitives import Durability, Records, prefix_end, weight
    from kode.core.store.records import COLUMNS, int_key, key_int
    from kode.core.store.sqlite import SqliteStore
    from kode.core.store.support.consistency import Consistency, Problem
    from kode.core.store.support.health import Health, HealthSupport
    from kode.core.store.support.history import HistorySupport
    from kode.core.store.support.metrics import Gauge, Metrics, MetricsSupport
    from kode.core.store.support.query import Found, FoundCall, FoundMessage, QuerySupport
    from kode.core.store.support.questions import AgentFilter, CallFilter, MessageFilter, Question, Test
    from kode.core.store.support.retention import Expired, Pruned, RetentionSupport
    from kode.core.store.support.stats import Stats, StatsSupport, Tally

__getattr__, __dir__ = exports(
    __name__,
    {
        "COLUMNS": "records",
        "AgentFilter": "support.questions",
        "AgentInfo": "contract",
        "Appended": "contract",
        "Bounds": "contract",
        "CallFilter": "support.questions",
        "Changes": "layers.watch",
        "Commit": "contract",
        "Committed": "contract",
        "Condition": "contract",
        "Consistency": "support.consistency",
        "DocumentBody": "contract",
        "Due": "contract",
        "Durability": "primitives",
        "Enqueued": "contract",
        "Footing": "contract",
        "Expired": "support.retention",
        "Found": "support.query",
        "FoundCall": "support.query",
        "FoundMessage": "support.query",
        "Gauge": "support.metrics",
        "Health": "support.health",
        "Get": "lookups",
        "HealthSupport": "support.health",
        "HistorySupport": "support.history",
        "Item": "contract",
        "ItemKind": "contract",
        "JSONStore": "json",
        "Key": "contract",
        "Kind": "contract",
        "Lease": "contract",
        "Loaded": "contract",
        "MemoryStore": "memory",
        "MessageFilter": "support.questions",
        "Metrics": "support.metrics",
        "MetricsSupport": "support.metrics",
        "OrderedMap": "ordered",
        "OrderedStore": "ordered",
        "Page": "lookups",
        "Problem": "support.consistency",
        "Pruned": "support.retention",
        "QuerySupport": "support.query",
        "Question": "support.questions",
        "Record": "contract",
        "Records": "primitives",
        "RetentionSupport": "support.retention",
        "Scan": "contract",
        "SchemaStatus": "migrating",
        "SchemaSupport": "migrating",
        "SqliteStore": "sqlite",
        "Stats": "support.stats",
        "StatsSupport": "support.stats",
        "Store": "base",
        "Tally": "support.stats",
        "Test": "support.questions",
        "Value": "contract",
        "WatchSupport": "layers.watch",
        "holder_name": "liveness",
        "int_key": "records",
        "is_dead": "liveness",
        "key_int": "records",
        "local_path": "open",
        "open_store": "open",
        "prefix_end": "primitives",
        "redact": "open",
        "url_options": "open",
        "weight": "primitives",
    },
)

__all__ = [
    "COLUMNS",
    "AgentFilter",
    "AgentInfo",
    "Appended",
    "Bounds",
    "CallFilter",
    "Changes",
    "Commit",
    "Committed",
    "Condition",
    "Consistency",
    "DocumentBody",
    "Due",
    "Durability",
    "Enqueued",
    "Expired",
    "Footing",
    "Found",
    "FoundCall",
    "FoundMessage",
    "Gauge",
    "Get",
    "Health",
    "HealthSupport",
    "HistorySupport",
    "Item",
    "ItemKind",
    "JSONStore",
    "Key",
    "Kind",
    "Lease",
    "Loaded",
    "MemoryStore",
    "MessageFilter",
    "Metrics",
    "MetricsSupport",
    "OrderedMap",
    "OrderedStore",
    "Page",
    "Problem",
    "Pruned",
    "QuerySupport",
    "Question",
    "Record",
    "Records",
    "RetentionSupport",
    "Scan",
    "SchemaStatus",
    "SchemaSupport",
    "SqliteStore",
    "Stats",
    "StatsSupport",
    "Store",
    "Tally",
    "Test",
    "Value",
    "WatchSupport",
    "holder_name",
    "int_key",
    "is_dead",
    "key_int",
    "local_path",
    "open_store",
    "prefix_end",
    "redact",
    "url_options",
    "weight",
]
