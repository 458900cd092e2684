"""Names on disk: what is in a folder, and how an agent's id becomes the name of its folder."""

from __future__ import annotations

import hashlib
import re
from typing import Final

__all__ = [
    "AGENTS",
    "BODY",
    "GONE",
    "IN_FOLDER",
    "JOURNAL",
    "LOCK",
    "MARK",
    "MARK_NEW",
    "NEW",
    "OURS",
    "TRASH",
    "folder_name",
    "index_name",
    "segment_name",
]

AGENTS: Final = "agents"
TRASH: Final = "trash"
"""Folders on their way out."""
MARK: Final = "kode.json"
"""Says that a folder is a store, and its version."""
MARK_NEW: Final = re.compile(r"kode\.json\.[0-9]+\.new")
"""That file while it is being written."""
GONE: Final = re.compile(r"[0-9]+\.gone")
"""An agent's folder on its way out; a number that no other has at the time."""

LOCK: Final = "lock"
JOURNAL: Final = "journal"
NEW: Final = "journal.new"
"""A journal that is being written; it has no meaning before it is renamed."""
BODY: Final = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+\.body")
"""The body of a record in a file of its own: journal, offset of the line, number of the record in the line."""
OURS: Final = re.compile(r"[0-9]+\.segment|[0-9]+\.[0-9]+\.index|[0-9]+\.[0-9]+\.[0-9]+\.body|journal\.new")
"""What may be removed from a folder when nothing names it."""
IN_FOLDER: Final = re.compile(f"{OURS.pattern}|{JOURNAL}|{LOCK}")
"""All that an agent's folder has of ours."""

LONGEST: Final = 180
"""Characters of a folder's name; file systems take 255 bytes."""
_PLAIN: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._-")


def folder_name(agent_id: str) -> str:
    """Name an agent's folder: itself where it can be, with ``%41`` for ``A``, ``%2f`` for ``/`` and so on.

    Small letters only, so that ``A`` and ``a`` are two agents also where a file system takes them for one; never
    hidden; and never longer than `LONGEST`: what would be ends in the SHA-256 of the id.
    """
    name = "".join(mark if mark in _PLAIN else f"%{ord(mark):02x}" for mark in agent_id)
    if name.startswith("."):
        name = f"%2e{name[1:]}"
    if len(name) <= LONGEST:
        return name
    return f"{name[:100]}~{hashlib.sha256(agent_id.encode()).hexdigest()}"


def segment_name(file: int) -> str:
    """Name a journal that is closed."""
    return f"{file}.segment"


def index_name(file: int, revision: int) -> str:
    """Name the list of what is in a segment, as it was when journal `revision` began."""
    return f"{file}.{revision}.index"
