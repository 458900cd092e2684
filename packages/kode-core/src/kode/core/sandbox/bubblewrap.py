"""Commands in bubblewrap: no network, a view of the machine that is read-only and small, and nobody else in sight.

What a command finds inside, and nothing else:

    the sandbox's root          writable, at its own path
    /usr /bin /sbin /lib* /etc  read-only; of /etc only what every user of the machine may read
    ``readable``                what the sandbox was made with, read-only, below the root too
    /tmp /var/tmp /dev /proc    its own, gone with it

It names what is there instead of what is hidden: home folders, other services' data and the sockets below
``/run`` are not there, because nobody has to think of them. A read-only mount does not stop a program from
talking to a socket, and with the owner's rights a command could otherwise read keys and show them to the model.

Bubblewrap itself runs outside and gets nothing of the command's variables: it sets them inside. With ``LD_PRELOAD`` or
``LD_LIBRARY_PATH`` in its own environment it would load what a command has put below the root.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kode.core.errors import SandboxError, UsageError

__all__ = ["INSIDE", "PROBE", "Bubblewrap", "not_isolated"]

TOP = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
"""Beside ``usr``: links into it on most machines of today, folders on others."""
TEMPORARY = "/tmp"
INSIDE: Mapping[str, str] = {"HOME": TEMPORARY, "TMPDIR": TEMPORARY}
"""Variables of the host that name places which are not there, and what they say instead."""
APART = (
    *("--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup"),
    *("--die-with-parent", "--new-session", "--cap-drop", "ALL", "--hostname", "sandbox"),
)
# Without the second mount, commands of an owner that is root could set the host's kernel parameters, the program
# that takes core dumps among them: user 0 needs no capability for these files.
OWN = (
    *("--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys", "--dev", "/dev"),
    *("--perms", "1777", "--tmpfs", TEMPORARY, "--dir", "/var", "--symlink", "../tmp", "/var/tmp", "--dir", "/run"),
)
PROBE = """
for place in / /usr /etc /proc/sys/kernel; do
    if ( : > "$place/.kode-probe" ) 2>/dev/null; then
        rm -f "$place/.kode-probe"
        echo "$place can be written to"
    fi
done
for place in . /tmp; do
    [ -w "$place" ] || echo "$place cannot be written to"
done
while read -r name _; do
    case $name in *:) [ "$name" = lo: ] || echo "there is a network interface $name" ;; esac
done < /proc/net/dev
[ "$$" -le 9 ] || echo "processes of the host can be seen"
echo probed
"""
"""Says what is not as promised, a line each, and at last ``probed``."""


@dataclass(frozen=True, slots=True)
class Bubblewrap:
    """Turns a command into one that runs inside."""

    root: str
    """Writable."""
    readable: tuple[str, ...] = ()
    """More that is seen, at its own path."""

    def __post_init__(self) -> None:
        if self.root == "/":
            raise SandboxError(
                "The root '/' leaves nothing to be kept apart from. Give a folder below it.", code="bad_root"
            )
        for path in self.readable:
            if path == "/" or _is_below(path, "/proc") or _is_below(path, "/dev"):
                raise UsageError(
                    f"The path {path!r} cannot be made readable: it would show the machine's processes or devices. "
                    "Name the folders that are needed.",
                    code="bad_option",
                )

    @contextlib.contextmanager
    def variables(self, env: Mapping[str, str]) -> Iterator[int]:
        """Write the command's environment down for ``wrap``; yields the descriptor that bubblewrap has to be given."""
        if sys.platform != "linux":
            raise not_isolated("this is not Linux")
        words = ["--clearenv", *(word for pair in env.items() for word in ("--setenv", *pair))]
        with os.fdopen(os.memfd_create("kode-env"), "r+b", buffering=0) as file:
            file.write(b"".join(os.fsencode(word) + b"\0" for word in words))
            file.seek(0)
            yield file.fileno()

    def wrap(self, argv: Sequence[str], cwd: str, variables: int) -> list[str]:
        """Return the whole command line.

        Raises:
            SandboxError: Bubblewrap is not installed, or a readable path is not what it was.
        """
        program = shutil.which("bwrap")
        if program is None:
            raise not_isolated("the program bwrap is not installed")
        for path in self.readable:
            if os.path.realpath(path) != path:  # below the root, commands could have made a link of it
                raise SandboxError(f"The readable path {path!r} is a link by now.", code="isolation_unavailable")
            if not os.path.exists(path):
                raise SandboxError(
                    f"There is nothing at the readable path {path!r}. Make it, or leave it out.",
                    code="isolation_unavailable",
                )
        # What lies above comes first, or it would cover what lies below.
        binds = {**dict.fromkeys(self.readable, "--ro-bind"), self.root: "--bind"}
        seen = [word for path in sorted(binds, key=lambda path: path.split("/")) for word in (binds[path], path, path)]
        return [
            *(program, *APART, *_no_more_namespaces(program), "--args", str(variables)),
            *(*_system(os.geteuid()), *OWN, *seen, "--remount-ro", "/"),
            # By the shell, because bubblewrap has a code of its own for a program that is not there.
            *("--chdir", cwd, "--", "/bin/sh", "-c", 'exec "$@"', "sh", *argv),
        ]


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")


def not_isolated(why: str) -> SandboxError:
    """Say why commands cannot be isolated here, and how to change that."""
    return SandboxError(
        f'isolation="bwrap" does not work here: {why}. It needs Linux, the package bubblewrap (apt-get install '
        "bubblewrap), and user namespaces, which some systems and most containers forbid (docs/guides/sandbox.md). "
        "No command was run.",
        code="isolation_unavailable",
    )


@functools.cache
def _no_more_namespaces(program: str) -> tuple[str, ...]:
    """Keep commands from making namespaces of their own, in which they would be root; where bubblewrap can do that."""
    told = subprocess.run([program, "--help"], capture_output=True, text=True, check=False, env={}).stdout
    return ("--disable-userns",) if "--disable-userns" in told else ()


def _system(user: int) -> tuple[str, ...]:
    """Show what programs need to run. As root, what other users may not read is covered."""
    shown = ["--ro-bind", "/usr", "/usr", "--ro-bind", "/etc", "/etc"]
    for path in (f"/{name}" for name in TOP):
        if os.path.islink(path):
            shown += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            shown += ["--ro-bind", path, path]
    return (*shown, *(_covers("/etc") if user == 0 else ()))


def _covers(folder: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                if mode & 0o005 == 0o005:
                    yield from _covers(entry.path)
                else:
                    yield from ("--tmpfs", entry.path)
            elif not stat.S_ISLNK(mode) and not mode & stat.S_IROTH:
                yield from ("--ro-bind", "/dev/null", entry.path)
