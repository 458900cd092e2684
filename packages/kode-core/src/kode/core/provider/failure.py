"""How a provider fails: one table of codes, and what follows from each.

The class says whether to try again (``ProviderUnavailableError``) or not (``ProviderError``), the code says
what it was. An adapter maps every answer and exception of its vendor to one of these; nothing else leaves it.
"""

from __future__ import annotations

from dataclasses import dataclass

from kode.core.errors import ProviderError, ProviderUnavailableError, UsageError
from kode.core.kernel.words import StopReason

__all__ = ["FAILURES", "Failure", "provider_error", "retry_after_s", "stop_for"]


@dataclass(frozen=True, slots=True)
class Failure:
    """What follows from one code of the taxonomy."""

    meaning: str
    retryable: bool = False
    stop: StopReason = StopReason.PROVIDER_ERROR
    """Why the run ends when it is given up."""


FAILURES: dict[str, Failure] = {
    "authentication": Failure("the key is missing or not accepted"),
    "permission": Failure("the key may not do this"),
    "model_not_found": Failure("the vendor knows no such model or endpoint"),
    "bad_request": Failure("the vendor finds the request malformed"),
    "context_too_long": Failure("the request is larger than the model's window", stop=StopReason.CONTEXT_TOO_LONG),
    "content_filtered": Failure("the vendor's filter refused the request", stop=StopReason.CONTENT_FILTER),
    "quota": Failure("the account has no budget left"),
    "rate_limited": Failure("too many requests or tokens just now", retryable=True),
    "overloaded": Failure("the vendor's servers fail or are overloaded (5xx)", retryable=True),
    "timeout": Failure("no answer in time", retryable=True),
    "connection": Failure("the vendor cannot be reached, or the connection broke", retryable=True),
    "truncated": Failure("the stream ended before the reply did", retryable=True),
    "protocol": Failure("the answer is not what the API promises"),
    "script": Failure("a scripted provider was asked what its script does not foresee"),
}
"""Every code a provider may fail with."""


def provider_error(
    code: str,
    message: str,
    *,
    retryable: bool | None = None,
    retry_after_s: float | None = None,
    **fields: str | int | None,
) -> ProviderError:
    """Make the error of a code: ``ProviderUnavailableError`` if it may be tried again, or ``ProviderError``.

    Args:
        code: A key of ``FAILURES``.
        message: What happened and what to do; never a secret.
        retryable: Overrules the table, where a vendor says so.
        retry_after_s: Seconds the vendor asked to wait.
        **fields: What a program may want: ``provider``, ``model``, ``status``, ``request_id``.

    Raises:
        UsageError: The code is none of ``FAILURES``.
    """
    failure = FAILURES.get(code)
    if failure is None:
        known = ", ".join(sorted(FAILURES))
        raise UsageError(f"There is no provider failure {code!r}; use one of {known}.", code="unknown_failure")
    kept: dict[str, str | int | float] = {name: value for name, value in fields.items() if value is not None}
    if retry_after_s is not None:
        kept["retry_after_s"] = retry_after_s
    again = failure.retryable if retryable is None else retryable
    return (ProviderUnavailableError if again else ProviderError)(message, code=code, **kept)


def retry_after_s(error: ProviderError) -> float | None:
    """Tell how many seconds the vendor asked to wait, if it did."""
    value = error.fields.get("retry_after_s")
    return float(value) if isinstance(value, (int, float)) else None


def stop_for(error: ProviderError) -> StopReason:
    """Tell why a run ends that is given up because of this error."""
    failure = FAILURES.get(error.code)
    return failure.stop if failure is not None else StopReason.PROVIDER_ERROR
