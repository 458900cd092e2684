"""Finds and kills what a dead owner's commands left behind, by a mark in their environment.

The second line behind the supervisor: needed when owner and supervisor were killed together. Linux only;
elsewhere nothing is found. A process that wiped its environment is not found either.
"""

from __future__ import annotations

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
WAIT_MS = 50


def marked(value: str, name: str = MARK) -> list[int]:
    """Return the ids of the living processes that carry ``name=value``, this one not among them."""
    if sys.platform != "linux":
        return []
    mine = os.getpid()
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [pid for pid in pids if pid != mine and _carries(pid, value, name)]


def kill_marked(value: str, name: str = MARK) -> int:
    """Kill them all, those that they start meanwhile included; returns how many were found.

    Waits until they are gone, at most about two seconds.
    """
    found: set[int] = set()
    for _ in range(ROUNDS):
        left = marked(value, name)
        if not left:
            break
        found.update(left)
        for pid in left:
            _kill(pid, value, name)
    return len(found)


def _carries(pid: int, value: str, name: str) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return f"{name}={value}".encode() in file.read().split(b"\0")
    except OSError:  # ended, or another user's
        return False


def _kill(pid: int, value: str, name: str) -> None:
    """Kill it if it still is the process that carries the mark.

    The descriptor holds the identity, the id does not.
    """
    if sys.platform != "linux":
        return
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if _carries(pid, value, name):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            ended = select.poll()
            ended.register(descriptor, select.POLLIN)
            ended.poll(WAIT_MS)
    except ProcessLookupError:
        pass
    finally:
        os.close(descriptor)
