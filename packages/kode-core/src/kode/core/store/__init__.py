"""Stores: where agents live. `Store` is the contract; `MemoryStore` and `SqliteStore` come with it."""

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
