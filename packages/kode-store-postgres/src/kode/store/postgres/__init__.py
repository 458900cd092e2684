"""KODE's agents in PostgreSQL."""

from kode.store.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
