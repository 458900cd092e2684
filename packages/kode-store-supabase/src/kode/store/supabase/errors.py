"""What the errors of a project's API, and of the way to it, mean here. Nothing of httpx or supabase crosses this edge.

An error of the API has a code: of PostgREST (``PGRST…``) or of PostgreSQL (five characters, a SQLSTATE). What stands
before the API (a gateway, a proxy) answers with a status of HTTP alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import httpx

from kode.core.errors import KodeError, StoreError, StoreUnavailableError, UsageError

__all__ = ["FAILURES", "LOST", "NOT_WRITTEN", "Refused", "meaning"]

Meaning = tuple[type[KodeError], str, str]

_GONE: Final = (StoreUnavailableError, "connection_lost", "it is not known what became of the request; repeat it")
_BUSY: Final = (StoreUnavailableError, "too_many_connections", "its database takes no more connections now; try again")
_DOWN: Final = (StoreUnavailableError, "starting", "its database is starting or cannot be reached; try again")
_KEY: Final = (StoreError, "bad_key", "it refuses this key; give its service_role (secret) key")
_EXPIRED: Final = (
    StoreError,
    "bad_key",
    "this key has expired or is not valid yet; give its service_role (secret) key",
)
_RIGHTS: Final = (StoreError, "permission_denied", "this key may not do that; give the service_role (secret) key")
_SCHEMA: Final = (
    StoreError,
    "schema_missing",
    "KODE's tables and functions are not there; run what `kode store schema sql --all URL` shows in the SQL editor",
)
_HIDDEN: Final = (
    StoreError,
    "schema_hidden",
    "the API does not show KODE's schema; add it to the exposed schemas in the project's settings",
)
_TURN: Final = (StoreUnavailableError, "contended", "others were in the way and it was rolled back; try again")
_LARGE: Final = (UsageError, "too_large", "the request is larger than it takes; send less at once")

# The code, or its first two characters. PostgREST's page "Errors", and Appendix A of PostgreSQL's manual.
_CODES: Final[dict[str, Meaning]] = {
    "PGRST000": _DOWN,
    # The connection broke while the statement ran: it may have been done.
    "PGRST001": _GONE,
    "PGRST002": _DOWN,
    "PGRST003": _BUSY,
    "PGRST106": _HIDDEN,
    "PGRST202": _SCHEMA,
    "PGRST301": _KEY,
    "PGRST302": _KEY,
    "PGRST303": _EXPIRED,
    "08": _GONE,
    "57P01": _GONE,
    "57P02": _GONE,
    "57P05": _GONE,
    "57P03": _DOWN,
    "57014": (StoreUnavailableError, "timeout", "it took longer than its database allows; try again"),
    "25006": (StoreUnavailableError, "read_only", "its database only reads now (a full disk?); see the dashboard"),
    "42501": _RIGHTS,
    "3F000": _SCHEMA,
    "42P01": _SCHEMA,
    "42883": _SCHEMA,
    "42703": _SCHEMA,
    "40": _TURN,
    "55P03": _TURN,
    "53100": (StoreUnavailableError, "disk_full", "its database's disk is full; free some space and try again"),
    "53300": _BUSY,
    "53": (StoreUnavailableError, "no_resources", "its database is out of memory or locks; try again later"),
    "58": (StoreUnavailableError, "io_error", "its database's disk failed; see the dashboard"),
    "54": (UsageError, "bad_value", "a value is larger than PostgreSQL can take; send less"),
    "22": (UsageError, "bad_value", "a value cannot be stored"),
    "XX001": (StoreError, "store_corrupt", "its data are damaged; restore them from a backup"),
    "XX002": (StoreError, "store_corrupt", "an index is damaged; REINDEX it"),
}
_STATUSES: Final[dict[int, Meaning]] = {
    401: _KEY,
    403: _RIGHTS,
    404: (StoreError, "no_project", "there is no API at this URL; check it"),
    408: _GONE,
    413: _LARGE,
    425: (StoreUnavailableError, "too_many_requests", "it asks to send that again later"),
    429: (StoreUnavailableError, "too_many_requests", "it takes no more requests now; try again later"),
    540: (StoreUnavailableError, "project_paused", "the project is paused; resume it in the dashboard"),
}
_OTHER: Final = (StoreError, "supabase", "it refused")

NOT_WRITTEN: Final = frozenset({"contended", "starting", "too_many_connections", "too_many_requests", "cannot_connect"})
"""Codes of what passes by itself, and has certainly written nothing."""
LOST: Final = NOT_WRITTEN | {"connection_lost"}
"""The same, and that after which it may have been written."""


class Refused(Exception):  # noqa: N818 - never leaves this wheel
    """An answer that is no success."""

    def __init__(self, status: int, said: Mapping[str, Any], wait_s: float = 0.0) -> None:
        super().__init__(status)
        self.status = status
        self.said = said
        self.wait_s = wait_s
        """How long it asks to wait before the next request."""


FAILURES: Final = (
    Refused,
    httpx.TransportError,
    httpx.DecodingError,
    httpx.InvalidURL,
    TimeoutError,
    ValueError,
    RecursionError,
)
"""What the client raises when a request is not answered as hoped."""


def meaning(where: str, error: Exception, secret: str) -> KodeError:
    """Give KODE's error for one of `FAILURES`, to be raised when that is handled no more.

    For what the client raised holds the request, and so the key, which must not come along as the error's context.

    Args:
        where: The project, for a person: no key in it.
        error: What the client raised.
        secret: The key, which what the project says might hold.
    """
    kind = type(error).__name__
    if isinstance(error, Refused):
        return _refusal(where, error, secret)
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
        return StoreUnavailableError(
            f"{where} cannot be reached ({kind}); check the URL, the network and whether it runs.",
            code="cannot_connect",
        )
    if isinstance(error, UnicodeDecodeError | RecursionError) or type(error) is ValueError:
        return StoreError(f"{where} does not answer in JSON that can be read; check the URL.", code="no_project")
    if isinstance(error, httpx.InvalidURL | ValueError):
        return UsageError(f"{where} cannot be asked ({kind}).", code="bad_value")
    return StoreUnavailableError(f"{where}: {_GONE[2]} ({kind}).", code=_GONE[1])


def _refusal(where: str, error: Refused, secret: str) -> KodeError:
    code, status = str(error.said.get("code") or "").replace(secret, "***"), error.status
    known = _CODES.get(code) or _CODES.get(code[:2]) or _STATUSES.get(status)
    kind, name, what = known or (_GONE if status >= 500 and not code else _OTHER)
    # What the server says may quote values; only what is nobody's content is shown.
    said = str(error.said.get("message") or "").replace(secret, "***") if name == _OTHER[1] else ""
    shown = ", ".join(filter(None, [str(status), code[:20], *said.splitlines()[:1]]))
    later = f"; it asks to wait {error.wait_s:g} s" if error.wait_s else ""
    return kind(
        f"{where}: {what}{later} ({shown[:250]}).", code=name, status=status, sqlstate=code[:20], wait_s=error.wait_s
    )
