"""What a server says when it says no: its status, headers and body become one readable ``ProviderError``.

Vendors word the same few refusals in their own ways, so there is one reader for all: it finds the words that stand for
a kind of failure, the sentence for a person, and what the server wants about trying again.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

from kode.core.errors import ProviderError
from kode.core.provider.failure import provider_error

__all__ = ["Refusal", "excerpt", "phrase", "read_refusal", "retry_after"]

EXCERPT = 200
"""Characters of a foreign text that a message shows."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal, understood."""

    code: str
    """A key of ``FAILURES``."""
    text: str
    """What the server said, for a person."""
    status: int | None = None
    retry_after_s: float | None = None
    """What it asks to wait, where that stands in the body."""

    def error(
        self,
        who: str,
        *,
        model: str | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
        retryable: bool | None = None,
    ) -> ProviderError:
        """Make the error: who refused, what it said, what to do."""
        status = f" with {self.status} {phrase(self.status)}".rstrip() if self.status is not None else ""
        message = f"{who} refused{status}: {self.text or 'it said nothing'} {_TODO.get(self.code, '')}"
        return provider_error(
            self.code,
            message.rstrip(),
            retryable=retryable,
            retry_after_s=self.retry_after_s if retry_after_s is None else retry_after_s,
            provider=who,
            model=model,
            status=self.status,
            request_id=request_id,
        )


def read_refusal(status: int, body: str, content_type: str = "", hide: Callable[[str], str] = str) -> Refusal:
    """Understand an answer whose status is an error, or an error object that came with another status."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        shown = f" ({content_type or 'no content type'})" if body.strip() else ""
        return Refusal(_code(status, set(), body), _sentence(excerpt(body, hide) + shown), status)
    return understood(status, value, hide)


def understood(status: int, value: Any, hide: Callable[[str], str] = str) -> Refusal:
    """The same for JSON that was read already. A number in the object that is an HTTP error beats the status."""
    if isinstance(value, list) and value:
        value = value[0]
    outer: Any = value if isinstance(value, dict) else {"message": value}
    inner: Any = outer.get("error", outer.get("detail", outer))
    told: Any = inner if isinstance(inner, dict) else {"message": inner}
    texts = [text for name in _TEXTS if (text := told.get(name)) and isinstance(text, str)]
    words = {str(found).lower() for name in _WORDS_AT if (found := told.get(name)) is not None}
    number = next((int(word) for word in words if word.isdigit() and len(word) == 3 and word[0] in "45"), None)
    if number is not None and status < 400:
        status = number
    text = texts[0] if texts else json.dumps(value, ensure_ascii=False) if value else ""
    shown = status if status >= 400 else None
    return Refusal(_code(status, words, text), _sentence(excerpt(text, hide)), shown, _delay(told.get("details")))


def retry_after(headers: Mapping[str, str], now_us: int) -> float | None:
    """Read how many seconds the server asks to wait: RFC 9110, section 10.2.3, and ``retry-after-ms``.

    A date is measured against the server's own ``Date`` where it sent one, so that a wrong clock does no harm.
    """
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) / unit
        except ValueError:
            continue
        return max(0.0, seconds) if math.isfinite(seconds) else None
    until = _date(headers.get("retry-after"))
    if until is None:
        return None
    now = _date(headers.get("date"))
    return max(0.0, until - (now_us / 1e6 if now is None else now))


def excerpt(text: str, hide: Callable[[str], str] = str) -> str:
    """Show the beginning of a foreign text on one line: no secrets, no tags, no control characters."""
    # Hidden before each cut that is shown, and again behind tags and entities, which may stand in a secret.
    text = hide(text[: 80 * EXCERPT])[: 40 * EXCERPT]
    if "<" in text:
        text = html.unescape(_TAGS.sub(" ", text))
    text = hide(" ".join("".join(each if each.isprintable() else " " for each in text).split()))
    return text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "…"


def phrase(status: int) -> str:
    """Give the words that belong to a status, if it has any."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


# ---- pieces ------------------------------------------------------------------------------------------------

_TAGS = re.compile(r"<(script|style)\b[^>]*>.*?(?:</\1>|\Z)|<[^>]*>", re.IGNORECASE | re.DOTALL)
_TEXTS = ("message", "msg", "detail", "error")
_WORDS_AT = ("code", "type", "status")

