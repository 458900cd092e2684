"""Moving agents here from the predecessor's file store."""

from __future__ import annotations

from kode.core.store.predecessor.agent import Recipe
from kode.core.store.predecessor.folder import Origin, find_origins, read_origin
from kode.core.store.predecessor.moving import Imported, ImportedAgent, import_predecessor

__all__ = ["Imported", "ImportedAgent", "Origin", "Recipe", "find_origins", "import_predecessor", "read_origin"]
