"""Finds and kills what a dead owner's commands left behind, by a mark in their environment.

The second line behind the supervisor: needed when owner and supervisor were killed together. Linux only;
elsewhere nothing is found. A process that wiped its environment is not found either.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys

__all__ = ["COMMAND_MARK", "MARK", "kill_marked", "marked"]

MARK = "KODE_SANDBOX_REF"
"""Environment variable that names the sandbox a process belongs to."""
COMMAND_MARK = "KODE_SANDBOX_COMMAND"
"""Environment variable that names the one command it belongs to."""
ROUNDS = 40
WAIT_MS = 500


def marked(value: str, name: str = MARK) -> list[int]:
    """Return the ids of the living processes that carry ``name=value``, this one not among them."""
    if sys.platform != "linux":
        return []
    mine = os.getpid()
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [pid for pid in pids if pid != mine and _carries(pid, value, name)]


def kill_marked(value: str, name: str = MARK) -> int:
    """Kill them all, those that they start meanwhile included; returns how many were found.

    Waits until they are gone, at most half a second for each.
    """
    found: set[int] = set()
    for _ in range(ROUNDS):
        left = marked(value, name)
        if not left:
            break
        # All are held before the first is killed: one that dies of another's death has no environment any more to
        # be known by, but takes its time to be gone.
        held = {pid: descriptor for pid in left if (descriptor := _hold(pid, value, name)) is not None}
        found.update(held)
        for descriptor in held.values():
            _kill(descriptor)
        for descriptor in held.values():
            _see_gone(descriptor)
    return len(found)


def _carries(pid: int, value: str, name: str) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return f"{name}={value}".encode() in file.read().split(b"\0")
    except OSError:  # ended, or another user's
        return False


def _hold(pid: int, value: str, name: str) -> int | None:
    """Open a process that carries the mark. The descriptor holds the identity, the id does not."""
    if sys.platform != "linux":
        return None
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return None
    if _carries(pid, value, name):
        return descriptor
    os.close(descriptor)
    return None


def _kill(descriptor: int) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)


def _see_gone(descriptor: int) -> None:
    ended = select.poll()
    ended.register(descriptor, select.POLLIN)
    ended.poll(WAIT_MS)
    os.close(descriptor)
