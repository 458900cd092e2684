"""Starts a command under its supervisor: what ``exec`` and background processes have in common.

Everything here blocks for the two or three milliseconds that starting a process takes.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from kode.core.errors import SandboxError
from kode.core.sandbox.base import Command

__all__ = ["DEFAULT_PATH", "LOST", "Launched", "arguments", "environment", "read_now"]

SUPERVISOR = str(Path(__file__).with_name("supervisor.py"))
LOST = 128 + signal.SIGKILL
"""Code of a command whose supervisor was killed."""
ALLOWED = ("PATH", "HOME", "LANG", "TERM", "TZ", "TMPDIR", "USER", "LOGNAME", "SHELL")
"""Variables of the host that commands may see; and all that start with ``LC_``."""
DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"


def environment(
    host: Mapping[str, str], allow: Sequence[str], given: Mapping[str, str], mark: Mapping[str, str]
) -> dict[str, str]:
    """Build a command's environment: what is allowed of the host's, what was given, and our mark."""
    kept = {name: value for name, value in host.items() if name in allow or name in ALLOWED or name.startswith("LC_")}
    return {"PATH": DEFAULT_PATH, **kept, **given, **mark}


def arguments(command: Command) -> list[str]:
    """Turn a command into program and arguments."""
    argv = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
    if not argv or not all(isinstance(part, str) for part in argv) or not (argv[0] and argv[-1]):
        raise SandboxError(f"The command {command!r} is empty or not text.", code="bad_command")
    if any("\0" in part for part in argv):
        raise SandboxError("The command holds a zero byte, which no program can be given.", code="bad_command")
    return argv


class Launched:
    """A command and its supervisor. The owner's end of ``control`` keeps them alive: closing it kills them.

    Args:
        argv: Program and arguments.
        cwd: Existing folder.
        env: The whole environment.
        merge: Write both streams into one pipe.
        feed: Open a pipe to its standard input.
        keeper: The program keeps the real command, which is what SIGTERM is meant for.

    Raises:
        SandboxError: The system would not start it.
    """

    def __init__(
        self, argv: list[str], *, cwd: str, env: Mapping[str, str], merge: bool, feed: bool, keeper: bool = False
    ) -> None:
        self.control, theirs = socket.socketpair()
        try:
            self.popen = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", SUPERVISOR),
                    *(str(theirs.fileno()), str(os.getpid()), str(int(keeper))),
                    *argv,
                ],
                stdin=subprocess.PIPE if feed else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if merge else subprocess.PIPE,
                bufsize=0,
                cwd=cwd,
                env=dict(env),
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C in a terminal is for the owner, who then ends us in order
            )
        except (OSError, ValueError) as error:
            self.control.close()
            raise SandboxError(f"The command could not be started: {error}.", code="not_started") from error
        finally:
            theirs.close()
        self.control.setblocking(False)
        for pipe in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)

    def tell(self, word: bytes) -> None:
        """Tell the supervisor ``T`` or ``K``; nothing happens if it is gone."""
        try:
            self.control.send(word)
        except OSError:
            return

    def close_pipes(self) -> None:
        """Let go of the streams: whoever still writes to them gets an error instead of waiting."""
        for pipe in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            if pipe is not None:
                pipe.close()

    def reap(self, timeout_s: float) -> None:
        """Let go of everything and collect the supervisor, by force if it does not end."""
        self.control.close()
        self.close_pipes()
        try:
            self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()


def read_now(descriptor: int) -> bytes | None:
    """Read what there is: None for nothing yet, empty for the end."""
    try:
        return os.read(descriptor, 65_536)
    except BlockingIOError:
        return None
    except ConnectionResetError:
        return b""
