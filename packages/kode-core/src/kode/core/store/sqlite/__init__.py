"""`SqliteStore`: agents in one SQLite file."""

from kode.core.store.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
