"""Looks for processes that are left, in three ways that ask neither the agent nor its sandbox."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

__all__ = ["left_of"]

MARK = "KODE_SANDBOX_REF"
"""Variable that every command of a sandbox carries; `kode.core.sandbox.orphans` has the same."""


def left_of(group: int, refs: Iterable[str], work: Path) -> list[int]:
    """Find what is left of a killed process: its group, the marks of its sandboxes, and who stands in the work folder.

    Elsewhere than on Linux, environments and folders of others cannot be seen; there the group alone is looked at,
    and command lines that name the work folder.
    """
    if sys.platform != "linux":
        return _by_list(group, work)
    marks = [f"{MARK}={ref}".encode() for ref in refs]
    others = [name for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]
    return [int(name) for name in others if _belongs(name, group, marks, work)]


def _belongs(pid: str, group: int, marks: list[bytes], work: Path) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state, _, its_group = file.read().rpartition(b")")[2].split()[:3]
        if state in (b"Z", b"X"):  # dead, only not collected by its parent yet
            return False
        if int(its_group) == group:
            return True
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read().split(b"\0")
        if any(mark in variables for mark in marks):
            return True
        return Path(os.readlink(f"/proc/{pid}/cwd")) == work
    except (OSError, ValueError):  # ended meanwhile, or another user's
        return False


def _by_list(group: int, work: Path) -> list[int]:
    listed = subprocess.run(["ps", "-axo", "pid=,pgid=,command="], capture_output=True, text=True, check=False)
    found = []
    for line in listed.stdout.splitlines():
        pid, its_group, command = (*line.split(None, 2), "", "", "")[:3]
        if pid.isdigit() and int(pid) != os.getpid() and (its_group == str(group) or str(work) in command):
            found.append(int(pid))
    return found
