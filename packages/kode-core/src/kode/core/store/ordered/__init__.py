"""`OrderedStore`: agents in any ordered map of bytes with transactions. Bring an `OrderedMap`; the rest is here."""

from kode.core.store.ordered.map import OrderedMap, Transaction
from kode.core.store.ordered.rows import place
from kode.core.store.ordered.store import OrderedStore

__all__ = ["OrderedMap", "OrderedStore", "Transaction", "place"]
