"""What PostgreSQL's errors, and those of the way to it, mean here. Nothing of asyncpg crosses this edge."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import asyncpg

from kode.core.errors import KodeError, StoreError, StoreUnavailableError, UsageError

__all__ = ["LOST", "NOT_WRITTEN", "map_errors"]

_GONE: Final = (StoreUnavailableError, "connection_lost", "the connection was lost; it is not known what became of it")
_BUSY: Final = (StoreUnavailableError, "too_many_connections", "the server takes no more connections now; try again")
_LOGIN: Final = (StoreError, "bad_login", "the server refuses this user or password; check the URL")
_SCHEMA: Final = (StoreError, "schema_missing", "a table or function of ours is missing; run its schema's upgrade")
_READS: Final = (StoreUnavailableError, "read_only", "this server only reads (a replica?); give the URL of the primary")
_TURN: Final = (StoreUnavailableError, "contended", "others were in the way and it was rolled back; try again")

# SQLSTATE, or its first two characters: class, code, what happened and what to do. Appendix A of PostgreSQL's manual.
_MEANINGS: Final[dict[str, tuple[type[KodeError], str, str]]] = {
    "08": _GONE,
    "57P01": _GONE,
    "57P02": _GONE,
    "57P05": _GONE,
    "57P03": (StoreUnavailableError, "starting", "the server is starting or stopping; try again"),
    "57014": (StoreUnavailableError, "timeout", "it took longer than the server allows; try again"),
    "25006": _READS,
    "28": _LOGIN,
    "3D000": (StoreError, "no_database", "there is no such database; create it or check the URL"),
    "42501": (StoreError, "permission_denied", "this user may not do that; grant it the rights, or take another user"),
    "3F000": _SCHEMA,
    "42P01": _SCHEMA,
    "42883": _SCHEMA,
    "42703": _SCHEMA,
    "42P07": (StoreError, "schema_taken", "the schema has something else of that name; give KODE one of its own"),
    "40": _TURN,
    "55P03": _TURN,
    "53100": (StoreUnavailableError, "disk_full", "the server's disk is full; free some space and try again"),
    "53300": _BUSY,
    "53": (StoreUnavailableError, "no_resources", "the server is out of memory or locks; try again later"),
    "58": (StoreUnavailableError, "io_error", "the server's disk failed; look at its log"),
    "54": (UsageError, "bad_value", "it is larger than PostgreSQL can take; send less"),
    "22": (UsageError, "bad_value", "a value cannot be stored"),
    "XX001": (StoreError, "store_corrupt", "its data are damaged; restore them from a backup"),
    "XX002": (StoreError, "store_corrupt", "an index is damaged; REINDEX it"),
}
_OTHER: Final = (StoreError, "postgres", "PostgreSQL refused")

NOT_WRITTEN: Final = frozenset({"contended", "starting", "too_many_connections", "cannot_connect", "read_only"})
"""Codes of what passes by itself, and has certainly written nothing."""
LOST: Final = NOT_WRITTEN | {"connection_lost"}
"""The same, and that after which it may have been written."""


@contextmanager
def map_errors(where: str, *, connecting: bool = False) -> Iterator[None]:
    """Raise KODE's errors for those of the driver and of the way to the server.

    Args:
        where: The server, for a person: no password in it.
        connecting: Nothing can have been sent yet.
    """
    try:
        yield
    except asyncpg.PostgresError as error:
        raise _meaning(where, error, connecting) from error
    except asyncpg.TargetServerAttributeNotMatched as error:
        kind, code, what = _READS
        raise kind(f"{where}: {what}.", code=code) from error
    except asyncpg.InternalClientError as error:
        raise _unreachable(where, error, connecting) from error
    except ssl.SSLError as error:  # before ValueError, which one about a certificate is too
        raise _unreachable(where, error, connecting) from error
    except ValueError as error:  # asyncpg's DataError, a UnicodeError: what they say quotes the value
        raise UsageError(f"{where}: a value cannot be stored ({type(error).__name__}).", code="bad_value") from None
    except asyncpg.InterfaceError as error:
        raise _refused(where, error, connecting) from error
    except (OSError, EOFError) as error:  # a TimeoutError is one
        raise _unreachable(where, error, connecting) from error


def _meaning(where: str, error: asyncpg.PostgresError, connecting: bool) -> KodeError:
    state: str = getattr(error, "sqlstate", None) or ""
    kind, code, what = _MEANINGS.get(state) or _MEANINGS.get(state[:2]) or _OTHER
    if connecting and code == "connection_lost":
        return _unreachable(where, error, connecting)
    # The rest of what the server says may quote values.
    said = f": {error}".splitlines()[0][:200] if kind is StoreError else ""
    return kind(f"{where}: {what} ({state}{said}).", code=code, sqlstate=state)


def _refused(where: str, error: Exception, connecting: bool) -> KodeError:
    """What the driver itself does not do; mostly it finds the connection closed."""
    if connecting or "clos" in str(error) or "connection" in str(error):
        return _unreachable(where, error, connecting)
    return StoreError(f"{where}: the driver refused ({error}).", code="postgres")


def _unreachable(where: str, error: Exception, connecting: bool) -> StoreUnavailableError:
    said = str(error) if connecting and isinstance(error, ConnectionError) else ""  # such as: it does not encrypt
    why = getattr(error, "strerror", None) or said[:200] or type(error).__name__
    if connecting:
        if "SSL upgrade" in said:
            what = "does not encrypt; turn TLS on there, or connect without (sslmode=disable) where that is safe"
        else:
            what = f"cannot be reached ({why}); check host and port, and whether the server runs"
        return StoreUnavailableError(f"{where} {what}.", code="cannot_connect")
    return StoreUnavailableError(f"{where}: {_GONE[2]} ({why}); repeat it.", code="connection_lost")
