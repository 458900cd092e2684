"""What an agent knows of its files: nobody's change is overwritten unseen.

A tool that read or wrote a file notes the digest of what it saw. Who wants to replace a noted file looks at it
again: if it holds something else by now, the call is refused and the model is told to read it. Contents are compared,
not times: a file that was touched, or checked out anew with the same content, is as it was, and a change within one
tick of the clock is noticed. A file that was never noted, or is gone, may be written: nothing unseen is lost.

The notes are one document of the agent, so they survive a crash. Between looking and replacing lies a moment in which
another process can still write; only that process could prevent it.
"""

from __future__ import annotations

import hashlib
import posixpath

from kode.core import jsontext
from kode.core.errors import SandboxError
from kode.core.sandbox.base import Sandbox, shown
from kode.core.tools.base import ToolContext, ToolError

__all__ = ["check", "digest", "key_of", "known", "learn"]

KIND = "seen_files"
MAX_FILES = 100
"""Noted at once; of those beyond, the ones seen longest ago are forgotten."""
MAX_KEY = 256
"""Characters of a path in the notes; a longer one is noted by its digest."""
PIECE = 1 << 20


def digest(data: bytes = b"") -> hashlib.blake2b:
    """Begin the digest that notes hold."""
    return hashlib.blake2b(data, digest_size=12)


def key_of(sandbox: Sandbox, path: str) -> str:
    """Give one name to all spellings of a path, as far as its text tells."""
    key = posixpath.relpath(posixpath.join(sandbox.root, path), sandbox.root)
    return key if len(key) <= MAX_KEY else digest(key.encode("utf-8", "surrogatepass")).hexdigest()


async def known(context: ToolContext, path: str) -> str | None:
    """Return the noted digest of a file; None if there is none."""
    return (await _notes(context)).get(key_of(context.need_sandbox(), path))


async def learn(context: ToolContext, path: str, seen: str) -> None:
    """Note what a file held when the model last saw or wrote it."""
    notes = await _notes(context)
    key = key_of(context.need_sandbox(), path)
    if notes.get(key) == seen and key in list(notes)[-MAX_FILES // 2 :]:
        return  # nothing new, and far from being forgotten: not worth writing the document again
    notes.pop(key, None)
    notes[key] = seen
    await context.documents.put(KIND, "", jsontext.dump(list(notes.items())[-MAX_FILES:]))


async def check(context: ToolContext, path: str, wanted: str | None = None) -> None:
    """Refuse to replace what the model has not seen.

    Args:
        context: Of the call.
        path: The file that is to be replaced.
        wanted: Digest of its new content. A file that holds it already was written by an earlier attempt at this
            very call, or loses nothing.

    Raises:
        ToolError: ``file_changed``.
    """
    seen = await known(context, path)
    if seen is not None and await _now(context.need_sandbox(), path) not in (None, seen, wanted):
        raise changed(path)


def changed(path: str) -> ToolError:
    """Tell the model that somebody else wrote the file."""
    return ToolError(
        f"{shown(path)!r} was changed by someone else since you last read or wrote it; nothing was written.",
        code="file_changed",
        hints=("fs_read it again, then make your change to what it holds now.",),
        path=shown(path),
    )


async def _notes(context: ToolContext) -> dict[str, str]:
    """Read the notes, oldest first. Nothing is awaited between this and a ``put``, so no other call's are lost."""
    text = await context.documents.get(KIND)
    return {} if text is None else dict(jsontext.parse(text))


async def _now(sandbox: Sandbox, path: str) -> str | None:
    """Digest what a file holds now, in bounded memory; None if it is gone."""
    found, offset = digest(), 0
    try:
        while piece := await sandbox.read(path, offset=offset, size=PIECE):
            found.update(piece)
            offset += len(piece)
            if len(piece) < PIECE:
                break
    except SandboxError as error:
        if error.code == "file_not_found":
            return None
        raise
    return found.hexdigest()
