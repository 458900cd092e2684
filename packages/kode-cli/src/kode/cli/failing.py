"""What a command's end means: exit codes, and errors in one clear line.

0    done
1    the run failed or ended without an answer; or something here failed
2    the command cannot be carried out as it was given: an unknown agent, a bad option, a missing key
3    the agent waits for a decision, or for an answer from outside
4    not finished: the time is up, or another process drives the agent; a task that nobody has taken waits in the inbox
130  stopped by Ctrl-C (128 + the signal's number, for any signal)
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
from typing import Final

from kode.cli.visible import inline
from kode.core.errors import (
    ConflictError,
    FencedError,
    IllegalInputError,
    KodeError,
    LeaseLostError,
    NotFoundError,
    UsageError,
)
from kode.core.kernel.words import ResultStatus

__all__ = ["EXITS", "FAILED", "USAGE", "explain", "lost_output", "said"]

FAILED: Final = 1
USAGE: Final = 2
EXITS: Final[dict[ResultStatus, int]] = {
    "ok": 0,
    "error": FAILED,
    "limit": FAILED,
    "interrupted": FAILED,
    "paused": 3,
    "deadline": 4,
    "queued": 4,
}


def explain(error: Exception) -> int:
    """Say on stderr what went wrong and return the exit code. Only a bug of ours shows where it happened."""
    code = _code_of(error)
    if code is None:
        traceback.print_exception(error)
        print("kode: this is a bug in KODE or in a plugin; please report it with the lines above.", file=sys.stderr)
        return FAILED
    print(f"kode: {said(error)}", file=sys.stderr)
    return code


def lost_output(error: OSError) -> int:
    """Say that stdout cannot be written and let go of it, so that nothing tries again; returns the exit code."""
    with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    if error.errno != errno.EPIPE:  # who closes a pipe has seen enough
        print(f"kode: the output could not be written: {error.strerror}", file=sys.stderr)
    return FAILED


def said(error: Exception) -> str:
    """One line for a person."""
    if isinstance(error, KodeError):
        return inline(error.message)
    if isinstance(error, OSError) and error.strerror:
        name = f" ({str(error.filename)!r})" if error.filename else ""
        return inline(f"{error.strerror}{name}")
    return inline(str(error) or type(error).__name__)


def _code_of(error: Exception) -> int | None:
    """The exit code of an error that a person can do something about; None: it is a bug."""
    if isinstance(error, IllegalInputError):
        return None
    if isinstance(error, UsageError | NotFoundError):
        return USAGE
    if isinstance(error, LeaseLostError | FencedError | ConflictError):
        return 4
    return FAILED if isinstance(error, KodeError | OSError) else None
