"""`open_store`: from a URL to a store."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from kode.core.clock import Clock
from kode.core.errors import UsageError
from kode.core.store.base import Store

__all__ = ["local_path", "open_store", "query"]

GROUP: Final = "kode.store"
# What comes with kode-core also works where its metadata is not installed.
_BUILT_IN: Final = {
    "memory": "kode.core.store.memory:MemoryStore",
    "sqlite": "kode.core.store.sqlite:SqliteStore",
}
_WHEELS: Final = {
    "postgresql": "kode-store-postgres",
    "postgres": "kode-store-postgres",
    "redis": "kode-store-redis",
    "rediss": "kode-store-redis",
    "dynamodb": "kode-store-dynamodb",
    "supabase": "kode-store-supabase",
}


def open_store(url: str, *, clock: Clock | None = None) -> Store:
    """Make the store that a URL names; `async with` it, or open and close it.

    ``memory:`` · ``sqlite:///relative.db`` · ``sqlite:////absolute.db?durability=process&busy_timeout_s=5``.
    Other schemes come from wheels that register a subclass of `Store` under the entry-point group
    ``kode.store``; it is asked by `Store.from_url`. Nothing of a wheel is imported before its scheme is used.

    Raises:
        UsageError: The scheme is unknown (the message names the wheel to install), or two wheels claim it, or
            the URL says something that the store does not know.
    """
    parts = urlsplit(url)
    kind = _find(parts.scheme).load()
    store: Store = kind.from_url(parts, clock=clock)
    return store


def query(parts: SplitResult, *known: str) -> dict[str, str]:
    """Read a URL's options.

    Raises:
        UsageError: One is not known or is given twice.
    """
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    found = dict(pairs)
    if len(found) < len(pairs) or not found.keys() <= set(known):
        raise UsageError(
            f"The options {parts.query!r} of a {parts.scheme} store are not right; each of "
            f"{', '.join(known) or '(none)'} may be given once.",
            code="bad_url",
        )
    return found


def local_path(parts: SplitResult) -> str:
    """Read the path of a file: ``scheme:///relative`` or ``scheme:////absolute``."""
    path = unquote(parts.path)
    if parts.netloc or len(path) < 2 or not path.startswith("/"):
        raise UsageError(
            f"{parts.geturl()!r} names no file; write {parts.scheme}:///relative.db or {parts.scheme}:////absolute.db.",
            code="bad_url",
        )
    return path[1:]


def _find(scheme: str) -> EntryPoint:
    claims = list(entry_points(group=GROUP, name=scheme)) if scheme else []
    if scheme in _BUILT_IN and not claims:
        return EntryPoint(scheme, _BUILT_IN[scheme], GROUP)
    # One wheel may be found twice, where the path lists its folder twice.
    wheels = sorted({"?" if claim.dist is None else claim.dist.name for claim in claims})
    if len(wheels) > 1:
        raise UsageError(
            f"The store scheme {scheme!r} is claimed by {' and '.join(wheels)}; uninstall all but one.",
            code="ambiguous_store",
            scheme=scheme,
            wheels=wheels,
        )
    if claims:
        return claims[0]
    wheel = _WHEELS.get(scheme)
    if wheel is None:
        # The URL itself may hold a password.
        known = ", ".join(sorted({*_BUILT_IN, *_WHEELS}))
        raise UsageError(
            f"No store is known for the scheme {scheme!r}; known are {known}.",
            code="unknown_store",
            scheme=scheme,
        )
    raise UsageError(
        f"The store scheme {scheme!r} needs a wheel: pip install {wheel}.",
        code="unknown_store",
        scheme=scheme,
        wheel=wheel,
    )