_WORDS = {
    "authentication": "invalid_api_key authentication_error unauthenticated invalid_authentication",
    "permission": "permission_error permission_denied unsupported_country_region_territory",
    "model_not_found": "model_not_found not_found_error not_found",
    "context_too_long": "context_length_exceeded request_too_large string_above_max_length exceed_context_size_error",
    "content_filtered": "content_filter content_policy_violation responsibleaipolicyviolation",
    "quota": "insufficient_quota billing_hard_limit_reached billing_not_active billing_error",
    "rate_limited": "rate_limit_exceeded rate_limit_error resource_exhausted",
    "overloaded": "server_error api_error internal_error internal_server_error overloaded overloaded_error unavailable",
    "timeout": "timeout timeout_error deadline_exceeded",
    "bad_request": "invalid_request_error invalid_argument badrequesterror",
}
_CODE_OF = {word: code for code, words in _WORDS.items() for word in words.split()}
_BROAD = frozenset({"bad_request", "rate_limited", "overloaded"})
"""Words that vendors also use where a second word, the text or the status says it better."""

_STATUS = {
    401: "authentication",
    402: "quota",
    403: "permission",
    404: "model_not_found",
    405: "model_not_found",
    407: "authentication",
    408: "timeout",
    409: "overloaded",
    413: "context_too_long",
    425: "overloaded",
    429: "rate_limited",
    501: "bad_request",
    504: "timeout",
}
_TOO_LONG = re.compile(
    r"context (length|window|size|limit)|maximum (context|input)|prompt is too long|input (is|was) too long"
    r"|too many (input )?tokens|reduce the length",
    re.IGNORECASE,
)
_EXCEEDS = re.compile(r"exceed(s|ed)? .{0,40}\btokens?\b", re.IGNORECASE)
_SAYS = (
    # Sentences that vendors send with a word, or a status, that stands for something else.
    (re.compile(r"credit balance is too low|insufficient (account )?balance", re.IGNORECASE), "quota"),
    (re.compile(r"api key not valid|api key expired|api_key_invalid", re.IGNORECASE), "authentication"),
)
_OUTPUT = re.compile(r"max_\w*tokens|(output|completion) tokens", re.IGNORECASE)
"""Of these too many were asked for: a shorter history does not help."""
_TODO = {
    "authentication": "Check the key and the address it is sent to.",
    "permission": "The key may not do this; use another, or ask its owner.",
    "model_not_found": "Check the model's name and the base URL.",
    "context_too_long": "Shorten what is sent: compact the history, or send less at once.",
    "quota": "Pay, raise the budget, or use another key.",
}


def _code(status: int, words: set[str], text: str) -> str:
    found = {_CODE_OF[word] for word in words if word in _CODE_OF}
    for code in _WORDS:
        if code in found and code not in _BROAD:
            return code
    if status in (200, 400, 413, 422, 500) and _too_long(text):
        return "context_too_long"
    told = next((code for pattern, code in _SAYS if status < 500 and pattern.search(text)), None)
    if told is not None:
        return told
    if status in _STATUS:
        return _STATUS[status]
    if status >= 500:
        return "overloaded"
    if status >= 400:
        return "bad_request"
    # An error object behind a 200: the server had begun to answer, so it is not the request's fault by default.
    return next((code for code in ("rate_limited", "bad_request") if code in found), "overloaded")


def _delay(details: Any) -> float | None:
    """Find ``retryDelay`` (google.rpc.RetryInfo), such as ``"37s"``."""
    for each in details if isinstance(details, list) else []:
        found = _SECONDS.fullmatch(str(each.get("retryDelay"))) if isinstance(each, dict) else None
        if found:
            return float(found[1])
    return None


_SECONDS = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s")


def _too_long(text: str) -> bool:
    if _TOO_LONG.search(text):
        return True
    return bool(_EXCEEDS.search(text)) and not _OUTPUT.search(text)


def _sentence(text: str) -> str:
    return text if not text or text.endswith((".", "!", "?", "…", ")")) else f"{text}."


def _date(text: str | None) -> float | None:
    if not text:
        return None
    try:
        found = parsedate_to_datetime(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
