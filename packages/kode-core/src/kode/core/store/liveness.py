"""Whether a lease's holder still runs, when it ran on this very machine.

A holder's name tells the machine, its boot, the pid namespace, the pid and the moment the process started.
With them a dead process's lease is free at once instead of after its term. Only certain knowledge counts:
what cannot be told is alive, for a wrong "dead" would let two drivers drive one agent until the fence stops
one of them.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path

__all__ = ["holder_name", "is_dead", "named"]

_MARK = "#"
_UNKNOWN = "-"


def holder_name(name: str) -> str:
    """Name this process as a holder: ``name#machine#boot#pid namespace#pid#start``."""
    return f"{name.replace(_MARK, '_')}{_MARK}{_process(os.getpid())}"


def named(holder: str) -> str:
    """The part of a holder's name that people gave it."""
    return holder.partition(_MARK)[0]


def is_dead(holder: str) -> bool:
    """Tell whether a holder is known to be gone. Names that `holder_name` did not make are alive."""
    if holder.partition(_MARK)[2] == _process(os.getpid()):
        return False  # ourselves: nothing to look up
    parts = holder.split(_MARK)
    if len(parts) != 6 or not parts[4].isdigit():
        return False
    _, machine, boot, namespace, pid_text, start = parts
    if _UNKNOWN in (machine, boot) or machine != _machine():
        return False
    if boot != _boot():
        # This machine was started again, or it is the twin of that one, made of one image and sharing its disk.
        return False
    # Another namespace counts pids of its own: nothing can be said of this number.
    if namespace != _namespace():
        return False
    return _process_gone(int(pid_text), start)


def _process_gone(pid: int, start: str) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False  # it is somebody else's
    now = _start(pid)
    # Another start: the number was given to a new process. A zombie holds its number and drives nothing.
    return now is not None and start != _UNKNOWN and now != start


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


@cache
def _process(pid: int) -> str:
    """Name this process; by its number, for a fork is another one."""
    return _MARK.join((_machine(), _boot(), _namespace(), str(pid), _start(pid) or _UNKNOWN))


@cache
def _machine() -> str:
    """Tell machines apart. Containers that share an image's machine-id share a kernel's boot too."""
    return (_read("/etc/machine-id") or os.uname().nodename).replace(_MARK, "_") or _UNKNOWN


@cache
def _boot() -> str:
    # macOS gives no name of a boot that a process may read cheaply: there the pid alone must do.
    return _read("/proc/sys/kernel/random/boot_id") or (_UNKNOWN if sys.platform == "linux" else "boot")


@cache
def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return _UNKNOWN


def _start(pid: int) -> str | None:
    """When a process started, in ticks since the boot; "gone": a zombie; None: cannot be told."""
    stat = _read(f"/proc/{pid}/stat")
    # The name in parentheses may hold anything, so count from its end: state is field 3, start time field 22.
    fields = stat.rpartition(")")[2].split()
    if len(fields) < 20:
        return None
    return "gone" if fields[0] in ("Z", "X") else fields[19]
