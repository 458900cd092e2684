"""Durable documents: what a tool remembers between its calls, through crashes and take-overs.

A document is a JSON text of a kind and a name. What is put is seen at once by all calls of this agent, and becomes
durable with the next commit, which the call's own result makes at the latest: a document costs no commit of its own.
A crash before that commit loses it together with the result of the call that put it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from kode.core import jsontext
from kode.core.errors import UsageError
from kode.core.kernel.history import MAX_DOCUMENTS
from kode.core.kernel.message import Json
from kode.core.store.primitives import check_name

__all__ = ["Changes", "Documents", "Version"]

MAX_BYTES = 262_144
"""Of one document: it is written again as a whole when it changes."""
SEEN = "seen_files"
"""The kind of the one document that the built-in tools keep; it has a slot of its own."""
TODOS = "todos"
"""The kind of the one document that holds the list of todos; it has a slot of its own."""
MEDIA = "media"
"""The kind of the one document that says what became of media: uploads, transcripts; it has a slot of its own."""
RESERVED = frozenset({"template", SEEN, TODOS, MEDIA})
"""Kinds that no tool of others can write."""

Key: TypeAlias = tuple[str, str]
"""Kind and name."""


@dataclass(frozen=True, slots=True)
class Version:
    """One state of a document."""

    digest: str
    text: Json


Changes: TypeAlias = Mapping[Key, Version | None]
"""What was put; None: removed."""


class Documents:
    """One agent's documents, as its tools see them. Use it from the event loop's thread.

    ``get``, a change of what it gave, and ``put`` are one act as long as nothing else is awaited in between.

    Args:
        named: Digests of the documents that are durable now, by kind and name.
        read: Reads a durable document.
    """

    def __init__(
        self,
        named: Callable[[], Mapping[Key, str]] = dict,
        read: Callable[[str, str], Awaitable[Json | None]] | None = None,
    ) -> None:
        self._named = named
        self._read = read
        self._pending: dict[Key, Version | None] = {}
        self._known: dict[Key, Version] = {}

    async def get(self, kind: str, name: str = "") -> Json | None:
        """Return a document's text; None if there is none."""
        key = (kind, name)
        while True:
            if key in self._pending:
                put = self._pending[key]
                return None if put is None else put.text
            digest = self._named().get(key)
            if digest is None or self._read is None:
                return None
            known = self._known.get(key)
            if known is not None and known.digest == digest:
                return known.text
            text = await self._read(kind, name)
            if text is None:
                return None
            # Judged again: another call may have put it, or a commit named another, while this one read.
            self._known[key] = Version(digest, text)

    async def put(self, kind: str, name: str, text: str) -> None:
        """Write a document: any JSON text. The value that it has already is no change (nor is another order of keys).

        Args:
            kind: What sort it is; the tool's own name is a good one.
            name: Which of that kind; "" if there is one only.
            text: Its whole new content.

        Raises:
            UsageError: It is no JSON, too large, one too many, or its kind is not a tool's to write.
        """
        self._check(kind, name)
        self._put((kind, name), text)

    async def keep(self, text: str) -> None:
        """Write what the built-in tools remember of files (``seen_files``); as ``put``, but theirs alone."""
        self._put((SEEN, ""), text)

    def keep_todos(self, text: str) -> None:
        """Write the list of todos; as ``keep``. Whoever writes it has read it, or knows its ``digest``."""
        self._put((TODOS, ""), text)

    def keep_media(self, text: str) -> None:
        """Write what became of media; as ``keep_todos``."""
        self._put((MEDIA, ""), text)

    def digest(self, kind: str, name: str = "") -> str | None:
        """Return the digest of a document as it is now; None if there is none."""
        key = (kind, name)
        if key in self._pending:
            put = self._pending[key]
            return None if put is None else put.digest
        return self._named().get(key)

    def rewrite_recipe(self, text: Json, digest: str) -> None:
        """Write the agent's recipe (``template``) with the next commit. The runtime's alone."""
        self._change(("template", ""), Version(digest, text))

    def _put(self, key: Key, text: str) -> None:
        text = jsontext.canonical(text)
        size = len(text.encode())
        if size > MAX_BYTES:
            raise UsageError(
                f"The document {key[0]}/{key[1]} has {size:,} bytes; a document holds at most {MAX_BYTES:,}. "
                "Keep larger things in files.",
                code="document_too_big",
            )
        self._change(key, Version(jsontext.digest(text), text))

    async def remove(self, kind: str, name: str = "") -> None:
        """Take a document away; one that is not there is fine.

        Raises:
            UsageError: Its kind is not a tool's to write.
        """
        self._check(kind, name)
        self._change((kind, name), None)

    def _check(self, kind: str, name: str) -> None:
        check_name("document kind", kind, without="/")
        check_name("document name", name, empty=True)
        if kind in RESERVED:
            raise UsageError(
                f"Documents of kind {kind!r} are the runtime's own; take another kind.", code="reserved_kind", kind=kind
            )

    def _change(self, key: Key, version: Version | None) -> None:
        if version is not None:
            there = {*self._named(), *self._pending} - {gone for gone, put in self._pending.items() if put is None}
            # A slot of the built-in tools is never another's: a file that was written must not fail for want of a note.
            if key not in there and len({*there, (SEEN, ""), (TODOS, ""), (MEDIA, ""), key}) > MAX_DOCUMENTS:
                raise UsageError(
                    f"An agent has at most {MAX_DOCUMENTS} documents, of which four are the runtime's; "
                    f"{key[0]}/{key[1]} would be one more. Put more into each of them.",
                    code="too_many_documents",
                )
        self._pending[key] = version

    def pending(self) -> Changes:
        """Return what the next commit must write. For the shell, between two commits."""
        if self._pending:
            named = self._named()
            for key, put in tuple(self._pending.items()):
                if named.get(key) == (None if put is None else put.digest):  # a commit has made it durable
                    del self._pending[key]
                    if put is not None:
                        self._known[key] = put
        return dict(self._pending)
