"""`open_store`: from a URL to a store."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from kode.core.clock import Clock
from kode.core.errors import UsageError
from kode.core.lazy import entry_points
from kode.core.store.base import Store

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["check_durability", "local_options", "local_path", "open_store", "redact", "url_options"]

GROUP: Final = "kode.store"
# What comes with kode-core also works where its metadata is not installed.
_BUILT_IN: Final = {
    "json": "kode.core.store.json:JSONStore",
    "memory": "kode.core.store.memory:MemoryStore",
    "sqlite": "kode.core.store.sqlite:SqliteStore",
}
# Only wheels that there are: a name that nobody has published is one that a stranger may take.
_WHEELS: Final = {
    "postgresql": "kode-store-postgres",
    "postgres": "kode-store-postgres",
    "supabase": "kode-store-supabase",
}


def open_store(url: str, *, clock: Clock | None = None) -> Store:
    """Make the store that a URL names; `async with` it, or open and close it.

    ``memory:`` · ``json:./relative`` · ``json:/absolute`` · ``sqlite:///relative.db`` · ``sqlite:////absolute.db``, the
    last four with options such as ``?durability=process&busy_timeout_s=5``.
    Other schemes come from wheels that register a subclass of `Store` under the entry-point group
    ``kode.store``; it is asked by `Store.from_url`. Nothing of a wheel is imported before its scheme is used.

    Raises:
        UsageError: The scheme is unknown (the message names the wheel to install), or two wheels claim it, or
            the URL says something that the store does not know.
    """
    try:
        parts = urlsplit(url)
        kind = _find(parts.scheme).load()
        store: Store = kind.from_url(parts, clock=clock)
    except UsageError as error:
        raise _without_secrets(error, url) from None
    except ValueError:
        # What Python says of a URL quotes it.
        raise UsageError(f"{redact(url)!r} cannot be read as a URL; check its host and port.", code="bad_url") from None
    return store


def url_options(parts: SplitResult, *known: str) -> dict[str, str]:
    """Read a URL's options.

    Raises:
        UsageError: One is not known or is given twice.
    """
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    found = dict(pairs)
    strange = [name for name in found if name not in known]
    if strange:
        like = get_close_matches(strange[0], known, 1)
        raise UsageError(
            f"A {parts.scheme} store has no option {strange[0][:60]!r}{f', do you mean {like[0]!r}' if like else ''}; "
            f"it knows {', '.join(known) or '(none)'}.",
            code="bad_url",
            option=strange[0],
            known=list(known),
        )
    if len(found) < len(pairs):
        raise UsageError(
            f"An option of a {parts.scheme} store is given twice; each of {', '.join(known)} may be given once.",
            code="bad_url",
        )
    return found


_USER = re.compile(r"^([^/?#:@]*:/{0,2}|//)(?!/)([^/?#@:]*)(?::(.*))?@", re.DOTALL)
_OPTION = re.compile(r"([?&;])([^=&;#]*)=([^&;#]*)")
_SECRET = re.compile(r"pass|pwd|secret|token|key|sign?ature|sig|auth|cred", re.IGNORECASE)


def redact(url: str) -> str:
    """Write a URL for a person: without its password, and without the values of options that look like secrets.

    A user without a password may be a token, so it goes too. It works on text that is no proper URL, such as one with
    an unescaped ``@`` or ``/`` in its password.
    """
    shown = _USER.sub(lambda user: f"{user[1]}{'' if user[3] is None else f'{user[2]}:'}***@", url)
    return _OPTION.sub(lambda o: f"{o[1]}{o[2]}={'***' if _SECRET.search(unquote(o[2])) else o[3]}", shown)


def _without_secrets(error: UsageError, url: str) -> UsageError:
    """Take out of an error what `redact` hides, should a store have said it."""
    # What stands in the scheme too, such as the user ``postgres``, is none, and the message names the scheme.
    scheme = url.partition(":")[0]
    hidden = {text for one in _hidden(url) for text in (one, unquote(one))}
    secrets = {text for text in hidden if len(text) > 2 and text not in scheme}
    message, fields = error.message, dict(error.fields)
    for secret in sorted(secrets, key=len, reverse=True):
        message = message.replace(secret, "***")
        fields = {k: v.replace(secret, "***") if isinstance(v, str) else v for k, v in fields.items()}
    return type(error)(message, code=error.code, **fields)


def _hidden(url: str) -> list[str]:
    user = _USER.match(url)
    given = [] if user is None else [user[2] if user[3] is None else user[3]]
    return given + [option[3] for option in _OPTION.finditer(url) if _SECRET.search(unquote(option[2]))]


def local_options(parts: SplitResult) -> dict[str, Any]:
    """Read what stores on a local disk have in common: `durability` and `busy_timeout_s`, as their arguments.

    Raises:
        UsageError: ``bad_url``.
    """
    given: dict[str, Any] = dict(url_options(parts, "durability", "busy_timeout_s"))
    check_durability(given.get("durability", "power"), code="bad_url")
    if "busy_timeout_s" in given:
        try:
            given["busy_timeout_s"] = float(given["busy_timeout_s"])
        except ValueError:
            raise UsageError(
                f"busy_timeout_s is {given['busy_timeout_s']!r}; give a number of seconds.", code="bad_url"
            ) from None
    return given


def check_durability(durability: object, *, code: str = "bad_durability") -> None:
    """Refuse what is no `Durability`.

    Raises:
        UsageError: It is none.
    """
    if durability not in ("power", "process"):
        raise UsageError(f"durability is {durability!r}; give 'power' or 'process'.", code=code)


def local_path(parts: SplitResult) -> str:
    """Read the path of a file: ``scheme:///relative`` or ``scheme:////absolute``.

    Raises:
        UsageError: It names none (``bad_url``).
    """
    path = unquote(parts.path)
    if parts.netloc or len(path) < 2 or not path.startswith("/"):
        raise UsageError(
            f"{redact(parts.geturl())!r} names no file; write {parts.scheme}:///relative.db or {parts.scheme}:////absolute.db.",
            code="bad_url",
        )
    return path[1:]


def _find(scheme: str) -> EntryPoint:
    claims = list(entry_points(group=GROUP, name=scheme)) if scheme else []
    if scheme in _BUILT_IN and not claims:
        from importlib.metadata import EntryPoint

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
        file = "; a file is written sqlite:///NAME.db" if not scheme else ""
        raise UsageError(
            f"No store is known for the scheme {scheme!r}{file}. Known are {known}; others come with their wheels.",
            code="unknown_store",
            scheme=scheme,
        )
    raise UsageError(
        f"The store scheme {scheme!r} needs a wheel: pip install {wheel}.",
        code="unknown_store",
        scheme=scheme,
        wheel=wheel,
    )
