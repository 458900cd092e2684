"""The contracts of documents and of blobs."""

from __future__ import annotations

import hashlib

import anyio
import pytest

from kode.core.errors import NotFoundError, UsageError
from kode.core.kernel.message import Json
from kode.core.kernel.state import Document
from kode.core.store.base import Store
from kode.core.store.contract import DocumentBody, Key, Scan
from kode.core.testing.conformance.store.author import Author, StoreCase

__all__ = ["BlobsContract", "DocumentsContract"]


class DocumentsContract(StoreCase):
    """What the state names is there, in the version that it names."""

    group = "documents"

    async def test_documents_are_those_the_header_names(self, store: Store) -> None:
        """Only the documents the state names are read, also when a commit names old ones again."""
        author = Author(store)
        named = (Document("todo", "list/ä", "d1"), Document("file", "x", "d2"))
        bodies = [DocumentBody("todo", "list/ä", Json("[1]")), DocumentBody("file", "x", Json('"x"'))]
        await author.create(state={"documents": named}, documents=bodies)
        assert await store.read_documents("agent") == tuple(bodies)
        assert await store.read_documents("agent", "file") == (bodies[1],)
        assert await store.read_document("agent", "todo", "list/ä") == bodies[0]
        new = DocumentBody("file", "x", Json('"y"'))
        await author.commit(state={"documents": (Document("file", "x", "d3"),)}, documents=[new])
        assert await store.read_documents("agent") == (new,)
        assert await store.read_document("agent", "todo", "list/ä") is None
        # As a revert does: the old ones are named again.
        await author.commit(state={"documents": named})
        assert await store.read_documents("agent") == tuple(bodies)

    async def test_a_document_of_any_size(self, store: Store) -> None:
        """A document may be empty text or some megabytes, and is read back character for character."""
        author = Author(store)
        texts = {"d1": '""', "d2": '"' + "x\u00e9" * 700_000 + '"'}
        for digest, text in texts.items():
            body = DocumentBody("file", "x", Json(text))
            await author.commit(state={"documents": (Document("file", "x", digest),)}, documents=[body])
            assert await store.read_document("agent", "file", "x") == body

    async def test_names_are_told_apart(self, store: Store) -> None:
        """Kind and name together name a document; a name may hold slashes, blanks and patterns, or be empty."""
        names = [
            ("a", "b/c"),
            ("a", "b"),
            ("a", ""),
            ("ab", ""),
            ("A", "b"),
            ("a", "%"),
            ("a", "_"),
            ("a", " b"),
            ("a", "\u00e9"),
        ]
        author = Author(store)
        bodies = tuple(DocumentBody(kind, name, Json(f"{n}")) for n, (kind, name) in enumerate(names))
        await author.create(state={"documents": tuple(Document(*name, "d") for name in names)}, documents=bodies)
        assert await store.read_documents("agent") == bodies
        for body in bodies:
            assert await store.read_document("agent", body.kind, body.name) == body

    async def test_documents_of_one_kind(self, store: Store) -> None:
        """Documents of one kind are those of exactly that kind."""
        author = Author(store)
        kinds = ("todo", "todos", "Todo", "to")
        bodies = [DocumentBody(kind, "x", Json("1")) for kind in kinds]
        await author.create(state={"documents": tuple(Document(kind, "x", "d") for kind in kinds)}, documents=bodies)
        assert await store.read_documents("agent", "todo") == (bodies[0],)

    async def test_an_old_version_stays_until_it_is_pruned(self, store: Store) -> None:
        """A new version lies beside the old one, so that a state which names the old one again finds it."""
        author = Author(store)
        for n in range(3):
            named = (Document("file", "x", f"d{n}"),)
            await author.commit(state={"documents": named}, documents=[DocumentBody("file", "x", Json(f"{n}"))])
        for n in (0, 2, 1):
            await author.commit(state={"documents": (Document("file", "x", f"d{n}"),)})
            found = await store.read_document("agent", "file", "x")
            assert found is not None
            assert found.data == f"{n}"

    async def test_a_document_that_nobody_names_is_refused(self, store: Store) -> None:
        """A commit that brings a document its state does not name is refused, and nothing of it is kept."""
        author = Author(store)
        await author.create()
        with pytest.raises(UsageError) as error:
            await author.commit(documents=[DocumentBody("todo", "x", Json("1"))])
        assert error.value.code == "bad_commit"
        assert await store.scan("agent", Scan("document", "uid-1", limit=9)) == []


