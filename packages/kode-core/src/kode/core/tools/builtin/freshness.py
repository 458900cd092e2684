"""What an agent knows of its files: nobody's work is overwritten unseen.

A tool that read or wrote a file notes what it held: the digest of the whole, and how many of its lines the model was
not shown. Who wants to change a noted file looks at it again, and is refused if it holds something else by now.
Contents are compared, not times: a file that was touched, or checked out anew with the same content, is as it was, and
a change within one tick of the clock is noticed.

To replace a whole file the model must have seen all of it. To edit a part it need not: the old text that it names is
itself proof of what it knows. A file that is not there may always be written: nothing is lost.

The notes are one document of the agent, so they survive a crash. They are kept as well as can be: a note that is lost,
or cannot be read, makes the model read once more, and never makes a failure of a file that was written. Between looking
and replacing lies a moment in which another process can still write; only that process could prevent it.
"""

from __future__ import annotations

import hashlib
import posixpath
from contextlib import suppress
from typing import NamedTuple

from kode.core import jsontext
from kode.core.errors import SandboxError
from kode.core.sandbox.base import Sandbox, shown
from kode.core.tools.base import ToolContext, ToolError
from kode.core.tools.documents import SEEN

__all__ = ["Seen", "changed", "check", "digest", "key_of", "known", "learn"]

MAX_FILES = 100
"""Noted at once; of those beyond, the ones seen longest ago are forgotten."""
MAX_KEY = 256
"""Characters of a path in the notes; a longer one is noted by its digest."""
PIECE = 1 << 20


class Seen(NamedTuple):
    """What a file held when the model last read or wrote it."""

    size: int
    digest: str
    unseen: int
    """Its last lines that the model was not shown, or not exactly; 0: it knows the whole."""

    def is_of(self, data: bytes) -> bool:
        """Whether that is the content noted."""
        return self.size == len(data) and self.digest == digest(data).hexdigest()


def digest(data: bytes = b"") -> hashlib.blake2b:
    """Begin the digest that notes hold."""
    return hashlib.blake2b(data, digest_size=12)


async def key_of(sandbox: Sandbox, path: str) -> str:
    """Give one name to all spellings of a file; links are followed as far as the sandbox tells where they lead."""
    with suppress(SandboxError):
        path = (await sandbox.stat(path)).path
    return _key(sandbox, path)


def _key(sandbox: Sandbox, path: str) -> str:
    key = posixpath.relpath(posixpath.join(sandbox.root, path), sandbox.root)
    return key if len(key) <= MAX_KEY else digest(key.encode("utf-8", "surrogatepass")).hexdigest()


async def known(context: ToolContext, key: str) -> Seen | None:
    """Return what was noted of a file; None if nothing was."""
    return (await _notes(context)).get(key)


async def learn(context: ToolContext, key: str, seen: Seen) -> None:
    """Note what a file held when the model last saw or wrote it, as well as can be."""
    with suppress(Exception):  # the work is done, and a note of it is not worth its failure
        notes = await _notes(context)
        if notes.get(key) == seen and key in list(notes)[-MAX_FILES // 2 :]:
            return  # nothing new, and far from being forgotten: not worth writing the document again
        notes.pop(key, None)
        notes[key] = seen
        rows = [[name, *note] for name, note in notes.items()]
        await context.documents.keep(jsontext.dump(rows[-MAX_FILES:]))


async def check(context: ToolContext, path: str, data: bytes) -> None:
    """Refuse to replace a file by that content, if something would be lost that the model has not seen.

    A file that holds it already loses nothing: an earlier attempt at this very call wrote it, perhaps.

    Raises:
        ToolError: ``file_changed``, ``not_read``.
    """
    sandbox = context.need_sandbox()
    try:
        there = await sandbox.stat(path)
    except SandboxError as error:
        if error.code == "file_not_found":
            return
        raise
    if there.kind != "file":
        return  # the sandbox will say what it thinks of that
    if there.size == len(data) and await sandbox.read(path, size=len(data) + 1) == data:
        return
    seen = await known(context, _key(sandbox, there.path))
    if seen is not None and (there.size != seen.size or await _now(sandbox, path) != seen.digest):
        raise changed(path)
    if seen is None or seen.unseen:
        raise _not_read(path, seen)


def changed(path: str) -> ToolError:
    """Tell the model that somebody else wrote the file."""
    return ToolError(
        f"{shown(path)!r} was changed by someone else since you last read or wrote it; nothing was written.",
        code="file_changed",
        hints=("fs_read it again, then make your change to what it holds now.",),
        path=shown(path),
    )


def _not_read(path: str, seen: Seen | None) -> ToolError:
    why = (
        "you have not read it, or long ago"
        if seen is None
        else f"{seen.unseen:,} of its lines were not shown to you exactly"
    )
    return ToolError(
        f"{shown(path)!r} is there, and {why}; nothing was written.",
        code="not_read",
        hints=(
            "fs_read it first, all of it (what does not fit: from the first line on, in parts); or change a part of "
            "it with fs_edit. Lines that are not UTF-8, or too long for a result, cannot be shown: change such a "
            "file with bash_run.",
        ),
        path=shown(path),
    )


async def _notes(context: ToolContext) -> dict[str, Seen]:
    """Read the notes, oldest first; what is none counts as none.

    Nothing is awaited between this and a ``keep``, so no other call's are lost.
    """
    rows = jsontext.parse(await context.documents.get(SEEN) or "[]")
    try:
        return {str(key): Seen(int(size), str(mark), int(unseen)) for key, size, mark, unseen in rows}
    except (TypeError, ValueError):
        return {}


async def _now(sandbox: Sandbox, path: str) -> str:
    """Digest what a file holds now, in bounded memory."""
    found, offset = digest(), 0
    while piece := await sandbox.read(path, offset=offset, size=PIECE):
        found.update(piece)
        offset += len(piece)
        if len(piece) < PIECE:
            break
    return found.hexdigest()
