"""The documents of an agent that is being driven: how its tools' changes come into a commit."""

from __future__ import annotations

from kode.core.kernel.inputs import DocumentsChanged
from kode.core.kernel.message import Json
from kode.core.kernel.state import Document
from kode.core.runtime.resident import Resident
from kode.core.store.base import Store
from kode.core.store.contract import DocumentBody
from kode.core.tools.documents import Changes, Documents

__all__ = ["bodies", "document_inputs", "documents_of"]


def documents_of(resident: Resident, store: Store) -> Documents:
    """Give one drive its agent's documents."""

    def named() -> dict[tuple[str, str], str]:
        return {(document.kind, document.name): document.digest for document in resident.state.documents}

    async def read(kind: str, name: str) -> Json | None:
        body = await store.read_document(resident.agent_id, kind, name)
        return None if body is None else body.data

    return Documents(named, read)


def document_inputs(changes: Changes) -> tuple[DocumentsChanged, ...]:
    """Tell the kernel of changes, if there are any."""
    if not changes:
        return ()
    put = tuple(Document(*key, version.digest) for key, version in changes.items() if version is not None)
    return (DocumentsChanged(put, tuple(key for key, version in changes.items() if version is None)),)


def bodies(changes: Changes) -> tuple[DocumentBody, ...]:
    """Give the contents that go into the commit."""
    return tuple(DocumentBody(*key, version.text) for key, version in changes.items() if version is not None)
