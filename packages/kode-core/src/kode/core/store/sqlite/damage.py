"""What SQLite itself finds wrong with the file. All of it runs in threads.

SQLite trusts a page's own account of what is on it. An index whose page says that it is empty is searched without an
error, and what it held is as if it had never been: only looking for damage tells the two apart.
"""

from __future__ import annotations

import sqlite3
from typing import Final

__all__ = ["check_empty", "find"]

MOST: Final = 20
"""Faults that are told; one is enough to know that the file must be restored."""
_HEADING: Final = "*** in database main ***"


def find(db: sqlite3.Connection, *, thorough: bool) -> list[str]:
    """Name what is wrong: in the table of agents and its indexes, or in the whole file.

    The first reads as much as a listing of all agents, whatever they have said; the second reads everything, and
    compares each index with its table.
    """
    rows = db.execute(f"PRAGMA integrity_check({MOST})" if thorough else "PRAGMA quick_check(header)")
    lines = [line for (text,) in rows for line in str(text).splitlines() if line not in ("ok", _HEADING)]
    return lines[:MOST]


def check_empty(db: sqlite3.Connection) -> None:
    """Raise SQLite's own error for damage if the file only seems to hold no agent."""
    if found := find(db, thorough=False):
        error = sqlite3.DatabaseError(found[0])
        error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_CORRUPT, "SQLITE_CORRUPT"
        raise error
