"""Errors of KODE: each family says who must act.

    UsageError            you: the call, the configuration or the value given is wrong
    IllegalInputError     a bug in a shell: the kernel was fed what its table forbids; nothing changed
    ConflictError         someone else committed first: stop, load again
    FencedError           someone else drives the agent now: stop
    LeaseLostError        the right to drive ran out: stop
    StoreError            the store (``StoreUnavailableError`` may be tried again)
    ProviderError         the model's provider (``ProviderUnavailableError`` may be tried again)
    SandboxError          the sandbox (``SandboxUnavailableError`` may be tried again)
    NotFoundError         nothing is stored under that name

A message says what happened, the value, and what to do. It never holds a secret.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "AgentExistsError",
    "ConflictError",
    "DuplicateIdError",
    "FencedError",
    "IllegalInputError",
    "InboxFullError",
    "KodeError",
    "LeaseLostError",
    "NotBoundError",
    "NotFoundError",
    "ProviderError",
    "ProviderUnavailableError",
    "RecordCorruptError",
    "SandboxError",
    "SandboxUnavailableError",
    "SchemaTooNewError",
    "StoreError",
    "StoreUnavailableError",
    "UsageError",
]


class KodeError(Exception):
    """Base of every error KODE raises.

    Args:
        message: One or two sentences for a person: what happened, the value, what to do.
        code: Stable name for programs; the class gives the default.
        **fields: Plain values that programs may want (``agent_id=…``, ``limit=…``).
    """

    code: str = "error"
    """Stable machine-readable name."""
    retryable: bool = False
    """Whether the same call may succeed later without a change by the caller."""

    def __init__(self, message: str, /, *, code: str | None = None, **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.fields = fields
        if code is not None:
            self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message, self.code, self.fields))


def _rebuild(kind: type[KodeError], message: str, code: str, fields: dict[str, Any]) -> KodeError:
    error = kind.__new__(kind)
    KodeError.__init__(error, message, code=code, **fields)
    return error


class UsageError(KodeError):
    """The call, the configuration or a value is wrong; change it and call again."""

    code = "usage"


class NotBoundError(UsageError):
    """A stored name (tool, provider, hook, template) is not registered in this process.

    The agent is untouched: register the name in ``Dependencies`` and open it again.
    """

    code = "not_bound"


class DuplicateIdError(UsageError):
    """An inbox id was used before with another body. Use a new id, or send the same body."""

    code = "duplicate_id"


class InboxFullError(UsageError):
    """The agent's inbox holds ``max_inbox`` items. Let the agent work, or raise the limit."""

    code = "inbox_full"


class IllegalInputError(KodeError):
    """The kernel refused an input that its table forbids. A bug in the shell; nothing changed."""

    code = "illegal_input"


class NotFoundError(KodeError):
    """Nothing is stored under that name."""

    code = "not_found"


class ConflictError(KodeError):
    """Another commit came first, or the agent is not the one expected. Stop; load again."""

    code = "conflict"


class AgentExistsError(ConflictError):
    """An agent with this id exists already. Open or resume it, or choose another id."""

    code = "agent_exists"


class FencedError(KodeError):
    """A newer fence was given out: another driver took the agent over. Stop, never reload."""

    code = "fenced"


class LeaseLostError(KodeError):
    """The lease ran out or is held by someone else, who drives the agent now."""

    code = "lease_lost"


class StoreError(KodeError):
    """The store failed for good; nothing was half-written."""

    code = "store"


class StoreUnavailableError(StoreError):
    """The store cannot be reached or is locked, full or read-only just now. Repeating is safe."""

    code = "store_unavailable"
    retryable = True


class RecordCorruptError(StoreError):
    """A stored record cannot be read. It was left as it is; ``raw`` in ``fields`` holds its bytes."""

    code = "record_corrupt"


class SchemaTooNewError(StoreError):
    """A stored record was written by a newer version of KODE. Upgrade this process; nothing was changed."""

    code = "schema_too_new"


class ProviderError(KodeError):
    """The model's provider refused the request or answered with an error."""

    code = "provider"


class ProviderUnavailableError(ProviderError):
    """The provider is overloaded, rate-limits, or cannot be reached; may be tried again."""

    code = "provider_unavailable"
    retryable = True


class SandboxError(KodeError):
    """The sandbox refused or failed."""

    code = "sandbox"


class SandboxUnavailableError(SandboxError):
    """The sandbox cannot be reached just now; may be tried again."""

    code = "sandbox_unavailable"
    retryable = True