class BlobsContract(StoreCase):
    """Bytes, by their digest, for one agent."""

    group = "blobs"

    async def test_blobs_belong_to_an_agent(self, store: Store) -> None:
        """A blob is found by its SHA-256 by the agent it was kept for and by no other; large ones too."""
        await Author(store).create()
        await Author(store, "other", "uid-2").create()
        for data in (b"", b"\x00\xff", b"x" * 3_000_000):
            for _ in range(2):
                digest = await store.put_blob("agent", data, "image/png")
            assert digest == hashlib.sha256(data).hexdigest()
            assert await store.get_blob("agent", digest) == data
            with pytest.raises(NotFoundError):
                await store.get_blob("other", digest)
        (row,) = await store.get("agent", [Key("blob", "uid-1", hashlib.sha256(b"").hexdigest())])
        assert row is not None
        assert (row.columns["size"], row.columns["media_type"]) == (0, "image/png")
        for missing in (store.get_blob("agent", "0" * 64), store.get_blob("nobody", digest)):
            with pytest.raises(NotFoundError):
                await missing
        with pytest.raises(NotFoundError):
            await store.put_blob("nobody", b"x")
        with pytest.raises(UsageError):
            await store.put_blob("agent", b"x", "text/\0")

    async def test_a_blob_is_any_bytes(self, store: Store) -> None:
        """A blob of any bytes is read back byte for byte: none, NULs, no text, line ends, one that looks like JSON."""
        await Author(store).create()
        for data in (b"", b"\0", bytes(range(256)) * 3, b"\r\n\r\n", b"null", b"1{}", b" x "):
            assert await store.get_blob("agent", await store.put_blob("agent", data)) == data

    async def test_blobs_are_found_by_their_digest_alone(self, store: Store) -> None:
        """A blob's name is the SHA-256 of its bytes, whatever its media type; another digest finds nothing."""
        await Author(store).create()
        name = await store.put_blob("agent", b"x", "text/plain")
        assert name == await store.put_blob("agent", b"x", "image/png") == hashlib.sha256(b"x").hexdigest()
        for other in (name.upper(), name[:-1], name[:-1] + "%", ""):
            with pytest.raises(NotFoundError):
                await store.get_blob("agent", other)

    async def test_a_blob_does_not_touch_its_agent(self, store: Store) -> None:
        """Keeping a blob changes neither version nor inbox, and needs no lease."""
        author = Author(store)
        await author.create()
        await author.drive()
        await store.put_blob("agent", b"x")
        assert (await author.say("hi")).version == 2

    async def test_blobs_kept_at_once_are_all_there(self, store: Store) -> None:
        """Many blobs kept at once, some of them the same, are all there."""
        await Author(store).create()
        names: list[str] = []

        async def put(n: int) -> None:
            names.append(await store.put_blob("agent", b"%d" % (n % 5) * 1_000))

        async with anyio.create_task_group() as tasks:
            for n in range(15):
                tasks.start_soon(put, n)
        assert len(set(names)) == 5
        found = await store.get("agent", [Key("blob", "uid-1", name) for name in names])
        assert None not in found

    async def test_blobs_go_with_their_agent(self, store: Store) -> None:
        """Blobs go when their agent is deleted, and an agent made anew does not find them."""
        await Author(store).create()
        name = await store.put_blob("agent", b"x")
        await store.delete("agent")
        await Author(store, uid="uid-2").create()
        with pytest.raises(NotFoundError):
            await store.get_blob("agent", name)
        assert await store.get("agent", [Key("blob", "uid-1", name)]) == [None]
