"""Stores: where agents live. `Store` is the contract; `MemoryStore` and `SqliteStore` come with it."""

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
        Item,
        ItemKind,
        Key,
        Kind,
        Lease,
        Loaded,
        Record,
        Value,
    )
    from kode.core.store.liveness import holder_name, is_dead
    from kode.core.store.memory import MemoryStore
    from kode.core.store.open import open_store
    from kode.core.store.plans import Page
    from kode.core.store.primitives import Durability, Records
    from kode.core.store.sqlite import SqliteStore
    from kode.core.store.upkeep import Pruned

__getattr__, __dir__ = exports(
    __name__,
    {
        "AgentInfo": "contract",
        "Appended": "contract",
        "Bounds": "contract",
        "Commit": "contract",
        "Committed": "contract",
        "Condition": "contract",
        "DocumentBody": "contract",
        "Due": "contract",
        "Durability": "primitives",
        "Enqueued": "contract",
        "Item": "contract",
        "ItemKind": "contract",
        "Key": "contract",
        "Kind": "contract",
        "Lease": "contract",
        "Loaded": "contract",
        "MemoryStore": "memory",
        "Page": "plans",
        "Pruned": "upkeep",
        "Record": "contract",
        "Records": "primitives",
        "SqliteStore": "sqlite",
        "Store": "base",
        "Value": "contract",
        "holder_name": "liveness",
        "is_dead": "liveness",
        "open_store": "open",
    },
)

__all__ = [
    "AgentInfo",
    "Appended",
    "Bounds",
    "Commit",
    "Committed",
    "Condition",
    "DocumentBody",
    "Due",
    "Durability",
    "Enqueued",
    "Item",
    "ItemKind",
    "Key",
    "Kind",
    "Lease",
    "Loaded",
    "MemoryStore",
    "Page",
    "Pruned",
    "Record",
    "Records",
    "SqliteStore",
    "Store",
    "Value",
    "holder_name",
    "is_dead",
    "open_store",
]
