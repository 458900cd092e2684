"""`JSONStore`: agents as folders of JSON lines that a person can read."""

from kode.core.store.json.store import JSONStore

__all__ = ["JSONStore"]
